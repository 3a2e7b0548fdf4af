//! The driver from the peer: our Pulls of it, its Pushes to us, and their
//! effect.
//!
//! One thing is applied at a time, in the order it came; effect and mark are
//! one transaction.

use super::{Driver, Finished, Then};
use crate::{
    error::Error,
    federation::{
        Inner,
        delivery::{Arrival, Failure, Input},
        inbox::{self, Row},
        remote::{CallError, Method},
        save::Pause,
        stream::Mark,
        wire,
    },
    types::{Millis, PeerId},
};
use std::time::Duration;

const PULL_PATIENCE: Duration = Duration::from_secs(10);

impl Driver {
    pub(super) fn pull(&mut self, waiting: bool) {
        self.pulling = true;
        let (remote, inner) = (self.remote.clone(), self.inner.clone());
        let waiting = if waiting { self.peer.queued().0.max(1) } else { 0 };
        let request = wire::pull_request(self.applied, waiting);
        self.jobs.spawn(async move {
            // A stock peer forgets what it hands over: ask only for what can be kept.
            let result = match inner.store.check_growth().await {
                Err(error) => Err(CallError::local(error)),
                Ok(()) => remote.call(Method::Pull, request, PULL_PATIENCE).await,
            };
            Finished::Pulled(result.and_then(|answer| wire::pull_response(answer).map_err(CallError::transient)))
        });
    }

    /// Takes up what came from the peer, one after the other.
    pub(super) async fn work(&mut self) {
        while !self.applying {
            if let Some(answer) = self.answer.take() {
                let then = Then::Pulled { state: answer.state, rows: !answer.rows.is_empty() };
                self.apply(answer.rows, then);
                continue;
            }
            if !self.pulling
                && let Some(push) = self.deferred.take()
            {
                self.apply(vec![push.row], Then::AnswerPush(push.reply));
                continue;
            }
            let Some(push) = self.backlog.pop_front() else { return };
            match self.machine.push_arrived() {
                Arrival::Apply => self.apply(vec![push.row], Then::AnswerPush(push.reply)),
                Arrival::Wait => self.deferred = Some(push),
                Arrival::Refuse => {
                    let busy = "this server is pulling yours and one Push waits already; try again";
                    let _ = push.reply.send(Err(Error::unavailable(busy)));
                }
            }
        }
    }

    pub(super) fn apply(&mut self, rows: Vec<Row>, then: Then) {
        self.applying = true;
        let (inner, peer, mark) = (self.inner.clone(), self.row_id, self.applied);
        self.jobs.spawn(async move {
            // What a Pull brought, a stock peer has forgotten: it is kept until it is committed.
            let until_committed = matches!(then, Then::Pulled { .. });
            let (mark, result) = apply(&inner, peer, mark, &rows, until_committed).await;
            Finished::Applied { mark, result, then }
        });
    }

    pub(super) async fn on_applied(&mut self, mark: Mark, result: Result<(), Error>, then: Then) {
        self.applied = mark;
        self.applying = false;
        match then {
            Then::AnswerPush(reply) => {
                let _ = reply.send(result.map(|()| mark));
                self.give(Input::PushTaken).await;
            }
            Then::Pulled { state, rows } => {
                self.pulling = false;
                let heard = match state {
                    None => Ok(None),
                    Some(mark) => self.heard(mark).await.map(Some),
                };
                let input = match heard {
                    Ok(heard) => Input::Pulled { heard, rows },
                    Err(_) => Input::PullFailed(Failure::Local),
                };
                self.give(input).await;
            }
        }
        self.work().await;
    }
}

/// Commits the effect of rows and the mark together. Returns the mark that is
/// on disk then. `until_committed`: tries until the store takes it.
async fn apply(
    inner: &Inner,
    peer: PeerId,
    mut mark: Mark,
    rows: &[Row],
    until_committed: bool,
) -> (Mark, Result<(), Error>) {
    let mut pause = Pause::new();
    loop {
        let plan = inbox::plan(peer, mark, rows, Millis::now());
        if plan.op.changes.is_empty() {
            return (mark, Ok(()));
        }
        let error = match inner.store.submit(plan.op).await {
            Ok(_) => {
                inner.metrics.events_applied.inc_by(plan.taken as u64 - plan.dead.len() as u64);
                for reason in plan.dead {
                    inner.metrics.dead_letters.with_label_values(&[reason]).inc();
                }
                return (plan.mark, Ok(()));
            }
            Err(error) => error,
        };
        tracing::warn!(peer = peer.0, %error, "events of the peer cannot be stored");
        if !until_committed {
            // After a failed commit only the file knows where the mark stands.
            let stands = inner.store.stream_in(peer).await.unwrap_or(mark);
            return (stands, Err(error));
        }
        pause.wait().await;
        if let Ok(stands) = inner.store.stream_in(peer).await {
            mark = stands;
        }
    }
}
