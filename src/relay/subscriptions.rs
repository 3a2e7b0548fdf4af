//! Who reads what: the live subscriptions of this node's parties.
//!
//! Pure. A party has at most one subscription to a session and one to all its
//! sessions; what a session's own subscription reads, the one to all leaves out.
//! So each message has one reader.
//!
//! Held behind one lock, together with what tells a reader that its share has
//! changed. Before a reader takes a page, hands one to its
//! [`Window`](super::window::Window) or sends, it applies those changes (`let_go`,
//! `rescan`), and a page leaves out what was covered when it was taken. Else a
//! message could overtake older ones of a session that was handed over meanwhile.

use super::router::Refusal;
use std::collections::{BTreeMap, HashMap};

/// A new subscription, and whom it concerns.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscribed {
    pub id: u64,
    /// The older subscription of the same party to the same: it has ended.
    pub replaced: Option<u64>,
    /// The party's subscription to all: it lets go of this session.
    pub narrowed: Option<u64>,
}

#[derive(Debug, Default)]
struct Party {
    all: Option<u64>,
    sessions: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub struct Subscriptions {
    /// Subscriptions of one party.
    limit: usize,
    last: u64,
    parties: HashMap<String, Party>,
    /// Party, and session unless it is to all.
    ids: HashMap<u64, (String, Option<String>)>,
    /// How many subscriptions of their own sessions have.
    sessions: HashMap<String, usize>,
}

impl Subscriptions {
    /// `limit`: subscriptions a party.
    pub fn new(limit: usize) -> Self {
        Self { limit, last: 0, parties: HashMap::new(), ids: HashMap::new(), sessions: HashMap::new() }
    }

    /// `session`: `None` for all of the party's. The newer of two to the same
    /// replaces the older, also at the limit.
    pub fn subscribe(&mut self, party: &str, session: Option<&str>) -> Result<Subscribed, Refusal> {
        let has = self.parties.get(party);
        let count = has.map_or(0, |has| has.sessions.len() + usize::from(has.all.is_some()));
        let old = has.and_then(|has| session.map_or(has.all, |session| has.sessions.get(session).copied()));
        if old.is_none() && count >= self.limit {
            let message = format!("subscriptions of one party: the limit of {} is reached; end one first", self.limit);
            return Err(Refusal::Exhausted(message));
        }
        self.last += 1;
        let id = self.last;
        let has = self.parties.entry(party.to_owned()).or_default();
        let mut narrowed = None;
        match session {
            None => has.all = Some(id),
            Some(session) => {
                has.sessions.insert(session.to_owned(), id);
                if old.is_none() {
                    narrowed = has.all;
                    *self.sessions.entry(session.to_owned()).or_default() += 1;
                }
            }
        }
        if let Some(old) = old {
            self.ids.remove(&old);
        }
        self.ids.insert(id, (party.to_owned(), session.map(str::to_owned)));
        Ok(Subscribed { id, replaced: old, narrowed })
    }

    /// The subscription ended; of one that was replaced nothing is left to end.
    /// Returns the party's subscription to all if it takes the session over: it
    /// looks from the start again.
    pub fn unsubscribe(&mut self, id: u64) -> Option<u64> {
        let (name, session) = self.ids.remove(&id)?;
        let party = self.parties.get_mut(&name)?;
        let heir = match &session {
            None => {
                party.all = None;
                None
            }
            Some(session) => {
                party.sessions.remove(session);
                if let Some(count) = self.sessions.get_mut(session) {
                    *count -= 1;
                    if *count == 0 {
                        self.sessions.remove(session);
                    }
                }
                party.all
            }
        };
        if party.all.is_none() && party.sessions.is_empty() {
            self.parties.remove(&name);
        }
        heir
    }

    /// The one subscription that gets the party's messages of this session.
    pub fn reader(&self, party: &str, session: &str) -> Option<u64> {
        let party = self.parties.get(party)?;
        party.sessions.get(session).copied().or(party.all)
    }

    /// The sessions that the party's subscription to all leaves out, sorted.
    pub fn covered(&self, party: &str) -> impl Iterator<Item = &str> {
        self.parties.get(party).into_iter().flat_map(|party| party.sessions.keys().map(String::as_str))
    }

    pub fn is_subscribed(&self, party: &str) -> bool {
        self.parties.contains_key(party)
    }

    /// Somebody has a subscription to this very session.
    pub fn in_use(&self, session: &str) -> bool {
        self.sessions.contains_key(session)
    }

    /// Live subscriptions.
    pub fn count(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests;
