//! The rules of the machine by table, and by lists of operations.

use super::{pulls::PULL_GAP, *};
use proptest::prelude::*;
use std::time::Duration;

const EPOCH: u64 = 100;

fn retry() -> Retry {
    Retry {
        retries: 5,
        base: Duration::from_millis(500),
        max: Duration::from_secs(4),
        pull_interval: Duration::from_secs(60),
    }
}

/// A machine with a clock of its own.
struct Bench {
    now: Instant,
    machine: Delivery,
}

impl Bench {
    fn new(saved: Saved) -> Self {
        let now = Instant::now();
        Self { now, machine: Delivery::new(retry(), 7, saved, now) }
    }

    /// A peer of ours whose start-up Pull went well, nothing waiting.
    fn ours() -> Self {
        let mut bench = Self::new(Saved { settled: at(0), ..Saved::default() });
        assert_eq!(bench.give(Input::Tick), [Action::Pull { waiting: false }]);
        assert_eq!(bench.give(Input::Pulled { heard: Some(heard(0)), rows: false }), []);
        bench
    }

    fn stock() -> Self {
        let mut bench = Self::new(Saved { settled: at(0), kind: Kind::Stock, ..Saved::default() });
        assert_eq!(bench.give(Input::Tick), [Action::Pull { waiting: false }]);
        assert_eq!(bench.give(Input::Pulled { heard: None, rows: false }), []);
        bench
    }

    fn give(&mut self, input: Input) -> Vec<Action> {
        self.machine.handle(self.now, input);
        std::iter::from_fn(|| self.machine.poll()).collect()
    }

    fn wait(&mut self, duration: Duration) -> Vec<Action> {
        self.now += duration;
        self.give(Input::Tick)
    }

    /// Jumps to the deadline.
    fn next(&mut self) -> Vec<Action> {
        self.now = self.machine.deadline().expect("something is planned").max(self.now);
        self.give(Input::Tick)
    }

    fn fail(&mut self) -> Vec<Action> {
        self.give(Input::PushFailed(Failure::Transient { retry_after: None }))
    }

    /// Fails pushes until the peer is Queued.
    fn queue(&mut self, newest: u64) {
        self.give(Input::Stored { newest });
        while self.machine.state() != State::Queued {
            if self.machine.push.is_some() {
                self.fail();
            } else {
                for action in self.next() {
                    if matches!(action, Action::Pull { .. }) {
                        self.give(Input::PullFailed(Failure::Transient { retry_after: None }));
                    }
                }
            }
        }
    }
}

fn at(number: u64) -> Mark {
    Mark { epoch: EPOCH, number, id: number * 10 }
}

/// A state at `number` whose row we know.
fn heard(number: u64) -> Heard {
    Heard { mark: at(number), id_here: Some(number * 10) }
}

fn pushed(number: u64) -> Input {
    Input::Pushed { number, id: number * 10, heard: Some(heard(number)) }
}

fn pull_asked(number: u64, waiting: bool) -> Input {
    Input::PullAsked { call: number, heard: Some(heard(number)), waiting }
}

fn push(after: u64) -> Action {
    Action::Push { after: at(after) }
}

fn forget(number: u64) -> Action {
    Action::Forget { through: at(number) }
}

#[test]
fn live_pushes_one_row_after_the_other() {
    let mut bench = Bench::ours();
    assert_eq!(bench.give(Input::Stored { newest: 3 }), [push(0)]);
    assert_eq!(bench.give(Input::Stored { newest: 5 }), []);
    assert_eq!(bench.give(pushed(3)), [forget(3), push(3)]);
    assert_eq!(bench.give(pushed(5)), [forget(5)]);
    assert_eq!(bench.machine.state(), State::Live);
}

#[test]
fn no_row_leaves_before_a_state_was_heard() {
    let mut bench = Bench::new(Saved { settled: at(0), newest: 4, kind: Kind::Ours, ..Saved::default() });
    assert_eq!(bench.give(Input::Tick), [Action::Pull { waiting: false }]);
    let failed = Input::PullFailed(Failure::Transient { retry_after: None });
    // The failed Pull stood for an attempt: the first retry is at once, by Pull again.
    assert_eq!(bench.give(failed), [Action::Pull { waiting: false }]);
    assert_eq!(bench.machine.state(), State::Retrying { failed: 1, at: bench.now });
    assert_eq!(bench.give(Input::Pulled { heard: Some(heard(0)), rows: false }), [push(0)]);
}

#[test]
fn a_stock_peer_is_pushed_to_once_key_said_so() {
    let mut bench = Bench::new(Saved { settled: at(0), newest: 4, kind: Kind::Stock, ..Saved::default() });
    assert_eq!(bench.give(Input::Tick), [push(0), Action::Pull { waiting: false }]);
}

#[test]
fn at_most_one_push_to_a_stock_peer_is_unsaved() {
    let mut bench = Bench::stock();
    assert_eq!(bench.give(Input::Stored { newest: 2 }), [push(0)]);
    assert_eq!(bench.give(Input::Pushed { number: 1, id: 10, heard: None }), [forget(1)]);
    assert_eq!(bench.give(Input::Saved(at(1))), [push(1)]);
}

#[test]
fn only_a_state_settles_what_went_to_a_peer_of_ours() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 2 });
    // It is asked what it is now before another row leaves.
    let bare = bench.give(Input::Pushed { number: 1, id: 10, heard: None });
    assert_eq!((bench.machine.settled(), bare), (at(0), vec![Action::Pull { waiting: false }]));
    bench.give(Input::Pulled { heard: Some(heard(0)), rows: false });
    bench.give(Input::PushFailed(Failure::Refused));
    bench.give(pull_asked(0, false));
    bench.give(Input::Offered { call: 0, number: 2, id: 20, all: true });
    assert_eq!(bench.give(Input::AnswerSettled { call: 0 }), []);
    assert_eq!((bench.machine.settled(), bench.machine.state()), (at(0), State::Queued));
}

#[test]
fn retries_are_at_once_then_doubling_with_full_jitter_then_queued() {
    let ceilings = [0, 500, 1000, 2000, 4000].map(Duration::from_millis);
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 1 });
    for (n, ceiling) in (1..).zip(ceilings) {
        bench.fail();
        let State::Retrying { failed, at } = bench.machine.state() else { panic!("{:?}", bench.machine.state()) };
        assert_eq!(failed, n);
        assert!(at - bench.now <= ceiling, "{n}: {:?}", at - bench.now);
        if n > 1 {
            assert_eq!(bench.next(), [push(0)]);
        }
    }
    assert_eq!(bench.fail(), [Action::SaveQueued(true)]);
    assert_eq!(bench.machine.state(), State::Queued);
}

#[test]
fn no_push_while_queued_until_an_answer_that_held_all_is_settled() {
    let mut bench = Bench::ours();
    bench.queue(3);
    assert_eq!(bench.give(Input::Stored { newest: 9 }), []);
    assert_eq!(bench.give(pull_asked(0, false)), [Action::Answer { call: 0, after: Some(at(0)) }]);
    assert_eq!(bench.give(Input::Offered { call: 0, number: 7, id: 70, all: false }), []);
    // The page was applied, but it did not hold all.
    assert_eq!(bench.give(pull_asked(7, false)), [forget(7), Action::Answer { call: 7, after: Some(at(7)) }]);
    assert_eq!(bench.give(Input::Offered { call: 7, number: 9, id: 90, all: true }), []);
    // What comes now is pushed once the rest is settled.
    assert_eq!(bench.give(Input::Stored { newest: 12 }), []);
    assert_eq!(
        bench.give(pull_asked(9, false)),
        [forget(9), Action::SaveQueued(false), Action::Answer { call: 9, after: None }, push(9)]
    );
}

#[test]
fn a_pull_while_an_attempt_is_in_flight_is_answered_empty() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 1 });
    assert_eq!(bench.give(pull_asked(0, false)), [Action::Answer { call: 0, after: None }]);
    assert_eq!(bench.machine.state(), State::Live);
}

#[test]
fn a_pull_between_two_attempts_queues_and_is_answered_with_rows() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 1 });
    bench.fail();
    bench.fail();
    assert!(matches!(bench.machine.state(), State::Retrying { failed: 2, .. }));
    assert_eq!(
        bench.give(pull_asked(0, false)),
        [Action::SaveQueued(true), Action::Answer { call: 0, after: Some(at(0)) }]
    );
}

#[test]
fn a_refusal_no_retry_cures_queues_at_once() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 1 });
    assert_eq!(bench.give(Input::PushFailed(Failure::Refused)), [Action::SaveQueued(true)]);
}

#[test]
fn retry_after_is_honoured_up_to_a_minute() {
    for (asked, waited) in [(20, 20), (600, 60)] {
        let mut bench = Bench::ours();
        bench.give(Input::Stored { newest: 1 });
        let retry_after = Some(Duration::from_secs(asked));
        bench.give(Input::PushFailed(Failure::Transient { retry_after }));
        let State::Retrying { at, .. } = bench.machine.state() else { panic!() };
        assert_eq!(at - bench.now, Duration::from_secs(waited));
    }
}

#[test]
fn an_answer_to_a_stock_peer_is_kept_until_it_is_settled() {
    let mut bench = Bench::stock();
    bench.queue(2);
    let asked = |call| Input::PullAsked { call, heard: None, waiting: false };
    let answer = |call| Action::Answer { call, after: Some(at(0)) };
    let first = bench.give(asked(1));
    assert!(first.contains(&answer(1)));
    bench.give(Input::Offered { call: 1, number: 2, id: 20, all: true });
    bench.give(Input::AnswerBroken { call: 1 });
    assert!(bench.give(asked(2)).contains(&answer(2)));
    bench.give(Input::Offered { call: 2, number: 2, id: 20, all: true });
    assert_eq!(bench.give(Input::AnswerSettled { call: 2 }), [forget(2), Action::SaveQueued(false)]);
    assert_eq!(bench.machine.state(), State::Live);
}

#[test]
fn a_fresh_lower_state_is_a_restored_peer_and_leaves_a_hole() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 5 });
    bench.give(pushed(5));
    bench.give(Input::Stored { newest: 6 });
    let because = Because::PeerRestored { from: 2, through: 5 };
    assert_eq!(
        bench.give(Input::Pushed { number: 6, id: 60, heard: Some(heard(2)) }),
        [Action::Save { mark: at(2), because }, push(2)]
    );
}

#[test]
fn a_lower_state_that_crossed_a_push_proves_nothing_but_asks_again() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 5 });
    bench.give(pushed(5));
    bench.wait(Duration::from_secs(2));
    assert_eq!(
        bench.give(pull_asked(0, false)),
        [Action::Answer { call: 0, after: None }, Action::Pull { waiting: false }]
    );
    assert_eq!(bench.machine.settled(), at(5));
    let because = Because::PeerRestored { from: 0, through: 5 };
    assert_eq!(
        bench.give(Input::Pulled { heard: Some(heard(0)), rows: false }),
        [Action::Save { mark: at(0), because }, push(0)]
    );
    assert_eq!(bench.give(Input::Empty), []);
}

#[test]
fn a_row_we_do_not_know_means_we_were_restored() {
    for mark in [at(8), Mark { epoch: EPOCH + 3, number: 1, id: 1 }, Mark { id: 1, ..at(0) }] {
        let mut bench = Bench::new(Saved { settled: at(0), newest: 4, kind: Kind::Ours, ..Saved::default() });
        bench.give(Input::Tick);
        let heard = Some(Heard { mark, id_here: None });
        let actions = bench.give(Input::Pulled { heard, rows: false });
        if mark.number == 0 {
            assert_eq!(actions, [push(0)]); // an id beside no number says nothing
            continue;
        }
        let renewed = Mark { epoch: mark.epoch + 1, number: 0, id: 0 };
        assert_eq!(actions, [Action::Save { mark: renewed, because: Because::WeWereRestored }]);
        // Nothing leaves before the new epoch is on disk.
        assert_eq!(bench.give(Input::Stored { newest: 9 }), []);
        assert_eq!(bench.give(Input::Saved(renewed)), [Action::Push { after: renewed }]);
    }
}

/// The peer's last words before it was restored, late: they name a row we had
/// forgotten already when the restored peer made us go back.
#[test]
fn a_mark_we_do_not_know_is_asked_for_again_before_it_is_believed() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 5 });
    bench.give(pushed(5));
    bench.give(Input::Stored { newest: 6 });
    bench.give(Input::Pushed { number: 6, id: 60, heard: Some(heard(2)) });
    bench.wait(Duration::from_secs(2));
    for mark in [at(5), at(8), Mark { id: 1, ..at(2) }, Mark { epoch: EPOCH + 3, ..at(1) }] {
        let heard = Some(Heard { mark, id_here: None });
        let actions = bench.give(Input::PullAsked { call: 1, heard, waiting: false });
        assert_eq!(actions[0], Action::Answer { call: 1, after: None });
        assert_eq!(bench.machine.settled(), at(2), "{mark:?}");
    }
    assert_eq!(bench.machine.next_pull(), None, "it is being asked");
    let heard = Some(Heard { mark: at(8), id_here: None });
    let renewed = Mark { epoch: EPOCH + 1, number: 0, id: 0 };
    assert_eq!(
        bench.give(Input::Pulled { heard, rows: false }),
        [Action::Save { mark: renewed, because: Because::WeWereRestored }]
    );
}

/// A late Push, or a row that was sent again before its deletion was on disk,
/// gives a restored peer back some of what it lost.
#[test]
fn a_mark_within_a_hole_is_no_sign_of_our_own_restore() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 5 });
    bench.give(pushed(5));
    bench.give(Input::Stored { newest: 6 });
    bench.give(Input::Pushed { number: 6, id: 60, heard: Some(heard(2)) });
    let within = Some(Heard { mark: at(4), id_here: None });
    assert_eq!(bench.give(Input::Pushed { number: 6, id: 60, heard: within }), [forget(4), push(4)]);
    // Beyond all that was ever settled it is one.
    let beyond = Some(Heard { mark: at(7), id_here: None });
    let renewed = Mark { epoch: EPOCH + 1, number: 0, id: 0 };
    assert_eq!(
        bench.give(Input::Pushed { number: 6, id: 60, heard: beyond }),
        [Action::Save { mark: renewed, because: Because::WeWereRestored }]
    );
}

#[test]
fn a_state_settles_what_an_earlier_life_had_sent() {
    let mut bench = Bench::new(Saved { settled: at(1), newest: 3, kind: Kind::Ours, ..Saved::default() });
    bench.give(Input::Tick);
    assert_eq!(bench.give(Input::Pulled { heard: Some(heard(2)), rows: false }), [forget(2), push(2)]);
}

#[test]
fn held_neither_pushes_nor_gives() {
    let mut bench = Bench::ours();
    bench.give(Input::Hold(true));
    assert_eq!(bench.give(Input::Stored { newest: 1 }), []);
    assert_eq!(bench.give(pull_asked(0, false)), [Action::Answer { call: 0, after: None }]);
    assert_eq!(bench.give(Input::Hold(false)), [push(0)]);
}

#[test]
fn nothing_left_ends_queued() {
    let mut bench = Bench::ours();
    bench.queue(3);
    assert_eq!(bench.give(Input::Dropped { newest: 0 }), [Action::SaveQueued(false)]);
    assert_eq!(bench.machine.state(), State::Live);
}

#[test]
fn the_operator_may_end_queued() {
    let mut bench = Bench::ours();
    bench.queue(3);
    assert_eq!(bench.give(Input::RetryNow { push: false }), [Action::Pull { waiting: true }]);
    assert_eq!(bench.give(Input::RetryNow { push: true }), [Action::SaveQueued(false), push(0)]);
}

#[test]
fn the_operators_word_makes_no_failing_peer_well() {
    for push in [false, true] {
        let mut bench = Bench::ours();
        bench.give(Input::RetryNow { push });
        assert!(!bench.machine.failing(), "it never failed");
        bench.give(Input::Pulled { heard: Some(heard(0)), rows: false });
        bench.queue(3);
        for _ in 0..2 {
            bench.give(Input::RetryNow { push });
            assert!(bench.machine.failing(), "push: {push}");
        }
        // Nothing waits for it, but it does not answer Pulls.
        let mut bench = Bench::ours();
        bench.wait(Duration::from_secs(70));
        bench.give(Input::PullFailed(Failure::Transient { retry_after: None }));
        bench.give(Input::RetryNow { push });
        assert!(bench.machine.failing(), "push: {push}");
    }
}

#[test]
fn after_the_operators_word_any_call_that_goes_well_makes_a_peer_well() {
    let pulled = Input::Pulled { heard: Some(heard(0)), rows: false };
    for well in [pushed(3), pulled, pull_asked(0, false), Input::PushTaken] {
        let mut bench = Bench::ours();
        bench.queue(3);
        bench.give(Input::RetryNow { push: true });
        bench.give(well);
        assert!(!bench.machine.failing(), "{well:?}");
    }
}

#[test]
fn one_push_waits_for_a_pull_under_way_and_the_next_is_refused() {
    let mut bench = Bench::ours();
    assert_eq!(bench.machine.push_arrived(), Arrival::Apply);
    bench.give(Input::RetryNow { push: false });
    assert_eq!(bench.machine.push_arrived(), Arrival::Wait);
    assert_eq!(bench.machine.push_arrived(), Arrival::Refuse);
    bench.give(Input::Pulled { heard: Some(heard(0)), rows: true });
    bench.give(Input::PushTaken);
    assert_eq!(bench.machine.push_arrived(), Arrival::Wait, "rows came: the next Pull is at once");
}

#[test]
fn after_a_push_the_next_pull_is_an_interval_away() {
    let mut bench = Bench::ours();
    bench.wait(Duration::from_secs(50));
    bench.give(Input::PushTaken);
    let next = bench.machine.next_pull().unwrap() - bench.now;
    assert!(next >= Duration::from_secs(54) && next <= Duration::from_secs(66), "{next:?}");
}

#[test]
fn a_peer_with_rows_waiting_is_pulled_back_at_once_but_not_in_circles() {
    let mut bench = Bench::ours();
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.give(pull_asked(0, true))[1], Action::Pull { waiting: false });
    bench.give(Input::Pulled { heard: Some(heard(0)), rows: false });
    assert_eq!(bench.give(pull_asked(0, true)).len(), 1, "the last Pull found nothing a moment ago");
    assert_eq!(bench.wait(PULL_GAP), [Action::Pull { waiting: false }]);
}

#[test]
fn pulls_of_a_failing_peer_back_off_and_a_call_of_it_resets() {
    let mut bench = Bench::ours();
    let failed = Input::PullFailed(Failure::Transient { retry_after: None });
    let mut waits = vec![];
    bench.give(Input::RetryNow { push: false });
    bench.wait(Duration::from_secs(2));
    for _ in 0..100 {
        bench.give(failed);
        waits.push(bench.machine.next_pull().unwrap() - bench.now);
        bench.next();
    }
    assert!(waits[0] <= Duration::from_secs(1));
    assert!(waits[10] >= Duration::from_secs(30) && waits[10] <= Duration::from_secs(60));
    assert!(waits[99] >= Duration::from_secs(450) && waits[99] <= Duration::from_secs(900));
    bench.give(failed);
    assert_eq!(bench.give(Input::PushTaken), [Action::Pull { waiting: false }]);
}

// ----- sessions

fn receipt(number: u64) -> Input {
    Input::Receipt { number, heard: heard(number) }
}

fn deliver(after: u64) -> Action {
    Action::Deliver { after: at(after) }
}

/// A session with rows through 9, of which none is settled.
fn in_session() -> Bench {
    let mut bench = Bench::ours();
    assert_eq!(bench.give(Input::Stored { newest: 9 }), [push(0)]);
    assert_eq!(bench.give(Input::Opened { heard: heard(0) }), [deliver(0)]);
    bench
}

#[test]
fn a_session_is_one_attempt_and_its_receipts_settle() {
    let mut bench = in_session();
    assert_eq!(bench.give(receipt(3)), [forget(3)]);
    assert_eq!(bench.give(Input::Stored { newest: 12 }), [], "the session is told elsewhere");
    // One that covers part of what its batch had.
    assert_eq!(bench.give(Input::Receipt { number: 9, heard: heard(7) }), [forget(7)]);
    assert_eq!(bench.give(receipt(12)), [forget(12)]);
    assert!(bench.machine.push_in_flight(), "idle, and still the attempt");
    assert_eq!(bench.give(Input::Closed), []);
    assert_eq!(bench.give(Input::Stored { newest: 13 }), [push(12)]);
}

#[test]
fn a_session_that_fails_after_receipts_is_tried_again_at_once_from_the_mark() {
    let mut bench = in_session();
    bench.give(receipt(3));
    assert_eq!(bench.fail(), [push(3)]);
    assert_eq!(bench.machine.state(), State::Retrying { failed: 1, at: bench.now });
    // That it opens proves nothing yet.
    assert_eq!(bench.give(Input::Opened { heard: heard(3) }), [deliver(3)]);
    assert!(matches!(bench.machine.state(), State::Retrying { failed: 1, .. }));
    bench.give(receipt(9));
    assert_eq!(bench.machine.state(), State::Live);
}

#[test]
fn what_the_opening_tells_is_settled_before_anything_is_sent() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 9 });
    assert_eq!(bench.give(Input::Opened { heard: heard(4) }), [forget(4), deliver(4)]);
}

#[test]
fn an_opening_that_shows_a_restored_peer_goes_on_from_its_mark() {
    let mut bench = in_session();
    bench.give(receipt(5));
    bench.give(Input::Closed);
    let because = Because::PeerRestored { from: 3, through: 5 };
    let opened = bench.give(Input::Opened { heard: heard(3) });
    assert_eq!(opened, [Action::Save { mark: at(3), because }, deliver(3)]);
}

#[test]
fn an_opening_that_shows_that_we_were_restored_sends_nothing_before_the_new_epoch_is_on_disk() {
    let mut bench = Bench::ours();
    bench.give(Input::Stored { newest: 9 });
    let unknown = Heard { mark: at(50), id_here: None };
    let mark = Mark { epoch: EPOCH + 1, number: 0, id: 0 };
    let save = Action::Save { mark, because: Because::WeWereRestored };
    assert_eq!(bench.give(Input::Opened { heard: unknown }), [save, Action::DropSession]);
    assert_eq!(bench.give(Input::Saved(mark)), [Action::Push { after: mark }]);
}

#[test]
fn a_session_is_void_when_a_pull_shows_that_the_peer_was_restored() {
    let mut bench = in_session();
    bench.give(receipt(5));
    assert_eq!(bench.wait(Duration::from_secs(70)), [Action::Pull { waiting: false }]);
    let because = Because::PeerRestored { from: 2, through: 5 };
    let pulled = bench.give(Input::Pulled { heard: Some(heard(2)), rows: false });
    assert_eq!(pulled, [Action::DropSession, Action::Save { mark: at(2), because }, push(2)]);
    assert_eq!(bench.give(receipt(9)), [], "of the one that is void");
}

#[test]
fn a_receipt_that_brings_nothing_fails_the_session() {
    let mut bench = in_session();
    assert_eq!(bench.give(Input::Receipt { number: 3, heard: heard(0) }), [Action::DropSession, push(0)]);
    assert!(matches!(bench.machine.state(), State::Retrying { failed: 1, .. }));
}

#[test]
fn a_receipt_that_a_pull_of_the_peer_overtook_is_well() {
    let mut bench = in_session();
    bench.give(pull_asked(6, false));
    assert_eq!(bench.machine.settled(), at(6));
    assert_eq!(bench.give(receipt(3)), []);
    assert_eq!(bench.give(receipt(9)), [forget(9)]);
}

#[test]
fn a_pull_of_the_peer_during_a_session_is_answered_empty_and_queues_nothing() {
    let mut bench = in_session();
    assert_eq!(bench.give(pull_asked(0, false)), [Action::Answer { call: 0, after: None }]);
    bench.give(receipt(3));
    bench.fail();
    bench.give(Input::Opened { heard: heard(3) });
    assert_eq!(bench.give(pull_asked(3, false)), [Action::Answer { call: 3, after: None }]);
    assert!(matches!(bench.machine.state(), State::Retrying { .. }), "an attempt is in flight");
}

#[test]
fn a_session_that_closes_without_having_brought_anything_counts_as_a_failure() {
    let mut bench = in_session();
    for failed in 1..=5 {
        bench.give(Input::Closed);
        assert!(matches!(bench.machine.state(), State::Retrying { failed: f, .. } if f == failed));
        while !bench.machine.push_in_flight() {
            for action in bench.next() {
                if matches!(action, Action::Pull { .. }) {
                    bench.give(Input::Pulled { heard: Some(heard(0)), rows: false });
                }
            }
        }
        bench.give(Input::Opened { heard: heard(0) });
    }
    bench.give(Input::Closed);
    assert_eq!(bench.machine.state(), State::Queued);
}

#[test]
fn a_refusal_in_a_session_queues_and_nothing_is_sent_until_the_queue_was_pulled() {
    let mut bench = in_session();
    bench.give(receipt(3));
    assert_eq!(bench.give(Input::PushFailed(Failure::Refused)), [Action::SaveQueued(true)]);
    assert_eq!(bench.give(Input::Stored { newest: 12 }), []);
}

#[test]
fn holding_ends_a_session_and_releasing_opens_another() {
    let mut bench = in_session();
    assert_eq!(bench.give(Input::Hold(true)), [Action::EndSession]);
    assert_eq!(bench.give(Input::Hold(true)), [], "told once");
    assert_eq!(bench.give(receipt(3)), [forget(3)]);
    assert_eq!(bench.give(Input::Closed), []);
    assert_eq!(bench.give(Input::Hold(false)), [push(3)]);
    // Held while it opens.
    bench.give(Input::Hold(true));
    assert_eq!(bench.give(Input::Opened { heard: heard(3) }), [Action::DropSession]);
    assert_eq!(bench.give(Input::Hold(false)), [push(3)]);
}

#[test]
fn a_push_that_cannot_be_a_session_is_made_at_once_and_counts_as_no_attempt() {
    let mut bench = Bench::ours();
    assert_eq!(bench.give(Input::Stored { newest: 9 }), [push(0)]);
    assert_eq!(bench.give(Input::NoSession), [push(0)]);
    assert_eq!(bench.machine.state(), State::Live);
}

#[test]
fn a_session_whose_rows_are_dropped_is_live() {
    let mut bench = in_session();
    bench.fail();
    bench.give(Input::Opened { heard: heard(0) });
    bench.give(Input::Dropped { newest: 0 });
    assert_eq!(bench.machine.state(), State::Live);
    assert_eq!(bench.give(Input::Closed), []);
}

#[derive(Debug, Clone)]
enum Operation {
    Wait(u16),
    Store(u8),
    DropAll,
    PushWell,
    PushBare,
    PushFail(bool),
    PushEmpty,
    NoSession,
    Open(u8),
    Receipt { rows: u8, told: u8 },
    Close,
    AskPull { stock: bool, behind: u8, waiting: bool, all: bool },
    Settle,
    Break,
    PullWell { stock: bool, rows: bool, mark: u8 },
    PullFail,
    Saved,
    Arrive,
    Taken,
    Hold(bool),
    Retry(bool),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        any::<u16>().prop_map(Wait),
        (1..4u8).prop_map(Store),
        Just(DropAll),
        Just(PushWell),
        Just(PushWell),
        Just(PushBare),
        any::<bool>().prop_map(PushFail),
        Just(PushEmpty),
        (any::<bool>(), 0..3u8, any::<bool>(), any::<bool>()).prop_map(|(stock, behind, waiting, all)| AskPull {
            stock,
            behind,
            waiting,
            all
        }),
        Just(Settle),
        Just(Break),
        (any::<bool>(), any::<bool>(), any::<u8>()).prop_map(|(stock, rows, mark)| PullWell { stock, rows, mark }),
        Just(PullFail),
        Just(Saved),
        Just(NoSession),
        any::<u8>().prop_map(Open),
        (any::<u8>(), any::<u8>()).prop_map(|(rows, told)| Receipt { rows, told }),
        Just(Close),
        Just(Arrive),
        Just(Taken),
        any::<bool>().prop_map(Hold),
        any::<bool>().prop_map(Retry),
    ]
}

proptest! {
    /// Whatever comes in whatever order: no panic, no Push while Queued, held or
    /// under an epoch that is not on disk, never two at once, and always a plan.
    #[test]
    fn any_list_of_operations_keeps_the_rules(operations in proptest::collection::vec(operation(), 0..200)) {
        let mut bench = Bench::ours();
        let mut newest = 0;
        let mut call = 1000;
        let mut to_save = None;
        let (mut pushing, mut in_session) = (false, false);
        for operation in operations {
            let settled = bench.machine.settled();
            let next = settled.number + 1;
            let known = |number: u64| Heard {
                mark: Mark { epoch: settled.epoch, number, id: if number == settled.number { settled.id } else { number } },
                id_here: Some(number),
            };
            let input = match operation {
                Operation::Wait(millis) => {
                    bench.now += Duration::from_millis(millis.into());
                    Input::Tick
                }
                Operation::Store(n) => {
                    newest += u64::from(n);
                    Input::Stored { newest }
                }
                Operation::DropAll => Input::Dropped { newest: 0 },
                Operation::PushWell => Input::Pushed { number: next, id: next, heard: Some(known(next)) },
                Operation::PushBare => Input::Pushed { number: next, id: next, heard: None },
                Operation::PushFail(true) => Input::PushFailed(Failure::Refused),
                Operation::PushFail(false) => Input::PushFailed(Failure::Transient { retry_after: None }),
                Operation::PushEmpty => Input::Empty,
                Operation::NoSession => Input::NoSession,
                Operation::Open(mark) => Input::Opened { heard: known(mark.into()) },
                Operation::Receipt { rows, told } => {
                    Input::Receipt { number: settled.number + u64::from(rows), heard: known(settled.number + u64::from(told)) }
                }
                Operation::Close => Input::Closed,
                Operation::AskPull { stock, behind, waiting, all } => {
                    call += 1;
                    let heard = (!stock).then(|| known(settled.number.saturating_sub(behind.into())));
                    bench.machine.handle(bench.now, Input::PullAsked { call, heard, waiting });
                    Input::Offered { call, number: next, id: next, all }
                }
                Operation::Settle => Input::AnswerSettled { call },
                Operation::Break => Input::AnswerBroken { call },
                Operation::PullWell { stock, rows, mark } => {
                    Input::Pulled { heard: (!stock).then(|| known(mark.into())), rows }
                }
                Operation::PullFail => Input::PullFailed(Failure::Transient { retry_after: None }),
                Operation::Saved => match to_save.take() {
                    Some(mark) => Input::Saved(mark),
                    None => Input::Tick,
                },
                Operation::Arrive => {
                    bench.machine.push_arrived();
                    Input::Tick
                }
                Operation::Taken => Input::PushTaken,
                Operation::Hold(held) => Input::Hold(held),
                Operation::Retry(push) => Input::RetryNow { push },
            };
            match input {
                // An answer to nothing, or to something else.
                Input::Receipt { .. } | Input::Closed if !in_session => continue,
                Input::Pushed { .. } | Input::Empty | Input::NoSession | Input::Opened { .. }
                    if in_session || !pushing =>
                {
                    continue;
                }
                Input::PushFailed(_) if !pushing => continue,
                Input::Receipt { .. } | Input::Opened { .. } => {}
                Input::Pushed { .. } | Input::PushFailed(_) | Input::Empty | Input::NoSession | Input::Closed => {
                    (pushing, in_session) = (false, false);
                }
                _ => {}
            }
            bench.machine.handle(bench.now, input);
            let mut queued_now = bench.machine.state() == State::Queued;
            while let Some(action) = bench.machine.poll() {
                match action {
                    Action::Push { after } => {
                        prop_assert!(!pushing && !bench.machine.held() && !bench.machine.epoch_unsaved);
                        prop_assert!(!queued_now);
                        prop_assert_eq!(after, bench.machine.settled());
                        pushing = true;
                    }
                    Action::Forget { through: mark } | Action::Save { mark, .. } => to_save = Some(mark),
                    Action::SaveQueued(queued) => queued_now = queued && bench.machine.state() == State::Queued,
                    Action::Deliver { after } => {
                        prop_assert!(pushing && !bench.machine.held() && !bench.machine.epoch_unsaved);
                        prop_assert_eq!(after, bench.machine.settled());
                        in_session = true;
                    }
                    Action::DropSession => {
                        prop_assert!(pushing);
                        (pushing, in_session) = (false, false);
                    }
                    Action::Pull { .. } | Action::Answer { .. } | Action::EndSession => {}
                }
            }
            let pulling = bench.machine.next_pull().is_none();
            prop_assert!(pulling || bench.machine.deadline().is_some());
        }
    }
}
