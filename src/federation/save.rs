//! What a peer's stream to it must have on disk: settled rows forgotten, marks,
//! whether it is Queued.
//!
//! One save is under way at a time; Forgets that wait become one. A save is
//! repeated until the store takes it: until then the machine holds back what
//! must not overtake it.

use super::{Inner, delivery::Because, peers::Peer, stream::Mark};
use crate::{
    store::{Change, DeadLetter, Direction, Op, StreamOut},
    types::{Millis, PeerId},
};
use bytes::Bytes;
use std::{collections::VecDeque, time::Duration};
use tokio::time::sleep;

/// One thing to save.
#[derive(Debug, Clone, Copy)]
pub enum Save {
    /// The rows up to here are settled.
    Forget(Mark),
    Mark {
        mark: Mark,
        because: Because,
    },
    Queued(bool),
}

/// What waits to be saved, in order.
pub struct Saver {
    peer: PeerId,
    /// The stream as it will be once all that waits is saved.
    stream: StreamOut,
    waiting: VecDeque<Save>,
}

impl Saver {
    pub fn new(peer: PeerId, stream: StreamOut) -> Self {
        Self { peer, stream, waiting: VecDeque::new() }
    }

    pub fn add(&mut self, save: Save) {
        if let (Some(Save::Forget(last)), Save::Forget(through)) = (self.waiting.back_mut(), save) {
            *last = through;
        } else {
            self.waiting.push_back(save);
        }
    }

    /// Nothing waits but rows to be forgotten, and more of them may come. If
    /// the node dies first they are settled again by the peer's state.
    pub fn only_forgets(&self) -> bool {
        self.waiting.len() == 1 && matches!(self.waiting[0], Save::Forget(_))
    }

    /// The next op, and the mark that is on disk once it is committed.
    pub fn next(&mut self) -> Option<(Mark, Op)> {
        let save = self.waiting.pop_front()?;
        let peer = self.peer;
        let op = match save {
            Save::Forget(through) => {
                self.set_mark(through);
                Op::from(Change::Settle { peer, epoch: through.epoch, number: through.number, id: through.id })
            }
            Save::Mark { mark, because } => {
                self.set_mark(mark);
                let op = Op::from(Change::PutOut { peer, stream: self.stream });
                match because {
                    Because::PeerRestored { from, through } => op.with(Change::Bury(self.hole(from, through))),
                    Because::WeWereRestored => op,
                }
            }
            Save::Queued(queued) => {
                self.stream.queued = queued;
                Op::from(Change::PutOut { peer, stream: self.stream })
            }
        };
        let mark = Mark { epoch: self.stream.epoch, number: self.stream.settled, id: self.stream.settled_id };
        Some((mark, op))
    }

    fn set_mark(&mut self, mark: Mark) {
        self.stream.epoch = mark.epoch;
        self.stream.settled = mark.number;
        self.stream.settled_id = mark.id;
    }

    /// Rows the peer lost and we no longer have.
    fn hole(&self, from: u64, through: u64) -> DeadLetter {
        DeadLetter {
            peer: self.peer,
            direction: Direction::Out,
            reason: "hole".into(),
            died_at: Millis::now(),
            number: from + 1,
            last_number: through,
            row_id: 0,
            body: Bytes::new(),
        }
    }
}

/// Commits, however often it takes; gives the room of settled rows back.
pub async fn commit(inner: &Inner, peer: &Peer, op: Op) {
    let mut pause = Pause::new();
    let mut failed = false;
    loop {
        match inner.store.submit(op.clone()).await {
            Ok(done) => {
                for gone in done.gone {
                    peer.release(gone.rows, gone.bytes);
                    inner.metrics.events_settled.inc_by(gone.rows);
                }
                if failed && let Ok(total) = inner.store.outbox_total(peer.row_id()).await {
                    // A commit that failed may have deleted the rows after all.
                    peer.recount(total.map_or((0, 0), |total| (total.rows, total.bytes)));
                }
                return;
            }
            Err(error) => tracing::warn!(peer = %peer.server_id(), %error, "delivery cannot be recorded; trying on"),
        }
        failed = true;
        pause.wait().await;
    }
}

/// Between two tries to write: from 50 ms doubling to 5 s, with jitter.
pub struct Pause(Duration);

impl Pause {
    pub fn new() -> Self {
        Self(Duration::from_millis(50))
    }

    pub async fn wait(&mut self) {
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        sleep(self.0.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(5));
    }
}

#[cfg(test)]
mod tests;
