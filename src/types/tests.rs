//! What is well formed at the door, and what is not.

use super::*;

#[test]
fn a_server_id_is_canonical() {
    for (text, canonical, host, port) in [
        ("A.Example:7443", "a.example:7443", "a.example", 7443),
        ("localhost:1", "localhost:1", "localhost", 1),
        ("127.0.0.1:65535", "127.0.0.1:65535", "127.0.0.1", 65535),
        ("[0:0::1]:7443", "[::1]:7443", "::1", 7443),
        ("my_host:80", "my_host:80", "my_host", 80),
    ] {
        let id: ServerId = text.parse().unwrap();
        assert_eq!((id.as_str(), id.host(), id.port()), (canonical, host, port));
    }
}

#[test]
fn a_malformed_server_id_is_refused() {
    for text in [
        "",
        ":",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:+1",
        "a:01",
        "a b:1",
        "a..b:1",
        "-a:1",
        "a-:1",
        "a.:1",
        "https://a:1",
        "::1:1",
        "[::g]:1",
        "[::1]",
        "1.2.3:1",
        "256.1.1.1:1",
        "ä:1",
        "a/b:1",
        "a\n:1",
        "[a]:1",
    ] {
        assert!(text.parse::<ServerId>().is_err(), "{text:?}");
    }
    assert!(format!("{}:1", "a".repeat(64)).parse::<ServerId>().is_err());
    assert!(format!("{}a:1", "a.".repeat(130)).parse::<ServerId>().is_err());
}

#[test]
fn a_weak_or_short_key_is_refused() {
    assert!(PublicKey::from_bytes(&[0; 31]).is_err());
    let mut identity = [0; 32];
    identity[0] = 1;
    assert!(PublicKey::from_bytes(&identity).is_err());
}
