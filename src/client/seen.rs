//! Which messages a stream has handed to its user already.
//!
//! Pure. A node repeats what it has not heard the acknowledgement of: after a
//! reconnection, and when one takes long. So what is not settled is remembered
//! as long as that lasts, and what is settled for so many further messages that
//! no repeat of it can still be on its way.

use std::collections::{HashSet, VecDeque};

/// A message: who sent it, and its id there (ids belong to the sender's node).
pub type Key = (String, String);

/// Settled messages that are remembered: far more than a node sends ahead of
/// the acknowledgements (`relay.max_unacknowledged`, 1,024).
pub const SETTLED: usize = 16_384;

#[derive(Debug)]
pub struct Seen {
    all: HashSet<Key>,
    /// Settled, the oldest first; all of them in `all`.
    settled: VecDeque<Key>,
    settled_max: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self::new(SETTLED)
    }
}

impl Seen {
    pub fn new(settled_max: usize) -> Self {
        Self { all: HashSet::new(), settled: VecDeque::new(), settled_max }
    }

    /// Whether the message is new. From now on it is not.
    pub fn note(&mut self, key: Key) -> bool {
        self.all.insert(key)
    }

    /// The node knows that it is done with, and will not send it again.
    pub fn settle(&mut self, key: Key) {
        if !self.all.contains(&key) {
            return;
        }
        self.settled.push_back(key);
        if self.settled.len() > self.settled_max
            && let Some(oldest) = self.settled.pop_front()
        {
            self.all.remove(&oldest);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        ("alice".into(), n.to_string())
    }

    #[test]
    fn a_message_is_new_once_and_another_senders_is_another() {
        let mut seen = Seen::new(2);
        assert!(seen.note(key(1)) && !seen.note(key(1)));
        assert!(seen.note(("bob@b.example:7443".into(), "1".into())));
    }

    #[test]
    fn what_is_not_settled_is_never_forgotten() {
        let mut seen = Seen::new(2);
        assert!((0..100).all(|n| seen.note(key(n))));
        (50..100).for_each(|n| seen.settle(key(n)));
        assert!((0..50).all(|n| !seen.note(key(n))));
        assert!(!seen.note(key(98)) && !seen.note(key(99)));
        assert_eq!(seen.len(), 52);
    }

    #[test]
    fn settling_what_nobody_saw_changes_nothing() {
        let mut seen = Seen::new(1);
        seen.settle(key(7));
        assert_eq!(seen.len(), 0);
        assert!(seen.note(key(7)));
    }
}
