//! How servers are read and what a mail looks like.

use super::{super::rule::Kind, *};
use crate::types::Millis;

#[test]
fn a_server_is_read_with_its_port_and_security() {
    for (text, host, port, security, user) in [
        ("smtps://mail.example", "mail.example", 465, Security::Tls, false),
        ("smtp://Mail.example", "mail.example", 587, Security::StartTls, false),
        ("smtp://u:p@mail.example:2525/", "mail.example", 2525, Security::StartTls, true),
        ("smtp://localhost", "localhost", 25, Security::None, false),
        ("smtp://[::1]:2525", "::1", 2525, Security::None, false),
        ("smtps://127.0.0.1", "127.0.0.1", 465, Security::Tls, false),
    ] {
        let server = Server::parse(text).expect(text);
        assert_eq!((&*server.host, server.port, server.security), (host, port, security), "{text}");
        assert_eq!(server.credentials.is_some(), user, "{text}");
    }
    let server = Server::parse("smtps://me%40mail.example:a%2Fb%3a@mail.example").expect("encoded");
    assert_eq!(server.credentials, Some(Credentials::new("me@mail.example".into(), "a/b:".into())));
}

#[test]
fn a_bad_server_is_refused() {
    for text in [
        "mail.example",
        "smtps://",
        "smtps://u@mail.example",
        "smtps://u:%zz@mail.example",
        "smtps://u:%4@mail.example",
        "smtps://mail.example/path",
        "smtp://mail.example?tls=none",
    ] {
        assert!(Server::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_mail_has_a_subject_and_two_lines() {
    let node = "a.example:7443".parse().expect("an id");
    let notice =
        Notice { id: "msg_1", party: "bob", session: "s-1", kind: Kind::Message, since: Millis(0), node: &node };
    let from = "Pillarbox <box@a.example>".parse().expect("a mailbox");
    let mail = compose(from, "bob@mail.example".parse().expect("an address"), &notice).expect("a mail");
    let text = String::from_utf8(mail.formatted()).expect("ASCII");
    let (headers, body) = text.split_once("\r\n\r\n").expect("headers and a body");
    assert_eq!(body, "Session: s-1\r\nNode: a.example:7443\r\n");
    for line in [
        "From: Pillarbox <box@a.example>",
        "To: bob@mail.example",
        "Subject: A session waits for you on a.example:7443",
        "Message-ID: <msg_1@a.example>",
        "Auto-Submitted: auto-generated",
    ] {
        assert!(headers.lines().any(|header| header == line), "{line} is not in {headers}");
    }
    assert!(headers.lines().any(|header| header.starts_with("Date: ")));
}
