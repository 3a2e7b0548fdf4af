//! The streams: pages, what is on the wire, repeats.

use super::*;

impl World {
    pub(super) fn read_on(&mut self, id: u64) {
        match self.rng.between(0, 9) {
            0..=1 => drop(self.notice(id)),
            2..=5 => drop(self.page(id)),
            6..=8 => drop(self.send_one(id)),
            _ => self.due(id),
        }
    }

    /// True: there was something to notice.
    pub(super) fn notice(&mut self, id: u64) -> bool {
        let reader = self.readers.get_mut(&id).unwrap();
        match reader.notices.pop_front() {
            Some(Notice::Woken) => reader.window.woken(),
            Some(Notice::Finished(seq)) => reader.window.finished(seq),
            None => return false,
        }
        true
    }

    /// What a reader does before each of its steps: its share may have changed.
    pub(super) fn apply_changes(&mut self, id: u64) {
        let reader = self.readers.get_mut(&id).unwrap();
        if take(&mut reader.narrowed) {
            let covered: BTreeSet<_> = self.subscriptions.covered(&reader.party).collect();
            reader.window.let_go(|session| covered.contains(session));
        }
        if take(&mut reader.widened) {
            reader.window.rescan();
        }
    }

    /// One step on the way of a page. True: something was done.
    pub(super) fn page(&mut self, id: u64) -> bool {
        self.apply_changes(id);
        let reader = self.readers.get_mut(&id).unwrap();
        match reader.page.take() {
            None => {
                let Some(page) = reader.window.next_page() else {
                    if reader.window.len() == 4 {
                        self.saw("full");
                    }
                    return false;
                };
                let covered = match reader.session {
                    None => self.subscriptions.covered(&reader.party).map(str::to_owned).collect(),
                    Some(_) => BTreeSet::new(),
                };
                reader.page = Some(Reading::Asked(page, covered));
            }
            Some(Reading::Asked(..)) if self.rng.chance(5) => reader.window.unread(),
            Some(Reading::Asked(page, covered)) => {
                let mine = |seq: &u64| {
                    let session = self.disk.session_of(*seq);
                    let whole = reader.session.is_none() && !covered.contains(session);
                    *seq > page.after && (whole || reader.session.as_deref() == Some(session))
                };
                let open: Vec<_> = self.disk.open(&local(&reader.party)).into_iter().filter(mine).collect();
                // A page may be shorter than asked for, for its bytes.
                let some = self.rng.index(page.limit) + 1;
                let more = open.len() > some;
                let row = |seq: &u64| (*seq, self.disk.session_of(*seq).to_owned(), self.disk.row(*seq).retries);
                let rows: Vec<_> = open.iter().take(some).map(row).collect();
                let through = if more { rows[some - 1].0 } else { self.disk.newest() };
                reader.page = Some(Reading::Found { rows, through, more });
            }
            Some(Reading::Found { rows, through, more }) => {
                let given: Vec<_> =
                    rows.iter().map(|(seq, session, retries)| Row { seq: *seq, session, retries: *retries }).collect();
                let fresh = reader.window.read(&given, through, more);
                let dropped = fresh.is_empty() && !rows.is_empty();
                for seq in fresh {
                    let (_, _, retries) = rows.iter().find(|row| row.0 == seq).expect("sent is what was read");
                    reader.wire.push_back((seq, *retries));
                }
                if dropped {
                    self.saw("dropped page");
                }
            }
        }
        true
    }

    /// True: something left the queue.
    pub(super) fn send_one(&mut self, id: u64) -> bool {
        self.apply_changes(id);
        let now = self.now();
        let reader = self.readers.get_mut(&id).unwrap();
        let Some((seq, retries)) = reader.wire.pop_front() else { return false };
        if !reader.window.holds(seq) {
            return true;
        }
        reader.window.sent(now, seq);
        let sends = reader.sends.entry(seq).or_default();
        *sends += 1;
        assert!(*sends <= TRIES + 1, "{seq} was sent {sends} times on one stream");
        let (party, first_here) = (reader.party.clone(), *sends == 1);
        let session = self.disk.session_of(seq).to_owned();
        assert_eq!(self.subscriptions.reader(&party, &session), Some(id), "{seq} went to another's reader");
        let row = self.disk.delivery(seq);
        assert_eq!(row.party, local(&party), "{seq} is not for {party}");
        assert!(retries <= row.time_outs && retries < TRIES, "{seq}: {retries} repeats are said");
        if row.reached {
            if first_here {
                self.saw("replayed");
            }
            return true;
        }
        row.reached = true;
        let last = self.first.insert((session, party), seq);
        assert!(last.is_none_or(|last| last < seq), "{seq} was overtaken by {last:?}");
        true
    }

    pub(super) fn due(&mut self, id: u64) {
        let now = self.now();
        let due = self.readers.get_mut(&id).unwrap().window.due(now);
        for due in due {
            match due {
                Due::Repeat { seq, retries } => {
                    let kept = self.rng.chance(80);
                    let row = self.disk.delivery(seq);
                    row.time_outs += 1;
                    assert!(retries <= row.time_outs);
                    if kept {
                        row.retries = retries;
                    }
                    self.readers.get_mut(&id).unwrap().wire.push_back((seq, retries));
                    self.saw("repeated");
                }
                Due::GiveUp { seq } => {
                    if self.rng.chance(70) {
                        self.end(seq, State::Failed);
                    }
                    self.saw("given up");
                }
            }
        }
    }
}
