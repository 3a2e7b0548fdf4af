//! What the streams of one party or user hold for a client that has not read it.
//!
//! Owns a bound for each name with streams; a stream takes its share before it
//! hands anything on, and it is given back when the client has read it. Who does
//! not read stops its own streams by that, and nobody else's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::Semaphore;

/// What one page of small rows has, at most.
pub const PAGE_BYTES: usize = 64 << 10;
/// Pages that all streams of a name hold together: eight of the largest messages.
const PAGES: usize = 8 * (4 << 20) / PAGE_BYTES;

/// The bounds, by name.
#[derive(Debug, Default)]
pub struct Unread(Mutex<HashMap<String, Weak<Semaphore>>>);

impl Unread {
    /// The bound of a name, which its streams share.
    pub fn of(&self, name: &str) -> Arc<Semaphore> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(name).and_then(Weak::upgrade) {
            return room;
        }
        if rooms.len() == rooms.capacity() {
            rooms.retain(|_, room| room.strong_count() > 0);
        }
        let room = alone();
        rooms.insert(name.to_owned(), Arc::downgrade(&room));
        room
    }
}

/// A bound that nobody shares.
pub fn alone() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PAGES))
}

/// The pages that so many bytes take: at least one, and never more than there are.
pub fn pages(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE_BYTES).clamp(1, PAGES)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_of_a_name_share_a_bound_while_there_are_any() {
        let rooms = Unread::default();
        let (one, two, other) = (rooms.of("a"), rooms.of("a"), rooms.of("b"));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        let taken = one.clone().try_acquire_many_owned(pages(4 << 20)).unwrap();
        assert_eq!(two.available_permits(), PAGES - PAGES / 8);
        drop((one, two, other));
        assert_eq!(rooms.of("a").available_permits(), PAGES - PAGES / 8, "what was not read counts");
        drop(taken);
        for name in 0..10_000 {
            rooms.of(&name.to_string());
        }
        assert!(rooms.0.lock().unwrap().len() < 100, "those without a stream are forgotten");
    }

    #[test]
    fn a_page_is_counted_by_its_bytes() {
        for (bytes, expected) in [(0, 1), (PAGE_BYTES, 1), (PAGE_BYTES + 1, 2), (usize::MAX, 512)] {
            assert_eq!(pages(bytes), expected);
        }
    }
}
