//! What a node of memory keeps, read as the store reads it.

use super::{super::*, world::peer};
use std::collections::BTreeSet;

#[derive(Clone, Default)]
pub struct Disk {
    pub known: bool,
    pub log: Vec<Entry>,
    /// And the telling of those that were told.
    pub waiting: BTreeMap<i64, (Message, Option<Told>)>,
    pub links: BTreeMap<PeerId, (bool, Option<u64>)>,
}

impl Disk {
    pub fn chain(&self, revision: u64) -> Option<u64> {
        match revision {
            0 => Some(0),
            at => self.log.get(usize::try_from(at).unwrap() - 1).map(|entry| entry.chain),
        }
    }

    pub fn mark(&self, revision: u64) -> Mark {
        Mark { revision, chain: self.chain(revision).expect("a place of the log") }
    }

    pub fn head(&self) -> Head {
        Growth::of(&self.log).map_or(Head::default(), |growth| growth.head)
    }

    pub fn known(&self) -> Known {
        let id = |message: &Message| message.id.expect("what waits is a message");
        Known {
            logged: self.log.iter().filter_map(|entry| entry.message.id).collect(),
            waiting: self.waiting.iter().map(|(place, (message, _))| (id(message), *place)).collect(),
            told: self.waiting.values().filter_map(|(message, told)| Some((id(message), (*told)?))).collect(),
            ..Known::default()
        }
    }

    /// What waits for a new place, and behind where.
    pub fn since(&self) -> BTreeSet<(Uuid, u64)> {
        self.waiting.values().filter_map(|(message, _)| Some((message.id?, message.since?))).collect()
    }

    pub fn ids(&self) -> BTreeSet<Uuid> {
        let known = self.known();
        known.logged.into_iter().chain(known.waiting.into_keys()).collect()
    }

    /// What readers are told, in its order.
    fn tellings(&self) -> BTreeMap<u64, Uuid> {
        let logged = self.log.iter().filter_map(|entry| Some((entry.told.at, entry.message.id?)));
        let waiting = self.waiting.values().filter_map(|(message, told)| Some(((*told)?.at, message.id?)));
        let mut tellings = BTreeMap::new();
        for (told, id) in logged.chain(waiting) {
            assert_eq!(tellings.insert(told, id), None, "two messages have one telling");
        }
        tellings
    }

    pub fn told_after(&self, cursor: u64) -> Option<(u64, Uuid)> {
        self.tellings().range(cursor + 1..).next().map(|(told, id)| (*told, *id))
    }

    pub fn told_behind(&self, revision: u64) -> Option<u64> {
        let from = usize::try_from(revision).unwrap();
        let logged = self.log[from..].iter().filter(|entry| entry.message.id.is_some()).map(|entry| entry.told.at);
        logged.chain(self.waiting.values().filter_map(|(_, told)| Some((*told)?.at))).min()
    }

    /// `None`: it is not there; it waits and was not told.
    pub fn told_of(&self, id: Uuid) -> Option<Option<Told>> {
        let logged = self.log.iter().map(|entry| (entry.message.id, Some(entry.told)));
        let waiting = self.waiting.values().map(|(message, told)| (message.id, *told));
        logged.chain(waiting).find(|(found, _)| *found == Some(id)).map(|(_, told)| told)
    }

    /// Where a message stands that does not wait.
    pub fn revision_of(&self, id: Uuid) -> Option<u64> {
        self.log.iter().find(|entry| entry.message.id == Some(id)).map(|entry| entry.revision)
    }

    pub fn cut_back(&mut self, common: u64, first: i64, tail: Vec<Entry>) {
        self.waiting.values_mut().for_each(|(message, _)| cut_to(message, common));
        let mut behind = self.waiting.values().filter_map(|(_, told)| Some((*told)?.at)).min();
        for (place, Entry { mut told, mut message, .. }) in (first..).zip(tail).collect::<Vec<_>>().into_iter().rev() {
            cut_to(&mut message, common);
            told.resume = goes_on(told, behind);
            behind = behind.min(Some(told.at)).or(Some(told.at));
            assert!(self.waiting.insert(place, (message, Some(told))).is_none(), "a place of its own");
        }
    }

    pub fn open(&self, at: usize, run: u64) -> Topic {
        let first = self.waiting.first_key_value().map_or(0, |(place, _)| *place);
        let next = self.waiting.last_key_value().map_or(0, |(place, _)| place + 1);
        let link = |(peer, (introduced, behind)): (&PeerId, &(bool, Option<u64>))| LinkRow {
            peer: *peer,
            introduced: *introduced,
            behind: *behind,
        };
        let away = self.waiting.values().filter_map(|(_, told)| Some((*told)?.at)).min();
        let saved = Saved {
            head: self.head(),
            home: (at > 0).then_some(peer(0)),
            links: self.links.iter().map(link).collect(),
            waiting: (self.waiting.len(), first, next),
            lost: false,
            told: Tellings { last: self.tellings().last_key_value().map_or(0, |(told, _)| *told), away },
        };
        Topic::new(saved, 7, run)
    }
}
