//! What the streams of one party hold for a client that has not read it.
//!
//! Owns a bound for each party with streams; a stream takes its share before it
//! reads rows, and it is given back when the client has read them. Who does not
//! read stops its own streams by that, and nobody else's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::Semaphore;

/// What one page of small rows has, at most.
pub const PAGE_BYTES: usize = 64 << 10;
/// Pages that all streams of a party hold together: eight of the largest
/// messages.
const PAGES: usize = 8 * (4 << 20) / PAGE_BYTES;

/// The bounds, by party.
#[derive(Debug, Default)]
pub struct Rooms(Mutex<HashMap<String, Weak<Semaphore>>>);

impl Rooms {
    /// The bound of a party, which its streams share.
    pub fn of(&self, party: &str) -> Arc<Semaphore> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(party).and_then(Weak::upgrade) {
            return room;
        }
        if rooms.len() == rooms.capacity() {
            rooms.retain(|_, room| room.strong_count() > 0);
        }
        let room = alone();
        rooms.insert(party.to_owned(), Arc::downgrade(&room));
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
    fn the_streams_of_a_party_share_a_bound_while_there_are_any() {
        let rooms = Rooms::default();
        let (one, two, other) = (rooms.of("a"), rooms.of("a"), rooms.of("b"));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        let taken = one.clone().try_acquire_many_owned(pages(4 << 20)).unwrap();
        assert_eq!(two.available_permits(), PAGES - PAGES / 8);
        drop((one, two, other));
        assert_eq!(rooms.of("a").available_permits(), PAGES - PAGES / 8, "what was not read counts");
        drop(taken);
        for party in 0..10_000 {
            rooms.of(&party.to_string());
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
