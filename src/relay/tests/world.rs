//! One simulated node: the router, the subscriptions and a window a reader over
//! rows in memory, and the rules that hold after each step.

use super::{
    Sights,
    model::{self, Delivery, Disk, Message, Sessions, State},
    rng::Rng,
};
use crate::{
    relay::{
        router::{Announced, Limits, Router},
        subscriptions::Subscriptions,
        window::{Due, Page, Redelivery, Row, Window},
    },
    types::{Millis, PartyRef, PeerId},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem::take,
    time::{Duration, Instant},
};

const STEPS: usize = 400;
const NAMES: [&str; 4] = ["ann", "bob", "cyd", "dan"];
const SESSIONS: [&str; 5] = ["s1", "s2", "s3", "s4", "s5"];
const RETENTION: Duration = Duration::from_secs(1800);
const LIMITS: Limits = Limits { recipients: 3, session_bytes: 90, sender_bytes: 60, sessions: 4, parties_a_session: 6 };
const TRIES: u32 = 4;

/// What is to be seen now and then.
pub const SIGHTS: &[&str] = &[
    "acknowledged",
    "announced",
    "announcement refused by the disk",
    "begun again",
    "broadcast",
    "denied",
    "dropped page",
    "exhausted",
    "expired",
    "failed",
    "forgotten",
    "full",
    "given up",
    "inbound",
    "invalid",
    "narrowed",
    "precondition",
    "refused by the disk",
    "repeated",
    "replaced",
    "replayed",
    "restarted",
    "taken over",
];

enum Op {
    Route {
        session: String,
        from: PartyRef,
        to: Vec<PartyRef>,
        bytes: u64,
        joined: bool,
        open: bool,
        until: i64,
        now: i64,
    },
    Join {
        session: String,
        party: PartyRef,
        until: i64,
    },
    Announce {
        session: String,
        owner: PeerId,
        announced: Announced,
        parties: Vec<PartyRef>,
        turn: usize,
        before: model::Members,
    },
}

enum Reading {
    Asked(Page, BTreeSet<String>),
    Found { rows: Vec<(u64, String, u32)>, through: u64, more: bool },
}

enum Notice {
    Woken,
    Finished(u64),
}

struct Reader {
    party: String,
    session: Option<String>,
    window: Window,
    page: Option<Reading>,
    wire: VecDeque<(u64, u32)>,
    notices: VecDeque<Notice>,
    narrowed: bool,
    widened: bool,
    sends: BTreeMap<u64, u32>,
}

struct World {
    rng: Rng,
    start: Instant,
    /// Milliseconds since the start.
    time: u64,
    router: Router,
    subscriptions: Subscriptions,
    readers: BTreeMap<u64, Reader>,
    ops: VecDeque<Op>,
    disk: Disk,
    sessions: Sessions,
    /// Who was told that it takes part, by session.
    promised: BTreeMap<String, BTreeSet<PartyRef>>,
    /// The last number that reached each party first, by session.
    first: BTreeMap<(String, String), u64>,
    turns: usize,
    sights: Sights,
}

fn local(name: &str) -> PartyRef {
    PartyRef { peer: PeerId::SELF, name: name.to_owned() }
}

pub fn run(seed: u64) -> Sights {
    let mut rng = Rng::new(seed);
    let patient = rng.chance(50);
    let mut world = World {
        rng,
        start: Instant::now(),
        time: 0,
        router: Router::new(LIMITS, RETENTION, vec![], []),
        subscriptions: Subscriptions::new(3),
        readers: BTreeMap::new(),
        ops: VecDeque::new(),
        disk: Disk::default(),
        sessions: Sessions::new(),
        promised: BTreeMap::new(),
        first: BTreeMap::new(),
        turns: 0,
        sights: Sights::new(),
    };
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.finish(patient);
    world.sights
}

impl World {
    fn saw(&mut self, sight: &'static str) {
        assert!(SIGHTS.contains(&sight), "{sight} is not listed");
        *self.sights.entry(sight).or_default() += 1;
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.time)
    }

    fn millis(&self) -> i64 {
        i64::try_from(self.time).unwrap()
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.index(of.len())]
    }

    fn peer(&mut self) -> PeerId {
        PeerId(i64::try_from(self.rng.between(1, 2)).unwrap())
    }

    fn party(&mut self) -> PartyRef {
        let name = self.pick(&NAMES).to_owned();
        let peer = if self.rng.chance(15) { self.peer() } else { PeerId::SELF };
        PartyRef { peer, name }
    }

    fn parties(&mut self, most: u64) -> Vec<PartyRef> {
        (0..self.rng.between(0, most)).map(|_| self.party()).collect()
    }

    fn reader(&mut self) -> Option<u64> {
        let live: Vec<_> = self.readers.keys().copied().collect();
        (!live.is_empty()).then(|| live[self.rng.index(live.len())])
    }

    fn step(&mut self) {
        match self.rng.between(0, 99) {
            0..=13 => self.route(),
            14..=17 => self.route_inbound(),
            18..=19 => self.announce(),
            20..=25 => self.subscribe(),
            26..=27 => {
                if let Some(id) = self.reader() {
                    self.disconnect(id);
                }
            }
            28..=41 => self.commit(10),
            42..=79 => {
                if let Some(id) = self.reader() {
                    self.read_on(id);
                }
            }
            80..=91 => self.client(),
            92..=97 => {
                self.time += match self.rng.between(0, 19) {
                    0 => self.rng.between(600_000, 4_000_000),
                    1..=5 => self.rng.between(10_000, 60_000),
                    _ => self.rng.between(1, 10_000),
                }
            }
            98 => self.expire(),
            _ if self.rng.chance(30) => self.restart(),
            _ => {
                for (session, until) in self.router.touched() {
                    if let Some(row) = self.disk.sessions.get_mut(&session) {
                        assert!(until.0 >= row.until);
                        row.until = until.0;
                    }
                }
            }
        }
    }

    // ----- what comes in

    fn route(&mut self) {
        let from = local(self.pick(&NAMES));
        let to = if self.rng.chance(40) { vec![] } else { self.parties(5) };
        if to.is_empty() {
            self.saw("broadcast");
        }
        self.send(from, to);
    }

    fn route_inbound(&mut self) {
        let from = PartyRef { peer: self.peer(), name: self.pick(&NAMES).to_owned() };
        let to = (0..self.rng.between(1, 3)).map(|_| local(self.pick(&NAMES))).collect();
        self.saw("inbound");
        self.send(from, to);
    }

    fn send(&mut self, from: PartyRef, to: Vec<PartyRef>) {
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

    fn announce(&mut self) {
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

    fn subscribe(&mut self) {
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

    fn connect(&mut self, party: &str, session: Option<&str>) {
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

    fn disconnect(&mut self, id: u64) {
        self.readers.remove(&id);
        if let Some(all) = self.subscriptions.unsubscribe(id) {
            self.readers.get_mut(&all).expect("what takes over is live").widened = true;
            self.saw("taken over");
        }
    }

    /// Somebody says what became of a delivery; also of one that it was not sent,
    /// having asked for it.
    fn client(&mut self) {
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

    // ----- the disk

    fn commit(&mut self, failures: u64) {
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

    fn store(&mut self, message: Message, to: Vec<PartyRef>) {
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
    fn end(&mut self, seq: u64, state: State) {
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

    fn expire(&mut self) {
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

    fn restart(&mut self) {
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

    // ----- a reader

    fn read_on(&mut self, id: u64) {
        match self.rng.between(0, 9) {
            0..=1 => drop(self.notice(id)),
            2..=5 => drop(self.page(id)),
            6..=8 => drop(self.send_one(id)),
            _ => self.due(id),
        }
    }

    /// True: there was something to notice.
    fn notice(&mut self, id: u64) -> bool {
        let reader = self.readers.get_mut(&id).unwrap();
        match reader.notices.pop_front() {
            Some(Notice::Woken) => reader.window.woken(),
            Some(Notice::Finished(seq)) => reader.window.finished(seq),
            None => return false,
        }
        true
    }

    /// What a reader does before each of its steps: its share may have changed.
    fn apply_changes(&mut self, id: u64) {
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
    fn page(&mut self, id: u64) -> bool {
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
    fn send_one(&mut self, id: u64) -> bool {
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

    fn due(&mut self, id: u64) {
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

    // ----- what holds

    /// Bytes on disk and on the way there, by session and by sender.
    fn stored(&self) -> (BTreeMap<String, u64>, BTreeMap<PartyRef, u64>) {
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

    fn check(&self) {
        assert_eq!(self.router.accounts(), self.stored(), "the quotas are not what is stored");
        assert_eq!(self.subscriptions.count(), self.readers.len());
        for reader in self.readers.values() {
            assert!(reader.window.len() <= 4);
        }
    }

    /// All is quiet: whoever has something waiting subscribes, and takes what it
    /// gets or stays silent. Then nothing may be left.
    fn finish(&mut self, acknowledges: bool) {
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

/// A party of this node, or another server as a whole.
fn account(from: &PartyRef) -> PartyRef {
    let name = if from.peer == PeerId::SELF { from.name.clone() } else { String::new() };
    PartyRef { peer: from.peer, name }
}
