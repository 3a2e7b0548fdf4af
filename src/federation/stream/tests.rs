//! The rule of what is applied, by table.

use super::*;

fn row(epoch: u64, number: u64, after: u64) -> Position {
    Position { epoch, number, id: number * 10, after }
}

fn mark(epoch: u64, number: u64) -> Mark {
    Mark { epoch, number, id: number * 10 }
}

fn applied(skip: usize, take: usize, mark: Mark) -> Verdict {
    Verdict::Apply { skip, take, mark }
}

#[test]
fn a_row_is_applied_iff_it_follows_our_mark() {
    let at = mark(1, 5);
    assert_eq!(judge(at, &[row(1, 6, 5)]), applied(0, 1, mark(1, 6)));
    assert_eq!(judge(at, &[row(1, 9, 5)]), applied(0, 1, mark(1, 9)));
    assert_eq!(judge(at, &[row(1, 9, 3)]), applied(0, 0, at));
    assert_eq!(judge(at, &[row(1, 9, 6)]), applied(0, 0, at));
    assert_eq!(judge(at, &[row(1, 5, 4)]), applied(1, 0, at));
    assert_eq!(judge(at, &[row(1, 4, 3)]), applied(1, 0, at));
}

#[test]
fn a_run_is_applied_from_the_first_new_row_to_the_first_gap() {
    let rows = [row(1, 4, 3), row(1, 5, 4), row(1, 6, 5), row(1, 8, 6), row(1, 12, 9), row(1, 13, 12)];
    assert_eq!(judge(mark(1, 5), &rows), applied(2, 2, mark(1, 8)));
}

/// A sender from a backup numbers 8 and 11 anew; a late Push of its lost life
/// brought us to 10.
#[test]
fn a_run_that_does_not_show_our_row_at_the_mark_is_not_applied() {
    let at = mark(1, 10);
    assert_eq!(judge(at, &[row(1, 8, 7), row(1, 11, 8)]), applied(1, 0, at));
    assert_eq!(judge(at, &[row(1, 8, 7), row(1, 10, 8), row(1, 11, 10)]), applied(2, 1, mark(1, 11)));
}

#[test]
fn a_higher_epoch_starts_at_zero_and_a_lower_one_is_not_applied() {
    assert_eq!(judge(mark(1, 5), &[row(2, 3, 0), row(2, 4, 3)]), applied(0, 2, mark(2, 4)));
    assert_eq!(judge(mark(2, 5), &[row(1, 6, 5)]), applied(1, 0, mark(2, 5)));
    // A higher epoch whose beginning is missing changes nothing.
    assert_eq!(judge(mark(1, 5), &[row(2, 8, 7)]), applied(0, 0, mark(1, 5)));
}

#[test]
fn another_row_at_the_mark_refuses_the_run_whole() {
    let other = Position { id: 1, ..row(1, 5, 4) };
    assert_eq!(judge(mark(1, 5), &[row(1, 4, 3), other, row(1, 6, 5)]), Verdict::Forked);
}

#[test]
fn numbers_that_fall_within_a_run_end_it() {
    assert_eq!(judge(mark(1, 5), &[row(1, 7, 5), row(1, 6, 5)]), applied(0, 1, mark(1, 7)));
    assert_eq!(judge(mark(1, 5), &[row(1, 7, 5), row(2, 8, 0)]), applied(0, 1, mark(1, 7)));
}
