//! Who has sent, fetched and acknowledged in each round of a session, and who is
//! waited for.
//!
//! Pure. Made anew from the rows each time; what this node did not see it does
//! not know.

use crate::{
    store::relay::{DeliveryState, SessionMessage},
    types::{Millis, PartyRef},
};
use std::collections::{BTreeMap, BTreeSet};

/// What a round waits for. The first that holds is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Waiting {
    #[default]
    Nothing,
    /// A message lies here for it.
    Fetch,
    Acknowledgement,
    /// It is of a settled session and sent nothing in this round nor later.
    Message,
}

impl Waiting {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Fetch => "fetch",
            Self::Acknowledgement => "acknowledgement",
            Self::Message => "message",
        }
    }
}

/// A party in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    pub sent: u32,
    pub sent_at: Option<Millis>,
    pub addressed: u32,
    pub delivered: u32,
    pub acknowledged: u32,
    pub failed: u32,
    pub waiting: Waiting,
    pub since: Option<Millis>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub rounds: BTreeMap<i32, BTreeMap<PartyRef, Part>>,
    /// The last sign of life of each, as far as the rows tell.
    pub seen: BTreeMap<PartyRef, Millis>,
}

impl Part {
    fn deliver(&mut self, state: DeliveryState, accepted_at: Millis, delivered_at: Option<Millis>) {
        self.addressed += 1;
        match state {
            DeliveryState::Pending => self.wait(Waiting::Fetch, accepted_at),
            DeliveryState::Delivered => {
                self.delivered += 1;
                self.wait(Waiting::Acknowledgement, delivered_at.unwrap_or(accepted_at));
            }
            DeliveryState::Acknowledged => {
                self.delivered += 1;
                self.acknowledged += 1;
            }
            DeliveryState::Failed => self.failed += 1,
        }
    }

    fn wait(&mut self, waiting: Waiting, since: Millis) {
        if self.waiting == waiting {
            self.since = self.since.min(Some(since));
        } else if self.waiting != Waiting::Fetch {
            (self.waiting, self.since) = (waiting, Some(since));
        }
    }
}

/// `expected`: the parties of a settled session. `messages`: in any order.
pub fn progress(expected: Option<&BTreeSet<PartyRef>>, messages: &[SessionMessage]) -> Progress {
    let mut progress = Progress::default();
    // When each round began here.
    let mut begun: BTreeMap<i32, Millis> = BTreeMap::new();
    for message in messages {
        let at = message.accepted_at;
        let start = begun.entry(message.round).or_insert(at);
        *start = at.min(*start);
        let round = progress.rounds.entry(message.round).or_default();
        let sender = round.entry(message.sender.clone()).or_default();
        sender.sent += 1;
        sender.sent_at = sender.sent_at.max(Some(at));
        see(&mut progress.seen, &message.sender, at);
        for delivery in &message.deliveries {
            let part = round.entry(delivery.party.clone()).or_default();
            part.deliver(delivery.state, at, delivery.delivered_at);
            let done = delivery.finished_at.filter(|_| delivery.state == DeliveryState::Acknowledged);
            for at in [delivery.delivered_at, done].into_iter().flatten() {
                see(&mut progress.seen, &delivery.party, at);
            }
        }
    }
    for party in expected.into_iter().flatten() {
        expect(&mut progress.rounds, &begun, party);
    }
    progress
}

/// A party of a settled session is waited for in the first round after the last
/// in which it sent; in others it stands only if it has a part in them, else a
/// view would grow with rounds times parties.
fn expect(rounds: &mut BTreeMap<i32, BTreeMap<PartyRef, Part>>, begun: &BTreeMap<i32, Millis>, party: &PartyRef) {
    let sent = |round: &BTreeMap<PartyRef, Part>| round.get(party).is_some_and(|part| part.sent > 0);
    let last = rounds.iter().rev().find(|(_, parts)| sent(parts)).map(|(round, _)| *round);
    let awaited = rounds.keys().copied().find(|round| last.is_none_or(|last| *round > last));
    if let Some((round, parts)) = awaited.and_then(|round| Some((round, rounds.get_mut(&round)?))) {
        let part = parts.entry(party.clone()).or_default();
        if part.waiting == Waiting::Nothing {
            (part.waiting, part.since) = (Waiting::Message, begun.get(&round).copied());
        }
    }
}

fn see(seen: &mut BTreeMap<PartyRef, Millis>, party: &PartyRef, at: Millis) {
    match seen.get_mut(party) {
        Some(last) => *last = at.max(*last),
        None => drop(seen.insert(party.clone(), at)),
    }
}

#[cfg(test)]
mod tests;
