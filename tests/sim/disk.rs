//! What a simulated node has on disk, and the operations that change it. A disk
//! survives crashes and can be copied: that copy is a backup.

use pillarbox::federation::{
    delivery::{Because, Heard, Kind, Saved},
    stream::Mark,
};
use std::collections::VecDeque;

pub type Serial = u32;

/// An outbox row. `serial` is the payload: the world's own count of events.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub number: u64,
    pub id: u64,
    pub serial: Serial,
}

/// All that is remembered of one peer.
#[derive(Debug, Clone)]
pub struct PeerDisk {
    pub present: bool,
    pub kind: Kind,
    pub settled: Mark,
    pub queued: bool,
    pub held: bool,
    pub rows: VecDeque<Row>,
    pub dead: Vec<Row>,
    /// How far this peer's stream to us was applied, and what it brought.
    pub mark: Mark,
    pub log: Vec<Serial>,
    /// What the peer lost by its own restore: after .0, through .1.
    pub holes: Vec<(u64, u64)>,
}

#[derive(Debug, Clone)]
pub struct Disk {
    /// One for all peers: each peer's numbers have holes.
    pub next_number: u64,
    pub peers: Vec<PeerDisk>,
}

#[derive(Debug, Clone)]
pub enum Then {
    /// Answer this Push.
    Push { call: u64 },
    /// Receipts for batches of these streams.
    Batches { streams: Vec<u64> },
    /// Our Pull is done; the answer carried this state.
    Page { state: Option<Mark> },
}

#[derive(Debug, Clone)]
pub enum Change {
    Enqueue {
        serial: Serial,
        id: u64,
    },
    Apply {
        was: Mark,
        mark: Mark,
        serials: Vec<Serial>,
        then: Then,
    },
    Forget(Mark),
    Save(Mark, Because),
    SaveQueued(bool),
    SaveKind(Kind),
    SaveHeld(bool),
    /// The first `rows` rows become dead letters by the operator's word.
    Drop {
        rows: usize,
    },
    Remove,
    Add {
        now: u64,
    },
}

/// A change about one peer, asked for by one life of its machine.
#[derive(Debug, Clone)]
pub struct Op {
    pub peer: usize,
    pub life: u32,
    pub change: Change,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Nothing,
    Refused,
    Stored {
        number: u64,
        serial: Serial,
    },
    Applied {
        serials: Vec<Serial>,
        then: Then,
    },
    Saved(Mark),
    Dropped {
        newest: u64,
        killed: Vec<Serial>,
    },
    Added,
    /// The guard "mark was" did not hold.
    Guard,
}

impl Disk {
    pub fn new(epochs: impl Iterator<Item = u64>) -> Self {
        let peers = epochs.map(PeerDisk::new).collect();
        Self { next_number: 1, peers }
    }

    pub fn commit(&mut self, op: &Op) -> Outcome {
        let peer = &mut self.peers[op.peer];
        match &op.change {
            Change::Enqueue { .. } if !peer.present => return Outcome::Refused,
            &Change::Enqueue { serial, id } => {
                let number = self.next_number;
                self.next_number += 1;
                peer.rows.push_back(Row { number, id, serial });
                return Outcome::Stored { number, serial };
            }
            Change::Apply { was, .. } if *was != peer.mark => return Outcome::Guard,
            Change::Apply { mark, serials, then, .. } => {
                peer.mark = *mark;
                return Outcome::Applied { serials: serials.clone(), then: then.clone() };
            }
            Change::Forget(mark) => {
                peer.rows.retain(|row| row.number > mark.number);
                peer.settled = *mark;
                return Outcome::Saved(*mark);
            }
            Change::Save(mark, because) => {
                peer.settled = *mark;
                if let Because::PeerRestored { from, through } = *because {
                    peer.holes.push((from, through));
                }
                return Outcome::Saved(*mark);
            }
            Change::SaveQueued(queued) => peer.queued = *queued,
            Change::SaveKind(kind) => peer.kind = *kind,
            Change::SaveHeld(held) => peer.held = *held,
            Change::Drop { rows } => {
                let killed = peer.kill(*rows);
                return Outcome::Dropped { newest: peer.newest(), killed };
            }
            Change::Remove if peer.present => {
                peer.present = false;
                let killed = peer.kill(usize::MAX);
                return Outcome::Dropped { newest: 0, killed };
            }
            Change::Add { now } if !peer.present => {
                let epoch = (peer.settled.epoch + 1).max(*now);
                peer.settled = Mark { epoch, number: 0, id: 0 };
                (peer.present, peer.queued, peer.held, peer.kind) = (true, false, false, Kind::Unknown);
                return Outcome::Added;
            }
            Change::Remove | Change::Add { .. } => {}
        }
        Outcome::Nothing
    }
}

impl PeerDisk {
    fn new(epoch: u64) -> Self {
        Self {
            present: true,
            kind: Kind::Unknown,
            settled: Mark { epoch, number: 0, id: 0 },
            queued: false,
            held: false,
            rows: VecDeque::new(),
            dead: Vec::new(),
            mark: Mark::default(),
            log: Vec::new(),
            holes: Vec::new(),
        }
    }

    fn kill(&mut self, rows: usize) -> Vec<Serial> {
        let n = rows.min(self.rows.len());
        let from = self.dead.len();
        self.dead.extend(self.rows.drain(..n));
        self.dead[from..].iter().map(|row| row.serial).collect()
    }

    pub fn newest(&self) -> u64 {
        self.rows.back().map_or(0, |row| row.number)
    }

    pub fn saved(&self) -> Saved {
        Saved { kind: self.kind, settled: self.settled, newest: self.newest(), queued: self.queued, held: self.held }
    }

    /// A state the peer told, beside what we know of the row at its mark.
    pub fn heard(&self, mark: Mark) -> Heard {
        let row = self.rows.iter().chain(&self.dead).find(|row| row.number == mark.number);
        Heard { mark, id_here: row.map(|row| row.id) }
    }
}
