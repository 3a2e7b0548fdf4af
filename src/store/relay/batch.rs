//! The relay's rows of many ops, sorted by kind.
//!
//! Pure. The result is that of the ops one after the other: what is inserted
//! goes first, since a number names only a row that came before it (a seq that
//! was not given yet is ignored here, and what was told of a message that comes
//! later is forgotten); `Sent` and `Reported` change columns of their own in a
//! way that knows no order, but `Sent` for parties of this node, `RemoteState`
//! for others. `Finish` and `RemoteState` do not share a phase the wrong way
//! round. What happens to one session is folded here.

use super::{
    arrivals::{Arrivals, Given},
    chain::Hash,
    change::{Change, DeliveryState, NewEvent, NewMessage, RemoteState},
};
use crate::{
    error::Error,
    store::batch::Counters,
    types::{Millis, PartyRef, PeerId},
};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

#[derive(Debug)]
pub(super) struct Message {
    pub(super) new: Box<NewMessage>,
    pub(super) recipients: usize,
    /// Its place in the session's chain, and the link before it.
    pub(super) position: u64,
    pub(super) before: Hash,
}

impl Message {
    pub(super) fn is_local(&self) -> bool {
        self.new.origin == PeerId::SELF
    }
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) seq: u64,
    /// Its place in [`Batch::messages`].
    pub(super) message: usize,
    pub(super) party: PartyRef,
    pub(super) created_at: i64,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) caller: String,
    pub(super) key: String,
    pub(super) digest: [u8; 32],
    pub(super) message: u64,
}

#[derive(Debug)]
pub(super) struct Finish {
    pub(super) state: DeliveryState,
    pub(super) at: Millis,
    pub(super) error: String,
}

/// States that may be written together: first what finished, then what other
/// servers told. One delivery may be in both.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// By seq and message; the first word holds.
    pub(super) finished: BTreeMap<(u64, u64), Finish>,
    /// By message and party.
    pub(super) told: BTreeMap<(u64, PartyRef), RemoteState>,
}

impl Phase {
    fn is_told_of(&self, message: u64) -> bool {
        self.first_told(message).is_some()
    }

    fn first_told(&self, message: u64) -> Option<&(u64, PartyRef)> {
        let first = (message, PartyRef { peer: PeerId(i64::MIN), name: String::new() });
        self.told.range(first..).next().map(|(key, _)| key).filter(|(told, _)| *told == message)
    }

    fn forget(&mut self, message: u64) {
        while let Some(key) = self.first_told(message).cloned() {
            self.told.remove(&key);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Session {
    /// Before it is made or changed here: for the row that is there already.
    pub(super) touched: Option<Millis>,
    pub(super) put: Option<PutSession>,
}

#[derive(Debug)]
pub(super) struct PutSession {
    pub(super) owner: Option<PeerId>,
    /// Its parties are replaced.
    pub(super) settled: bool,
    pub(super) until: Millis,
    pub(super) parties: BTreeSet<PartyRef>,
}

pub(in crate::store) struct Batch<'a> {
    arrivals: &'a Arrivals,
    /// The message before, within the op that is taken now.
    current: Option<usize>,
    pub(super) messages: Vec<Message>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) keys: Vec<Key>,
    /// By seq: when first, and the retries.
    pub(super) sent: BTreeMap<u64, (Millis, u32)>,
    pub(super) phases: Vec<Phase>,
    pub(super) reported: BTreeMap<u64, DeliveryState>,
    pub(super) sessions: BTreeMap<String, Session>,
    pub(super) events: Vec<(u64, Box<NewEvent>)>,
    pub(super) parties: BTreeMap<String, Millis>,
    /// Also what the batches before it in the same transaction gave.
    pub(in crate::store) given: Given,
}

/// The changes of an op, one after the other, before any is taken.
#[derive(Default)]
pub(in crate::store) struct Check {
    /// Whether the message before is of this node.
    local: Option<bool>,
}

impl Check {
    pub(in crate::store) fn change(&mut self, change: &Change) -> Result<(), Error> {
        let wrong = match (change, self.local) {
            (Change::Message(new), _) => {
                let local = new.origin == PeerId::SELF;
                self.local = Some(local);
                (local != new.remote_id.is_none()).then_some("exactly a message of another server has a remote id")
            }
            (Change::Deliver { .. }, None) => Some("a delivery without its message before it"),
            (Change::Idempotent { .. }, None | Some(false)) => Some("a key without a local message before it"),
            _ => None,
        };
        wrong.map_or(Ok(()), |what| Err(Error::internal(what)))
    }
}

impl<'a> Batch<'a> {
    pub(in crate::store) fn new(arrivals: &'a Arrivals) -> Self {
        Self {
            arrivals,
            current: None,
            messages: Vec::new(),
            deliveries: Vec::new(),
            keys: Vec::new(),
            sent: BTreeMap::new(),
            phases: Vec::new(),
            reported: BTreeMap::new(),
            sessions: BTreeMap::new(),
            events: Vec::new(),
            parties: BTreeMap::new(),
            given: Given::default(),
        }
    }

    /// It took numbers of the writer.
    pub(in crate::store) fn is_numbered(&self) -> bool {
        !self.deliveries.is_empty() || !self.events.is_empty()
    }

    /// The changes that follow are another op's.
    pub(in crate::store) fn begin(&mut self) {
        self.current = None;
    }

    /// Takes a change that was checked.
    pub(in crate::store) fn take(&mut self, change: &Change, counters: &mut Counters) {
        let next = counters.number;
        counters.number += change.numbers();
        match change {
            Change::Message(new) => {
                self.given.accepted_at = self.given.accepted_at.max(new.accepted_at.0);
                self.phases.iter_mut().for_each(|phase| phase.forget(new.number));
                self.current = Some(self.messages.len());
                let (position, before) = self.extend(new);
                self.messages.push(Message { new: new.clone(), recipients: 0, position, before });
            }
            Change::Deliver { party } => self.deliver(party, next, counters),
            Change::Idempotent { caller, key, digest } => {
                let message = self.current.and_then(|at| self.messages.get(at));
                self.keys.extend(message.map(|message| Key {
                    caller: caller.clone(),
                    key: key.clone(),
                    digest: *digest,
                    message: message.new.number,
                }));
            }
            Change::Sent { seq, at, retries } if *seq < next => {
                let sent = self.sent.entry(*seq).or_insert((*at, *retries));
                sent.1 = sent.1.max(*retries);
            }
            Change::Finish { seq, message, failed, at, error } if *seq < next => {
                let state = if *failed { DeliveryState::Failed } else { DeliveryState::Acknowledged };
                if self.phases.last().is_none_or(|phase| phase.is_told_of(*message)) {
                    self.phases.push(Phase::default());
                }
                if let Some(phase) = self.phases.last_mut()
                    && let Entry::Vacant(first) = phase.finished.entry((*seq, *message))
                {
                    first.insert(Finish { state, at: *at, error: error.clone() });
                }
            }
            Change::RemoteState(told) if told.party.peer != PeerId::SELF => self.tell(told),
            Change::Reported { seq, state } if *seq < next => {
                let reported = self.reported.entry(*seq).or_insert(*state);
                *reported = (*reported).max(*state);
            }
            Change::Joined { session, party, until } => {
                let put = self.put_session(session, *until);
                if !put.settled {
                    put.parties.insert(party.clone());
                }
            }
            Change::Announced { session, owner, parties, until } => {
                let put = self.put_session(session, *until);
                put.owner = Some(*owner);
                if let Some(parties) = parties {
                    put.settled = true;
                    put.parties = parties.iter().cloned().collect();
                }
            }
            Change::TouchSessions(touches) => {
                for (session, until) in touches {
                    let session = self.sessions.entry(session.clone()).or_default();
                    match &mut session.put {
                        Some(put) => put.until = put.until.max(*until),
                        None => session.touched = session.touched.max(Some(*until)),
                    }
                }
            }
            Change::Event(new) => {
                self.events.push((next, new.clone()));
            }
            Change::TouchParties(touches) => {
                for (party, at) in touches {
                    let touched = self.parties.entry(party.clone()).or_insert(*at);
                    *touched = (*touched).max(*at);
                }
            }
            // Seqs that were never given, states of parties of this node, and
            // rare changes, which are refused before.
            _ => {}
        }
    }

    /// The chain of its session gets one link more. Returns its place there, and
    /// the link before.
    fn extend(&mut self, new: &NewMessage) -> (u64, Hash) {
        let before = match self.given.heads.get(&new.session) {
            Some(head) => *head,
            None => self.arrivals.head(&new.session),
        };
        let head = before.next(&new.session, &new.slot.entry, &new.slot.digest);
        match self.given.heads.get_mut(&new.session) {
            Some(moved) => *moved = head,
            None => drop(self.given.heads.insert(new.session.clone(), head)),
        }
        (head.position, before.link)
    }

    fn deliver(&mut self, party: &PartyRef, seq: u64, counters: &mut Counters) {
        let Some(at) = self.current else { return };
        let message = &mut self.messages[at];
        message.recipients += 1;
        let accepted_at = message.new.accepted_at.0;
        let created_at = if party.peer == PeerId::SELF {
            let given = self.given.created.get(&party.name).copied();
            let last = given.unwrap_or_else(|| self.arrivals.last(&party.name));
            let created_at = accepted_at.max(last.saturating_add(1));
            self.given.created.insert(party.name.clone(), created_at);
            counters.created = counters.created.max(created_at);
            created_at
        } else {
            accepted_at
        };
        self.deliveries.push(Delivery { seq, message: at, party: party.clone(), created_at });
    }

    fn tell(&mut self, told: &RemoteState) {
        let mut told = told.clone();
        told.finished_at = told.state.is_final().then(|| told.finished_at.unwrap_or_default());
        if self.phases.is_empty() {
            self.phases.push(Phase::default());
        }
        let Some(phase) = self.phases.last_mut() else { return };
        match phase.told.entry((told.message, told.party.clone())) {
            Entry::Vacant(first) => drop(first.insert(told)),
            Entry::Occupied(mut before) => {
                let before = before.get_mut();
                before.delivered_at = before.delivered_at.or(told.delivered_at);
                before.retries = before.retries.max(told.retries);
                if !before.state.is_final() {
                    before.state = before.state.max(told.state);
                    (before.finished_at, before.error) = (told.finished_at, told.error);
                }
            }
        }
    }

    fn put_session(&mut self, session: &str, until: Millis) -> &mut PutSession {
        let session = self.sessions.entry(session.to_owned()).or_default();
        let put = session.put.get_or_insert_with(|| PutSession {
            owner: None,
            settled: false,
            until,
            parties: BTreeSet::new(),
        });
        put.until = put.until.max(until);
        put
    }
}

#[cfg(test)]
mod tests;
