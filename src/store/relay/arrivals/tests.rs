//! Tests of `store/relay/arrivals`.

use super::{super::chain::Heads, *};

fn given(accepted_at: i64, created: impl IntoIterator<Item = (String, i64)>) -> Given {
    Given { created: created.into_iter().collect(), accepted_at, ..Given::default() }
}

#[test]
fn who_is_not_remembered_stands_at_the_floor() {
    let mut arrivals = Arrivals::new(10, Heads::default());
    assert_eq!(arrivals.last("a"), 10);
    arrivals.advance(&given(20, [("a".to_owned(), 20)]));
    assert_eq!((arrivals.last("a"), arrivals.last("b")), (20, 10));
}

#[test]
fn the_old_are_forgotten_first_and_leave_their_moment_as_the_floor() {
    let mut arrivals = Arrivals::new(0, Heads::default());
    arrivals.advance(&given(1, (0..REMEMBERED).map(|n| (format!("old{n}"), 1 + i64::from(n == 7)))));
    assert_eq!(arrivals.last("nobody"), 0, "nothing is forgotten before there is need");
    let now = 2 + 2 * MINUTE;
    arrivals.advance(&given(now, [("new".to_owned(), now)]));
    assert_eq!((arrivals.last("new"), arrivals.last("old0"), arrivals.last("nobody")), (now, 2, 2));
    assert_eq!(arrivals.last.len(), 1);
}

#[test]
fn however_many_there_are_in_a_minute_memory_is_bounded_and_nobody_falls_back() {
    let mut arrivals = Arrivals::new(0, Heads::default());
    for round in 0..5 {
        let at = 1000 + round;
        arrivals.advance(&given(at, (0..REMEMBERED / 2).map(|n| (format!("{round}:{n}"), at))));
        assert!(arrivals.last.len() <= REMEMBERED);
        for before in 0..=round {
            assert!(arrivals.last(&format!("{before}:3")) >= 1000 + before);
        }
    }
}
