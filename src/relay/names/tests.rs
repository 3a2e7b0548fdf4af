//! Tests of `relay/names`.

use super::*;

fn read(text: &str) -> Result<Name, Error> {
    parse("party_id", text, |server| server.as_str() == "a.example:7443")
}

#[test]
fn the_short_and_the_qualified_name_of_a_local_party_are_the_same() {
    let short = read("alice").unwrap();
    assert_eq!(short, Name { name: "alice".into(), server: None });
    assert_eq!(read("alice@a.example:7443").unwrap(), short);
    assert_eq!(read("alice@A.Example:7443").unwrap(), short);
}

#[test]
fn a_party_elsewhere_keeps_its_server() {
    let bob = read("bob@b.example:7443").unwrap();
    assert_eq!(bob.server.as_ref().map(ServerId::as_str), Some("b.example:7443"));
    assert_eq!(show(&bob.name, bob.server.as_ref()), "bob@b.example:7443");
    assert_eq!(show("alice", None), "alice");
}

#[test]
fn a_bad_name_is_refused_and_the_field_named() {
    for bad in ["", "a b", "a\n", "@b.example:1", "alice@", "alice@b.example", &"x".repeat(257), "a@b@b.example:1"] {
        let Err(Error::Invalid(text)) = read(bad) else { panic!("{bad:?} was taken") };
        assert!(text.starts_with("party_id:"), "{text}");
    }
    assert!(read(&"x".repeat(256)).is_ok());
    assert!(read(&format!("{}@b.example:7443", "x".repeat(256))).is_ok(), "also as others must write it");
    assert!(read(&format!("{}@b.example:7443", "x".repeat(257))).is_err());
    // Nobody passes for somebody else by what cannot be seen.
    for unseen in ['\u{202e}', '\u{200b}', '\u{feff}', '\u{ad}', '\u{e000}', '\u{e0001}', '\u{2028}', '\u{85}'] {
        assert!(read(&format!("al{unseen}ice")).is_err(), "{unseen:?}");
    }
    for seen in ["zoë", "zoe\u{308}", "d'arc", "\"a\"", "a\\b", "日本", "🦀", "न\u{940}"] {
        assert!(read(seen).is_ok(), "{seen:?}");
    }
}
