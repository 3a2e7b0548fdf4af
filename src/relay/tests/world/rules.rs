//! What holds after each step, and what must be left at the end: nothing.

use super::*;

impl World {
    /// Bytes on disk and on the way there, by session and by sender.
    pub(super) fn stored(&self) -> (BTreeMap<String, u64>, BTreeMap<PartyRef, u64>) {
        let (mut sessions, mut senders) = (BTreeMap::<&str, u64>::new(), BTreeMap::<_, u64>::new());
        let waiting = self.ops.iter().filter_map(|op| match op {
            Op::Route { session, from, bytes, .. } => Some((session.as_str(), from, *bytes)),
            _ => None,
        });
        for (session, from, bytes) in self.disk.stored().chain(waiting).filter(|row| row.2 > 0) {
            *sessions.entry(session).or_default() += bytes;
            let name = if from.peer == PeerId::SELF { from.name.as_str() } else { "" };
            *senders.entry((from.peer, name)).or_default() += bytes;
        }
        let party = |(peer, name): (PeerId, &str)| PartyRef { peer, name: name.to_owned() };
        let sessions = sessions.into_iter().map(|(session, bytes)| (session.to_owned(), bytes)).collect();
        (sessions, senders.into_iter().map(|(from, bytes)| (party(from), bytes)).collect())
    }

    pub(super) fn check(&self) {
        assert_eq!(self.router.accounts(), self.stored(), "the quotas are not what is stored");
        assert_eq!(self.subscriptions.count(), self.readers.len());
        for reader in self.readers.values() {
            assert!(reader.window.len() <= 4);
        }
    }

    /// All is quiet: whoever has something waiting subscribes, and takes what it
    /// gets or stays silent. Then nothing may be left.
    pub(super) fn finish(&mut self, acknowledges: bool) {
        self.commit(0);
        for name in NAMES {
            let all = self.readers.values().any(|reader| reader.party == name && reader.session.is_none());
            if !all {
                let one = self.readers.iter().find(|(_, reader)| reader.party == name).map(|(id, _)| *id);
                if let Some(id) = one {
                    self.disconnect(id);
                }
                self.connect(name, None);
            }
        }
        let mut rounds = 0;
        while NAMES.iter().any(|name| !self.disk.open(&local(name)).is_empty()) {
            rounds += 1;
            assert!(rounds < 2_000, "what waits for a subscribed party does not end");
            for id in self.readers.keys().copied().collect::<Vec<_>>() {
                while self.notice(id) || self.send_one(id) || self.page(id) {}
                self.due(id);
            }
            if acknowledges {
                let open = NAMES.iter().flat_map(|name| self.disk.open(&local(name)));
                for seq in open.filter(|seq| self.disk.row(*seq).reached).collect::<Vec<_>>() {
                    self.end(seq, State::Acknowledged);
                }
            } else if let Some(at) = self.readers.values().filter_map(|reader| reader.window.deadline()).min() {
                let at = u64::try_from((at - self.start).as_millis()).unwrap() + 1;
                self.time = self.time.max(at);
            }
            self.check();
        }
        // What is left is other servers'; it expires, and then all is as at first.
        for id in self.readers.keys().copied().collect::<Vec<_>>() {
            self.disconnect(id);
        }
        self.time += 10_000_000;
        self.expire();
        self.check();
        assert!(self.sessions.is_empty() && self.subscriptions.count() == 0);
        assert!(self.disk.deliveries.iter().all(|row| row.state != State::Open));
        assert_eq!(self.router.accounts(), Default::default());
    }
}
