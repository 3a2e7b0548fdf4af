//! Columns, times, and text that is safe on a terminal.

use super::*;

#[test]
fn columns_are_aligned_and_lines_end_without_spaces() {
    let cells = |texts: [&str; 3]| texts.map(str::to_owned);
    assert_eq!(join(&[3, 2, 0], &cells(["a", "b", "c"])), "a    b   c");
    assert_eq!(join(&[3, 2, 0], &cells(["a", "", ""])), "a");
    assert_eq!(join(&[1, 2, 0], &cells(["über", "b", "c"])), "über  b   c");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    assert_eq!(plain("b.example:7443"), "b.example:7443");
    assert_eq!(plain("grüße"), "grüße");
    assert_eq!(plain("a\u{1b}[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
}

#[test]
fn a_moment_is_utc_and_zero_is_never() {
    assert_eq!(moment(0), "never");
    assert_eq!(moment(-5), "never");
    assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    assert_eq!(moment(i64::MAX), format!("{} ms", i64::MAX));
}

#[test]
fn a_span_has_one_unit() {
    let now = 1_700_000_000_000;
    for (millis, expected) in [
        (0, "never"),
        (now, "0 s ago"),
        (now - 119_000, "119 s ago"),
        (now - 120_000, "2 min ago"),
        (now - 7_200_000, "2 h ago"),
        (now - 172_800_000, "2 d ago"),
        (now + 5_000, "in 5 s"),
    ] {
        assert_eq!(ago(millis, now), expected);
    }
}
