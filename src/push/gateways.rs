//! The gateways that have a live stream: one for each id.

use crate::error::Error;
use prometheus::IntGauge;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio_util::sync::CancellationToken;

/// All of them; clones are the same.
#[derive(Clone)]
pub struct Gateways(Arc<Shared>);

struct Shared {
    live: Mutex<HashMap<String, Arc<Live>>>,
    gauge: IntGauge,
}

/// What others hold of a stream.
pub struct Live {
    /// The cursor of what was handed on last; before it is known the greatest.
    cursor: AtomicU64,
    why: OnceLock<Error>,
    ended: CancellationToken,
}

/// The place of a stream, given up when dropped.
pub struct Seat {
    gateways: Gateways,
    id: String,
    pub live: Arc<Live>,
}

impl Gateways {
    pub fn new(gauge: IntGauge) -> Self {
        Self(Arc::new(Shared { live: Mutex::default(), gauge }))
    }

    /// Makes a stream the one of its gateway; the one before it ends.
    pub fn seat(&self, id: &str) -> Seat {
        let live =
            Arc::new(Live { cursor: AtomicU64::new(u64::MAX), why: OnceLock::new(), ended: CancellationToken::new() });
        let replaced = self.lock().insert(id.to_owned(), live.clone());
        match replaced {
            Some(before) => before.end(Error::Aborted("replaced by a newer subscription of this gateway".into())),
            None => self.0.gauge.inc(),
        }
        Seat { gateways: self.clone(), id: id.to_owned(), live }
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Ends the streams that are not beyond this cursor, and returns how many.
    pub fn end_below(&self, floor: u64, why: impl Fn(u64) -> Error) -> usize {
        let live = self.lock();
        let behind = live.values().map(|live| (live.cursor(), live)).filter(|(cursor, _)| *cursor < floor);
        behind.inspect(|(cursor, live)| live.end(why(*cursor))).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    pub fn end(&self, why: Error) {
        // The first word counts.
        let _ = self.why.set(why);
        self.ended.cancel();
    }

    /// Why it is to end, once it is.
    pub async fn ended(&self) -> Error {
        self.ended.cancelled().await;
        self.why.get().cloned().unwrap_or_else(|| Error::internal("a stream ended without a reason"))
    }

    pub fn cursor(&self) -> u64 {
        self.cursor.load(Relaxed)
    }

    pub fn set_cursor(&self, cursor: u64) {
        self.cursor.store(cursor, Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut live = self.gateways.lock();
        if live.get(&self.id).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
            live.remove(&self.id);
            self.gateways.0.gauge.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn gateways() -> (Gateways, IntGauge) {
        let gauge = IntGauge::new("test", "of a test").unwrap();
        (Gateways::new(gauge.clone()), gauge)
    }

    #[test]
    fn a_newer_stream_replaces_the_older_whose_end_takes_nothing_from_it() {
        let (gateways, gauge) = gateways();
        let (older, other) = (gateways.seat("a"), gateways.seat("b"));
        assert!(older.live.ended().now_or_never().is_none());
        let newer = gateways.seat("a");
        assert!(matches!(older.live.ended().now_or_never(), Some(Error::Aborted(_))));
        assert_eq!(gauge.get(), 2);
        drop(older);
        assert_eq!(gauge.get(), 2);
        assert!(newer.live.ended().now_or_never().is_none() && other.live.ended().now_or_never().is_none());
        drop((newer, other));
        assert_eq!((gauge.get(), gateways.is_empty()), (0, true));
    }

    #[test]
    fn who_is_behind_the_window_is_ended_and_who_has_not_begun_is_not() {
        let (gateways, _) = gateways();
        let (behind, at, fresh) = (gateways.seat("a"), gateways.seat("b"), gateways.seat("c"));
        behind.live.set_cursor(9);
        at.live.set_cursor(10);
        assert_eq!(gateways.end_below(10, |cursor| Error::OutOfRange(cursor.to_string())), 1);
        assert_eq!(behind.live.ended().now_or_never(), Some(Error::OutOfRange("9".into())));
        assert!(at.live.ended().now_or_never().is_none() && fresh.live.ended().now_or_never().is_none());
    }
}
