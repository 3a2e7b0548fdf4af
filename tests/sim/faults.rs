//! What goes wrong in a world, drawn from its seed, and the healing of it all.

use super::{
    disk::Change,
    oracle::Sight,
    world::{Cut, EVENTS_END, FAULTS_END, Happening, Link, Ms, Side, World, note},
};
use pillarbox::federation::delivery::{Input, State};

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Crash {
        node: usize,
    },
    /// It crashes between two actions of one handling.
    CrashMidAction {
        node: usize,
    },
    Start {
        node: usize,
    },
    SetLink {
        from: usize,
        to: usize,
        link: Link,
    },
    Backup {
        node: usize,
    },
    Restore {
        node: usize,
    },
    Remove(Side),
    Add(Side),
    Hold(Side, bool),
    RetryNow {
        side: Side,
        push: bool,
    },
    Drop {
        side: Side,
        rows: usize,
    },
    Heal,
}

impl World {
    /// Draws all that will happen.
    pub fn plan(&mut self) {
        self.loss = if self.rng.chance(60) { self.rng.between(0, 30) } else { 0 };
        self.duplicates = if self.rng.chance(50) { self.rng.between(0, 20) } else { 0 };
        self.plan_clients();
        self.plan_crashes();
        self.plan_links();
        if self.rng.chance(35) {
            self.plan_restore();
        }
        if self.rng.chance(25) {
            let (side, at) = (self.some_side(), self.some_time());
            let back = at + self.some_length(20_000);
            self.fault(at, Fault::Remove(side));
            self.fault(back, Fault::Add(side));
        }
        if self.rng.chance(60) {
            self.plan_operator();
        }
        self.fault(FAULTS_END, Fault::Heal);
    }

    fn fault(&mut self, at: Ms, fault: Fault) {
        self.plan_at(at.min(FAULTS_END), Happening::Fault(fault));
    }

    fn some_time(&mut self) -> Ms {
        self.rng.between(0, FAULTS_END - 1)
    }

    /// Mostly short, at times as long as this.
    fn some_length(&mut self, most: Ms) -> Ms {
        let long = self.rng.chance(40);
        self.rng.between(1, if long { most } else { most / 20 + 1 })
    }

    fn some_node(&mut self) -> usize {
        self.rng.index(self.nodes.len())
    }

    fn some_side(&mut self) -> Side {
        let node = self.some_node();
        let all = self.all();
        let peer = (node + 1 + self.rng.index(all - 1)) % all;
        Side { node, peer }
    }

    fn plan_clients(&mut self) {
        for _ in 0..self.rng.between(3, 9) {
            let (side, at, events) = (self.some_side(), self.some_time(), self.rng.between(1, 9));
            self.plan_client(side, at, events);
        }
        for _ in 0..5 {
            let (side, at) = (self.some_side(), self.rng.between(FAULTS_END + 1, EVENTS_END));
            self.plan_client(side, at, 1);
        }
    }

    fn plan_crashes(&mut self) {
        for _ in 0..self.rng.between(0, 4) {
            let (node, at, down) = (self.some_node(), self.some_time(), self.some_length(20_000));
            let fault = match self.rng.chance(50) {
                true => Fault::CrashMidAction { node },
                false => Fault::Crash { node },
            };
            self.fault(at, fault);
            self.fault(at + down, Fault::Start { node });
        }
    }

    fn plan_links(&mut self) {
        for _ in 0..self.rng.between(0, 4) {
            let side = self.some_side();
            let (from, to) = if self.rng.chance(50) { (side.node, side.peer) } else { (side.peer, side.node) };
            let (at, length) = (self.some_time(), self.some_length(30_000));
            let link = match self.rng.index(3) {
                0 => Link { cut: Some(Cut::Silent), slow: 0 },
                1 => Link { cut: Some(Cut::Refusing), slow: 0 },
                _ => Link { cut: None, slow: self.rng.between(100, 4_000) },
            };
            let both = self.rng.chance(50);
            for (from, to) in [(from, to), (to, from)].into_iter().take(1 + usize::from(both)) {
                self.fault(at, Fault::SetLink { from, to, link });
                self.fault(at + length, Fault::SetLink { from, to, link: Link::default() });
            }
        }
    }

    fn plan_restore(&mut self) {
        let (node, backup) = (self.some_node(), self.some_time());
        let peer = (node + 1 + self.rng.index(self.all() - 1)) % self.all();
        let side = Side { node, peer };
        match self.rng.index(3) {
            0 => {
                let at = backup + self.some_length(40_000);
                let down = self.some_length(10_000);
                self.plan_restore_at(side, backup, at, down);
            }
            1 => self.plan_restore_amid_traffic(side, backup),
            _ => self.plan_restore_at_once(side, backup),
        }
    }

    fn plan_restore_at(&mut self, side: Side, backup: Ms, at: Ms, down: Ms) {
        let at = at.min(FAULTS_END - 2);
        self.fault(backup, Fault::Backup { node: side.node });
        self.fault(at, Fault::Restore { node: side.node });
        self.fault(at + down, Fault::Start { node: side.node });
        // What is stored after it must not be lost.
        let (soon, events) = (self.rng.between(0, 4_000), self.rng.between(1, 6));
        self.plan_client(side, at + down + soon, events);
    }

    /// Messages of the life before the restore arrive in the life after it.
    fn plan_restore_amid_traffic(&mut self, side: Side, backup: Ms) {
        let at = backup + self.some_length(40_000);
        self.plan_restore_at(side, backup, at, 50);
        for _ in 0..self.rng.between(1, 4) {
            let when = self.rng.between(backup.max(at.saturating_sub(4_000)), at + 3_000);
            let events = self.rng.between(1, 4);
            let client = if self.rng.chance(70) { side } else { self.some_side() };
            self.plan_client(client, when, events);
        }
        let slow = self.rng.between(500, 4_000);
        self.plan_slow(side, at.saturating_sub(2_000), at + 6_000, slow);
        self.plan_slow(Side { node: side.peer, peer: side.node }, at.saturating_sub(2_000), at + 6_000, slow);
    }

    /// The rows stored right after the backup are under way when the life after
    /// the restore gives their numbers to others.
    fn plan_restore_at_once(&mut self, side: Side, backup: Ms) {
        let at = backup + self.rng.between(50, 1_500);
        let down = self.rng.between(1, 50);
        self.plan_restore_at(side, backup, at, down);
        for _ in 0..self.rng.between(1, 3) {
            let (when, events) = (self.rng.between(backup, at), self.rng.between(1, 3));
            self.plan_client(side, when, events);
        }
        for _ in 0..self.rng.between(1, 3) {
            let (when, events) = (at + down + self.rng.between(0, 3_000), self.rng.between(1, 3));
            let client = if self.rng.chance(60) { side } else { self.some_side() };
            self.plan_client(client, when, events);
        }
        let slow = self.rng.between(500, 4_000);
        self.plan_slow(side, backup.saturating_sub(100), at, slow);
    }

    fn plan_client(&mut self, Side { node, peer }: Side, at: Ms, events: u64) {
        self.plan_at(at, Happening::Client { from: node, to: peer, events });
    }

    fn plan_slow(&mut self, Side { node: from, peer: to }: Side, at: Ms, until: Ms, slow: Ms) {
        self.fault(at, Fault::SetLink { from, to, link: Link { cut: None, slow } });
        self.fault(until, Fault::SetLink { from, to, link: Link::default() });
    }

    fn plan_operator(&mut self) {
        for _ in 0..self.rng.between(1, 3) {
            let (side, at) = (self.some_side(), self.some_time());
            match self.rng.index(3) {
                0 => {
                    let until = at + self.some_length(20_000);
                    self.fault(at, Fault::Hold(side, true));
                    self.fault(until, Fault::Hold(side, false));
                }
                1 => {
                    let push = self.rng.chance(70);
                    self.fault(at, Fault::RetryNow { side, push });
                }
                _ => {
                    let rows = self.rng.index(6) + 1;
                    self.fault(at, Fault::Drop { side, rows });
                }
            }
        }
    }

    pub fn on_fault(&mut self, fault: Fault) {
        note!(self, "=== {fault:?}");
        match fault {
            Fault::Crash { node } => self.crash(node),
            Fault::CrashMidAction { node } => self.nodes[node].dies_next = self.nodes[node].up,
            Fault::Start { node } => self.boot(node),
            Fault::SetLink { from, to, link } => *self.link(from, to) = link,
            Fault::Backup { node } => {
                self.nodes[node].backup = Some(self.nodes[node].disk.clone());
                self.oracle.backup(node);
            }
            Fault::Restore { node } => {
                self.crash(node);
                if let Some(disk) = self.nodes[node].backup.take() {
                    self.nodes[node].disk = disk;
                    self.oracle.restored(node, self.now);
                }
            }
            Fault::Remove(side) if self.life(side).is_some() => {
                self.oracle.see(Sight::Removed);
                self.nodes[side.node].lives[side.peer] = None;
                self.submit(side, 0, Change::Remove);
            }
            Fault::Add(side) => self.add(side),
            Fault::Hold(side, held) => self.hold(side, held),
            Fault::RetryNow { side, push } => {
                if push && self.life(side).is_some_and(|life| life.machine.state() == State::Queued) {
                    self.oracle.see(Sight::OperatorEndedQueued);
                }
                self.feed(side, Input::RetryNow { push });
            }
            Fault::Drop { side, rows } => {
                if let Some(id) = self.life(side).map(|life| life.id) {
                    self.oracle.see(Sight::Dropped);
                    self.submit(side, id, Change::Drop { rows });
                }
            }
            Fault::Remove(_) => {}
            Fault::Heal => self.heal(),
        }
    }

    fn add(&mut self, side: Side) {
        if self.nodes[side.node].up && self.life(side).is_none() {
            let now = self.now;
            self.submit(side, 0, Change::Add { now });
        }
    }

    fn hold(&mut self, side: Side, held: bool) {
        let Some(id) = self.life(side).map(|life| life.id) else { return };
        if held {
            self.oracle.see(Sight::Held);
        }
        self.submit(side, id, Change::SaveHeld(held));
        self.feed(side, Input::Hold(held));
    }

    fn heal(&mut self) {
        (self.loss, self.duplicates) = (0, 0);
        let all = self.all();
        for from in 0..all {
            for to in 0..all {
                *self.link(from, to) = Link::default();
            }
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].dies_next = false;
            self.boot(node);
            for peer in (0..all).filter(|&peer| peer != node) {
                let side = Side { node, peer };
                self.add(side);
                if self.life(side).is_some_and(|life| life.machine.held()) {
                    self.hold(side, false);
                }
            }
        }
    }
}
