//! How much there may be: of recipients, parties, sessions and stored bytes.
//!
//! Arithmetic only. The texts of its refusals name the limit and its value.

use super::Refusal;
use crate::types::{PartyRef, PeerId};
use std::collections::HashMap;

/// Other servers open sessions and join them only up to three quarters of what
/// there may be, so that they cannot shut out the parties of this node.
const RESERVE: usize = 4;

#[derive(Debug, Clone)]
pub struct Limits {
    /// Recipients of one message.
    pub recipients: usize,
    /// Stored bytes of one session.
    pub session_bytes: u64,
    /// Stored bytes of one local sender, or of one other server as a whole.
    pub sender_bytes: u64,
    /// Sessions in memory, kept or not.
    pub sessions: usize,
    pub parties_a_session: usize,
}

impl Limits {
    pub(super) fn check_recipients(&self, recipients: usize) -> Result<(), Refusal> {
        match recipients > self.recipients {
            true => {
                Err(Refusal::Exhausted(format!("to_parties: a message goes to at most {} parties", self.recipients)))
            }
            false => Ok(()),
        }
    }

    pub(super) fn check_selected(&self, parties: usize) -> Result<(), Refusal> {
        let limit = self.parties_a_session;
        match parties > limit {
            true => Err(Refusal::Invalid(format!("selected_parties: a session has at most {limit} parties"))),
            false => Ok(()),
        }
    }

    /// One more party in a session that has so many.
    pub(super) fn check_parties(&self, parties: usize, of: PeerId) -> Result<(), Refusal> {
        let limit = room(self.parties_a_session, of);
        match parties >= limit {
            true => Err(Refusal::Exhausted(format!("parties of the session: the limit of {limit} is reached"))),
            false => Ok(()),
        }
    }

    /// One more session beside so many.
    pub(super) fn check_sessions(&self, sessions: usize, of: PeerId) -> Result<(), Refusal> {
        let limit = room(self.sessions, of);
        match sessions >= limit {
            true => Err(Refusal::Exhausted(format!("sessions of this node: the limit of {limit} is reached"))),
            false => Ok(()),
        }
    }

    /// One more message of `bytes`, where the session and the sender have stored
    /// so much.
    pub(super) fn check_bytes(&self, session: u64, sender: u64, from: &PartyRef, bytes: u64) -> Result<(), Refusal> {
        let whose = match from.peer {
            PeerId::SELF => "sender",
            _ => "sender's server",
        };
        for (whose, taken, limit) in [(whose, sender, self.sender_bytes), ("session", session, self.session_bytes)] {
            if taken.saturating_add(bytes) > limit {
                let message = format!(
                    "stored bytes of the {whose}: {taken} of {limit} are taken and the message has {bytes}; \
                     they come free as messages are acknowledged or expire"
                );
                return Err(Refusal::Exhausted(message));
            }
        }
        Ok(())
    }
}

fn room(limit: usize, of: PeerId) -> usize {
    match of {
        PeerId::SELF => limit,
        _ => limit - limit / RESERVE,
    }
}

/// Stored bytes by sender: a party of this node, or a server with all its own.
#[derive(Debug, Default)]
pub(super) struct Senders {
    parties: HashMap<String, u64>,
    servers: HashMap<PeerId, u64>,
}

impl Senders {
    pub fn taken(&self, from: &PartyRef) -> u64 {
        let taken = match from.peer {
            PeerId::SELF => self.parties.get(&from.name),
            peer => self.servers.get(&peer),
        };
        taken.copied().unwrap_or_default()
    }

    pub fn add(&mut self, from: &PartyRef, bytes: u64) {
        let bytes = self.taken(from).saturating_add(bytes);
        self.put(from, bytes);
    }

    pub fn take(&mut self, from: &PartyRef, bytes: u64) {
        let taken = self.taken(from);
        debug_assert!(taken >= bytes, "more was freed than stored");
        self.put(from, taken.saturating_sub(bytes));
    }

    /// Who has nothing stored is not remembered.
    fn put(&mut self, from: &PartyRef, bytes: u64) {
        match (from.peer, bytes) {
            (PeerId::SELF, 0) => _ = self.parties.remove(&from.name),
            (PeerId::SELF, _) => _ = self.parties.insert(from.name.clone(), bytes),
            (peer, 0) => _ = self.servers.remove(&peer),
            (peer, _) => _ = self.servers.insert(peer, bytes),
        }
    }
}

#[cfg(test)]
impl Senders {
    pub fn parties(&self) -> impl Iterator<Item = (&str, u64)> {
        self.parties.iter().map(|(name, bytes)| (name.as_str(), *bytes))
    }

    pub fn servers(&self) -> impl Iterator<Item = (PeerId, u64)> {
        self.servers.iter().map(|(peer, bytes)| (*peer, *bytes))
    }
}
