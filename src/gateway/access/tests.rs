//! Tokens and origins, by tables.

use super::*;

#[test]
fn a_token_comes_in_the_header_or_else_in_the_query() {
    let table: &[(Option<&str>, Option<&str>, Option<&str>)] = &[
        (Some("Bearer abc"), None, Some("abc")),
        (Some("bearer  abc "), None, Some("abc")),
        (Some("Bearer abc"), Some("token=other"), Some("abc")),
        // A header that is no token is not passed over.
        (Some("Basic abc"), Some("token=other"), None),
        (Some("Bearer "), Some("token=other"), None),
        (None, Some("token=abc"), Some("abc")),
        (None, Some("last_event_id=7&token=a%2Bb%3D"), Some("a+b=")),
        (None, Some("token="), None),
        (None, Some("token"), None),
        // No token that a backend gave has these.
        (None, Some("token=%zz"), Some("%zz")),
        (None, Some("token=%4"), Some("%4")),
        (None, Some("token=%ff"), Some("\u{fffd}")),
        (None, Some("%74oken=abc"), Some("abc")),
        (None, Some("tokens=abc"), None),
        (None, None, None),
    ];
    for (header, query, expected) in table {
        assert_eq!(token(*header, *query).as_deref(), *expected, "{header:?} {query:?}");
    }
}

#[test]
fn a_parameter_is_the_first_of_its_name() {
    assert_eq!(parameter(Some("a=1&b=2&a=3"), "a").as_deref(), Some("1"));
    assert_eq!(parameter(Some("a=1+2"), "a").as_deref(), Some("1 2"));
    assert_eq!(parameter(Some(""), "a"), None);
}

#[test]
fn a_page_of_another_origin_is_foreign() {
    use Origin::{Allowed, Foreign, Own};
    let allowed = ["https://app.example".to_owned(), "http://localhost:3000".to_owned()];
    let table: &[(Option<&str>, Option<&str>, Origin)] = &[
        (None, Some("push.example"), Own),
        (Some("https://push.example"), Some("push.example"), Own),
        (Some("https://push.example"), Some("PUSH.example:443"), Own),
        (Some("http://127.0.0.1:8080"), Some("127.0.0.1:8080"), Own),
        (Some("http://[::1]:8080"), Some("[::1]:8080"), Own),
        (Some("http://127.0.0.1:8081"), Some("127.0.0.1:8080"), Foreign),
        (Some("https://push.example:80"), Some("push.example"), Foreign),
        (Some("https://app.example"), Some("push.example"), Allowed),
        (Some("http://app.example"), Some("push.example"), Foreign),
        (Some("https://app.example.evil"), Some("push.example"), Foreign),
        (Some("http://localhost:3000"), None, Allowed),
        (Some("https://push.example"), None, Foreign),
        (Some("null"), Some("null"), Foreign),
        (Some("file://push.example"), Some("push.example"), Foreign),
        (Some(""), Some(""), Foreign),
    ];
    for (from, host, expected) in table {
        assert_eq!(origin(*from, *host, &allowed), *expected, "{from:?} {host:?}");
    }
}

#[test]
fn an_allowed_origin_has_nothing_behind_its_host() {
    for good in ["https://app.example", "http://localhost:3000", "https://[::1]:8080"] {
        assert_eq!(check_origin(good).as_deref(), Ok(good));
    }
    assert_eq!(check_origin("HTTPS://App.Example").as_deref(), Ok("https://app.example"));
    for bad in ["*", "app.example", "https://", "https://app.example/", "ftp://app.example", "https://a b", "null"] {
        assert!(check_origin(bad).is_err(), "{bad}");
    }
}
