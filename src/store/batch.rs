//! The rows of many ops, sorted by kind: what one transaction of the writer
//! holds.
//!
//! Pure. Guards are checked here, op by op in their order, each against what
//! the ops before it leave; an op whose guard fails adds nothing. Rare changes
//! never come here.
//!
//! The kinds are written in one fixed order (see `flush.rs`), and the result
//! is that of the ops one after the other, because the kinds touch tables of
//! their own and within each the last word wins, but for one pair: `Enqueue`
//! and `Settle`. Inserting first and deleting afterwards is right since a
//! `Settle` only names a number given before it, and numbers only grow: what
//! is enqueued after it is never below it. The relay's kinds have rules of
//! their own, in `relay/batch.rs`.

use super::{
    chat,
    dead::DeadLetter,
    op::{Change, Done, Gone, StreamOut},
    peers::PeerTouch,
    push,
    relay::{self, arrivals::Arrivals},
    tokens::{TokenHash, TokenUse},
};
use crate::{
    error::Error,
    types::{Mark, Millis, PeerId, uuid::Uuid},
};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What the writer gives next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) number: u64,
    pub(super) cursor: u64,
    /// The greatest moment given to a delivery.
    pub(super) created: i64,
    pub(super) push: push::Log,
}

#[derive(Debug)]
pub(super) struct OutboxRow {
    pub(super) number: u64,
    pub(super) peer: PeerId,
    pub(super) id: u64,
    pub(super) stored_at: Millis,
    pub(super) body: Bytes,
}

#[derive(Debug)]
pub(super) struct InboundRow {
    pub(super) cursor: u64,
    pub(super) peer: PeerId,
    pub(super) received_at: Millis,
    pub(super) body: Bytes,
}

/// Rows of a peer that go, and where it is told how many they were.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) through: u64,
    pub(super) done: usize,
    pub(super) gone: usize,
}

/// `queued` is `None` where it stays as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutState {
    pub(super) epoch: u64,
    pub(super) settled: u64,
    pub(super) settled_id: u64,
    pub(super) queued: Option<bool>,
}

pub(super) struct Batch<'a> {
    pub(super) counters: Counters,
    /// The streams of all peers before this batch.
    pub(super) streams_in: &'a HashMap<PeerId, Mark>,
    /// Of the messages of chats that must not be here, those that are. No two ops of a batch have one chat.
    pub(super) said: &'a HashSet<Uuid>,
    pub(super) outbox: Vec<OutboxRow>,
    pub(super) settled: BTreeMap<PeerId, Settled>,
    pub(super) out: BTreeMap<PeerId, OutState>,
    /// Where this batch leaves the streams it moves.
    pub(super) marked: BTreeMap<PeerId, Mark>,
    pub(super) inbound: Vec<InboundRow>,
    pub(super) guilds: BTreeMap<(u64, u64, PeerId), bool>,
    pub(super) invites: BTreeMap<(u64, String, PeerId), Option<u64>>,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) peers: BTreeMap<PeerId, PeerTouch>,
    pub(super) tokens: BTreeMap<TokenHash, TokenUse>,
    pub(super) relay: relay::batch::Batch<'a>,
    pub(super) chat: chat::Batch,
    pub(super) push: push::Batch,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        counters: Counters,
        streams_in: &'a HashMap<PeerId, Mark>,
        arrivals: &'a Arrivals,
        said: &'a HashSet<Uuid>,
    ) -> Self {
        Self {
            counters,
            streams_in,
            said,
            outbox: Vec::new(),
            settled: BTreeMap::new(),
            out: BTreeMap::new(),
            marked: BTreeMap::new(),
            inbound: Vec::new(),
            guilds: BTreeMap::new(),
            invites: BTreeMap::new(),
            dead: Vec::new(),
            peers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            relay: relay::batch::Batch::new(arrivals),
            chat: chat::Batch::default(),
            push: push::Batch::default(),
        }
    }

    /// Takes the changes of one op, whole or not at all. `done`: the place its
    /// `Done` will have among those of the batch.
    pub(super) fn admit(&mut self, changes: &[Change], done: usize) -> Result<Done, Error> {
        self.check(changes)?;
        let mut result = Done {
            numbers: self.counters.number..self.counters.number,
            cursors: self.counters.cursor..self.counters.cursor,
            pushed: self.counters.push.next..self.counters.push.next,
            ..Done::default()
        };
        self.relay.begin();
        for change in changes {
            self.take(change, done, &mut result);
        }
        result.numbers.end = self.counters.number;
        result.cursors.end = self.counters.cursor;
        result.pushed.end = self.counters.push.next;
        Ok(result)
    }

    fn stream_in(&self, peer: PeerId) -> Mark {
        self.marked.get(&peer).or_else(|| self.streams_in.get(&peer)).copied().unwrap_or_default()
    }

    /// The guards, each against what the changes before it would leave.
    fn check(&self, changes: &[Change]) -> Result<(), Error> {
        let mut next = self.counters.number;
        let mut streams: HashMap<PeerId, Mark> = HashMap::new();
        let mut relay = relay::batch::Check::default();
        for change in changes {
            match change {
                Change::Enqueue { .. } => next += 1,
                Change::Settle { number, .. } if *number >= next => {
                    return Err(Error::Conflict(format!(
                        "row {number} cannot be settled: the last one given is {}",
                        next - 1
                    )));
                }
                Change::Mark { peer, was, now } => {
                    let stream = streams.get(peer).copied().unwrap_or_else(|| self.stream_in(*peer));
                    if (stream.epoch, stream.number) != *was {
                        return Err(Error::Conflict(format!(
                            "the stream stands at epoch {} mark {}, not at epoch {} mark {}",
                            stream.epoch, stream.number, was.0, was.1
                        )));
                    }
                    streams.insert(*peer, *now);
                }
                Change::Chat(chat::Change::Unsaid(ids)) if ids.iter().any(|id| self.said.contains(id)) => {
                    return Err(Error::Conflict("a message with this id is here".into()));
                }
                rare if !rare.is_grouped() => return Err(Error::internal("a rare change among the grouped ones")),
                Change::Relay(change) => {
                    relay.change(change)?;
                    next += change.numbers();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, change: &Change, done: usize, result: &mut Done) {
        match change {
            Change::Enqueue { peer, id, stored_at, body } => {
                let number = self.counters.number;
                self.counters.number += 1;
                self.outbox.push(OutboxRow { number, peer: *peer, id: *id, stored_at: *stored_at, body: body.clone() });
            }
            Change::Settle { peer, epoch, number, id } => {
                let through = self.settled.get(peer).map_or(*number, |before| before.through.max(*number));
                self.settled.insert(*peer, Settled { through, done, gone: result.gone.len() });
                result.gone.push(Gone::default());
                let queued = self.out.get(peer).and_then(|before| before.queued);
                self.out.insert(*peer, OutState { epoch: *epoch, settled: *number, settled_id: *id, queued });
            }
            Change::PutOut { peer, stream } => {
                let StreamOut { epoch, settled, settled_id, queued } = *stream;
                self.out.insert(*peer, OutState { epoch, settled, settled_id, queued: Some(queued) });
            }
            Change::Mark { peer, now, .. } => {
                self.marked.insert(*peer, *now);
            }
            Change::Inbound { peer, received_at, body } => {
                let cursor = self.counters.cursor;
                self.counters.cursor += 1;
                self.inbound.push(InboundRow { cursor, peer: *peer, received_at: *received_at, body: body.clone() });
            }
            Change::Guild { user, guild, peer, member } => {
                self.guilds.insert((*user, *guild, *peer), *member);
            }
            Change::Invite { user, invite, peer, inviter } => {
                self.invites.insert((*user, invite.clone(), *peer), *inviter);
            }
            Change::Bury(letter) => self.dead.push(letter.clone()),
            Change::TouchPeers(touches) => {
                for touch in touches {
                    let merged = self.peers.entry(touch.peer).or_insert(*touch);
                    merged.outbound_ok_at = touch.outbound_ok_at.or(merged.outbound_ok_at);
                    merged.inbound_ok_at = touch.inbound_ok_at.or(merged.inbound_ok_at);
                }
            }
            Change::TouchTokens(uses) => {
                for used in uses {
                    let before = self.tokens.insert(used.hash, used.clone());
                    let merged = self.tokens.get_mut(&used.hash).expect("it was inserted just now");
                    merged.user_agent = merged.user_agent.take().or(before.and_then(|before| before.user_agent));
                }
            }
            Change::Relay(change) => self.relay.take(change, &mut self.counters),
            Change::Chat(change) => self.chat.take(change),
            Change::Push(change) => self.push.take(change, &mut self.counters.push),
            // Refused by `check`.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
