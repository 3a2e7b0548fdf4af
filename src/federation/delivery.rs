//! What one peer is owed and when: the delivery machine.
//!
//! Pure: no I/O, no clock, no randomness of its own. `now` and a seed come in,
//! [`Action`]s go out, [`Delivery::deadline`] says when to call again. It owns
//! the state of one peer (Live, Retrying, Queued; Idle, Pulling) and knows rows
//! by number only. The driver beside it does what the actions say and reports
//! back. Rows are never lost here because none is held here.
//!
//! Call order: any `handle` or `push_arrived`, then `poll` until `None`, then
//! wait for `deadline` or the next input.

mod port;
mod pulls;
mod schedule;
mod session;

pub use port::{Action, Arrival, Because, Call, Failure, Heard, Input, Kind, Saved, State};
pub use schedule::Retry;

use super::stream::Mark;
use session::Session;
use std::{collections::VecDeque, time::Instant};

/// Answers to a stock peer that are not settled; the oldest is given up first.
const OFFERS_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Offer {
    call: Call,
    number: u64,
    id: u64,
    all: bool,
}

#[derive(Debug, Clone, Copy)]
enum Pull {
    Idle { next: Instant },
    Pulling { settles: u64 },
}

/// The machine of one peer.
#[derive(Debug)]
pub struct Delivery {
    retry: Retry,
    random: u64,
    kind: Kind,
    /// A state was heard (or the peer shown to be stock) in this process's life.
    heard: bool,
    settled: Mark,
    /// The highest number settled under this epoch. Above `settled` when the
    /// peer went back: those rows are gone here and may yet turn up there.
    highest: u64,
    /// Counts the changes of `settled`: an answer that was asked for before
    /// the last one cannot prove that the peer went back.
    settles: u64,
    newest: u64,
    state: State,
    /// `settles` when the Push in flight was sent.
    push: Option<u64>,
    /// The Push in flight is a session, and open.
    session: Option<Session>,
    /// The Pull under way, or the next one, stands for a Push.
    pull_is_attempt: bool,
    unsaved: bool,
    epoch_unsaved: bool,
    held: bool,
    offers: VecDeque<Offer>,
    pull: Pull,
    pull_failures: u32,
    pull_failing_since: Option<Instant>,
    /// The operator wants another try; no call has gone well yet.
    retried: bool,
    pulled_once: bool,
    last_empty_pull: Option<Instant>,
    /// The next Pull is due for a reason of its own: no Push puts it off.
    pull_urgent: bool,
    push_waits: bool,
    actions: VecDeque<Action>,
}

impl Delivery {
    /// `first_pull`: when the start-up Pull is due; a node spreads those of its
    /// peers.
    pub fn new(retry: Retry, seed: u64, saved: Saved, first_pull: Instant) -> Self {
        let queued = saved.queued && saved.newest > saved.settled.number;
        Self {
            retry,
            random: seed,
            kind: saved.kind,
            heard: false,
            settled: saved.settled,
            highest: saved.settled.number,
            settles: 0,
            newest: saved.newest,
            state: if queued { State::Queued } else { State::Live },
            push: None,
            session: None,
            pull_is_attempt: false,
            unsaved: false,
            epoch_unsaved: false,
            held: saved.held,
            offers: VecDeque::new(),
            pull: Pull::Idle { next: first_pull },
            pull_failures: 0,
            pull_failing_since: None,
            retried: false,
            pulled_once: false,
            last_empty_pull: None,
            pull_urgent: false,
            push_waits: false,
            actions: VecDeque::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The last row known to be applied at the peer, in our stream's epoch.
    pub fn settled(&self) -> Mark {
        self.settled
    }

    pub fn held(&self) -> bool {
        self.held
    }

    pub fn push_in_flight(&self) -> bool {
        self.push.is_some()
    }

    /// The peer's last calls failed: it gets no more than its share of
    /// connection attempts. The operator's word does not make it well.
    pub fn failing(&self) -> bool {
        self.retried || self.pull_failures > 0 || !matches!(self.state, State::Live)
    }

    /// When the next Pull is due; `None` while one is under way.
    pub fn next_pull(&self) -> Option<Instant> {
        match self.pull {
            Pull::Idle { next } => Some(next),
            Pull::Pulling { .. } => None,
        }
    }

    /// What is to be done, oldest first.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When `handle(Tick)` is due.
    pub fn deadline(&self) -> Option<Instant> {
        let retry = match self.state {
            State::Retrying { at, .. } if self.may_attempt() => Some(at),
            _ => None,
        };
        [retry, self.next_pull()].into_iter().flatten().min()
    }

    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Stored { newest } => self.newest = self.newest.max(newest),
            Input::Dropped { newest } => self.newest = newest,
            Input::Empty => {
                self.newest = self.settled.number;
                self.push = None;
            }
            Input::Pushed { number, id, heard } => self.on_pushed(now, number, id, heard),
            Input::PushFailed(failure) => {
                (self.push, self.session) = (None, None);
                self.on_attempt_failed(now, failure);
            }
            Input::NoSession => self.push = None,
            Input::Opened { heard } => self.on_opened(heard),
            Input::Receipt { number, heard } => self.on_receipt(now, number, heard),
            Input::Closed => self.on_closed(now),
            Input::Saved(mark) => self.on_saved(now, mark),
            Input::PullAsked { call, heard, waiting } => self.on_pull_asked(now, call, heard, waiting),
            Input::Offered { call, number, id, all } => self.on_offered(Offer { call, number, id, all }),
            Input::AnswerSettled { call } => self.on_answer_settled(call),
            Input::AnswerBroken { call } => self.offers.retain(|offer| offer.call != call),
            Input::Pulled { heard, rows } => self.on_pulled(now, heard, rows),
            Input::PullFailed(failure) => self.on_pull_failed(now, failure),
            Input::PushTaken => self.on_push_taken(now),
            Input::Learnt(kind) => {
                if self.kind == Kind::Unknown {
                    self.kind = kind;
                }
            }
            Input::Hold(held) => self.on_hold(held),
            Input::RetryNow { push } => self.on_retry_now(now, push),
            Input::Tick => {}
        }
        self.advance(now);
    }

    /// A Push of the peer arrived; it is applied after a Pull under way,
    /// because the answer to that holds older events.
    pub fn push_arrived(&mut self) -> Arrival {
        match self.pull {
            Pull::Idle { .. } => Arrival::Apply,
            Pull::Pulling { .. } if self.push_waits => Arrival::Refuse,
            Pull::Pulling { .. } => {
                self.push_waits = true;
                Arrival::Wait
            }
        }
    }

    // ----- outbound

    fn has_rows(&self) -> bool {
        self.newest > self.settled.number
    }

    fn may_attempt(&self) -> bool {
        // Towards a stock peer a second unsaved row could be repeated after a
        // crash; ours would know it by its number.
        let unsaved = self.epoch_unsaved || (self.unsaved && self.kind == Kind::Stock);
        self.has_rows() && !self.held && !unsaved && self.push.is_none() && !self.pull_is_attempt
    }

    /// An attempt may still be on its way to the peer.
    fn attempt_in_flight(&self) -> bool {
        self.push.is_some() || (self.pull_is_attempt && matches!(self.pull, Pull::Pulling { .. }))
    }

    /// Does whatever the present state calls for.
    fn advance(&mut self, now: Instant) {
        // A session may be idle: then nothing is on its way.
        let idle = self.session.is_some() || !self.attempt_in_flight();
        if !self.has_rows() && idle && self.state != State::Live {
            self.go_live();
        }
        let due = match self.state {
            State::Live => true,
            State::Retrying { at, .. } => at <= now,
            State::Queued => false,
        };
        if due && self.may_attempt() {
            if !self.heard && self.kind != Kind::Stock {
                self.pull_is_attempt = true;
                if let Pull::Idle { next } = &mut self.pull {
                    *next = now;
                }
            } else {
                self.push = Some(self.settles);
                self.actions.push_back(Action::Push { after: self.settled });
            }
        }
        if matches!(self.pull, Pull::Idle { next } if next <= now) {
            self.pull = Pull::Pulling { settles: self.settles };
            self.pull_urgent = false;
            let waiting = self.state == State::Queued && self.has_rows() && !self.held;
            self.actions.push_back(Action::Pull { waiting });
        }
    }

    fn go_live(&mut self) {
        if self.state == State::Queued {
            self.actions.push_back(Action::SaveQueued(false));
        }
        self.state = State::Live;
        self.offers.clear();
    }

    fn go_queued(&mut self) {
        if self.state != State::Queued {
            self.actions.push_back(Action::SaveQueued(true));
        }
        self.state = State::Queued;
    }

    fn on_pushed(&mut self, now: Instant, number: u64, id: u64, heard: Option<Heard>) {
        let Some(settles) = self.push.take() else { return };
        self.retried = false;
        match (heard, self.kind) {
            (Some(heard), _) => {
                self.kind = Kind::Ours;
                let before = self.settled;
                self.hear(heard, settles == self.settles);
                // A Pull of the peer may have settled the row while the answer was on its way.
                let applied = self.settled.number >= number;
                if self.settled == before && !applied && !self.epoch_unsaved {
                    // It answered well and did not apply.
                    self.on_attempt_failed(now, Failure::Transient { retry_after: None });
                } else {
                    self.on_attempt_well();
                }
            }
            (None, Kind::Ours) => {
                // It does not speak of states any more: only a Pull tells what
                // it is now, and a bare status settles nothing.
                self.heard = false;
                self.on_attempt_failed(now, Failure::Transient { retry_after: None });
            }
            (None, Kind::Stock | Kind::Unknown) => {
                self.settle(number, id);
                self.on_attempt_well();
            }
        }
    }

    fn on_attempt_well(&mut self) {
        if matches!(self.state, State::Retrying { .. }) {
            self.state = State::Live;
        }
    }

    fn on_attempt_failed(&mut self, now: Instant, failure: Failure) {
        let failed = match self.state {
            State::Live => 1,
            State::Retrying { failed, .. } => failed + 1,
            State::Queued => return,
        };
        let asked = match failure {
            Failure::Refused => return self.go_queued(),
            Failure::Transient { retry_after } => retry_after,
            Failure::Local => None,
        };
        if failed > self.retry.retries {
            return self.go_queued();
        }
        let at = now + self.retry.attempt_wait(failed, asked, &mut self.random);
        self.state = State::Retrying { failed, at };
    }

    fn on_saved(&mut self, now: Instant, mark: Mark) {
        if mark == self.settled {
            self.unsaved = false;
        }
        if self.epoch_unsaved && mark.epoch == self.settled.epoch {
            self.epoch_unsaved = false;
            if let (State::Queued, Pull::Idle { next }) = (self.state, &mut self.pull) {
                // Tell the peer that rows wait for it under the new epoch.
                *next = now;
            }
        }
    }

    fn settle(&mut self, number: u64, id: u64) {
        self.settled = Mark { number, id, ..self.settled };
        self.highest = self.highest.max(number);
        self.settles += 1;
        self.unsaved = true;
        self.actions.push_back(Action::Forget { through: self.settled });
        let drained = self.offers.iter().any(|offer| offer.all && offer.number <= number);
        self.offers.retain(|offer| offer.number > number);
        if drained && self.state == State::Queued {
            self.go_live();
        }
    }

    /// Draws the conclusions from a state the peer told. `fresh`: it was asked
    /// for after everything settled so far. Only then it proves that either side
    /// went back; an older one crossed a Push, or is of a life the peer has lost.
    ///
    /// Returns false when the state proves nothing and another must be asked for.
    fn hear(&mut self, heard: Heard, fresh: bool) -> bool {
        if self.epoch_unsaved {
            return false;
        }
        let ours = self.settled;
        // A receiver that knows only an earlier epoch has applied nothing of this one.
        let theirs = match heard.mark {
            mark if mark.epoch < ours.epoch => Mark { epoch: ours.epoch, number: 0, id: 0 },
            mark if mark.number == 0 => Mark { id: 0, ..mark },
            mark => mark,
        };
        let ahead = theirs.epoch == ours.epoch && theirs.number > ours.number;
        if theirs == ours {
            // As it should be.
        } else if ahead && heard.id_here == Some(theirs.id) {
            self.settle(theirs.number, theirs.id);
        } else if !fresh {
            return false;
        } else if ahead && heard.id_here.is_none() && theirs.number <= self.highest {
            // What it lost came back to it: a Push that was late, or a row sent
            // again before its deletion was on disk.
            self.settle(theirs.number, theirs.id);
        } else if theirs.epoch == ours.epoch && theirs.number < ours.number {
            self.settled = theirs;
            self.settles += 1;
            self.offers.clear();
            self.drop_session();
            let because = Because::PeerRestored { from: theirs.number, through: ours.number };
            self.actions.push_back(Action::Save { mark: theirs, because });
        } else {
            self.take_epoch(theirs.epoch);
        }
        self.heard = true;
        true
    }

    /// Every waiting row is sent again under an epoch above all known ones.
    fn take_epoch(&mut self, above: u64) {
        self.settled = Mark { epoch: above + 1, number: 0, id: 0 };
        self.highest = 0;
        self.settles += 1;
        self.epoch_unsaved = true;
        self.offers.clear();
        self.drop_session();
        self.actions.push_back(Action::Save { mark: self.settled, because: Because::WeWereRestored });
    }

    // ----- the peer pulls us

    fn on_pull_asked(&mut self, now: Instant, call: Call, heard: Option<Heard>, waiting: bool) {
        self.on_call_of_peer(now);
        let known = match heard {
            Some(heard) => {
                self.kind = Kind::Ours;
                self.hear(heard, false)
            }
            None if self.kind == Kind::Ours => {
                self.heard = false;
                false
            }
            None => {
                self.kind = Kind::Stock;
                true
            }
        };
        if waiting {
            self.pull_soon(now);
        }
        if !known {
            self.pull_soon(now);
        }
        if matches!(self.state, State::Retrying { .. }) && !self.attempt_in_flight() && self.has_rows() && !self.held {
            self.go_queued();
        }
        let give = self.state == State::Queued && known && self.has_rows() && !self.held && !self.epoch_unsaved;
        self.actions.push_back(Action::Answer { call, after: give.then_some(self.settled) });
    }

    fn on_offered(&mut self, offer: Offer) {
        // What was dropped or settled between the question and this answer is
        // told by later inputs; an offer below the mark has nothing to settle.
        if offer.number > self.settled.number && self.state == State::Queued {
            if self.offers.len() == OFFERS_MAX {
                self.offers.pop_front();
            }
            self.offers.push_back(offer);
        }
    }

    fn on_answer_settled(&mut self, call: Call) {
        if self.kind == Kind::Ours {
            return; // only a state settles there
        }
        if let Some(&Offer { number, id, .. }) = self.offers.iter().find(|offer| offer.call == call) {
            self.settle(number, id);
        }
    }
}

#[cfg(test)]
mod tests;
