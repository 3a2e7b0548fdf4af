//! A Courier session at its sender: one task from the opening of the stream to its
//! end.
//!
//! Reads rows and sends them within the grant, as the driver orders; tells the driver
//! what the peer says. Never settles anything and never retries.

use super::{seal, state};
use crate::{
    federation::{
        Inner,
        delivery::Failure,
        peers::Peer,
        remote::{CallError, IDLE, Remote, Stream},
        stream::Mark,
        window::{BATCH_BYTES, BATCH_ROWS, PATIENCE, Window},
    },
    proto::pillarbox::federation::v1::Receipt,
    types::PeerId,
};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};

/// Words to the driver that it has not taken up.
const TOLD_MAX: usize = 8;
/// For the peer to end its half of the stream.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the driver wants of a session; it only ever says more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Orders {
    /// Send what comes after this mark.
    pub from: Option<Mark>,
    /// Send nothing more.
    pub end: bool,
}

/// What a session tells the driver.
#[derive(Debug)]
pub enum Told {
    /// The peer takes no batches.
    NoCourier,
    Opened(Mark),
    /// For batches through `last`: the peer's state.
    Receipt {
        last: Mark,
        state: Mark,
    },
    /// The last word. Well: nothing is in flight.
    Ended(Result<(), CallError>),
}

/// The driver's end of a session.
pub struct Session {
    pub orders: watch::Sender<Orders>,
    /// Dropped: the session ends at once.
    pub told: mpsc::Receiver<Box<Told>>,
}

/// A session, and the task that it is.
pub fn start(
    inner: Arc<Inner>,
    peer: &Peer,
    remote: Arc<Remote>,
) -> (Session, Pin<Box<impl Future<Output = ()> + Send + use<>>>) {
    let (orders, ordered) = watch::channel(Orders::default());
    let (told, heard) = mpsc::channel(TOLD_MAX);
    let task = Task { row_id: peer.row_id(), newest: peer.watch_newest(), inner, remote, orders: ordered, told };
    (Session { orders, told: heard }, Box::pin(task.run()))
}

struct Task {
    inner: Arc<Inner>,
    row_id: PeerId,
    remote: Arc<Remote>,
    newest: watch::Receiver<u64>,
    orders: watch::Receiver<Orders>,
    /// Boxed, as a channel makes room for many at once.
    told: mpsc::Sender<Box<Told>>,
}

/// The driver is not interested any more.
struct Gone;

enum End {
    Failed(CallError),
    Gone,
}

impl From<CallError> for End {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl Task {
    async fn run(mut self) {
        let gone = self.told.clone();
        let ended = tokio::select! {
            ended = self.attempt() => ended,
            () = gone.closed() => Err(End::Gone),
        };
        let ended = match ended {
            Ok(()) => Ok(()),
            Err(End::Failed(error)) => Err(error),
            Err(End::Gone) => return,
        };
        if let Err(error) = &ended
            && !matches!(error.failure, Failure::Refused)
        {
            // Whatever is wrong may be wrong with the connection.
            self.remote.close();
        }
        let _ = self.tell(Told::Ended(ended)).await;
    }

    async fn tell(&self, told: Told) -> Result<(), Gone> {
        self.told.send(Box::new(told)).await.map_err(|_| Gone)
    }

    async fn attempt(&mut self) -> Result<(), End> {
        let turn = self.remote.turn().await?;
        let deadline = Instant::now() + PATIENCE;
        // Boxed: dialling is large, and a session lasts.
        let opened = timeout_at(deadline, Box::pin(self.remote.deliver(deadline, turn))).await;
        let Some(mut stream) = opened.map_err(|_| late("no stream"))?? else {
            return Ok(self.tell(Told::NoCourier).await?);
        };
        let opening = state(stream.first.state).map_err(CallError::transient)?;
        self.tell(Told::Opened(opening)).await?;
        let ordered = self.orders.wait_for(|orders| orders.from.is_some() || orders.end).await;
        let Some(from) = ordered.map_err(|_| Gone)?.from else { return Ok(()) };
        let mut window = Window::new(from, stream.first.granted);
        self.stream(&mut stream, &mut window).await?;
        let Stream { batches, mut receipts, .. } = stream;
        drop(batches);
        // Nothing is in flight: how it says goodbye changes nothing.
        let _ = timeout(GOODBYE, receipts.message()).await;
        Ok(())
    }

    /// Sends and hears until the session is to end and nothing is in flight.
    async fn stream(&mut self, stream: &mut Stream, window: &mut Window) -> Result<(), End> {
        let mut idle_at = Instant::now() + IDLE;
        let mut ending = false;
        // No row waits up to this number.
        let mut looked = 0;
        loop {
            let orders = *self.orders.borrow_and_update();
            ending |= orders.end;
            let newest = *self.newest.borrow_and_update();
            let waits = !ending && newest > window.reached().number.max(looked);
            if ending && window.is_idle() {
                return Ok(());
            }
            if waits && !window.may_send() {
                window.wait(Instant::now().into_std());
            }
            let deadline = window.deadline().map_or(idle_at, Instant::from_std);
            tokio::select! {
                heard = stream.receipts.message() => match heard {
                    Ok(Some(receipt)) => {
                        self.on_receipt(window, receipt).await?;
                        self.remote.touch();
                        idle_at = Instant::now() + IDLE;
                    }
                    Ok(None) if window.is_idle() => return Ok(()),
                    Ok(None) => return Err(CallError::transient("the stream ended with batches in flight").into()),
                    Err(status) => return Err(CallError::from(status).into()),
                },
                room = stream.batches.reserve(), if waits && window.may_send() => {
                    let Ok(room) = room else {
                        // Why, the receipts tell.
                        ending = true;
                        continue;
                    };
                    if self.remote.is_stale(stream) {
                        ending = true;
                        continue;
                    }
                    let after = window.reached();
                    let page = self.inner.store.outbox_page(self.row_id, after.number, BATCH_ROWS, BATCH_BYTES).await;
                    let rows = page.map_err(CallError::local)?;
                    let Some(last) = rows.last() else {
                        looked = newest;
                        continue;
                    };
                    let last = Mark { epoch: after.epoch, number: last.number, id: last.id };
                    self.inner.metrics.events_sent.with_label_values(&["courier"]).inc_by(rows.len() as u64);
                    room.send(Box::new(seal(&self.inner.key, &stream.destination, &stream.nonce, after, rows)));
                    window.sent(Instant::now().into_std(), last);
                    idle_at = Instant::now() + IDLE;
                }
                changed = self.newest.changed(), if !waits && !ending => {
                    changed.map_err(|_| Gone)?;
                }
                changed = self.orders.changed(), if !ending => {
                    changed.map_err(|_| Gone)?;
                }
                () = sleep_until(deadline) => {
                    if window.deadline().is_some() {
                        return Err(late("no receipt").into());
                    }
                    ending = true;
                }
            }
        }
    }

    async fn on_receipt(&self, window: &mut Window, receipt: Receipt) -> Result<(), End> {
        let state = state(receipt.state).map_err(CallError::transient)?;
        let covered = window
            .receipt(Instant::now().into_std(), receipt.batches, receipt.granted)
            .map_err(CallError::transient)?;
        if let Some(covered) = covered {
            self.tell(Told::Receipt { last: covered.last, state }).await?;
        }
        Ok(())
    }
}

fn late(what: &str) -> CallError {
    CallError::transient(format!("{what} within {} s", PATIENCE.as_secs()))
}
