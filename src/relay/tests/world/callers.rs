//! What comes in: messages, events and subscriptions, each held against the model.

use super::*;

impl World {
    pub(super) fn route(&mut self) {
        let from = local(self.pick(&NAMES));
        let to = if self.rng.chance(40) { vec![] } else { self.parties(5) };
        if to.is_empty() {
            self.saw("broadcast");
        }
        self.send(from, to);
    }

    pub(super) fn route_inbound(&mut self) {
        let from = PartyRef { peer: self.peer(), name: self.pick(&NAMES).to_owned() };
        let to = (0..self.rng.between(1, 3)).map(|_| local(self.pick(&NAMES))).collect();
        self.saw("inbound");
        self.send(from, to);
    }

    pub(super) fn send(&mut self, from: PartyRef, to: Vec<PartyRef>) {
        let session = self.pick(&SESSIONS);
        let bytes = self.rng.between(0, 15);
        let (by_session, by_sender) = self.stored();
        let account = account(&from);
        let taken = |taken: Option<&u64>, limit| taken.copied().unwrap_or_default() + bytes > limit;
        let over =
            taken(by_session.get(session), LIMITS.session_bytes) || taken(by_sender.get(&account), LIMITS.sender_bytes);
        let expected =
            model::recipients(&self.sessions, &LIMITS, session, &from, &to).and_then(|recipients| {
                match over || model::no_place(&self.sessions, &LIMITS, session, &from) {
                    true => Err("exhausted"),
                    false => Ok(recipients),
                }
            });
        let now = Millis(self.millis());
        let routed = match from.peer {
            PeerId::SELF => self.router.route(now, session, &from, &to, bytes),
            _ => {
                let names: Vec<_> = to.iter().map(|party| party.name.clone()).collect();
                self.router.route_inbound(now, session, &from, &names, bytes)
            }
        };
        let routed = match (routed, expected) {
            (Ok(routed), Ok(expected)) => {
                assert_eq!(routed.recipients.iter().cloned().collect::<BTreeSet<_>>(), expected);
                assert_eq!(routed.recipients.len(), expected.len(), "a recipient came twice");
                routed
            }
            (Err(refusal), Err(expected)) => {
                assert_eq!(model::kind(&refusal), expected, "{refusal}");
                return self.saw(expected);
            }
            (routed, expected) => panic!("{routed:?}, not {expected:?}"),
        };
        let known = self.sessions.entry(session.to_owned()).or_default();
        if !known.members.settled {
            known.members.parties.insert(from.clone());
        }
        known.until = known.until.max(now.plus(RETENTION).0);
        assert_eq!(routed.until.0, known.until);
        self.ops.push_back(Op::Route {
            session: session.to_owned(),
            from,
            to: routed.recipients,
            bytes,
            joined: routed.joined,
            open: !known.members.settled,
            until: routed.until.0,
            now: now.0,
        });
    }

    pub(super) fn announce(&mut self) {
        let session = self.pick(&SESSIONS);
        let owner = if self.rng.chance(60) { PeerId::SELF } else { self.peer() };
        let parties = if self.rng.chance(25) { vec![] } else { self.parties(7) };
        let until = self.millis() + i64::try_from(self.rng.between(0, 4_000_000)).unwrap();
        let distinct: BTreeSet<_> = parties.iter().cloned().collect();
        let some = PartyRef { peer: owner, name: String::new() };
        let expected = match self.sessions.get(session).map(|known| known.members.owner) {
            _ if distinct.len() > LIMITS.parties_a_session => Err("invalid"),
            Some(Some(first)) if first != owner => Err("denied"),
            None if model::no_place(&self.sessions, &LIMITS, session, &some) => Err("exhausted"),
            _ => Ok(()),
        };
        let now = Millis(self.millis());
        let announced = match (self.router.announce(now, session, owner, &parties, Millis(until)), expected) {
            (Ok(announced), Ok(())) => announced,
            (Err(refusal), Err(expected)) => {
                assert_eq!(model::kind(&refusal), expected, "{refusal}");
                return self.saw(expected);
            }
            (announced, expected) => panic!("{announced:?}, not {expected:?}"),
        };
        self.turns += 1;
        let turn = self.turns;
        let known = self.sessions.entry(session.to_owned()).or_default();
        let before = known.members.clone();
        known.turn = turn;
        known.members.owner = Some(owner);
        if !distinct.is_empty() {
            known.members.settled = true;
            known.members.parties = distinct;
        }
        known.until = known.until.max(until).max(now.plus(RETENTION).0);
        assert_eq!((announced.until.0, announced.settles), (known.until, !parties.is_empty()));
        self.ops.push_back(Op::Announce { session: session.to_owned(), owner, announced, parties, turn, before });
    }

    pub(super) fn subscribe(&mut self) {
        let party = local(self.pick(&NAMES));
        let session = self.rng.chance(60).then(|| self.pick(&SESSIONS));
        if let Some(session) = session {
            let now = Millis(self.millis());
            let inside = self
                .sessions
                .get(session)
                .is_none_or(|known| !known.members.settled || known.members.parties.contains(&party));
            let full = model::no_place(&self.sessions, &LIMITS, session, &party);
            match self.router.join(now, session, &party) {
                Err(refusal) => {
                    assert!(full, "{refusal}");
                    return self.saw("exhausted");
                }
                Ok(due) => {
                    assert!(!full);
                    if inside {
                        let known = self.sessions.entry(session.to_owned()).or_default();
                        known.until = known.until.max(now.plus(RETENTION).0);
                        known.members.parties.insert(party.clone());
                    }
                    if let Some(until) = due {
                        assert!(inside);
                        let session = session.to_owned();
                        self.ops.push_back(Op::Join { session, party: party.clone(), until: until.0 });
                    }
                }
            }
        }
        self.connect(&party.name, session);
    }

    pub(super) fn connect(&mut self, party: &str, session: Option<&str>) {
        let Ok(subscribed) = self.subscriptions.subscribe(party, session) else {
            return self.saw("exhausted");
        };
        if let Some(old) = subscribed.replaced {
            self.readers.remove(&old).expect("what is replaced was live");
            self.saw("replaced");
        }
        if let Some(all) = subscribed.narrowed {
            self.readers.get_mut(&all).expect("what is narrowed is live").narrowed = true;
            self.saw("narrowed");
        }
        let max = self.rng.index(4) + 1;
        let window = Window::new(Redelivery { after: Duration::from_secs(10), tries: TRIES, max }, self.rng.draw());
        let reader = Reader {
            party: party.to_owned(),
            session: session.map(str::to_owned),
            window,
            page: None,
            wire: VecDeque::new(),
            notices: VecDeque::new(),
            narrowed: false,
            widened: false,
            sends: BTreeMap::new(),
        };
        self.readers.insert(subscribed.id, reader);
    }

    pub(super) fn disconnect(&mut self, id: u64) {
        self.readers.remove(&id);
        if let Some(all) = self.subscriptions.unsubscribe(id) {
            self.readers.get_mut(&all).expect("what takes over is live").widened = true;
            self.saw("taken over");
        }
    }

    /// Somebody says what became of a delivery; also of one that it was not sent,
    /// having asked for it.
    pub(super) fn client(&mut self) {
        let party = self.party();
        let any = self.rng.chance(10) || party.peer != PeerId::SELF;
        let open = self.disk.open(&party).into_iter();
        let open: Vec<_> = open.filter(|seq| any || self.disk.row(*seq).reached).collect();
        if open.is_empty() {
            return;
        }
        let seq = open[self.rng.index(open.len())];
        match self.rng.chance(90) {
            true => self.end(seq, State::Acknowledged),
            false => self.end(seq, State::Failed),
        }
    }
}

/// A party of this node, or another server as a whole.
fn account(from: &PartyRef) -> PartyRef {
    let name = if from.peer == PeerId::SELF { from.name.clone() } else { String::new() };
    PartyRef { peer: from.peer, name }
}
