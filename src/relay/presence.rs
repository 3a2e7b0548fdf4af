//! Who is registered on this node, and when each was heard of last.
//!
//! Pure. Kept in memory beside the rows; when a party was seen is written in
//! passing, so that a heartbeat costs no commit. What notifications go by besides
//! (its last contact, the events it has had) is not written.

use crate::{store::relay::PartyRow, types::Millis};
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

#[derive(Debug)]
struct Party {
    row: PartyRow,
    /// When it read or asked last: no sign that it is online, but it is not to be
    /// called.
    contact: Millis,
    /// The number of the newest event that a stream of it has passed.
    heard: u64,
}

/// The registered parties.
#[derive(Debug, Default)]
pub struct Presence {
    parties: BTreeMap<String, Party>,
    /// Seen since it was written last.
    seen: HashSet<String>,
    /// The number of the newest event at the start. Who has had those before is
    /// not known any more: they wait for nobody.
    newest_event: u64,
}

impl Presence {
    /// `newest_event`: the number of the newest that is stored.
    pub fn new(rows: Vec<PartyRow>, newest_event: u64) -> Self {
        let mut presence = Self { newest_event, ..Self::default() };
        rows.into_iter().for_each(|row| presence.put(row));
        presence
    }

    pub fn get(&self, name: &str) -> Option<&PartyRow> {
        self.parties.get(name).map(|party| &party.row)
    }

    pub fn len(&self) -> usize {
        self.parties.len()
    }

    pub fn all(&self) -> impl Iterator<Item = &PartyRow> {
        self.parties.values().map(|party| &party.row)
    }

    /// A registration that is on disk.
    pub fn put(&mut self, row: PartyRow) {
        match self.parties.get_mut(&row.name) {
            Some(party) => party.row = row,
            None => {
                let party = Party { row, contact: Millis(0), heard: 0 };
                self.parties.insert(party.row.name.clone(), party);
            }
        }
    }

    /// The party gave a sign of life; `false`: it is not registered.
    pub fn seen(&mut self, name: &str, now: Millis) -> bool {
        let Some(Party { row, .. }) = self.parties.get_mut(name) else { return false };
        row.last_seen_at = row.last_seen_at.max(now);
        self.seen.insert(name.to_owned());
        true
    }

    /// The party read or asked something.
    pub fn contact(&mut self, name: &str, now: Millis) {
        if let Some(party) = self.parties.get_mut(name) {
            party.contact = party.contact.max(now);
        }
    }

    /// A stream of the party has passed the event with this number.
    pub fn heard(&mut self, name: &str, event: u64) {
        if let Some(party) = self.parties.get_mut(name) {
            party.heard = party.heard.max(event);
        }
    }

    /// Only an event with a higher number may wait for the party.
    pub fn heard_of(&self, name: &str) -> u64 {
        self.parties.get(name).map_or(0, |party| party.heard).max(self.newest_event)
    }

    /// When it was heard of last, one way or another.
    pub fn last_contact(&self, name: &str) -> Millis {
        self.parties.get(name).map_or(Millis(0), |party| party.row.last_seen_at.max(party.contact))
    }

    /// How long until it will have been silent for `online_after`; at most that,
    /// wherever the clock goes.
    pub fn silent_in(&self, name: &str, now: Millis, online_after: Duration) -> Duration {
        let left = self.last_contact(name).plus(online_after).0.saturating_sub(now.0);
        Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(online_after)
    }

    /// Heard of so lately that it counts as online without a subscription.
    pub fn is_fresh(&self, name: &str, now: Millis, online_after: Duration) -> bool {
        self.get(name).is_some_and(|row| row.last_seen_at > now.minus(online_after))
    }

    /// What is to be written in passing.
    pub fn take_seen(&mut self) -> Vec<(String, Millis)> {
        let parties = &self.parties;
        self.seen.drain().filter_map(|name| parties.get(&name).map(|party| (name, party.row.last_seen_at))).collect()
    }
}

#[cfg(test)]
mod tests;
