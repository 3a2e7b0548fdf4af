//! One stream of `SubscribePush`: woken, it reads what is behind its cursor.
//!
//! Holds a cursor and the page it is at, which it shares with others, and the
//! one behind it while it catches up; nothing more is kept for a gateway that is
//! slow.

use super::{
    Push,
    gateways::{Live, Seat},
    page::{Page, Place},
    window::{self, Reset, Start},
};
use crate::{
    error::Error,
    proto::galaxy::backend::push::v1::PushEvent,
    store::push::{Change as Row, Head},
    types::{Cursor, Millis},
};
use futures_util::stream;
use std::sync::{Arc, atomic::Ordering::AcqRel};
use tokio::{sync::watch, time::Instant};
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// A stream that was opened.
pub struct Opened {
    pub reader: Reader,
    /// The cursor that was given is of no use.
    pub reset: Option<Reset>,
    /// The lowest cursor that can be gone on from.
    pub oldest: u64,
}

pub struct Reader {
    push: Push,
    seat: Seat,
    head: watch::Receiver<Head>,
    cursor: u64,
    /// Up to here there is nothing more than what it was given.
    seen: u64,
    place: Option<Place>,
    /// The page behind that one, read while it is handed on.
    ahead: Option<AbortOnDropHandle<Result<Arc<Page>, Error>>>,
}

impl Push {
    /// Makes a stream for a gateway, the only one it has; the log is written
    /// from now on.
    pub(super) async fn subscribe(&self, gateway: &str, cursor: &str) -> Result<Opened, Error> {
        let seat = self.0.gateways.seat(gateway);
        self.note_gateway(Millis::now()).await?;
        let head = self.0.store.push_head();
        let newest = head.borrow().newest;
        self.raise_floor(self.0.store.push_bounds().await?.floor);
        let found = match window::sought(cursor, self.floor()) {
            Some(sought) => self.0.store.has_push(sought).await?,
            None => false,
        };
        // What was looked for may have gone meanwhile: then the floor has risen.
        let mut oldest = self.floor();
        let start = window::start(cursor, oldest, found);
        let (cursor, reset) = match start {
            Start::Resume(cursor) => (cursor, None),
            Start::Fresh(reset) => (newest, reset),
        };
        let begins_afresh = matches!(start, Start::Fresh(_));
        if let Some(reset) = reset {
            self.0.metrics.push_resets.with_label_values(&[reset.as_str()]).inc();
            tracing::warn!(gateway, why = reset.as_str(), "a gateway's cursor is of no use; it begins afresh");
        }
        if begins_afresh {
            // What it is told can be gone on from: nothing below is still to be cleared away.
            self.trim().await?;
            oldest = self.floor();
        }
        seat.live.set_cursor(cursor);
        let reader = Reader { push: self.clone(), seat, head, cursor, seen: cursor, place: None, ahead: None };
        Ok(Opened { reader, reset, oldest })
    }

    /// A gateway is there: the log is written, and stays open for a window.
    pub(super) async fn note_gateway(&self, now: Millis) -> Result<(), Error> {
        let mut seen = self.0.seen.lock().await;
        (seen.here, seen.since) = (true, Instant::now());
        if self.wanted() && !window::is_note_due(seen.at, now, self.0.config.window_age) {
            return Ok(());
        }
        self.0.store.submit(Row::Open { seen_at: now }).await?;
        seen.at = now;
        Ok(())
    }

    /// Nothing below this cursor is kept any more: who needs it is told.
    pub(super) fn raise_floor(&self, floor: u64) {
        self.0.floor.fetch_max(floor, AcqRel);
        let ended = self.0.gateways.end_below(floor, fell_out);
        if ended > 0 {
            tracing::warn!(gateways = ended, "gateways were too slow and have fallen out of the window");
        }
    }
}

fn fell_out(cursor: u64) -> Error {
    let cursor = Cursor(cursor);
    Error::OutOfRange(format!(
        "cursor: events after {cursor} are no longer kept (push.window_events, push.window_age); \
         subscribe again, and take every client's session for ended"
    ))
}

impl Reader {
    /// What its seat is known by; it ends the stream from outside.
    pub fn live(&self) -> Arc<Live> {
        self.seat.live.clone()
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<PushEvent, Status>> + Send + 'static {
        stream::unfold(Some(self), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(event) => Some((Ok(event), Some(reader))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<PushEvent, Error> {
        loop {
            if let Some((cursor, event)) = self.place.as_mut().and_then(Place::event) {
                self.cursor = cursor;
                self.seat.live.set_cursor(cursor);
                self.push.0.metrics.push_sent.inc();
                return Ok(event);
            }
            self.place = None;
            let newest = self.head.borrow_and_update().newest;
            if self.cursor.max(self.seen) >= newest {
                self.wait().await?;
                continue;
            }
            let page = self.page().await?;
            // Looked at after the read: what was read is whole.
            if window::fell_out(self.cursor, self.push.floor()) {
                return Err(fell_out(self.cursor));
            }
            self.ahead = page.goes_on().map(|last| {
                let push = self.push.clone();
                let read = async move { push.page(last).await };
                AbortOnDropHandle::new(self.push.0.tasks.spawn(read))
            });
            match page.is_empty() {
                true => self.seen = newest,
                false => self.place = Some(Place::behind(page, self.cursor)),
            }
        }
    }

    /// The page behind the cursor. One that was read ahead and is empty says
    /// nothing of now.
    async fn page(&mut self) -> Result<Arc<Page>, Error> {
        if let Some(ahead) = self.ahead.take()
            && let Ok(Ok(page)) = ahead.await
            && page.is_behind(self.cursor)
        {
            return Ok(page);
        }
        self.push.page(self.cursor).await
    }

    async fn wait(&mut self) -> Result<(), Error> {
        let stops = || Error::unavailable("the node stops; subscribe again from your cursor, nothing is lost");
        tokio::select! {
            changed = self.head.changed() => changed.map_err(|_| stops()),
            () = self.push.0.stop.cancelled() => Err(stops()),
        }
    }
}
