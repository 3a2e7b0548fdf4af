//! One of our nodes: its disk, its store's queue, and what a process keeps in
//! memory of each peer while it lives.

use super::{
    courier::{InBatch, Inflow, Session},
    disk::{Change, Disk, Op, Outcome, Serial, Then},
    oracle::Sight,
    rng::Rng,
    world::{Happening, Ms, Reply, Request, Side, World, note, retry},
};
use pillarbox::federation::{
    delivery::{Call, Delivery, Input, Kind, State},
    stream::{Mark, Position},
};
use std::{collections::VecDeque, time::Duration};

#[derive(Debug)]
pub struct Node {
    pub up: bool,
    /// Counts starts: what an earlier process planned is void.
    pub boot: u32,
    pub disk: Disk,
    pub backup: Option<Disk>,
    pending: VecDeque<Op>,
    committing: bool,
    /// By peer; `None`: removed, or not known.
    pub lives: Vec<Option<Life>>,
    /// Dies after the next action it performs.
    pub dies_next: bool,
}

/// A machine and what its driver holds beside it.
#[derive(Debug)]
pub struct Life {
    pub id: u32,
    pub machine: Delivery,
    timer: Option<Ms>,
    pub push: Option<PushCall>,
    pub pull: Option<PullCall>,
    /// Pulls of the peer that are being answered: the machine's name, the call.
    pub asked: Vec<(Call, u64)>,
    /// What came from the peer, one thing at a time.
    pub inbox: VecDeque<Arrived>,
    pub busy: bool,
    /// Batches wait for all else, and for a Pull under way.
    pub batches: VecDeque<InBatch>,
    pub inflow: Option<Inflow>,
    pub session: Option<Session>,
    /// The next Push is a plain one.
    pub no_session: bool,
    pub waiting: Option<InPush>,
    kind_saved: Kind,
    /// Pages given since it was Queued.
    pub pages: u32,
    /// A page that reached the stock peer, unsettled.
    pub arrived: Option<(Call, Ms)>,
}

#[derive(Debug, Clone, Copy)]
pub struct PushCall {
    pub call: u64,
    pub until: Ms,
    pub number: u64,
    pub id: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct PullCall {
    pub call: u64,
    pub until: Ms,
}

#[derive(Debug, Clone, Copy)]
pub struct InPush {
    pub call: u64,
    pub position: Position,
    pub serial: Serial,
}

#[derive(Debug, Clone)]
pub enum Arrived {
    Push(InPush),
    /// The Push that waited for our Pull.
    Waited(InPush),
    Page {
        rows: Vec<(Position, Serial)>,
        state: Option<Mark>,
    },
}

impl Node {
    pub fn new(all: usize, rng: &mut Rng) -> Self {
        Self {
            up: false,
            boot: 0,
            disk: Disk::new((0..all).map(|_| rng.between(1, 50))),
            backup: None,
            pending: VecDeque::new(),
            committing: false,
            lives: (0..all).map(|_| None).collect(),
            dies_next: false,
        }
    }
}

impl World {
    pub fn life(&self, side: Side) -> Option<&Life> {
        self.nodes[side.node].lives[side.peer].as_ref()
    }

    pub fn life_mut(&mut self, side: Side) -> Option<&mut Life> {
        self.nodes[side.node].lives[side.peer].as_mut()
    }

    /// This very life, not one after it.
    pub fn same_life(&mut self, side: Side, id: u32) -> Option<&mut Life> {
        self.life_mut(side).filter(|life| life.id == id)
    }

    pub fn mark(&self, side: Side) -> Mark {
        self.nodes[side.node].disk.peers[side.peer].mark
    }

    // ----- a process begins and ends

    pub fn boot(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        note!(self, "{node} starts");
        self.nodes[node].up = true;
        self.nodes[node].boot += 1;
        for peer in 0..self.all() {
            if peer != node && self.nodes[node].disk.peers[peer].present {
                self.be_born(Side { node, peer });
            }
        }
    }

    fn be_born(&mut self, side: Side) {
        let first_pull = self.instant() + Duration::from_millis(self.rng.between(0, 2_000));
        let (id, seed) = (self.fresh_id(), self.rng.draw());
        let saved = self.nodes[side.node].disk.peers[side.peer].saved();
        note!(self, "{}:{} machine made of {saved:?}", side.node, side.peer);
        let life = Life {
            id: u32::try_from(id).expect("a world has few ids"),
            machine: Delivery::new(retry(), seed, saved, first_pull),
            timer: None,
            push: None,
            pull: None,
            asked: Vec::new(),
            inbox: VecDeque::new(),
            busy: false,
            batches: VecDeque::new(),
            inflow: None,
            session: None,
            no_session: false,
            waiting: None,
            kind_saved: saved.kind,
            pages: 0,
            arrived: None,
        };
        self.nodes[side.node].lives[side.peer] = Some(life);
        let learnt = if self.is_stock(side.peer) { Kind::Stock } else { Kind::Ours };
        match self.rng.chance(30) {
            true => self.feed(side, Input::Learnt(learnt)),
            false => self.feed(side, Input::Tick),
        }
    }

    /// The process ends between any two actions. What the store was about to
    /// write is on disk up to some point, and nobody was told.
    pub fn crash(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.oracle.see(Sight::Crash);
        let written = self.rng.index(self.nodes[node].pending.len() + 1);
        note!(self, "{node} crashes, {written} of {} waiting changes are on disk", self.nodes[node].pending.len());
        for n in 0.. {
            let Some(op) = self.nodes[node].pending.pop_front() else { break };
            if n < written {
                self.oracle.see(Sight::CommittedUnheard);
                self.commit(node, &op);
            } else {
                self.oracle.see(Sight::CommitLost);
            }
        }
        let it = &mut self.nodes[node];
        (it.up, it.committing, it.dies_next) = (false, false, false);
        it.lives.iter_mut().for_each(|life| *life = None);
        self.kill_streams_of(node);
    }

    // ----- the store

    pub fn submit(&mut self, side: Side, life: u32, change: Change) {
        let node = &mut self.nodes[side.node];
        node.pending.push_back(Op { peer: side.peer, life, change });
        if !std::mem::replace(&mut node.committing, true) {
            self.plan_commit(side.node);
        }
    }

    /// A crash now would make a row be sent again.
    pub fn forgets_unwritten(&self, side: Side) -> bool {
        let pending = &self.nodes[side.node].pending;
        pending.iter().any(|op| op.peer == side.peer && matches!(op.change, Change::Forget(_)))
    }

    fn plan_commit(&mut self, node: usize) {
        let slow = self.rng.chance(5);
        let wait = self.rng.between(1, if slow { 700 } else { 30 });
        let boot = self.nodes[node].boot;
        self.plan_in(wait, Happening::Commit { node, boot });
    }

    pub fn on_commit(&mut self, node: usize, boot: u32) {
        if !self.nodes[node].up || self.nodes[node].boot != boot {
            return;
        }
        let batch = self.rng.between(1, 8);
        let mut told = Vec::new();
        for _ in 0..batch {
            let Some(op) = self.nodes[node].pending.pop_front() else { break };
            let outcome = self.commit(node, &op);
            told.push((op, outcome));
        }
        match self.nodes[node].pending.is_empty() {
            true => self.nodes[node].committing = false,
            false => self.plan_commit(node),
        }
        for (op, outcome) in told {
            if self.nodes[node].up {
                self.tell(Side { node, peer: op.peer }, op.life, outcome);
            }
        }
    }

    /// The row changes, and the ledger of what they mean. Nobody is told.
    fn commit(&mut self, node: usize, op: &Op) -> Outcome {
        note!(self, "{node}:{} on disk: {:?}", op.peer, op.change);
        let outcome = self.nodes[node].disk.commit(op);
        match &outcome {
            Outcome::Stored { number, serial } => self.oracle.event(*serial).number = *number,
            Outcome::Applied { serials, .. } => {
                let log = &mut self.nodes[node].disk.peers[op.peer].log;
                self.oracle.applied(node, log, serials, false);
            }
            Outcome::Dropped { killed, .. } => {
                let dropped = matches!(op.change, Change::Drop { .. });
                for &serial in killed {
                    let event = self.oracle.event(serial);
                    event.died = true;
                    event.dropped |= dropped;
                }
            }
            Outcome::Added => {
                self.oracle.see(Sight::AddedAgain);
                self.oracle.added_again.push((node, op.peer, self.now));
            }
            Outcome::Guard => self.oracle.break_rule(|| format!("the guard of {op:?} did not hold at {node}")),
            Outcome::Nothing | Outcome::Refused | Outcome::Saved(_) => {}
        }
        outcome
    }

    fn tell(&mut self, side: Side, life: u32, outcome: Outcome) {
        match outcome {
            Outcome::Stored { number, serial } => {
                self.oracle.event(serial).acknowledged = Some(self.now);
                self.feed(side, Input::Stored { newest: number });
                self.wake_session(side);
            }
            Outcome::Added => self.be_born(side),
            _ if self.same_life(side, life).is_none() => {}
            Outcome::Saved(mark) => self.feed(side, Input::Saved(mark)),
            Outcome::Dropped { newest, .. } => self.feed(side, Input::Dropped { newest }),
            Outcome::Applied { then, .. } => {
                if let Some(life) = self.life_mut(side) {
                    life.busy = false;
                }
                match then {
                    Then::Push { call } => self.push_taken(side, call),
                    Then::Batches { streams } => self.batches_taken(side, &streams),
                    Then::Page { state } => self.page_taken(side, state, true),
                }
                self.take_up(side);
            }
            Outcome::Nothing | Outcome::Refused | Outcome::Guard => {}
        }
    }

    // ----- the machine

    pub fn feed(&mut self, side: Side, input: Input) {
        let now = self.instant();
        let trace = self.trace;
        let Some(life) = self.nodes[side.node].lives[side.peer].as_mut() else { return };
        let before = life.machine.state();
        life.machine.handle(now, input);
        if trace && !matches!(input, Input::Tick) {
            let state = life.machine.state();
            note!(self, "{}:{} {input:?} -> {state:?} {:?}", side.node, side.peer, self.settled(side));
        }
        let asked_while_retrying = matches!(input, Input::PullAsked { .. }) && matches!(before, State::Retrying { .. });
        if asked_while_retrying && self.life(side).is_some_and(|life| life.machine.state() == State::Queued) {
            self.oracle.see(Sight::QueuedByPull);
        }
        self.act(side);
    }

    fn settled(&self, side: Side) -> Option<Mark> {
        self.life(side).map(|life| life.machine.settled())
    }

    /// Performs what the machine wants, as long as the process lives.
    fn act(&mut self, side: Side) {
        loop {
            let Some(life) = self.life_mut(side) else { return };
            let Some(action) = life.machine.poll() else { break };
            note!(self, "{}:{} {action:?}", side.node, side.peer);
            self.perform(side, action);
            if self.nodes[side.node].dies_next {
                self.oracle.see(Sight::CrashMidAction);
                return self.crash(side.node);
            }
        }
        let Some(life) = self.life_mut(side) else { return };
        let (id, kind) = (life.id, life.machine.kind());
        if life.kind_saved != kind {
            life.kind_saved = kind;
            self.submit(side, id, Change::SaveKind(kind));
        }
        self.set_timer(side);
    }

    fn set_timer(&mut self, side: Side) {
        let Some(life) = self.life(side) else { return };
        let tick = life.machine.deadline().map(|at| self.millis(at));
        let push = life.push.map(|push| push.until);
        let pull = life.pull.map(|pull| pull.until);
        let Some(at) = [tick, push, pull].into_iter().flatten().min() else { return };
        if life.timer.is_none_or(|timer| timer > at) {
            let id = life.id;
            if let Some(life) = self.life_mut(side) {
                life.timer = Some(at);
            }
            self.plan_at(at, Happening::Timer { side, life: id });
        }
    }

    pub fn on_timer(&mut self, side: Side, id: u32) {
        let now = self.now;
        let Some(life) = self.same_life(side, id).filter(|life| life.timer == Some(now)) else { return };
        life.timer = None;
        if life.push.take_if(|push| push.until <= now).is_some() {
            self.oracle.see(Sight::PushTimedOut);
            self.feed(side, Input::PushFailed(super::world::TRANSIENT));
        }
        let Some(life) = self.same_life(side, id) else { return };
        if life.pull.take_if(|pull| pull.until <= now).is_some() {
            self.oracle.see(Sight::PullTimedOut);
            self.pull_failed(side, super::world::TRANSIENT);
        }
        self.feed(side, Input::Tick);
    }

    // ----- clients and the end

    pub fn on_client(&mut self, from: usize, to: usize, events: u64) {
        if !self.nodes[from].up {
            return;
        }
        for _ in 0..events {
            let serial = self.oracle.new_event(from, to);
            let id = self.rng.draw() | 1;
            self.submit(Side { node: from, peer: to }, 0, Change::Enqueue { serial, id });
        }
    }

    pub fn check_side(&mut self, side: Side) {
        let stock = self.is_stock(side.peer);
        let rows = self.nodes[side.node].disk.peers[side.peer].rows.len();
        let pending = self.nodes[side.node].pending.len();
        let Some(life) = self.life(side) else {
            return self.oracle.break_rule(|| format!("{side:?} has no machine"));
        };
        let (state, kind) = (life.machine.state(), life.machine.kind());
        let right = if stock { Kind::Stock } else { Kind::Ours };
        if state != State::Live || kind != right || rows + pending > 0 {
            let text = format!("{side:?} ends {state:?} {kind:?} with {rows} rows, {pending} changes unwritten");
            self.oracle.break_rule(|| text);
        }
    }

    /// A reply to a call of ours.
    pub fn on_reply(&mut self, side: Side, call: u64, reply: Reply) {
        note!(self, "{} <- {}  #{call} {reply:?}", side.node, side.peer);
        let Some(life) = self.life_mut(side) else { return };
        if let Some(push) = life.push.take_if(|push| push.call == call) {
            return self.on_push_answered(side, push, reply);
        }
        if life.pull.take_if(|pull| pull.call == call).is_none() {
            return;
        }
        match reply {
            Reply::Page { rows, state } => {
                life.inbox.push_back(Arrived::Page { rows, state });
                self.take_up(side);
            }
            Reply::Failed(failure) => self.pull_failed(side, failure),
            Reply::Pushed(_) => {}
        }
    }

    pub fn call(&mut self, side: Side, request: Request) -> u64 {
        let call = self.fresh_id();
        self.send_request(side.node, side.peer, call, request);
        call
    }
}
