//! Tests of the sizes and stamps of events.

use super::*;

#[test]
fn an_event_has_the_size_it_is_asked_for() {
    for size in [SMALLEST, 127, 128, 255, 256, 1024, 16_384, 65_536] {
        for number in [0, 1, 9_999, 1 << 40] {
            let body = stamped_event(Shape::Rejected, number, size);
            // Where the length's own length changes one byte may be missing.
            assert!(body.len() == size || body.len() + 1 == size, "{size}: {}", body.len());
            assert!(Event::decode(body.clone()).expect("an event").kind.is_some());
            assert!(age(&body).is_some_and(|age| age < Duration::from_secs(60)));
        }
    }
    assert_eq!(event(Shape::Added, 7).len(), EVENT);
    assert_eq!(stamped_text(100).len(), 100);
}

#[test]
fn what_bears_no_stamp_has_no_age() {
    assert_eq!(age(b"short"), None);
    assert_eq!(age(&event(Shape::Added, 7)), None);
    assert!(age(stamped_text(SMALLEST).as_bytes()).is_some());
}
