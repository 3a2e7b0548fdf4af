//! What a parcel is on the wire, who is asked about one, and who hears what
//! became of it.

use super::*;
use crate::proto::pillarbox::relay::v1::{Letter, Message as Said, letter};
use std::sync::Mutex;

const PEER: PeerId = PeerId(7);
const NOW: Millis = Millis(1000);

fn letter(text: &str) -> Letter {
    Letter { kind: Some(letter::Kind::Message(Said { message_type: text.into(), ..Said::default() })) }
}

/// Notes what it is asked and what it is told.
#[derive(Default)]
struct Taker(Arc<Mutex<Vec<String>>>);

impl Taker {
    fn taken(&self, what: String) -> Taken {
        let log = self.0.clone();
        log.lock().unwrap().push(what.clone());
        Taken::new(vec![], move |outcome| log.lock().unwrap().push(format!("{what}: {outcome:?}")))
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Letters<Letter> for Taker {
    fn take(&self, _: PeerId, server: &ServerId, taken: Letter, _: Millis) -> Result<Taken, String> {
        match taken.kind {
            Some(letter::Kind::Message(said)) => Ok(self.taken(format!("{} of {server}", said.message_type))),
            _ => Err("only messages".into()),
        }
    }

    fn returned(&self, _: PeerId, id: u64, reason: &str, _: Millis) -> Taken {
        self.taken(format!("{id} came back: {}", reason.len()))
    }
}

impl Letters<chat::Letter> for Taker {
    fn take(&self, _: PeerId, server: &ServerId, taken: chat::Letter, _: Millis) -> Result<Taken, String> {
        Ok(self.taken(format!("{} notes of {server}", taken.notes.len())))
    }

    fn returned(&self, _: PeerId, id: u64, _: &str, _: Millis) -> Taken {
        self.taken(format!("chat's {id} came back"))
    }
}

fn takers(taker: &Taker) -> Takers {
    Takers { relay: Arc::new(Taker(taker.0.clone())), chat: Arc::new(Taker(taker.0.clone())) }
}

fn opening(takers: &Takers) -> Opening<'_> {
    Opening::new(takers, PEER, "a.example:1".parse().unwrap(), NOW)
}

#[test]
fn what_we_write_we_read() {
    assert_eq!(read(&event(3, letter("x"))), Some(Parcel { id: 3, body: Some(Body::Relay(letter("x"))) }));
    let back = Returned { id: 3, reason: "no".into(), body: 0 };
    assert_eq!(read(&refusal(3, None, "no")), Some(Parcel { id: 3, body: Some(Body::Returned(back)) }));
    assert_eq!(read(&Bytes::from_static(b"\x0a\x7f")), None);
}

#[test]
fn the_operator_sees_of_a_parcel_only_which_it_is() {
    assert_eq!(read(&shown(event(3, letter("secret")))), Some(Parcel { id: 3, body: None }));
    for other in [Bytes::new(), Bytes::from_static(b"\x0a\x7f"), Bytes::from_static(b"\x12\x02\x08\x01")] {
        assert_eq!(shown(other.clone()), other);
    }
}

#[test]
fn a_letter_of_no_known_kind_is_refused_and_nobody_is_asked() {
    let taker = Taker::default();
    for body in [None, Some(Body::Relay(Letter { kind: None }))] {
        let refused = opening(&takers(&taker)).open(Parcel { id: 1, body }).unwrap_err();
        assert_eq!(refused.reason, "unknown letter");
    }
    assert!(taker.log().is_empty());
}

#[test]
fn each_taker_hears_of_its_own_numbers() {
    let taker = Taker::default();
    let takers = takers(&taker);
    let mut opening = opening(&takers);
    for body in [Body::Relay(letter("x")), Body::Returned(Returned { id: 8, reason: "no".into(), body: 0 })] {
        opening.open(Parcel { id: 1, body: Some(body) }).unwrap();
    }
    assert_eq!(taker.log(), ["x of a.example:1", "8 came back: 2"]);
    opening.committed(100, &[0..2, 3..4]);
    assert_eq!(taker.log(), ["x of a.example:1: Committed(100..102)", "8 came back: 2: Committed(103..104)"]);
}

#[test]
fn whoever_took_a_letter_hears_that_nothing_came_of_it() {
    for outcome in [Outcome::Failed, Outcome::Unknown] {
        let taker = Taker::default();
        let takers = takers(&taker);
        let mut opening = opening(&takers);
        opening.open(Parcel { id: 1, body: Some(Body::Relay(letter("x"))) }).unwrap();
        opening.failed(&outcome);
        assert_eq!(taker.log()[1], format!("x of a.example:1: {outcome:?}"));
    }
}

#[test]
fn a_long_reason_is_cut_on_both_ways() {
    let long = "é".repeat(REASON_MAX + 1);
    let Some(Body::Returned(back)) = read(&refusal(1, None, &long)).unwrap().body else { panic!("a refusal") };
    assert_eq!(back.reason, "é".repeat(REASON_MAX));
    let taker = Taker::default();
    opening(&takers(&taker))
        .open(Parcel { id: 1, body: Some(Body::Returned(Returned { id: 8, reason: long, body: 0 })) })
        .unwrap();
    assert_eq!(taker.log(), [format!("8 came back: {}", 2 * REASON_MAX)]);
}

#[test]
fn letters_of_each_kind_go_to_their_own_taker() {
    let taker = Taker::default();
    let takers = takers(&taker);
    let mut opening = opening(&takers);
    let said = chat::Letter { notes: vec![chat::Note::default()] };
    opening.open(Parcel { id: 1, body: Some(Body::Chat(said)) }).unwrap();
    for body in [CHAT, RELAY, 0, 99] {
        let back = Returned { id: u64::from(body), reason: "no".into(), body };
        opening.open(Parcel { id: 1, body: Some(Body::Returned(back)) }).unwrap();
    }
    let log = ["1 notes of a.example:1", "chat's 4 came back", "3 came back: 2", "0 came back: 2"];
    assert_eq!(taker.log(), log, "one of no known kind is nobody's");
    let refused = read(&refusal(3, number_of(&Body::Chat(chat::Letter::default())), "no")).unwrap();
    assert_eq!(refused.body, Some(Body::Returned(Returned { id: 3, reason: "no".into(), body: CHAT })));
}
