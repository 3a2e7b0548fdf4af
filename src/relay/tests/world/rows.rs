//! The rows: what is committed, what is lost with a node that ends, what expires.

use super::*;

impl World {
    pub(super) fn commit(&mut self, failures: u64) {
        for op in take(&mut self.ops) {
            let fails = self.rng.chance(failures);
            match op {
                Op::Route { session, from, bytes, .. } if fails => {
                    self.router.undo(&session, &from, bytes);
                    self.saw("refused by the disk");
                }
                Op::Join { .. } if fails => self.saw("refused by the disk"),
                Op::Announce { session, announced, turn, before, .. } if fails => {
                    self.router.undo_announce(&session, announced);
                    if let Some(known) = self.sessions.get_mut(&session).filter(|known| known.turn == turn) {
                        known.members = before;
                    }
                    self.saw("announcement refused by the disk");
                }
                Op::Route { session, from, to, bytes, joined, open, until, now } => {
                    if joined {
                        self.disk.join(&session, &from, until);
                        self.router.saved(&session, &from);
                    }
                    if open {
                        self.promised.entry(session.clone()).or_default().insert(from.clone());
                    }
                    let expires = Millis(now).plus(RETENTION).0;
                    self.store(Message { session, from, bytes, expires, open: to.len(), freed: false }, to);
                }
                Op::Join { session, party, until } => {
                    self.disk.join(&session, &party, until);
                    self.router.saved(&session, &party);
                    self.promised.entry(session).or_default().insert(party);
                }
                Op::Announce { session, owner, announced, parties, .. } => {
                    let row = self.disk.sessions.entry(session.clone()).or_default();
                    row.members.owner = Some(owner);
                    row.until = row.until.max(announced.until.0);
                    if announced.settles {
                        row.members.settled = true;
                        row.members.parties = parties.into_iter().collect();
                        self.promised.remove(&session);
                    }
                    self.saw("announced");
                }
            }
        }
    }

    pub(super) fn store(&mut self, message: Message, to: Vec<PartyRef>) {
        for party in to {
            if party.peer == PeerId::SELF
                && let Some(id) = self.subscriptions.reader(&party.name, &message.session)
            {
                let reader = self.readers.get_mut(&id).expect("whoever reads is live");
                reader.notices.push_back(Notice::Woken);
            }
            let message = self.disk.messages.len();
            let state = State::Open;
            let row = Delivery { message, party, state, retries: 0, time_outs: 0, reached: false };
            self.disk.deliveries.push(row);
        }
        self.disk.messages.push(message);
    }

    /// A delivery became final on disk; the first time counts.
    pub(super) fn end(&mut self, seq: u64, state: State) {
        let row = self.disk.delivery(seq);
        if row.state != State::Open {
            return;
        }
        row.state = state;
        let (party, message) = (row.party.clone(), row.message);
        let message = &mut self.disk.messages[message];
        message.open -= 1;
        if message.open == 0 {
            message.freed = true;
            self.router.freed(&message.session, &message.from, message.bytes);
        }
        if party.peer == PeerId::SELF {
            for reader in self.readers.values_mut().filter(|reader| reader.party == party.name) {
                reader.notices.push_back(Notice::Finished(seq));
            }
        }
        self.saw(match state {
            State::Acknowledged => "acknowledged",
            State::Expired => "expired",
            _ => "failed",
        });
    }

    pub(super) fn expire(&mut self) {
        // No op is on its way for so long as a session is kept.
        self.commit(10);
        let now = self.millis();
        let due = |(at, row): (usize, &Delivery)| {
            (row.state == State::Open && self.disk.messages[row.message].expires <= now).then_some(at as u64 + 1)
        };
        let due: Vec<_> = self.disk.deliveries.iter().enumerate().filter_map(due).collect();
        due.into_iter().for_each(|seq| self.end(seq, State::Expired));
        let (stored, _) = self.stored();
        let subscriptions = &self.subscriptions;
        let over = self.router.expire(Millis(now), |session| subscriptions.in_use(session));
        let mut expected = vec![];
        let mut again = 0;
        for (session, known) in &mut self.sessions {
            if known.until > now || stored.contains_key(session) {
                continue;
            }
            let used = self.readers.values().any(|reader| reader.session.as_ref() == Some(session));
            if used {
                known.until = Millis(now).plus(RETENTION).0;
                again += 1;
            } else {
                expected.push(session.clone());
            }
        }
        assert_eq!(over, expected);
        (0..again).for_each(|_| self.saw("begun again"));
        for session in over {
            self.sessions.remove(&session);
            // An op on its way would have begun a new time.
            self.disk.sessions.remove(&session);
            self.promised.remove(&session);
            self.saw("forgotten");
        }
    }

    pub(super) fn restart(&mut self) {
        self.saw("restarted");
        self.ops.clear();
        self.readers.clear();
        self.subscriptions = Subscriptions::new(3);
        let stored = self.disk.stored().map(|(session, from, bytes)| (session.to_owned(), from.clone(), bytes));
        self.router = Router::new(LIMITS, RETENTION, self.disk.saved(), stored);
        self.sessions = self.disk.sessions.clone();
        for (session, ..) in self.disk.stored() {
            // Its messages came while an event had settled it, which the disk then refused.
            self.sessions.entry(session.to_owned()).or_default();
        }
        for (session, promised) in &self.promised {
            let row = &self.disk.sessions[session].members;
            assert!(row.settled || promised.is_subset(&row.parties), "a party was forgotten in {session}");
        }
    }
}
