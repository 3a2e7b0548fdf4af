//! Tables of `window.rs`.

use super::*;

const FLOOR: u64 = 100;

#[test]
fn a_stream_resumes_inside_the_window_and_begins_afresh_outside() {
    let (fresh, expired, unknown) =
        (Start::Fresh(None), Start::Fresh(Some(Reset::Expired)), Start::Fresh(Some(Reset::Unknown)));
    for (cursor, found, expected) in [
        (0, false, expired),
        (99, false, expired),
        (99, true, expired),
        // Told as the oldest; no event has it.
        (100, false, Start::Resume(100)),
        (101, true, Start::Resume(101)),
        (101, false, unknown),
        (u64::MAX, false, unknown),
    ] {
        assert_eq!(start(&Cursor(cursor).to_string(), FLOOR, found), expected, "{cursor} {found}");
    }
    assert_eq!(start("", FLOOR, false), fresh);
    for malformed in ["x", "150", "-1", &"0".repeat(21), &"9".repeat(1_000)] {
        assert_eq!(start(malformed, FLOOR, true), unknown, "{malformed}");
    }
}

#[test]
fn only_a_cursor_that_may_be_an_event_is_looked_for() {
    for (cursor, expected) in [(0, None), (100, None), (101, Some(101)), (u64::MAX, Some(u64::MAX))] {
        assert_eq!(sought(&Cursor(cursor).to_string(), FLOOR), expected);
    }
    assert_eq!((sought("", FLOOR), sought("150", FLOOR)), (None, None));
}

#[test]
fn a_stream_falls_out_when_rows_behind_its_cursor_are_gone() {
    assert!(!fell_out(100, 100), "everything after it is there");
    assert!(fell_out(99, 100));
}

#[test]
fn the_log_is_closed_a_window_after_the_last_gateway_and_never_before() {
    let age = Duration::from_secs(80);
    for (seconds, due, over) in [
        (0, false, false),
        (9, false, false),
        (10, true, false),
        (80, true, false),
        (90, true, false),
        (91, true, true),
    ] {
        let now = Millis(1_000_000 + seconds * 1_000);
        assert_eq!(is_note_due(Millis(1_000_000), now, age), due, "{seconds}");
        assert_eq!(is_over(Some(Millis(1_000_000)), now, Duration::ZERO, age), over, "before this life: {seconds}");
        assert_eq!(is_over(None, now, Duration::from_secs(seconds.cast_unsigned()), age), over, "{seconds}");
    }
    // The clock went back: what was noted is noted anew.
    assert!(is_note_due(Millis(2_000_000), Millis(1_000_000), age));
}

#[test]
fn a_clock_that_leaps_neither_closes_the_log_nor_keeps_it_open() {
    let (age, year) = (Duration::from_secs(80), Duration::from_secs(365 * 24 * 3600));
    let now = Millis(1_000_000);
    assert!(!is_over(None, now.plus(year), Duration::from_secs(90), age), "a gateway was there 90 s ago");
    assert!(is_over(None, now.minus(year), Duration::from_secs(91), age));
    // Noted before the start, by a clock that was ahead: a window from the start on.
    assert!(!is_over(Some(now.plus(year)), now, Duration::from_secs(90), age));
    assert!(is_over(Some(now.plus(year)), now, Duration::from_secs(91), age));
}
