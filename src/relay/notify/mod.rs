//! Parties that are away are told that something waits: by e-mail, and by a
//! webhook for phone and push.
//!
//! Best effort: what waits is on disk, notifications are in memory and a
//! restart forgets them. `rule.rs` says who is notified when; one task sends,
//! over each way a few at a time. Never sends or logs a payload, a join token
//! or an address.

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
    store::relay::PartyRow,
    types::{Millis, ServerId},
};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use mail::Mail;
pub(super) use rule::Kind;
use rule::{Attempt, Job, Limits, Offer, Rule, Subject, Verdict};
use std::{
    collections::HashSet,
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
    Limits { window: Duration::from_secs(600), tries: 5, waiting: 4_096, subjects: 65_536, of_party: 256 };

/// The ways that are configured; clones are the same.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    /// Empty: notifications are off.
    lanes: Vec<Lane>,
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
        Ok(Self(Arc::new(Inner { lanes, boot: getrandom::u64().map_err(Error::internal)?, metrics })))
    }

    pub(super) fn is_off(&self) -> bool {
        self.0.lanes.is_empty()
    }

    fn count(&self, lane: &Lane, result: &str) {
        self.0.metrics.notifications.with_label_values(&[lane.way.name(), result]).inc();
    }

    fn offer(&self, lane: &Lane, now: Instant, subject: Subject, kind: Kind, since: Millis) {
        let dropped = match lane.rule().offer(now, subject, kind, since) {
            Offer::Known => return,
            Offer::Queued { dropped } => dropped,
            Offer::Refused => true,
        };
        if dropped {
            self.dropped(lane);
        }
        lane.wake.notify_one();
    }

    fn dropped(&self, lane: &Lane) {
        self.count(lane, "dropped");
        tracing::debug!(way = lane.way.name(), "too many notifications wait; one was dropped");
    }

    /// What an attempt means: noted, counted, said.
    fn done(&self, lane: &Lane, job: Job, result: Option<Result<(), Failure>>) {
        let attempt = match &result {
            None => Attempt::Needless,
            Some(Ok(())) => Attempt::Sent,
            Some(Err(failure)) if failure.last => Attempt::Never,
            Some(Err(failure)) => Attempt::Later { after: failure.after },
        };
        let subject = job.subject.clone();
        let random = getrandom::u64().unwrap_or_default();
        let verdict = lane.rule().done(Instant::now(), job, attempt, random);
        match verdict {
            Verdict::Sent => self.count(lane, "sent"),
            Verdict::Again { dropped: false } | Verdict::Needless => {}
            Verdict::Again { dropped: true } => self.dropped(lane),
            Verdict::GivenUp => self.count(lane, "failed"),
        }
        let (way, party) = (lane.way.name(), &*subject.party);
        match result {
            None => {}
            Some(Ok(())) => lane.failing.store(false, Relaxed),
            // A server that is down fails for all of them: that is said once.
            Some(Err(Failure { cause, .. })) if !lane.failing.swap(true, Relaxed) => {
                tracing::warn!(way, party, cause, "a party could not be notified");
            }
            Some(Err(Failure { cause, .. })) => tracing::debug!(way, party, cause, "a party could not be notified"),
        }
    }
}

impl Relay {
    /// Something waits for these parties of this node: those that are away and
    /// gave a channel are told.
    pub(super) fn notify<'a>(&self, session: &str, kind: Kind, parties: impl Iterator<Item = &'a str>) {
        let notifier = &self.0.notifier;
        if notifier.is_off() {
            return;
        }
        let (now, since) = (Instant::now(), Millis::now());
        let (presence, streams) = (self.presence(), self.streams());
        let listening = match kind {
            Kind::Message => HashSet::new(),
            Kind::Event => streams.events.values().filter_map(|stream| stream.party()).collect(),
        };
        for party in parties.filter(|party| !listening.contains(party)) {
            let Some(row) = self.away(&presence, &streams, party, since) else { continue };
            for lane in notifier.0.lanes.iter().filter(|lane| lane.way.reaches(row)) {
                let subject = Subject { party: party.to_owned(), session: session.to_owned() };
                notifier.offer(lane, now, subject, kind, since);
            }
        }
    }

    /// The row of a registered party that is not online.
    fn away<'a>(&self, presence: &'a Presence, streams: &Streams, party: &str, now: Millis) -> Option<&'a PartyRow> {
        let online =
            streams.subscriptions.is_subscribed(party) || presence.is_fresh(party, now, self.0.config.online_after);
        presence.get(party).filter(|_| !online)
    }

    /// Sends notifications until the node stops.
    pub(super) async fn notify_all(self) {
        join_all(self.0.notifier.0.lanes.iter().map(|lane| self.serve(lane))).await;
    }

    async fn serve(&self, lane: &Lane) {
        let notifier = &self.0.notifier;
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < AT_ONCE {
                let Some(job) = lane.rule().next(Instant::now()) else { break };
                under_way.push(async move {
                    let result = self.attempt(lane, &job).await;
                    (job, result)
                });
            }
            let due = lane.rule().deadline().filter(|_| under_way.len() < AT_ONCE);
            let later = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                Some((job, result)) = under_way.next() => notifier.done(lane, job, result),
                () = lane.wake.notified() => {}
                () = later => {}
            }
        }
    }

    /// `None`: the party came back, or took its channel away.
    async fn attempt(&self, lane: &Lane, job: &Job) -> Option<Result<(), Failure>> {
        let Subject { party, session } = &*job.subject;
        let row = {
            let (presence, streams) = (self.presence(), self.streams());
            self.away(&presence, &streams, party, Millis::now()).filter(|row| lane.way.reaches(row)).cloned()?
        };
        let node = self.0.federation.get()?.own_id();
        let id = format!("msg_{:016x}{:x}", self.0.notifier.0.boot, job.number);
        let notice = Notice { id: &id, party, session, kind: job.kind, since: job.since, node: &node };
        Some(lane.way.send(&row, &notice).await)
    }
}
