//! Secrets, the signature's own example, bodies and answers.

use super::*;
use crate::{net::dial::DialConfig, types::Millis};

#[test]
fn a_secret_has_24_to_64_bytes() {
    let secret = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    for (bytes, good) in [(23, false), (24, true), (32, true), (64, true), (65, false)] {
        assert_eq!(key(&secret(bytes)).is_ok(), good, "{bytes}");
    }
    assert!(key(secret(32).trim_end_matches('=')).is_ok(), "padding may be left out");
    assert!(key(&secret(32)[6..]).is_err());
    assert!(key("whsec_*").is_err());
}

#[test]
fn the_signature_is_that_of_the_specification() {
    // The published example of the scheme.
    let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
    let dialer = Dialer::new(&DialConfig::default()).expect("a dialer");
    let webhook = Webhook::new("https://hooks.example".parse().expect("a URL"), key, dialer);
    let headers = webhook.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
    assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_eq!(
        (&headers["webhook-timestamp"], &headers["webhook-id"]),
        (&"1614265330".parse().unwrap(), &"msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap())
    );
}

#[test]
fn a_body_has_the_channels_there_are() {
    let node = "a.example:7443".parse().expect("an id");
    let notice =
        Notice { id: "msg_1", party: "bob", session: "s", kind: Kind::Event, since: Millis(1_001), node: &node };
    assert_eq!(
        body(Some("+1"), None, &notice).expect("JSON"),
        r#"{"type":"mpc.session_event","timestamp":"1970-01-01T00:00:01.001Z","data":{"party_id":"bob","session_id":"s","phone":"+1"}}"#
    );
    let message = Notice { kind: Kind::Message, since: Millis(-1), ..notice };
    assert_eq!(
        body(None, Some("t"), &message).expect("JSON"),
        r#"{"type":"mpc.message_waiting","timestamp":"1970-01-01T00:00:00.000Z","data":{"party_id":"bob","session_id":"s","push_token":"t"}}"#
    );
}

#[test]
fn only_what_may_pass_is_tried_again() {
    let after = Some(Duration::from_secs(7));
    for (status, expected) in [
        (200, None),
        (204, None),
        (301, Some(true)),
        (400, Some(true)),
        (404, Some(true)),
        (410, Some(true)),
        (408, Some(false)),
        (429, Some(false)),
        (500, Some(false)),
        (503, Some(false)),
    ] {
        let status = StatusCode::from_u16(status).expect("a status");
        let judged = judge(Answer { status, retry_after: after });
        assert_eq!(judged.as_ref().err().map(|failure| failure.last), expected, "{status}");
        if let Err(failure) = judged {
            assert_eq!(failure.after, after.filter(|_| !failure.last), "{status}");
        }
    }
}
