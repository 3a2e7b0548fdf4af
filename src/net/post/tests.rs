//! Which addresses are posted to, and how they are read.

use super::*;

#[test]
fn an_address_is_read_into_host_port_and_path() {
    for (text, id, host, path, plaintext) in [
        ("https://Hooks.example/a?b=c", "hooks.example:443", "Hooks.example", "/a?b=c", false),
        ("https://hooks.example:8443", "hooks.example:8443", "hooks.example:8443", "/", false),
        ("http://localhost/x", "localhost:80", "localhost", "/x", true),
        ("http://[::1]:81/", "[::1]:81", "[::1]:81", "/", true),
        ("http://127.0.0.9:81/", "127.0.0.9:81", "127.0.0.9:81", "/", true),
    ] {
        let url: PostUrl = text.parse().expect(text);
        assert_eq!((url.target.id.as_str(), url.target.plaintext), (id, plaintext), "{text}");
        assert_eq!((url.host, url.path.as_str()), (HeaderValue::from_static(host), path), "{text}");
    }
}

#[test]
fn a_bad_address_is_refused_without_being_quoted() {
    for text in [
        "",
        "secret",
        "/secret",
        "ftp://a.example/secret",
        "http://a.example/secret",
        "http://192.168.0.1/secret",
        "http://localhost.a.example/secret",
        "https://secret@a.example/",
        "https://a..example/secret",
        "https://a.example:0/secret",
    ] {
        let error = text.parse::<PostUrl>().expect_err(text);
        assert!(matches!(error, Error::Invalid(_)) && !error.to_string().contains("secret"), "{text}: {error}");
    }
}

#[test]
fn retry_after_is_read_in_seconds() {
    for (text, seconds) in [("0", Some(0)), (" 7 ", Some(7)), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)] {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
        assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{text}");
    }
}
