//! What a pattern means, and what is none.

use super::*;

fn matches(pattern: &str, id: &str) -> bool {
    let pattern: Pattern = pattern.parse().expect(pattern);
    pattern.matches(&id.parse().expect(id))
}

#[test]
fn a_pattern_means_what_it_says() {
    let table = [
        ("*", "a.example:1", true),
        ("*:7443", "a.example:7443", true),
        ("*:7443", "a.example:7444", false),
        ("a.example", "a.example:1", true),
        ("A.Example", "a.example:1", true),
        ("a.example", "b.a.example:1", false),
        ("a.example:7443", "a.example:7443", true),
        ("a.example:7443", "a.example:7444", false),
        ("*.a.example", "b.a.example:1", true),
        ("*.a.example", "c.b.a.example:1", true),
        ("*.a.example", "a.example:1", false),
        ("*.a.example", "nota.example:1", false),
        ("*.a.example:2", "b.a.example:1", false),
        ("10.0.0.7", "10.0.0.7:1", true),
        ("[fd00::7]", "[fd00::7]:1", true),
        ("[fd00::7]:1", "[fd00::7]:1", true),
        ("[fd00::7]:1", "[fd00::7]:2", false),
    ];
    for (pattern, id, expected) in table {
        assert_eq!(matches(pattern, id), expected, "{pattern} {id}");
    }
}

#[test]
fn what_is_malformed_is_no_pattern() {
    for text in [
        "",
        ":",
        "*:",
        "*.",
        "**",
        "a.*",
        "*a.example",
        "a.example:",
        "a.example:0",
        "a.example:99999",
        "a b",
        "fd00::7",
        "[fd00::7",
        "*.*",
    ] {
        assert!(text.parse::<Pattern>().is_err(), "{text:?}");
    }
}

#[test]
fn a_pattern_prints_as_it_reads() {
    for text in ["*", "*:7443", "a.example", "*.a.example:1", "[fd00::7]", "[fd00::7]:1"] {
        assert_eq!(text.parse::<Pattern>().expect(text).to_string(), text);
    }
}
