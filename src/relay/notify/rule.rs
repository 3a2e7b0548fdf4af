//! Who is notified when: once a party and session in a while, in order, tried
//! again with growing pauses.
//!
//! Pure: no I/O, no clock; `now` and randomness come in. One rule a way
//! (e-mail, webhook). It holds names only, and a bounded number of them.
//!
//! `offer` → at `deadline`: `next` → one attempt → `done`.

use crate::types::Millis;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
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
    /// When what waits came.
    pub since: Millis,
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
    /// Subjects that wait or were notified within the window.
    pub subjects: usize,
    /// The same of one party: so nobody is buried under notifications, or takes
    /// the room of all others.
    pub of_party: usize,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It waits. `dropped`: an older one gave way.
    Queued { dropped: bool },
    /// The subject was notified lately, or is about to be.
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
    /// The party is back.
    Needless,
}

/// What an attempt means for its notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Sent,
    /// It waits for its next attempt. `dropped`: an older one gave way, or itself.
    Again {
        dropped: bool,
    },
    /// It was not sent, and does not count.
    GivenUp,
    Needless,
}

#[derive(Debug)]
pub struct Rule {
    limits: Limits,
    last: u64,
    /// Waiting, under way, or sent within the window.
    known: HashSet<Arc<Subject>>,
    /// How many of these each party has.
    parties: HashMap<String, usize>,
    /// When each was sent, oldest first.
    sent: VecDeque<(Instant, Arc<Subject>)>,
    waiting: BTreeMap<u64, (Instant, Job)>,
    due: BTreeSet<(Instant, u64)>,
}

impl Rule {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            last: 0,
            known: HashSet::new(),
            parties: HashMap::new(),
            sent: VecDeque::new(),
            waiting: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Something waits for a party that is away. `since`: when it came.
    pub fn offer(&mut self, now: Instant, subject: Subject, kind: Kind, since: Millis) -> Offer {
        self.forget(now);
        if self.known.contains(&subject) {
            return Offer::Known;
        }
        let of_party = self.parties.get(&subject.party).copied().unwrap_or(0);
        if self.known.len() >= self.limits.subjects || of_party >= self.limits.of_party {
            return Offer::Refused;
        }
        let subject = Arc::new(subject);
        self.known.insert(subject.clone());
        self.parties.insert(subject.party.clone(), of_party + 1);
        self.last += 1;
        let job = Job { number: self.last, subject, kind, since, failed: 0 };
        Offer::Queued { dropped: self.wait(now, job) }
    }

    /// A notification whose time has come; to be answered by `done`.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        let (at, number) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, number));
        self.waiting.remove(&number).map(|(_, job)| job)
    }

    /// When `next` has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// An attempt is over. `random`: for the jitter.
    pub fn done(&mut self, now: Instant, mut job: Job, attempt: Attempt, random: u64) -> Verdict {
        match attempt {
            Attempt::Sent => {
                self.sent.push_back((now, job.subject));
                Verdict::Sent
            }
            Attempt::Later { after } if job.failed + 1 < self.limits.tries => {
                job.failed += 1;
                let asked = after.unwrap_or_default().min(ASKED_MAX);
                let pause = pause(job.failed, random).max(asked);
                Verdict::Again { dropped: self.wait(now + pause, job) }
            }
            Attempt::Later { .. } | Attempt::Never => {
                self.release(&job.subject);
                Verdict::GivenUp
            }
            Attempt::Needless => {
                self.release(&job.subject);
                Verdict::Needless
            }
        }
    }

    /// Whether an older one gave way.
    fn wait(&mut self, at: Instant, job: Job) -> bool {
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

    fn forget(&mut self, now: Instant) {
        while self.sent.front().is_some_and(|(at, _)| *at + self.limits.window <= now) {
            if let Some((_, subject)) = self.sent.pop_front() {
                self.release(&subject);
            }
        }
    }

    fn release(&mut self, subject: &Subject) {
        self.known.remove(subject);
        if let Some(count) = self.parties.get_mut(&subject.party) {
            *count -= 1;
            if *count == 0 {
                self.parties.remove(&subject.party);
            }
        }
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
