//! One simulated node: the router, the subscriptions and a window a reader over
//! rows in memory, and the rules that hold after each step.

mod callers;
mod readers;
mod rows;
mod rules;

use super::model::{self, Delivery, Disk, Message, Sessions, State};
use crate::{
    relay::{
        router::{Announced, Limits, Router},
        subscriptions::Subscriptions,
        window::{Due, Page, Redelivery, Row, Window},
    },
    rng::Rng,
    types::{Millis, PartyRef, PeerId},
    worlds::Sights,
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
}
