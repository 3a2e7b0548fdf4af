//! The driver from the peer: our Pulls of it, its Pushes to us, and their
//! effect.
//!
//! One thing is applied at a time, in the order it came; effect and mark are
//! one transaction.

use super::{Batch, Driver, Finished, Then};
use crate::{
    error::Error,
    federation::{
        Inner,
        courier::{Line, Reply, Turned},
        delivery::{Arrival, Failure, Input},
        inbox::{self, Row},
        parcels::{Opening, Outcome, Queued},
        peers::Peer,
        remote::{CallError, Method},
        save::Pause,
        stream::{Mark, Position},
        window::{self, WINDOW},
        wire,
    },
    types::Millis,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;

const PULL_PATIENCE: Duration = Duration::from_secs(10);
/// Batches that wait for the one being applied: those of a stream, and of one
/// before it that broke.
const BATCHES_MAX: usize = 2 * WINDOW as usize;
/// Rows and bytes of batches that are applied together, beside the first one.
const TOGETHER_ROWS: usize = 4_096;
const TOGETHER_BYTES: usize = 1 << 20;

/// A batch that is being applied.
pub struct Taken {
    reply: Reply,
    line: Arc<Line>,
    _place: OwnedSemaphorePermit,
}

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
            let result = result.and_then(|answer| wire::pull_response(answer).map_err(CallError::transient));
            if result.as_ref().is_ok_and(|answer| !answer.rows.is_empty()) {
                remote.touch();
            }
            Finished::Pulled(result)
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
            let Some(push) = self.backlog.pop_front() else {
                // Those of a stream wait for a Pull under way as one Push does.
                if self.pulling || !self.take_batches() {
                    return;
                }
                continue;
            };
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

    pub(super) async fn on_batch(&mut self, batch: Batch) {
        if self.batches.len() >= BATCHES_MAX {
            let error = Error::unavailable("too many batches at once");
            batch.line.set_broken();
            let _ = batch.reply.send(Err(Turned { state: None, error }));
            return;
        }
        self.batches.push_back(batch);
        self.work().await;
    }

    /// Takes up what waits, several batches as one; false: there is none. A batch
    /// that is not to be taken breaks its stream.
    fn take_batches(&mut self) -> bool {
        let Some(mut batch) = self.batches.pop_front() else { return false };
        let (mut rows, mut taken, mut bytes, mut mark) = (vec![], vec![], 0, self.applied);
        loop {
            let judged = match batch.line.is_broken() {
                true => Err(None),
                false => window::take(mark, batch.cargo.after, &positions(&batch.cargo.rows)).map_err(Some),
            };
            match judged {
                Ok(reached) => {
                    mark = reached;
                    bytes += batch.cargo.rows.iter().map(|row| row.body.len()).sum::<usize>();
                    rows.append(&mut batch.cargo.rows);
                    taken.push(Taken { reply: batch.reply, line: batch.line, _place: batch.place });
                }
                // What goes before it must be applied first: it tells the state.
                Err(Some(_)) if !taken.is_empty() => {
                    self.batches.push_front(batch);
                    break;
                }
                Err(refusal) => {
                    batch.line.set_broken();
                    let text = refusal.map_or("a batch before it was not taken", window::Refusal::text);
                    let error = Error::Precondition(text.to_owned());
                    let _ = batch.reply.send(Err(Turned { state: Some(mark), error }));
                }
            }
            if rows.len() >= TOGETHER_ROWS || bytes >= TOGETHER_BYTES {
                break;
            }
            match self.batches.pop_front() {
                Some(next) => batch = next,
                None => break,
            }
        }
        if !taken.is_empty() {
            self.apply(rows, Then::AnswerBatches(taken));
        }
        true
    }

    pub(super) fn apply(&mut self, rows: Vec<Row>, then: Then) {
        self.applying = true;
        let (inner, peer, mark) = (self.inner.clone(), self.peer.clone(), self.applied);
        self.jobs.spawn(async move {
            // What a Pull brought, a stock peer has forgotten: it is kept until it is committed.
            let until_committed = matches!(then, Then::Pulled { .. });
            let (mark, result) = apply(&inner, &peer, mark, &rows, until_committed).await;
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
            Then::AnswerBatches(taken) => {
                for Taken { reply, line, _place } in taken {
                    let answer = match &result {
                        Ok(()) => Ok(mark),
                        Err(error) => {
                            line.set_broken();
                            Err(Turned { state: None, error: Error::unavailable(error.to_string()) })
                        }
                    };
                    let _ = reply.send(answer);
                }
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

fn positions(rows: &[Row]) -> Vec<Position> {
    rows.iter().filter_map(|row| row.position).collect()
}

/// Commits the effect of rows and the mark together. Returns the mark that is
/// on disk then. `until_committed`: tries until the store takes it.
async fn apply(
    inner: &Inner,
    peer: &Peer,
    mut mark: Mark,
    rows: &[Row],
    until_committed: bool,
) -> (Mark, Result<(), Error>) {
    let (row_id, mut pause) = (peer.row_id(), Pause::new());
    loop {
        let (room, now) = (inner.room(peer, mark, rows).await, Millis::now());
        let mut opening = Opening::new(&inner.letters, row_id, peer.server_id(), now);
        let mut plan = inbox::plan(row_id, mark, rows, room, now, &mut |parcel| opening.open(parcel));
        if plan.op.changes.is_empty() {
            return (mark, Ok(()));
        }
        if let Err(error) = inner.tell_news(row_id, &peer.server_id(), &mut plan, now).await {
            tracing::warn!(peer = row_id.0, %error, "who is to hear of the peer's events could not be asked");
            opening.failed(&Outcome::Failed);
            if !until_committed {
                return (mark, Err(error));
            }
            pause.wait().await;
            continue;
        }
        // A refusal goes back even into a full queue: there is no other way to be rid of it.
        let queued = Queued::of(inner, &plan.op);
        queued.occupy();
        let submitted = inner.store.submit(plan.op).await;
        // After a failed commit they may be there all the same.
        peer.lists().add(plan.added);
        let error = match submitted {
            Ok(done) => {
                queued.committed(inner, &done);
                opening.committed(done.numbers.start, &plan.letters);
                inner.metrics.events_applied.inc_by((plan.taken - plan.dead.len() - plan.refused) as u64);
                inner.metrics.parcels_refused.inc_by(plan.refused as u64);
                for reason in plan.dead {
                    inner.metrics.dead_letters.with_label_values(&[reason]).inc();
                }
                return (plan.mark, Ok(()));
            }
            Err(error) => error,
        };
        tracing::warn!(peer = row_id.0, %error, "events of the peer cannot be stored");
        queued.failed(&error);
        // After a failed commit only the file knows where the mark stands.
        let stands = inner.store.stream_in(row_id).await;
        opening.failed(&match &stands {
            Ok(stands) if *stands == mark => Outcome::Failed,
            _ => Outcome::Unknown,
        });
        mark = stands.unwrap_or(mark);
        if !until_committed {
            return (mark, Err(error));
        }
        pause.wait().await;
    }
}
