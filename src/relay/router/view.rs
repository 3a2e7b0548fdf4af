//! Sessions as others look at them: copies, in the order of their names.
//!
//! Pure.

use super::{Router, Session};
use crate::types::{Millis, PartyRef, PeerId};
use std::collections::{BTreeMap, BTreeSet};

/// Who is in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Who announced it first; `None`: nobody yet.
    pub owner: Option<PeerId>,
    /// An event named the parties.
    pub settled: bool,
    pub parties: BTreeSet<PartyRef>,
    pub until: Millis,
}

impl From<&Session> for Members {
    fn from(known: &Session) -> Self {
        let members = &known.members;
        let (owner, settled, parties) = (members.owner, members.settled, members.parties.clone());
        Self { owner, settled, parties, until: known.until }
    }
}

impl Router {
    pub fn members(&self, session: &str) -> Option<Members> {
        self.sessions.get(session).map(Members::from)
    }

    /// The first sessions by name after one: all, or those of a party.
    pub fn page(&self, after: &str, limit: usize, of: Option<&PartyRef>) -> Vec<(String, Members)> {
        let mut page: BTreeMap<&str, &Session> = BTreeMap::new();
        for (name, known) in &self.sessions {
            let full = page.len() >= limit && page.last_key_value().is_none_or(|(last, _)| name.as_str() > *last);
            if name.as_str() <= after || full || of.is_some_and(|party| !known.members.parties.contains(party)) {
                continue;
            }
            page.insert(name, known);
            if page.len() > limit {
                page.pop_last();
            }
        }
        page.into_iter().map(|(name, known)| (name.to_owned(), known.into())).collect()
    }
}
