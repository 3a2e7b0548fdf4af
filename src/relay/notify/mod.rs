//! Parties that are away are told that something waits: by e-mail, and by a
//! webhook for phone and push.
//!
//! Best effort: what waits is on disk, notifications are in memory and a
//! restart forgets them. `rule.rs` says who is notified when; one task looks
//! whether the party is still away and something still waits, and sends, over
//! each way a few at a time. Who has a live stream is not looked at until its
//! last one ends. Never sends or logs a payload, a join token or an address.

mod channels;
mod config;
mod mail;
mod rule;
mod webhook;

pub(super) use channels::{check_email, check_phone, check_push_token};
pub use config::{Config, Hidden};

use super::{Relay, Streams, presence::Presence};
use crate::{
    error::Error,
    metrics::Metrics,
    net::dial::Dialer,
    store::relay::{PartyRow, Waits},
    types::{Millis, ServerId},
};
use futures_util::{
    StreamExt,
    future::{join, join_all},
    stream::FuturesUnordered,
};
use mail::Mail;
pub(super) use rule::Kind;
use rule::{Attempt, Job, Leaving, Limits, Offer, Rule, Subject, Verdict};
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::sleep_until};
use webhook::Webhook;

/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Attempts at once over one way.
const AT_ONCE: usize = 4;
const LIMITS: Limits =
    Limits { window: Duration::from_secs(600), tries: 5, waiting: 16_384, subjects: 65_536, of_party: 256 };
/// Parties that left and were not looked at yet.
const LEAVING_MAX: usize = 65_536;
/// The longest time between two looks: clocks are set.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// What could not be looked up is, after less than this.
const AGAIN_MILLIS: u64 = 30_000;

/// The ways that are configured; clones are the same.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    /// Empty: notifications are off.
    lanes: Vec<Lane>,
    leaving: Mutex<Leaving>,
    left: Notify,
    /// So that no id is given twice, over restarts too.
    boot: u64,
    metrics: Metrics,
}

/// One way, and what waits to go over it.
struct Lane {
    way: Way,
    rule: Mutex<Rule>,
    wake: Notify,
    /// The last attempt failed; that it does is said once.
    failing: AtomicBool,
}

enum Way {
    Mail(Mail),
    Webhook(Box<Webhook>),
}

/// What came of a look, or of the attempt after it.
enum Outcome {
    Tried(Result<(), Failure>),
    NotYet { at: Instant },
    Needless,
}

/// What is told to whom.
struct Notice<'a> {
    /// The same at every attempt.
    id: &'a str,
    party: &'a str,
    session: &'a str,
    kind: Kind,
    since: Millis,
    /// This node.
    node: &'a ServerId,
}

/// Why a notification did not go. The text has no address and no secret.
#[derive(Debug)]
struct Failure {
    /// It never will.
    last: bool,
    after: Option<Duration>,
    cause: String,
}

impl Failure {
    fn last(cause: impl Into<String>) -> Self {
        Self { last: true, after: None, cause: cause.into() }
    }

    fn transient(cause: impl Into<String>) -> Self {
        Self::later(cause, None)
    }

    fn later(cause: impl Into<String>, after: Option<Duration>) -> Self {
        Self { last: false, after, cause: cause.into() }
    }
}

impl Way {
    fn name(&self) -> &'static str {
        match self {
            Self::Mail(_) => "mail",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Whether the party can be told this way.
    fn reaches(&self, row: &PartyRow) -> bool {
        match self {
            Self::Mail(_) => row.email.is_some(),
            Self::Webhook(_) => row.phone.is_some() || row.push_token.is_some(),
        }
    }

    async fn send(&self, row: &PartyRow, notice: &Notice<'_>) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + ATTEMPT;
        match self {
            Self::Mail(mail) => mail.send(row.email.as_deref().unwrap_or_default(), notice, deadline).await,
            Self::Webhook(webhook) => {
                webhook.send(row.phone.as_deref(), row.push_token.as_deref(), notice, deadline).await
            }
        }
    }
}

impl Lane {
    fn rule(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notifier {
    /// `ca_file`: PEM certificates that are roots besides the public ones.
    /// [`Error::Invalid`] names the key that cannot be used.
    pub fn new(config: &Config, dialer: Dialer, ca_file: Option<&Path>, metrics: Metrics) -> Result<Self, Error> {
        let mut ways = vec![];
        if let Some((server, from)) = config.mail()? {
            ways.push(Way::Mail(Mail::new(server, from, ca_file)?));
        }
        if let Some((url, key)) = config.webhook()? {
            ways.push(Way::Webhook(Box::new(Webhook::new(url, key, dialer))));
        }
        let lane = |way| Lane {
            way,
            rule: Mutex::new(Rule::new(LIMITS)),
            wake: Notify::new(),
            failing: AtomicBool::new(false),
        };
        let lanes = ways.into_iter().map(lane).collect();
        let boot = getrandom::u64().map_err(Error::internal)?;
        let leaving = Mutex::new(Leaving::new(LEAVING_MAX));
        Ok(Self(Arc::new(Inner { lanes, leaving, left: Notify::new(), boot, metrics })))
    }

    pub(super) fn is_off(&self) -> bool {
        self.0.lanes.is_empty()
    }

    /// Whether the party can be told at all.
    fn reaches(&self, row: &PartyRow) -> bool {
        self.0.lanes.iter().any(|lane| lane.way.reaches(row))
    }

    fn leaving(&self) -> MutexGuard<'_, Leaving> {
        self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, lane: &Lane, result: &str) {
        self.0.metrics.notifications.with_label_values(&[lane.way.name(), result]).inc();
    }

    /// To be told over each way that reaches the party, once it was silent for
    /// `silent_in`.
    fn offer(&self, row: &PartyRow, session: &str, silent_in: Duration, kind: Kind, since: Millis) {
        let now = Instant::now();
        for lane in self.0.lanes.iter().filter(|lane| lane.way.reaches(row)) {
            let subject = Subject { party: row.name.clone(), session: session.to_owned() };
            let dropped = match lane.rule().offer(now, now + silent_in, subject, kind, since) {
                Offer::Known => continue,
                Offer::Queued { dropped } => dropped,
                Offer::Refused => true,
            };
            if dropped {
                self.dropped(lane);
            }
            lane.wake.notify_one();
        }
    }

    fn dropped(&self, lane: &Lane) {
        self.count(lane, "dropped");
        tracing::debug!(way = lane.way.name(), "too many parties are to be looked at or notified; one was dropped");
    }

    /// What an attempt means: noted, counted, said.
    fn done(&self, lane: &Lane, job: Job, outcome: Outcome) {
        let attempt = match &outcome {
            Outcome::Needless => Attempt::Needless,
            Outcome::NotYet { at } => Attempt::NotYet { at: *at },
            Outcome::Tried(Ok(())) => Attempt::Sent,
            Outcome::Tried(Err(failure)) if failure.last => Attempt::Never,
            Outcome::Tried(Err(failure)) => Attempt::Later { after: failure.after },
        };
        let subject = job.subject.clone();
        let random = getrandom::u64().unwrap_or_default();
        let verdict = lane.rule().done(Instant::now(), Millis::now(), job, attempt, random);
        match verdict {
            Verdict::Sent => self.count(lane, "sent"),
            Verdict::Again { dropped: false } | Verdict::Needless => {}
            Verdict::Again { dropped: true } => self.dropped(lane),
            Verdict::GivenUp => self.count(lane, "failed"),
        }
        let (way, party) = (lane.way.name(), &*subject.party);
        match outcome {
            Outcome::Needless | Outcome::NotYet { .. } => {}
            Outcome::Tried(Ok(())) => lane.failing.store(false, Relaxed),
            // A server that is down fails for all of them: that is said once.
            Outcome::Tried(Err(Failure { cause, .. })) if !lane.failing.swap(true, Relaxed) => {
                tracing::warn!(way, party, cause, "a party could not be notified");
            }
            Outcome::Tried(Err(Failure { cause, .. })) => {
                tracing::debug!(way, party, cause, "a party could not be notified");
            }
        }
    }
}

impl Relay {
    /// Something came for these parties of this node: those that are not there
    /// to take it and gave a channel are told, once they are silent.
    pub(super) fn notify<'a>(&self, session: &str, kind: Kind, parties: impl Iterator<Item = &'a str>) {
        let notifier = &self.0.notifier;
        if notifier.is_off() {
            return;
        }
        let now = Millis::now();
        let (presence, streams) = (self.presence(), self.streams());
        for party in parties {
            let Some(row) = self.absent(&presence, &streams, party) else { continue };
            notifier.offer(row, session, self.silent_in(&presence, party, now), kind, now);
        }
    }

    /// The row of a registered party without a live stream, if a way reaches it.
    fn absent<'a>(&self, presence: &'a Presence, streams: &Streams, party: &str) -> Option<&'a PartyRow> {
        presence.get(party).filter(|row| self.0.notifier.reaches(row) && !streams.is_live(party))
    }

    /// Whether this node tells the party when something waits.
    pub(super) fn tells(&self, row: &PartyRow) -> bool {
        self.0.notifier.reaches(row)
    }

    fn silent_in(&self, presence: &Presence, party: &str, now: Millis) -> Duration {
        presence.silent_in(party, now, self.0.config.online_after).min(LOOK_AFTER_MAX)
    }

    /// The party asked for something: it is not to be called for a while.
    pub(super) fn contact(&self, party: &str) {
        if !self.0.notifier.is_off() {
            self.presence().contact(party, Millis::now());
        }
    }

    /// The party's last stream ended, or it registered: once it is silent, it is
    /// looked up what waits for it.
    pub(super) fn left(&self, party: &str) {
        let notifier = &self.0.notifier;
        // A node that stops ends all streams.
        if notifier.is_off() || self.0.stop.is_cancelled() {
            return;
        }
        let mut presence = self.presence();
        let now = Millis::now();
        presence.contact(party, now);
        if !presence.get(party).is_some_and(|row| notifier.reaches(row)) {
            return;
        }
        let at = Instant::now() + self.silent_in(&presence, party, now);
        drop(presence);
        if !notifier.leaving().enter(party, at) {
            tracing::debug!(party, "too many parties left; what waits for this one is not looked up");
        }
        notifier.0.left.notify_one();
    }

    /// Looks and sends until the node stops.
    pub(super) async fn notify_all(self) {
        let lanes = join_all(self.0.notifier.0.lanes.iter().map(|lane| self.serve(lane)));
        join(lanes, self.look_after_leavers()).await;
    }

    async fn look_after_leavers(&self) {
        let notifier = &self.0.notifier;
        loop {
            let next = notifier.leaving().next(Instant::now());
            if let Some(party) = next
                && let Err(error) = self.look_up(&party).await
            {
                tracing::debug!(%error, "what waits for a party could not be looked up; trying again");
                let random = u64::from(getrandom::u32().unwrap_or_default());
                notifier.leaving().enter(&party, Instant::now() + Duration::from_millis(random % AGAIN_MILLIS));
            }
            let due = notifier.leaving().deadline();
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                () = notifier.0.left.notified() => {}
                () = at(due) => {}
            }
        }
    }

    /// Every session in which something waits for a party that left.
    async fn look_up(&self, party: &str) -> Result<(), Error> {
        let heard = {
            let (presence, streams) = (self.presence(), self.streams());
            if self.absent(&presence, &streams, party).is_none() {
                return Ok(());
            }
            presence.heard_of(party)
        };
        let (store, now) = (&self.0.store, Millis::now());
        let messages = store.sessions_with_messages(party, LIMITS.of_party).await?;
        let events = store.sessions_with_events(party, heard, now, LIMITS.of_party).await?;
        let presence = self.presence();
        let Some(row) = presence.get(party) else { return Ok(()) };
        let silent_in = self.silent_in(&presence, party, now);
        let has_message: BTreeSet<&String> = messages.iter().collect();
        let alone = events.iter().filter(|session| !has_message.contains(session));
        let all = messages.iter().map(|session| (session, Kind::Message)).chain(alone.map(|s| (s, Kind::Event)));
        for (session, kind) in all {
            self.0.notifier.offer(row, session, silent_in, kind, now);
        }
        Ok(())
    }

    async fn serve(&self, lane: &Lane) {
        let notifier = &self.0.notifier;
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < AT_ONCE {
                let Some(job) = lane.rule().next(Instant::now()) else { break };
                under_way.push(async move {
                    let outcome = self.attempt(lane, &job).await;
                    (job, outcome)
                });
            }
            let due = lane.rule().deadline().filter(|_| under_way.len() < AT_ONCE);
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                Some((job, outcome)) = under_way.next() => notifier.done(lane, job, outcome),
                () = lane.wake.notified() => {}
                () = at(due) => {}
            }
        }
    }

    /// Looks whether the party is to be told, and tells it.
    async fn attempt(&self, lane: &Lane, job: &Job) -> Outcome {
        let Subject { party, session } = &*job.subject;
        let now = Millis::now();
        let (row, heard, silent_in) = {
            let (presence, streams) = (self.presence(), self.streams());
            let row = self.absent(&presence, &streams, party).filter(|row| lane.way.reaches(row));
            let knows = job.told.is_some_and(|told| presence.last_contact(party) <= told);
            let Some(row) = row.filter(|_| !knows) else { return Outcome::Needless };
            (row.clone(), presence.heard_of(party), self.silent_in(&presence, party, now))
        };
        let kind = match self.0.store.waits(party, session, heard, now).await {
            Ok(waits) => worth(waits, job.kind),
            Err(error) => return Outcome::Tried(Err(Failure::transient(error.to_string()))),
        };
        let Some(kind) = kind else { return Outcome::Needless };
        if !silent_in.is_zero() {
            return Outcome::NotYet { at: Instant::now() + silent_in };
        }
        let Some(federation) = self.0.federation.get() else { return Outcome::Needless };
        let node = federation.own_id();
        let id = format!("msg_{:016x}{:x}", self.0.notifier.0.boot, job.number);
        let notice = Notice { id: &id, party, session, kind, since: job.since, node: &node };
        Outcome::Tried(lane.way.send(&row, &notice).await)
    }
}

/// What a notification says; `None`: nothing waits.
fn worth(waits: Waits, kind: Kind) -> Option<Kind> {
    match (waits.message, waits.event) {
        (false, false) => None,
        (true, true) => Some(kind),
        (true, false) => Some(Kind::Message),
        (false, true) => Some(Kind::Event),
    }
}

/// Never, if there is no moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
