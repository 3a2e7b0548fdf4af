//! What a real driver does beside its machine: performs the actions, answers the
//! peer, takes up what came from it one thing at a time.

use super::{
    disk::{Change, Row, Serial, Then},
    node::{Arrived, InPush, PullCall, PushCall},
    oracle::Sight,
    world::{Happening, Reply, Request, Side, TRANSIENT, World, note},
};
use pillarbox::federation::{
    delivery::{Action, Arrival, Because, Call, Failure, Heard, Input, State},
    stream::{Mark, Position, Verdict, judge},
};

const PAGE: usize = 4;
const PUSH_DEADLINE: u64 = 30_000;
const PULL_DEADLINE: u64 = 10_000;

impl World {
    pub fn perform(&mut self, side: Side, action: Action) {
        let Some(life) = self.life_mut(side) else { return };
        let id = life.id;
        match action {
            Action::Push { after } => {
                if life.machine.state() == State::Queued || life.machine.held() {
                    let state = life.machine.state();
                    self.oracle.break_rule(|| format!("{side:?} pushes while {state:?} or held"));
                }
                if self.is_stock(side.peer) && self.forgets_unwritten(side) {
                    self.oracle.break_rule(|| format!("{side:?} pushes while a settled row is not forgotten on disk"));
                }
                let plain = self.life_mut(side).is_some_and(|life| std::mem::take(&mut life.no_session));
                if self.has_sessions(side) && !plain {
                    if self.rng.chance(5) {
                        return self.plan_in(1, Happening::NoSession { side, life: id });
                    }
                    return self.open_session(side);
                }
                let wait = self.rng.between(0, 20);
                self.plan_in(wait, Happening::ReadRow { side, life: id, after });
            }
            Action::Deliver { after } => self.begin_session(side, after),
            Action::EndSession => self.end_session(side),
            Action::DropSession => self.drop_session(side),
            Action::Pull { waiting } => {
                let state = Some(self.mark(side));
                let call = self.call(side, Request::Pull { state, waiting });
                let until = self.now + PULL_DEADLINE;
                if let Some(life) = self.life_mut(side) {
                    life.pull = Some(PullCall { call, until });
                }
            }
            Action::Answer { call: answer, after } => {
                let at = life.asked.iter().position(|asked| asked.0 == answer);
                let Some(call) = at.map(|at| life.asked.swap_remove(at).1) else {
                    return self.oracle.break_rule(|| format!("{side:?} answers {answer}, which nobody asked"));
                };
                match after {
                    Some(after) => {
                        let wait = self.rng.between(0, 20);
                        self.plan_in(wait, Happening::ReadPage { side, life: id, answer, call, after });
                    }
                    None => self.answer(side, call, Vec::new()),
                }
            }
            Action::Forget { through } => self.submit(side, id, Change::Forget(through)),
            Action::Save { mark, because } => {
                self.check_reason(side, because);
                self.submit(side, id, Change::Save(mark, because));
            }
            Action::SaveQueued(queued) => {
                self.see_queued(side, queued);
                self.submit(side, id, Change::SaveQueued(queued));
            }
        }
    }

    /// A machine may say "restored" only of who was.
    fn check_reason(&mut self, side: Side, because: Because) {
        let (who, sight) = match because {
            Because::PeerRestored { .. } => (side.peer, Sight::ReceiverRestoredHole),
            Because::WeWereRestored => (side.node, Sight::SenderRestoredNewEpoch),
        };
        self.oracle.see(sight);
        if self.oracle.restore.is_none_or(|restore| restore.node != who) {
            self.oracle.break_rule(|| format!("{side:?} says {because:?}, but {who} was never restored"));
        }
    }

    fn see_queued(&mut self, side: Side, queued: bool) {
        let Some(life) = self.life_mut(side) else { return };
        let pages = std::mem::take(&mut life.pages);
        if queued {
            self.oracle.see(Sight::Queued);
        } else if pages > 1 {
            self.oracle.see(Sight::DrainedByPages);
        }
    }

    // ----- we send

    pub fn on_row_read(&mut self, side: Side, life: u32, after: Mark) {
        if self.same_life(side, life).is_none() {
            return;
        }
        let rows = &self.nodes[side.node].disk.peers[side.peer].rows;
        let Some(&Row { number, id, serial }) = rows.iter().find(|row| row.number > after.number) else {
            self.oracle.see(Sight::Empty);
            return self.feed(side, Input::Empty);
        };
        let position = Position { epoch: after.epoch, number, id, after: after.number };
        let call = self.call(side, Request::Push { position, serial });
        let until = self.now + PUSH_DEADLINE;
        if let Some(life) = self.life_mut(side) {
            life.push = Some(PushCall { call, until, number, id });
        }
        self.feed(side, Input::Tick);
    }

    pub fn on_push_answered(&mut self, side: Side, push: PushCall, reply: Reply) {
        let PushCall { number, id, .. } = push;
        match reply {
            Reply::Pushed(state) => {
                let heard = state.map(|mark| self.heard(side, mark));
                self.feed(side, Input::Pushed { number, id, heard });
            }
            Reply::Failed(failure) => self.feed(side, Input::PushFailed(failure)),
            Reply::Page { .. } => {}
        }
    }

    pub fn on_no_session(&mut self, side: Side, id: u32) {
        let Some(life) = self.same_life(side, id) else { return };
        life.no_session = true;
        self.oracle.see(Sight::NoSession);
        self.feed(side, Input::NoSession);
    }

    pub fn heard(&self, side: Side, mark: Mark) -> Heard {
        self.nodes[side.node].disk.peers[side.peer].heard(mark)
    }

    // ----- the peer asks

    pub fn on_pull(&mut self, side: Side, call: u64, state: Option<Mark>, waiting: bool) {
        let (answer, early) = (self.fresh_id(), self.rng.chance(30));
        let now = self.now;
        let Some(life) = self.life_mut(side) else { return };
        life.asked.push((answer, call));
        let settled = life.machine.settled();
        // A request over the same connection shows that the last page arrived.
        let carried = life.arrived.take_if(|(_, at)| early && *at <= now);
        if let Some((earlier, _)) = carried {
            self.feed(side, Input::AnswerSettled { call: earlier });
        }
        let heard = state.map(|mark| self.heard(side, mark));
        if state.is_some_and(|mark| mark.epoch == settled.epoch && mark.number < settled.number) {
            self.oracle.see(Sight::StateCrossedPush);
        }
        if state.is_some_and(|mark| mark.epoch == settled.epoch && mark.number > settled.number) {
            self.oracle.see(Sight::SettledByState);
        }
        self.feed(side, Input::PullAsked { call: answer, heard, waiting });
    }

    fn answer(&mut self, side: Side, call: u64, rows: Vec<(Position, Serial)>) {
        let state = Some(self.mark(side));
        self.send_reply(side.node, side.peer, call, Reply::Page { rows, state });
    }

    pub fn on_page_read(&mut self, side: Side, life: u32, answer: Call, call: u64, after: Mark) {
        if self.same_life(side, life).is_none() {
            return;
        }
        let mut all = true;
        let mut page: Vec<(Position, Serial)> = Vec::new();
        let mut reached = after.number;
        let waiting = &self.nodes[side.node].disk.peers[side.peer].rows;
        for row in waiting.iter().filter(|row| row.number > after.number) {
            if page.len() == PAGE {
                all = false;
                break;
            }
            let position = Position { epoch: after.epoch, number: row.number, id: row.id, after: reached };
            reached = row.number;
            page.push((position, row.serial));
        }
        let Some(&(Position { number, id, .. }, _)) = page.last() else {
            self.answer(side, call, page);
            self.oracle.see(Sight::Empty);
            return self.feed(side, Input::Empty);
        };
        note!(self, "{}:{} page for #{call}: {page:?}", side.node, side.peer);
        if self.is_stock(side.peer) {
            let wait = self.send_stock_page(side, life, answer, call, Reply::Page { rows: page, state: None });
            let arrives = wait.map(|wait| (answer, self.now + wait));
            if let Some(life) = self.life_mut(side) {
                life.arrived = arrives;
            }
        } else {
            self.answer(side, call, page);
        }
        if let Some(life) = self.life_mut(side) {
            life.pages += 1;
        }
        self.feed(side, Input::Offered { call: answer, number, id, all });
    }

    pub fn on_evidence(&mut self, side: Side, life: u32, answer: Call, arrived: bool) {
        if self.same_life(side, life).is_none() {
            return;
        }
        if arrived {
            self.oracle.see(Sight::AnswerSettled);
            self.feed(side, Input::AnswerSettled { call: answer });
        } else {
            self.oracle.see(Sight::AnswerBroken);
            self.feed(side, Input::AnswerBroken { call: answer });
        }
    }

    // ----- the peer sends

    pub fn on_push(&mut self, side: Side, call: u64, position: Position, serial: Serial) {
        let Some(life) = self.life_mut(side) else { return };
        life.inbox.push_back(Arrived::Push(InPush { call, position, serial }));
        self.take_up(side);
    }

    /// Takes up what came from the peer until something is being applied.
    pub fn take_up(&mut self, side: Side) {
        loop {
            let Some(life) = self.life_mut(side).filter(|life| !life.busy) else { return };
            let Some(next) = life.inbox.pop_front() else {
                let pulling = life.machine.next_pull().is_none();
                if pulling || life.batches.is_empty() || !self.take_batches(side) {
                    return;
                }
                continue;
            };
            match next {
                Arrived::Push(push) => match life.machine.push_arrived() {
                    Arrival::Apply => self.apply_push(side, push),
                    Arrival::Wait => {
                        life.waiting = Some(push);
                        self.oracle.see(Sight::PushWaited);
                    }
                    Arrival::Refuse => {
                        self.oracle.see(Sight::PushRefusedWhilePulling);
                        self.send_reply(side.node, side.peer, push.call, Reply::Failed(TRANSIENT));
                    }
                },
                Arrived::Waited(push) => self.apply_push(side, push),
                Arrived::Page { rows, state } => self.apply_page(side, &rows, state),
            }
        }
    }

    fn apply_push(&mut self, side: Side, push: InPush) {
        let then = Then::Push { call: push.call };
        if !self.apply(side, &[(push.position, push.serial)], then) {
            self.push_taken(side, push.call);
        }
    }

    fn apply_page(&mut self, side: Side, rows: &[(Position, Serial)], state: Option<Mark>) {
        if !self.apply(side, rows, Then::Page { state }) {
            self.page_taken(side, state, !rows.is_empty());
        }
    }

    /// Judges rows and has the store apply what holds; false: nothing did.
    pub fn apply(&mut self, side: Side, rows: &[(Position, Serial)], then: Then) -> bool {
        let was = self.mark(side);
        let positions: Vec<Position> = rows.iter().map(|&(position, _)| position).collect();
        let (skip, take, mark) = match judge(was, &positions) {
            Verdict::Apply { skip, take, mark } => (skip, take, mark),
            Verdict::Forked => {
                self.oracle.see(Sight::Forked);
                (0, 0, was)
            }
        };
        if skip > 0 {
            self.oracle.see(Sight::AppliedBefore);
        }
        if take == 0 {
            if skip < rows.len() {
                self.oracle.see(Sight::GapRefused);
            }
            return false;
        }
        let serials = rows[skip..skip + take].iter().map(|&(_, serial)| serial).collect();
        let Some(life) = self.life_mut(side) else { return false };
        life.busy = true;
        let id = life.id;
        self.submit(side, id, Change::Apply { was, mark, serials, then });
        true
    }

    pub fn push_taken(&mut self, side: Side, call: u64) {
        let state = Some(self.mark(side));
        self.send_reply(side.node, side.peer, call, Reply::Pushed(state));
        self.feed(side, Input::PushTaken);
    }

    pub fn page_taken(&mut self, side: Side, state: Option<Mark>, rows: bool) {
        let heard = state.map(|mark| self.heard(side, mark));
        self.feed(side, Input::Pulled { heard, rows });
        self.pull_over(side);
    }

    pub fn pull_failed(&mut self, side: Side, failure: Failure) {
        self.feed(side, Input::PullFailed(failure));
        self.pull_over(side);
        self.take_up(side);
    }

    /// The Push that waited for our Pull is next.
    fn pull_over(&mut self, side: Side) {
        if let Some(life) = self.life_mut(side)
            && let Some(push) = life.waiting.take()
        {
            life.inbox.push_front(Arrived::Waited(push));
        }
    }
}
