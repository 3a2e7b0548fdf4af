//! One client's place: what waits for it, in a bounded queue, and its end.
//!
//! Filled by the hub, which never waits for it; emptied by the client's stream.
//! Whoever does not keep up is ended, never waited for.

use super::{event::Event, hub::Who, ring::Kept, words::End};
use crate::types::Cursor;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub events: usize,
    pub bytes: usize,
}

#[derive(Debug)]
pub struct Seat {
    pub who: Who,
    bounds: Bounds,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Arc<Event>>,
    /// Of the queue, those it resumed with; the bounds are for the others.
    resumed: usize,
    bytes: usize,
    /// What the client has seen already.
    ahead: Option<Cursor>,
    end: Option<End>,
}

impl Seat {
    pub fn new(who: Who, bounds: Bounds, waiting: VecDeque<Arc<Event>>, ahead: Option<Cursor>) -> Self {
        let state = State { resumed: waiting.len(), queue: waiting, bytes: 0, ahead, end: None };
        Self { who, bounds, state: Mutex::new(state), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under this lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event for this client.
    pub fn push(&self, event: &Arc<Event>) {
        let mut state = self.state();
        if state.end.is_some() || state.ahead.is_some_and(|seen| event.cursor() <= seen) {
            return;
        }
        let (live, bytes) = (state.queue.len() - state.resumed, state.bytes + event.size());
        // One event alone always fits.
        if live > 0 && (live >= self.bounds.events || bytes > self.bounds.bytes) {
            state.finish(End::Slow);
        } else {
            state.bytes = bytes;
            state.queue.push_back(event.clone());
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The first end counts; what waits goes nowhere.
    pub fn end(&self, end: End) {
        self.state().finish(end);
        self.wake.notify_one();
    }

    pub fn ended(&self) -> Option<End> {
        self.state().end.clone()
    }

    pub fn next(&self) -> Option<Arc<Event>> {
        let mut state = self.state();
        let event = state.queue.pop_front()?;
        match state.resumed {
            0 => state.bytes -= event.size(),
            _ => state.resumed -= 1,
        }
        Some(event)
    }

    /// What was waited for did not come: everything is for the client now.
    pub fn not_ahead(&self) {
        self.state().ahead = None;
    }

    /// Returns when something may have changed.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl State {
    fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.queue = VecDeque::new();
            (self.resumed, self.bytes) = (0, 0);
        }
    }
}
