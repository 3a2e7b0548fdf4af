//! Who the parties of a session are, once more and naively: what the router is
//! held against. And the rows, as far as the rules need them.

use crate::{
    relay::router::{Limits, Refusal, Saved},
    types::{PartyRef, PeerId},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
pub struct Members {
    pub owner: Option<PeerId>,
    pub settled: bool,
    pub parties: BTreeSet<PartyRef>,
}

#[derive(Debug, Clone, Default)]
pub struct Session {
    pub members: Members,
    pub until: i64,
    /// The announcement it was last changed by.
    pub turn: usize,
}

pub type Sessions = BTreeMap<String, Session>;

pub fn kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Invalid(_) => "invalid",
        Refusal::Denied(_) => "denied",
        Refusal::Precondition(_) => "precondition",
        Refusal::Exhausted(_) => "exhausted",
    }
}

/// Three quarters for others.
fn share(limit: usize, peer: PeerId) -> usize {
    if peer == PeerId::SELF { limit } else { limit - limit / 4 }
}

/// Why `party` has no place in the session.
pub fn no_place(sessions: &Sessions, limits: &Limits, session: &str, party: &PartyRef) -> bool {
    match sessions.get(session) {
        None => sessions.len() >= share(limits.sessions, party.peer),
        Some(Session { members, .. }) => {
            let inside = members.settled || members.parties.contains(party);
            !inside && members.parties.len() >= share(limits.parties_a_session, party.peer)
        }
    }
}

/// Who a message goes to, the quotas left aside; or the kind of the refusal.
pub fn recipients(
    sessions: &Sessions,
    limits: &Limits,
    session: &str,
    from: &PartyRef,
    to: &[PartyRef],
) -> Result<BTreeSet<PartyRef>, &'static str> {
    let members = sessions.get(session).map(|session| session.members.clone()).unwrap_or_default();
    if members.settled && !members.parties.contains(from) {
        return Err("denied");
    }
    let mut all = BTreeSet::new();
    if to.is_empty() {
        all.extend(members.parties.into_iter().filter(|party| party != from));
        return match all.len() {
            0 => Err("precondition"),
            many if many > limits.recipients => Err("exhausted"),
            _ => Ok(all),
        };
    }
    // The first that is wrong is named.
    for party in to {
        if party == from || (members.settled && !members.parties.contains(party)) {
            return Err("invalid");
        }
        all.insert(party.clone());
        if all.len() > limits.recipients {
            return Err("exhausted");
        }
    }
    Ok(all)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    Acknowledged,
    Failed,
    Expired,
}

#[derive(Debug)]
pub struct Delivery {
    pub message: usize,
    pub party: PartyRef,
    pub state: State,
    /// As the row says; what time-outs there were, it may lag behind.
    pub retries: u32,
    pub time_outs: u32,
    /// The client has seen it.
    pub reached: bool,
}

#[derive(Debug)]
pub struct Message {
    pub session: String,
    pub from: PartyRef,
    pub bytes: u64,
    pub expires: i64,
    pub open: usize,
    pub freed: bool,
}

/// What outlives a restart. A delivery's number is its place + 1.
#[derive(Debug, Default)]
pub struct Disk {
    pub sessions: Sessions,
    pub messages: Vec<Message>,
    pub deliveries: Vec<Delivery>,
}

impl Disk {
    pub fn join(&mut self, session: &str, party: &PartyRef, until: i64) {
        let row = self.sessions.entry(session.to_owned()).or_default();
        row.until = row.until.max(until);
        row.members.parties.insert(party.clone());
    }

    pub fn delivery(&mut self, seq: u64) -> &mut Delivery {
        &mut self.deliveries[usize::try_from(seq).unwrap() - 1]
    }

    pub fn row(&self, seq: u64) -> &Delivery {
        &self.deliveries[usize::try_from(seq).unwrap() - 1]
    }

    pub fn session_of(&self, seq: u64) -> &str {
        &self.messages[self.row(seq).message].session
    }

    pub fn newest(&self) -> u64 {
        self.deliveries.len() as u64
    }

    /// Numbers of what is open for a party, in order.
    pub fn open(&self, party: &PartyRef) -> Vec<u64> {
        let mine = |(_, row): &(usize, &Delivery)| row.state == State::Open && row.party == *party;
        self.deliveries.iter().enumerate().filter(mine).map(|(at, _)| at as u64 + 1).collect()
    }

    pub fn saved(&self) -> Vec<Saved> {
        let saved = |(session, row): (&String, &Session)| Saved {
            session: session.clone(),
            owner: row.members.owner,
            settled: row.members.settled,
            parties: row.members.parties.iter().cloned().collect(),
            until: crate::types::Millis(row.until),
        };
        self.sessions.iter().map(saved).collect()
    }

    pub fn stored(&self) -> impl Iterator<Item = (&str, &PartyRef, u64)> {
        let kept = self.messages.iter().filter(|message| !message.freed);
        kept.map(|message| (message.session.as_str(), &message.from, message.bytes))
    }
}
