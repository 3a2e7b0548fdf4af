//! What a client that comes back gets, by tables.

use super::*;
use Resume::{After, Ahead, Fresh, Gone};

#[derive(Debug)]
struct Event(u64, usize);

impl Kept for Event {
    fn cursor(&self) -> Cursor {
        Cursor(self.0)
    }
    fn size(&self) -> usize {
        self.1
    }
}

fn ring(max_events: usize, max_bytes: usize, floor: Option<u64>, numbers: &[u64]) -> Ring<Event> {
    let mut ring = Ring::new(max_events, max_bytes);
    ring.begin_after(floor.map(Cursor));
    for number in numbers {
        assert!(ring.advance(Cursor(*number)));
        ring.push(Arc::new(Event(*number, 10)));
    }
    ring
}

fn kept(ring: &Ring<Event>, after: u64) -> Vec<u64> {
    ring.after(Cursor(after)).map(|event| event.0).collect()
}

fn id(number: u64) -> String {
    Cursor(number).to_string()
}

#[test]
fn who_names_no_event_begins_now() {
    for ring in [ring(3, 100, None, &[]), ring(3, 100, Some(4), &[5, 6])] {
        assert_eq!((ring.resume(None), ring.resume(Some(""))), (Fresh, Fresh));
    }
}

#[test]
fn a_client_goes_on_only_where_nothing_is_missing() {
    // Floor, what came (three are kept), the client's event, what it gets.
    let table: &[(Option<u64>, &[u64], u64, Resume)] = &[
        (Some(4), &[5, 7], 4, After(Cursor(4))),
        (Some(4), &[5, 7], 5, After(Cursor(5))),
        (Some(4), &[5, 7], 6, After(Cursor(6))),
        (Some(4), &[5, 7], 7, After(Cursor(7))),
        (Some(4), &[5, 7], 3, Gone),
        (Some(4), &[5, 7], 8, Ahead(Cursor(8))),
        (Some(4), &[], 4, After(Cursor(4))),
        (Some(4), &[], 5, Ahead(Cursor(5))),
        // Pushed out: 5 is gone, and who has seen it misses nothing.
        (Some(4), &[5, 7, 8, 9], 4, Gone),
        (Some(4), &[5, 7, 8, 9], 5, After(Cursor(5))),
        // Begun in the void: nobody knows what was before the first.
        (None, &[], 4, Gone),
        (None, &[5, 7], 4, Gone),
        (None, &[5, 7], 5, After(Cursor(5))),
        (None, &[5, 7], 8, Ahead(Cursor(8))),
    ];
    for (floor, came, last, expected) in table {
        let ring = ring(3, 1000, *floor, came);
        assert_eq!(ring.resume(Some(&id(*last))), *expected, "{floor:?} {came:?} {last}");
    }
}

#[test]
fn an_id_of_another_kind_is_gone() {
    let ring = ring(3, 100, Some(4), &[5]);
    for text in ["5", "x", "0000000000000000000x", "000000000000000000005"] {
        assert_eq!(ring.resume(Some(text)), Gone, "{text}");
    }
}

#[test]
fn it_is_bounded_by_count_and_by_bytes() {
    assert_eq!(kept(&ring(3, 1000, Some(0), &[1, 2, 3, 4]), 0), [2, 3, 4]);
    assert_eq!(kept(&ring(9, 25, Some(0), &[1, 2, 3, 4]), 0), [3, 4]);
    let none = ring(9, 5, Some(0), &[1, 2]);
    assert_eq!((kept(&none, 0), none.floor()), (vec![], Some(Cursor(2))));
    assert_eq!(none.resume(Some(&id(2))), After(Cursor(2)));
}

#[test]
fn the_same_ring_comes_of_subscribing_after_its_floor() {
    let first = ring(3, 1000, Some(0), &[1, 2, 3, 4, 5]);
    let floor = first.floor().map(|floor| floor.0);
    let again = ring(3, 1000, floor, &kept(&first, 0));
    assert_eq!((kept(&again, 0), again.floor(), again.newest()), (kept(&first, 0), first.floor(), first.newest()));
}

#[test]
fn what_is_not_after_the_newest_is_a_repeat() {
    let mut ring = ring(3, 1000, Some(4), &[5]);
    assert!(!ring.advance(Cursor(5)) && !ring.advance(Cursor(4)));
    assert!(ring.advance(Cursor(9)));
    assert_eq!(ring.newest(), Some(Cursor(9)));
    assert_eq!(kept(&ring, 5), [] as [u64; 0]);
    ring.begin_after(None);
    assert!(ring.advance(Cursor(3)));
    assert_eq!((ring.floor(), ring.newest()), (Some(Cursor(3)), Some(Cursor(3))));
}

#[test]
fn the_cursor_of_what_is_no_client_event_counts() {
    let mut ring = ring(3, 1000, Some(4), &[5]);
    assert!(ring.advance(Cursor(6)));
    assert_eq!(ring.resume(Some(&id(6))), After(Cursor(6)));
}
