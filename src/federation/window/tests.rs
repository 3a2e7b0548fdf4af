//! The window and the rule by table.

use super::*;

const EPOCH: u64 = 5;

fn mark(number: u64) -> Mark {
    Mark { epoch: EPOCH, number, id: if number == 0 { 0 } else { number + 1_000 } }
}

/// Rows of these numbers, the first after `after`.
fn rows(after: u64, numbers: &[u64]) -> Vec<Position> {
    let before = [&[after], numbers].concat();
    let row = |(&number, &after)| Position { epoch: EPOCH, number, id: mark(number).id, after };
    numbers.iter().zip(&before).map(row).collect()
}

#[test]
fn a_batch_right_after_the_mark_is_taken_whole() {
    assert_eq!(take(mark(3), mark(3), &rows(3, &[4, 7, 9])), Ok(mark(9)));
    assert_eq!(take(Mark::default(), mark(0), &rows(0, &[2])), Ok(mark(2)));
}

#[test]
fn a_batch_that_was_applied_before_changes_nothing_and_one_across_the_mark_is_taken() {
    assert_eq!(take(mark(9), mark(3), &rows(3, &[4, 7])), Ok(mark(9)));
    assert_eq!(take(mark(7), mark(3), &rows(3, &[4, 7, 9])), Ok(mark(9)));
}

#[test]
fn a_batch_behind_one_that_was_not_taken_is_refused() {
    assert_eq!(take(mark(3), mark(7), &rows(7, &[9])), Err(Refusal::Gap));
    // From below the mark, over it without touching it.
    assert_eq!(take(mark(8), mark(3), &rows(3, &[4, 7, 9])), Err(Refusal::Gap));
}

#[test]
fn a_batch_after_another_row_than_the_one_at_the_mark_is_refused() {
    let other = Mark { id: 1, ..mark(7) };
    assert_eq!(take(mark(7), other, &rows(7, &[9])), Err(Refusal::Forked));
    // The row itself is in the batch.
    assert_eq!(take(other, mark(3), &rows(3, &[4, 7, 9])), Err(Refusal::Forked));
}

#[test]
fn a_batch_of_an_earlier_epoch_is_refused_and_one_of_a_later_begins_at_its_first_row() {
    let now = Mark { epoch: EPOCH + 1, number: 1, id: 1 };
    assert_eq!(take(now, mark(3), &rows(3, &[4])), Err(Refusal::Epoch));
    let before = Mark { epoch: EPOCH - 1, number: 8, id: 8 };
    assert_eq!(take(before, mark(0), &rows(0, &[4])), Ok(mark(4)));
    assert_eq!(take(before, mark(3), &rows(3, &[4])), Err(Refusal::Gap));
}

#[test]
fn no_more_is_in_flight_than_was_granted() {
    let now = Instant::now();
    let mut window = Window::new(mark(0), 2);
    window.sent(now, mark(3));
    assert!(window.may_send());
    window.sent(now, mark(5));
    assert!(!window.may_send());
    assert_eq!(window.reached(), mark(5));
    assert_eq!(window.receipt(now, 1, 2).unwrap().unwrap().last, mark(3));
    assert!(!window.may_send(), "a receipt grants only what it says");
    assert_eq!(window.receipt(now, 1, 3), Ok(None));
    assert!(window.may_send() && !window.is_idle());
    assert_eq!(window.receipt(now, 2, 1).unwrap().unwrap().last, mark(5));
    assert!(window.may_send() && window.is_idle(), "what was granted stays granted");
}

#[test]
fn one_receipt_may_cover_many_batches_but_none_that_was_not_sent() {
    let now = Instant::now();
    let mut window = Window::new(mark(0), 9);
    for number in 1..=3 {
        window.sent(now, mark(number));
    }
    assert!(window.receipt(now, 4, 9).is_err());
    assert_eq!(window.receipt(now, 3, 9).unwrap().unwrap().last, mark(3));
    assert!(window.receipt(now, 2, 9).is_err(), "receipts only rise");
}

#[test]
fn what_is_in_flight_has_its_deadline_and_so_have_rows_without_a_grant() {
    let at = |seconds| Instant::now() + Duration::from_secs(seconds);
    let (now, later, last) = (at(0), at(7), at(9));
    let mut window = Window::new(mark(0), 2);
    assert_eq!(window.deadline(), None);
    window.sent(now, mark(1));
    window.sent(later, mark(2));
    assert_eq!(window.deadline(), Some(now + PATIENCE));
    window.receipt(last, 0, 2).unwrap();
    assert_eq!(window.deadline(), Some(now + PATIENCE), "a receipt that covers nothing new is no sign of life");
    window.receipt(last, 1, 2).unwrap();
    assert_eq!(window.deadline(), Some(last + PATIENCE), "one after the other they may take longer");
    window.receipt(last, 2, 2).unwrap();
    assert_eq!(window.deadline(), None);
    window.wait(later);
    window.wait(later + PATIENCE);
    assert_eq!(window.deadline(), Some(later + PATIENCE));
    window.receipt(last, 2, 3).unwrap();
    assert_eq!(window.deadline(), None);
    let sent = at(60);
    window.sent(sent, mark(3));
    assert_eq!(window.deadline(), Some(sent + PATIENCE), "what was heard before it was sent is nothing to it");
}

#[test]
fn a_stream_gets_what_there_is_room_for_at_least_one_at_most_a_window() {
    assert_eq!(grant(0, 0, 0), 1);
    assert_eq!(grant(1, 1, 3), 4);
    assert_eq!(grant(6, WINDOW, 100), 2 * WINDOW);
    assert_eq!(grant(18, 5, 0), 18, "what was granted stays granted");
}

#[test]
fn a_stream_that_sends_is_granted_twice_as_much_in_each_round_trip() {
    let mut granted = vec![grant(0, 0, 100)];
    while granted.len() < 6 {
        let before = granted[granted.len() - 1];
        granted.push(grant(before, before, 100));
    }
    let under_way: Vec<_> = [0].iter().chain(&granted).zip(&granted).map(|(from, to)| to - from).collect();
    assert_eq!(under_way, [4, 8, 16, 32, 64, 64]);
}
