//! The events a gateway keeps for clients that come back, and what one of them
//! gets. Pure.
//!
//! Bounded by count and bytes; what is pushed out is remembered as the floor,
//! so that a client is told when something it has not seen is gone.

use crate::types::Cursor;
use std::{collections::VecDeque, sync::Arc};

/// What the ring asks of an event.
pub trait Kept {
    fn cursor(&self) -> Cursor;
    /// About what it takes in memory.
    fn size(&self) -> usize;
}

/// Where a client goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It named no event: from now on.
    Fresh,
    /// After this event, of which everything since is kept.
    After(Cursor),
    /// Its event has not come here yet: it was handed on in a former life of
    /// this gateway, which the feed is about to repeat. Or it was made up.
    Ahead(Cursor),
    /// What came since its event is not all here.
    Gone,
}

#[derive(Debug)]
pub struct Ring<T> {
    events: VecDeque<Arc<T>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    /// Everything after this is kept; `None`: not known how far back.
    floor: Option<Cursor>,
    /// Of the last thing that came, a client event or not.
    newest: Option<Cursor>,
}

impl<T: Kept> Ring<T> {
    pub fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, max_events, max_bytes, floor: None, newest: None }
    }

    /// Empty, to be filled with what comes after `floor`.
    pub fn begin_after(&mut self, floor: Option<Cursor>) {
        self.events.clear();
        (self.bytes, self.floor, self.newest) = (0, floor, floor);
    }

    /// False, and nothing is done, for what is not after the newest.
    pub fn advance(&mut self, cursor: Cursor) -> bool {
        if self.newest.is_some_and(|newest| cursor <= newest) {
            return false;
        }
        // The first thing after a beginning in the void: what was before it is not known.
        self.floor.get_or_insert(cursor);
        self.newest = Some(cursor);
        true
    }

    /// To be called after [`advance`](Self::advance) with its cursor.
    pub fn push(&mut self, event: Arc<T>) {
        self.bytes += event.size();
        self.events.push_back(event);
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.size();
            self.floor = Some(oldest.cursor());
        }
    }

    pub fn newest(&self) -> Option<Cursor> {
        self.newest
    }

    /// Subscribing after this fills a new ring with what this one has.
    pub fn floor(&self) -> Option<Cursor> {
        self.floor
    }

    /// `last_event_id`: as the client gave it.
    pub fn resume(&self, last_event_id: Option<&str>) -> Resume {
        let Some(text) = last_event_id.filter(|text| !text.is_empty()) else { return Resume::Fresh };
        let Ok(cursor) = text.parse::<Cursor>() else { return Resume::Gone };
        match (self.floor, self.newest) {
            (Some(floor), _) if cursor < floor => Resume::Gone,
            (Some(_), Some(newest)) if cursor <= newest => Resume::After(cursor),
            (Some(_), _) => Resume::Ahead(cursor),
            (None, _) => Resume::Gone,
        }
    }

    /// What is kept after `cursor`, the oldest first.
    pub fn after(&self, cursor: Cursor) -> impl Iterator<Item = &Arc<T>> {
        let from = self.events.partition_point(|event| event.cursor() <= cursor);
        self.events.range(from..)
    }
}

#[cfg(test)]
mod tests;
