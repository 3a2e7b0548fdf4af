//! Who is registered on this node, and when each was heard of last.
//!
//! Pure. Kept in memory beside the rows; when a party was seen is written in
//! passing, so that a heartbeat costs no commit.

use crate::{store::relay::PartyRow, types::Millis};
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

/// The registered parties.
#[derive(Debug, Default)]
pub struct Presence {
    parties: BTreeMap<String, PartyRow>,
    /// Seen since it was written last.
    seen: HashSet<String>,
}

impl Presence {
    pub fn new(rows: Vec<PartyRow>) -> Self {
        Self { parties: rows.into_iter().map(|row| (row.name.clone(), row)).collect(), seen: HashSet::new() }
    }

    pub fn get(&self, name: &str) -> Option<&PartyRow> {
        self.parties.get(name)
    }

    pub fn len(&self) -> usize {
        self.parties.len()
    }

    pub fn all(&self) -> impl Iterator<Item = &PartyRow> {
        self.parties.values()
    }

    /// A registration that is on disk.
    pub fn put(&mut self, row: PartyRow) {
        self.parties.insert(row.name.clone(), row);
    }

    /// The party gave a sign of life; `false`: it is not registered.
    pub fn seen(&mut self, name: &str, now: Millis) -> bool {
        let Some(row) = self.parties.get_mut(name) else { return false };
        row.last_seen_at = row.last_seen_at.max(now);
        self.seen.insert(name.to_owned());
        true
    }

    /// Heard of so lately that it counts as online without a subscription.
    pub fn is_fresh(&self, name: &str, now: Millis, online_after: Duration) -> bool {
        self.parties.get(name).is_some_and(|row| row.last_seen_at > now.minus(online_after))
    }

    /// What is to be written in passing.
    pub fn take_seen(&mut self) -> Vec<(String, Millis)> {
        let parties = &self.parties;
        self.seen.drain().filter_map(|name| parties.get(&name).map(|row| (name, row.last_seen_at))).collect()
    }
}

#[cfg(test)]
mod tests;
