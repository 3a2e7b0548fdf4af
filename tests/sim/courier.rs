//! Sessions between nodes of ours: real windows and the real receiver's rule, over
//! streams that keep their order and die at any point.

use super::{
    disk::{Serial, Then},
    oracle::Sight,
    world::{Happening, Ms, Side, TRANSIENT, World, note},
};
use pillarbox::federation::{
    delivery::{Failure, Input, State},
    stream::{Mark, Position},
    window::{self, WINDOW, Window},
};
use std::collections::HashMap;

const OPENING: Ms = 30_000;
const BATCH: u64 = 3;

/// A session at its sender.
#[derive(Debug)]
pub struct Session {
    pub stream: u64,
    /// Once the machine said where it begins.
    window: Option<Window>,
    /// By the opening.
    granted: u64,
    ending: bool,
    reading: bool,
    /// It opened by then, or it is idle then.
    until: Ms,
}

/// A stream at its receiver.
#[derive(Debug)]
pub struct Inflow {
    stream: u64,
    covered: u64,
    granted: u64,
    taken: u64,
}

/// A batch that waits to be applied.
#[derive(Debug, Clone)]
pub struct InBatch {
    pub stream: u64,
    pub after: Mark,
    pub rows: Vec<(Position, Serial)>,
}

#[derive(Debug, Clone)]
pub enum Message {
    Open,
    Batch {
        after: Mark,
        rows: Vec<(Position, Serial)>,
    },
    /// The sender has sent its last.
    Half,
    Receipt {
        state: Mark,
        batches: u64,
        granted: u64,
    },
    /// The receiver ends it; well, or not.
    Over(Option<Failure>),
}

/// The way of a stream: what is sent arrives in order or not at all.
#[derive(Debug, Default)]
pub struct Streams {
    /// Which pairs of nodes (sender, receiver) use sessions.
    pub lanes: Vec<(usize, usize)>,
    ways: HashMap<u64, Way>,
}

#[derive(Debug)]
struct Way {
    from: usize,
    to: usize,
    dead: bool,
    /// One of its batches was not taken, or another stream took its place.
    broken: bool,
    /// When the last message arrives there, and back.
    arrives: [Ms; 2],
}

impl World {
    /// Draws who uses sessions; other worlds than those are as they were without any.
    pub fn plan_lanes(&mut self, seed: u64) {
        let mut rng = super::rng::Rng::new(seed ^ 0x00c0_0c1e_0000_0000);
        if !rng.chance(60) {
            return;
        }
        let ours = self.nodes.len();
        for (from, to) in (0..ours).flat_map(|from| (0..ours).map(move |to| (from, to))) {
            if from != to && rng.chance(80) {
                self.streams.lanes.push((from, to));
            }
        }
    }

    pub fn has_sessions(&self, side: Side) -> bool {
        self.streams.lanes.contains(&(side.node, side.peer))
    }

    // ----- the way

    fn send_along(&mut self, stream: u64, back: bool, message: Message) {
        let Some(way) = self.streams.ways.get(&stream).filter(|way| !way.dead) else { return };
        let (sender, receiver) = (way.from, way.to);
        let (from, to) = if back { (receiver, sender) } else { (sender, receiver) };
        if matches!(self.link(from, to).cut, Some(super::world::Cut::Refusing)) {
            return self.kill(stream, 100);
        }
        let breaks = self.loss > 0 && self.rng.chance(3);
        // What one message is lost of, a stream makes up for, mostly.
        let wait = match self.way(from, to) {
            None if self.link(from, to).cut.is_none() && self.rng.chance(70) => Some(self.rng.between(200, 1_500)),
            wait => wait,
        };
        let Some(wait) = wait.filter(|_| !breaks) else {
            return self.kill(stream, 50);
        };
        let earliest = self.now + wait;
        if let Some(way) = self.streams.ways.get_mut(&stream) {
            let last = &mut way.arrives[usize::from(back)];
            *last = earliest.max(*last + 1);
            let at = *last;
            self.plan_at(at, Happening::Stream { stream, back, message });
        }
    }

    /// Nothing comes through any more; either end may hear of it.
    fn kill(&mut self, stream: u64, told: u64) {
        let Some(way) = self.streams.ways.get_mut(&stream).filter(|way| !way.dead) else { return };
        way.dead = true;
        self.oracle.see(Sight::StreamDied);
        note!(self, "stream {stream} dies");
        if self.rng.chance(told) {
            let wait = self.rng.between(1, 2_000);
            self.plan_in(wait, Happening::Reset { stream });
        }
    }

    pub fn kill_streams_of(&mut self, node: usize) {
        let mut streams: Vec<u64> =
            self.streams.ways.iter().filter(|(_, way)| way.from == node || way.to == node).map(|(&id, _)| id).collect();
        streams.sort_unstable();
        for stream in streams {
            self.kill(stream, 70);
        }
    }

    pub fn on_reset(&mut self, stream: u64) {
        let Some(way) = self.streams.ways.get(&stream) else { return };
        let side = Side { node: way.from, peer: way.to };
        self.session_failed(side, stream, TRANSIENT);
    }

    pub fn on_stream(&mut self, stream: u64, back: bool, message: Message) {
        let Some(way) = self.streams.ways.get(&stream).filter(|way| !way.dead) else { return };
        let (sender, receiver) = (way.from, way.to);
        note!(self, "stream {stream} of {sender} to {receiver}, back: {back}: {message:?}");
        if back {
            return self.on_answer(Side { node: sender, peer: receiver }, stream, message);
        }
        let side = Side { node: receiver, peer: sender };
        if !self.nodes[receiver].up {
            return self.kill(stream, 100);
        }
        if self.life(side).is_none() {
            self.oracle.see(Sight::RefusedByPeer);
            return self.send_along(stream, true, Message::Over(Some(Failure::Refused)));
        }
        match message {
            Message::Open => self.on_opening(side, stream),
            Message::Batch { after, rows } => self.on_batch(side, InBatch { stream, after, rows }),
            Message::Half => self.send_along(stream, true, Message::Over(None)),
            Message::Receipt { .. } | Message::Over(_) => {}
        }
    }

    // ----- its sender

    pub fn open_session(&mut self, side: Side) {
        let stream = self.fresh_id();
        let way = Way { from: side.node, to: side.peer, dead: false, broken: false, arrives: [0, 0] };
        self.streams.ways.insert(stream, way);
        let until = self.now + OPENING;
        let session = Session { stream, window: None, granted: 0, ending: false, reading: false, until };
        if let Some(life) = self.life_mut(side) {
            life.session = Some(session);
        }
        self.count_request();
        self.send_along(stream, false, Message::Open);
        // Else nobody looks at the deadline.
        self.plan_in(0, Happening::SessionDue { side, stream });
    }

    fn session(&mut self, side: Side, stream: u64) -> Option<&mut Session> {
        self.life_mut(side)?.session.as_mut().filter(|session| session.stream == stream)
    }

    pub fn begin_session(&mut self, side: Side, after: Mark) {
        let Some(session) = self.life_mut(side).and_then(|life| life.session.as_mut()) else {
            return self.oracle.break_rule(|| format!("{side:?} delivers without a session"));
        };
        session.window = Some(Window::new(after, session.granted));
        self.wake_session(side);
    }

    pub fn end_session(&mut self, side: Side) {
        self.oracle.see(Sight::SessionToldToEnd);
        let Some(session) = self.life_mut(side).and_then(|life| life.session.as_mut()) else { return };
        session.ending = true;
        let stream = session.stream;
        self.plan_in(0, Happening::SessionDue { side, stream });
    }

    pub fn drop_session(&mut self, side: Side) {
        self.oracle.see(Sight::SessionDropped);
        if let Some(session) = self.life_mut(side).and_then(|life| life.session.take()) {
            // What is under way may arrive yet.
            if self.rng.chance(50) {
                self.kill(session.stream, 0);
            }
        }
    }

    /// There may be rows to send.
    pub fn wake_session(&mut self, side: Side) {
        let Some(session) = self.life_mut(side).and_then(|life| life.session.as_mut()) else { return };
        if session.window.is_none() || std::mem::replace(&mut session.reading, true) {
            return;
        }
        let stream = session.stream;
        let wait = self.rng.between(0, 20);
        self.plan_in(wait, Happening::ReadBatch { side, stream });
    }

    pub fn on_batch_read(&mut self, side: Side, stream: u64) {
        let (most, idle_for) = (self.rng.between(1, BATCH), self.rng.between(500, 20_000));
        let (now, instant) = (self.now, self.instant());
        let Some(session) = self.session(side, stream) else { return };
        session.reading = false;
        let (ending, Some(window)) = (session.ending, session.window.as_mut()) else { return };
        if ending {
            return;
        }
        if !window.may_send() {
            window.wait(instant);
            self.oracle.see(Sight::GrantUsedUp);
            return self.due_later(side, stream);
        }
        let after = window.reached();
        let waiting = &self.nodes[side.node].disk.peers[side.peer].rows;
        let mut before = after.number;
        let rows: Vec<(Position, Serial)> = waiting
            .iter()
            .filter(|row| row.number > after.number)
            .take(usize::try_from(most).expect("few"))
            .map(|row| {
                let position = Position { epoch: after.epoch, number: row.number, id: row.id, after: before };
                before = row.number;
                (position, row.serial)
            })
            .collect();
        let Some(&(last, _)) = rows.last() else { return };
        let Some(life) = self.life_mut(side) else { return };
        if life.machine.state() == State::Queued || life.machine.held() {
            let state = life.machine.state();
            self.oracle.break_rule(|| format!("{side:?} sends a batch while {state:?} or held"));
        }
        let Some(session) = self.session(side, stream) else { return };
        session.until = now + idle_for;
        if let Some(window) = &mut session.window {
            let further = !window.is_idle();
            window.sent(instant, Mark { epoch: last.epoch, number: last.number, id: last.id });
            if further {
                self.oracle.see(Sight::WindowUsed);
            }
        }
        self.count_request();
        self.send_along(stream, false, Message::Batch { after, rows });
        self.due_later(side, stream);
        self.wake_session(side);
    }

    fn due_later(&mut self, side: Side, stream: u64) {
        let Some(session) = self.session(side, stream) else { return };
        let until = session.until;
        let deadline = session.window.as_ref().and_then(Window::deadline);
        let at = deadline.map_or(until, |at| self.millis(at)).max(self.now + 1);
        self.plan_at(at, Happening::SessionDue { side, stream });
    }

    /// Deadlines, and the end of an idle session.
    pub fn on_session_due(&mut self, side: Side, stream: u64) {
        let (now, instant) = (self.now, self.instant());
        let Some(session) = self.session(side, stream) else { return };
        let Some(window) = &session.window else {
            match session.until <= now {
                true => {
                    self.oracle.see(Sight::PushTimedOut);
                    return self.session_failed(side, stream, TRANSIENT);
                }
                false => return self.due_later(side, stream),
            }
        };
        if window.deadline().is_some_and(|at| at <= instant) {
            self.oracle.see(Sight::PushTimedOut);
            return self.session_failed(side, stream, TRANSIENT);
        }
        let idle = session.until <= now && window.deadline().is_none() && !session.reading;
        if window.is_idle() && (session.ending || idle) {
            self.oracle.see(Sight::SessionEnded);
            self.send_along(stream, false, Message::Half);
            self.forget_session(side);
            return self.feed(side, Input::Closed);
        }
        self.due_later(side, stream);
    }

    fn forget_session(&mut self, side: Side) {
        if let Some(life) = self.life_mut(side) {
            life.session = None;
        }
    }

    fn session_failed(&mut self, side: Side, stream: u64, failure: Failure) {
        if self.session(side, stream).is_some() {
            self.kill(stream, 0);
            self.forget_session(side);
            self.feed(side, Input::PushFailed(failure));
        }
    }

    fn on_answer(&mut self, side: Side, stream: u64, message: Message) {
        let instant = self.instant();
        let Some(session) = self.session(side, stream) else { return };
        match message {
            Message::Receipt { state, batches, granted } => {
                let Some(window) = &mut session.window else {
                    session.granted = granted;
                    let heard = self.heard(side, state);
                    return self.feed(side, Input::Opened { heard });
                };
                let covered = match window.receipt(instant, batches, granted) {
                    Ok(covered) => covered,
                    Err(why) => return self.oracle.break_rule(|| format!("{side:?}: {why}")),
                };
                if covered.is_some() && !window.is_idle() {
                    self.oracle.see(Sight::PartialReceipt);
                }
                if let Some(covered) = covered {
                    let heard = self.heard(side, state);
                    self.feed(side, Input::Receipt { number: covered.last.number, heard });
                }
                self.wake_session(side);
                if self.session(side, stream).is_some_and(|session| session.ending) {
                    self.plan_in(0, Happening::SessionDue { side, stream });
                }
            }
            Message::Over(None) if session.window.as_ref().is_some_and(Window::is_idle) => {
                self.forget_session(side);
                self.feed(side, Input::Closed);
            }
            Message::Over(failure) => self.session_failed(side, stream, failure.unwrap_or(TRANSIENT)),
            Message::Open | Message::Batch { .. } | Message::Half => {}
        }
    }

    // ----- its receiver

    fn on_opening(&mut self, side: Side, stream: u64) {
        let state = self.mark(side);
        let granted = window::grant(0, 0, self.rng.index(4));
        let before = self.life(side).and_then(|life| life.inflow.as_ref()).map(|inflow| inflow.stream);
        if let Some(way) = before.and_then(|before| self.streams.ways.get_mut(&before)) {
            way.broken = true;
        }
        if let Some(life) = self.life_mut(side) {
            life.inflow = Some(Inflow { stream, covered: 0, granted, taken: 0 });
        }
        self.send_along(stream, true, Message::Receipt { state, batches: 0, granted });
    }

    fn on_batch(&mut self, side: Side, batch: InBatch) {
        let Some(life) = self.life_mut(side) else { return };
        let Some(inflow) = life.inflow.as_mut().filter(|inflow| inflow.stream == batch.stream) else { return };
        inflow.taken += 1;
        if inflow.taken > inflow.granted || inflow.taken - inflow.covered > WINDOW {
            return self.oracle.break_rule(|| format!("{side:?}: more batches than were granted"));
        }
        let waits = life.machine.next_pull().is_none();
        life.batches.push_back(batch);
        if waits {
            self.oracle.see(Sight::BatchWaited);
        }
        self.take_up(side);
    }

    /// Takes up some of the batches that wait; false: there was none to take.
    pub fn take_batches(&mut self, side: Side) -> bool {
        let together = self.rng.between(1, 3);
        let (was, mut taken, mut rows) = (self.mark(side), Vec::new(), Vec::new());
        let mut mark = was;
        while taken.len() < usize::try_from(together).expect("few") {
            let Some(batch) = self.life_mut(side).and_then(|life| life.batches.pop_front()) else { break };
            let stream = batch.stream;
            let broken = self.streams.ways.get(&stream).is_none_or(|way| way.broken);
            let positions: Vec<Position> = batch.rows.iter().map(|&(position, _)| position).collect();
            match window::take(mark, batch.after, &positions) {
                _ if broken => continue,
                Ok(reached) => {
                    mark = reached;
                    taken.push(stream);
                    rows.extend(batch.rows);
                }
                Err(_) if !taken.is_empty() => {
                    if let Some(life) = self.life_mut(side) {
                        life.batches.push_front(batch);
                    }
                    break;
                }
                Err(refusal) => {
                    note!(self, "{}:{} refuses a batch: {refusal:?}", side.node, side.peer);
                    if let Some(way) = self.streams.ways.get_mut(&stream) {
                        way.broken = true;
                    }
                    self.receipt(side, stream, 1);
                    self.send_along(stream, true, Message::Over(Some(TRANSIENT)));
                }
            }
        }
        if taken.is_empty() {
            return self.life(side).is_some_and(|life| !life.batches.is_empty());
        }
        self.oracle.see(Sight::Batch);
        if !self.apply(side, &rows, Then::Batches { streams: taken.clone() }) {
            self.batches_taken(side, &taken);
        }
        true
    }

    pub fn batches_taken(&mut self, side: Side, streams: &[u64]) {
        match self.rng.chance(50) {
            true => streams.iter().for_each(|&stream| self.receipt(side, stream, 1)),
            false => {
                for (at, &stream) in streams.iter().enumerate() {
                    if streams.get(at + 1) != Some(&stream) {
                        let n = streams.iter().filter(|&&other| other == stream).count() as u64;
                        self.receipt(side, stream, n);
                    }
                }
            }
        }
        self.feed(side, Input::PushTaken);
    }

    fn receipt(&mut self, side: Side, stream: u64, batches: u64) {
        let (state, room) = (self.mark(side), self.rng.index(5));
        let Some(life) = self.life_mut(side) else { return };
        let Some(inflow) = life.inflow.as_mut().filter(|inflow| inflow.stream == stream) else { return };
        inflow.covered += batches;
        inflow.granted = window::grant(inflow.granted, inflow.covered, room);
        let (batches, granted) = (inflow.covered, inflow.granted);
        self.send_along(stream, true, Message::Receipt { state, batches, granted });
    }
}
