//! Who is notified when: looked at once it was silent for a while, told once a
//! party and session in a while, in order, tried again with growing pauses.
//!
//! Pure: no I/O, no clock; `now` and randomness come in. One [`Rule`] a way
//! (e-mail, webhook), one [`Leaving`] for all. They hold names only, and a
//! bounded number of them. What waits is not known here: whoever makes the
//! attempt looks first.
//!
//! `offer` → at `deadline`: `next` → one look or attempt → `done`.

use crate::types::Millis;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// The first pause between two attempts is at most this long, the next five
/// times that, and so on; all with full jitter.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_GROWS: u32 = 5;
/// What the other side asks for beyond this is not waited for.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// What it says: why a party is notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Message,
    Event,
}

/// Whom a notification is for, and in which session something waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub party: String,
    pub session: String,
}

/// A notification that is to be sent.
#[derive(Debug, Clone)]
pub struct Job {
    /// Rises from 1; the same at every attempt.
    pub number: u64,
    pub subject: Arc<Subject>,
    pub kind: Kind,
    /// When what waits came, or was found.
    pub since: Millis,
    /// When the subject was notified before: who was silent ever since knows.
    pub told: Option<Millis>,
    /// Attempts that failed.
    failed: u32,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// One notification of a subject in this time.
    pub window: Duration,
    /// Attempts of one notification, at least 1.
    pub tries: u32,
    /// Notifications that wait, at least 1; the oldest gives way.
    pub waiting: usize,
    /// Subjects that wait, or were notified or given up within the window.
    pub subjects: usize,
    /// The same of one party: so nobody is buried under notifications, or takes
    /// the room of all others.
    pub of_party: usize,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It waits: for its moment, or for the end of the window in which the
    /// subject was notified. `dropped`: an older one gave way.
    Queued { dropped: bool },
    /// The subject is about to be looked at.
    Known,
    /// Too many subjects, in all or of this party.
    Refused,
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Sent,
    /// Not now. `after`: how long the other side wants to be left alone.
    Later {
        after: Option<Duration>,
    },
    /// It will never go.
    Never,
    /// The party gave a sign of life: it is looked at again then.
    NotYet {
        at: Instant,
    },
    /// The party is there, or nothing waits for it.
    Needless,
}

/// What an attempt means for its notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Sent,
    /// It waits for its next look or attempt. `dropped`: an older one gave way,
    /// or itself.
    Again {
        dropped: bool,
    },
    /// It was not sent, and counts as if it were.
    GivenUp,
    Needless,
}

/// Something that came for a subject.
#[derive(Debug, Clone, Copy)]
struct News {
    at: Instant,
    kind: Kind,
    since: Millis,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Idle,
    Waiting,
    /// `news`: came since, and its look may be over.
    UnderWay {
        news: Option<News>,
    },
}

/// A notification that counts until the end of its window. `at`: it was sent;
/// `None`: it was given up.
#[derive(Debug, Clone, Copy)]
struct Past {
    until: Instant,
    at: Option<Millis>,
}

#[derive(Debug)]
struct Known {
    stage: Stage,
    past: Option<Past>,
}

#[derive(Debug)]
pub struct Rule {
    limits: Limits,
    last: u64,
    /// Waiting, under way, or with a past.
    known: HashMap<Arc<Subject>, Known>,
    /// How many of these each party has.
    parties: HashMap<String, usize>,
    /// When the window of each past ends, soonest first.
    pasts: VecDeque<(Instant, Arc<Subject>)>,
    waiting: BTreeMap<u64, (Instant, Job)>,
    due: BTreeSet<(Instant, u64)>,
}

impl Rule {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            last: 0,
            known: HashMap::new(),
            parties: HashMap::new(),
            pasts: VecDeque::new(),
            waiting: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Something came for a party that is not there to take it. `at`: when it
    /// will have been silent long enough to be looked at. `since`: when it came.
    pub fn offer(&mut self, now: Instant, at: Instant, subject: Subject, kind: Kind, since: Millis) -> Offer {
        self.forget(now);
        self.queue(subject, News { at, kind, since })
    }

    fn queue(&mut self, subject: Subject, news: News) -> Offer {
        let (subject, past) = match self.known.get_mut(&subject).map(|known| (&mut known.stage, known.past)) {
            Some((Stage::Waiting, _)) => return Offer::Known,
            Some((Stage::UnderWay { news: came }, _)) => {
                came.get_or_insert(news);
                return Offer::Known;
            }
            Some((Stage::Idle, past)) => (Arc::new(subject), past),
            None => {
                let of_party = self.parties.get(&subject.party).copied().unwrap_or(0);
                if self.known.len() >= self.limits.subjects || of_party >= self.limits.of_party {
                    return Offer::Refused;
                }
                self.parties.insert(subject.party.clone(), of_party + 1);
                let subject = Arc::new(subject);
                self.known.insert(subject.clone(), Known { stage: Stage::Idle, past: None });
                (subject, None)
            }
        };
        self.last += 1;
        let at = past.map_or(news.at, |past| past.until.max(news.at));
        let told = past.and_then(|past| past.at);
        let job = Job { number: self.last, subject, kind: news.kind, since: news.since, told, failed: 0 };
        Offer::Queued { dropped: self.wait(at, job) }
    }

    /// A notification whose time has come; to be answered by `done`.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        self.forget(now);
        let (at, number) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, number));
        let (_, job) = self.waiting.remove(&number)?;
        self.enter(&job.subject, Stage::UnderWay { news: None });
        Some(job)
    }

    /// When `next` has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A look or an attempt is over, at `wall` of the wall clock. `random`: for
    /// the jitter.
    pub fn done(&mut self, now: Instant, wall: Millis, mut job: Job, attempt: Attempt, random: u64) -> Verdict {
        match attempt {
            Attempt::Sent => {
                self.count(now, Some(wall), job.subject);
                Verdict::Sent
            }
            Attempt::Later { after } if job.failed + 1 < self.limits.tries => {
                job.failed += 1;
                let asked = after.unwrap_or_default().min(ASKED_MAX);
                let pause = pause(job.failed, random).max(asked);
                Verdict::Again { dropped: self.wait(now + pause, job) }
            }
            Attempt::Later { .. } | Attempt::Never => {
                self.count(now, None, job.subject);
                Verdict::GivenUp
            }
            Attempt::NotYet { at } => Verdict::Again { dropped: self.wait(at, job) },
            Attempt::Needless => {
                let stage = self.known.get(&job.subject).map(|known| known.stage);
                self.release(&job.subject);
                let Some(Stage::UnderWay { news: Some(news) }) = stage else { return Verdict::Needless };
                // It came after the look, perhaps.
                let dropped = self.queue(Subject::clone(&job.subject), news) == Offer::Queued { dropped: true };
                Verdict::Again { dropped }
            }
        }
    }

    /// From now on its window runs.
    fn count(&mut self, now: Instant, at: Option<Millis>, subject: Arc<Subject>) {
        let until = now + self.limits.window;
        if let Some(known) = self.known.get_mut(&subject) {
            *known = Known { stage: Stage::Idle, past: Some(Past { until, at }) };
            self.pasts.push_back((until, subject));
        }
    }

    /// Whether an older one gave way.
    fn wait(&mut self, at: Instant, job: Job) -> bool {
        self.enter(&job.subject, Stage::Waiting);
        self.due.insert((at, job.number));
        self.waiting.insert(job.number, (at, job));
        if self.waiting.len() <= self.limits.waiting {
            return false;
        }
        if let Some((number, (at, oldest))) = self.waiting.pop_first() {
            self.due.remove(&(at, number));
            self.release(&oldest.subject);
        }
        true
    }

    fn enter(&mut self, subject: &Subject, stage: Stage) {
        if let Some(known) = self.known.get_mut(subject) {
            known.stage = stage;
        }
    }

    /// Windows that are over count no more.
    fn forget(&mut self, now: Instant) {
        while self.pasts.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, subject)) = self.pasts.pop_front() else { return };
            let Some(known) = self.known.get_mut(&subject) else { continue };
            known.past = None;
            if matches!(known.stage, Stage::Idle) {
                self.release(&subject);
            }
        }
    }

    /// Nothing of it waits; it is forgotten unless it has a past.
    fn release(&mut self, subject: &Subject) {
        let Some(known) = self.known.get_mut(subject) else { return };
        known.stage = Stage::Idle;
        if known.past.is_some() {
            return;
        }
        self.known.remove(subject);
        if let Some(count) = self.parties.get_mut(&subject.party) {
            *count -= 1;
            if *count == 0 {
                self.parties.remove(&subject.party);
            }
        }
    }
}

/// Parties that went away, perhaps with something waiting: each is looked at
/// once, when it has been silent for a while.
#[derive(Debug)]
pub struct Leaving {
    limit: usize,
    parties: HashMap<Arc<str>, Instant>,
    due: BTreeSet<(Instant, Arc<str>)>,
}

impl Leaving {
    /// `limit`: parties it knows at a time.
    pub fn new(limit: usize) -> Self {
        Self { limit, parties: HashMap::new(), due: BTreeSet::new() }
    }

    /// It is to be looked at then, and not before; `false`: there are too many.
    pub fn enter(&mut self, party: &str, at: Instant) -> bool {
        if let Some((party, before)) = self.parties.remove_entry(party) {
            self.due.remove(&(before, party));
        } else if self.parties.len() >= self.limit {
            return false;
        }
        let party: Arc<str> = party.into();
        self.due.insert((at, party.clone()));
        self.parties.insert(party, at);
        true
    }

    /// One whose moment has come.
    pub fn next(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.deadline()? > now {
            return None;
        }
        let (_, party) = self.due.pop_first()?;
        self.parties.remove(&party);
        Some(party)
    }

    /// When `next` has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

/// Full jitter: anything up to the cap of this pause.
fn pause(failed: u32, random: u64) -> Duration {
    let cap = PAUSE.saturating_mul(PAUSE_GROWS.saturating_pow(failed - 1));
    let millis = u64::try_from(cap.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % millis.saturating_add(1))
}

#[cfg(test)]
mod tests;
