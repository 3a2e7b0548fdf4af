//! Tests of `relay/sessions/news`.

use super::*;
use wire::{Claim, Part, Party, Round, View};

fn party(name: &str, last_seen_at: i64) -> Party {
    Party { party: name.into(), last_seen_at, ..Party::default() }
}

fn round(round: i32, sent: u32) -> Round {
    Round { round, parties: vec![Part { party: "alice".into(), sent, ..Part::default() }] }
}

fn view(parties: &[Party], rounds: &[Round]) -> View {
    View { whole: true, messages: 7, now: 1, parties: parties.to_vec(), rounds: rounds.to_vec(), ..View::default() }
}

fn base() -> View {
    view(&[party("alice", 1), party("bob", 2)], &[round(1, 1), round(2, 1)])
}

#[test]
fn the_first_view_is_the_whole() {
    assert_eq!(news(None, &base()), Some(base()));
}

#[test]
fn the_same_again_is_no_news_whatever_the_clock_says() {
    assert_eq!(news(Some(&base()), &View { now: 2, expires_at: 9, ..base() }), None);
}

#[test]
fn only_what_changed_is_said() {
    let later =
        view(&[party("alice", 1), party("bob", 3), party("carol", 0)], &[round(1, 1), round(2, 2), round(3, 1)]);
    let said = news(Some(&base()), &later).unwrap();
    let parties = vec![party("bob", 3), party("carol", 0)];
    assert_eq!(said, View { whole: false, parties, rounds: vec![round(2, 2), round(3, 1)], ..later });
}

#[test]
fn what_is_gone_takes_the_whole() {
    for later in [view(&base().parties[1..], &base().rounds), view(&base().parties, &base().rounds[1..])] {
        assert_eq!(news(Some(&base()), &later), Some(later));
    }
}

#[test]
fn every_other_field_is_news_of_its_own() {
    let twice = Claim { sender: "alice".into(), ..Claim::default() };
    for later in [
        View { owner: "a.example:1".into(), ..base() },
        View { settled: true, ..base() },
        View { messages: 8, ..base() },
        View { cut: true, ..base() },
        View { equivocations: vec![twice], equivocation_count: 1, ..base() },
        // Beyond those that are listed.
        View { equivocation_count: 1_001, ..base() },
    ] {
        let said = news(Some(&base()), &later).unwrap();
        assert_eq!(said, View { whole: false, parties: vec![], rounds: vec![], ..later });
    }
}
