//! What the document promises of the words on the wire.

use super::*;
use serde_json::Value;

fn text(said: &Said) -> String {
    String::from_utf8(sse(said).to_vec()).unwrap()
}

fn ready(id: Option<Cursor>) -> Said {
    let ready = Ready {
        gateway: "web".into(),
        key: "k=".into(),
        user_id: "alice".into(),
        device_session_id: "5f3a".into(),
        expires_at: 0,
        resumed: false,
    };
    Said::Ready { id, ready: Box::new(ready), retry_ms: 1500 }
}

fn message(said: &Said) -> Value {
    let Frame::Text(text) = frame(said) else { panic!("no text") };
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_event_stream_has_the_fields_of_the_document() {
    let event = Said::Event { id: Cursor(7), envelope: Bytes::from_static(b"{\"kind\":\"k\"}") };
    assert_eq!(text(&event), "id: 00000000000000000007\ndata: {\"kind\":\"k\"}\n\n");
    let reset = Said::Reset { id: Some(Cursor(9)), last: "a\nb\"".into() };
    assert_eq!(text(&reset), "id: 00000000000000000009\nevent: reset\ndata: {\"last_event_id\":\"a\\nb\\\"\"}\n\n");
    assert_eq!(text(&Said::Quiet), ":\n\n");
    let begun = text(&ready(Some(Cursor(7))));
    assert!(begun.starts_with("retry: 1500\nid: 00000000000000000007\nevent: ready\ndata: {"), "{begun}");
    assert!(!text(&ready(None)).contains("id:"), "no id before anything is known");
    let closed = text(&Said::Closed(End::Revoked("user_disabled".into())));
    assert_eq!(closed, "event: closed\ndata: {\"detail\":\"user_disabled\",\"reason\":\"revoked\"}\n\n");
}

#[test]
fn a_web_socket_says_the_same() {
    let event = Said::Event { id: Cursor(7), envelope: Bytes::from_static(b"{\"kind\":\"k\"}") };
    let shown = message(&event);
    assert_eq!(
        (&shown["type"], &shown["id"], &shown["envelope"]["kind"]),
        (&"event".into(), &"00000000000000000007".into(), &"k".into())
    );
    let begun = message(&ready(None));
    assert_eq!((&begun["type"], &begun["user_id"], &begun["id"]), (&"ready".into(), &"alice".into(), &Value::Null));
    assert_eq!(message(&Said::Reset { id: None, last: "x".into() })["last_event_id"], "x");
    assert_eq!(frame(&Said::Quiet), Frame::Ping);
}

#[test]
fn each_end_has_a_code_and_a_reason() {
    let table = [
        (End::Revoked(String::new()), 4001, "revoked"),
        (End::Revoked("session_revoked".into()), 4001, "revoked: session_revoked"),
        (End::Expired, 4002, "expired"),
        (End::Revalidate, 4003, "revalidate"),
        (End::Slow, 4004, "slow"),
        (End::Stopping, 1001, "stopping"),
    ];
    for (end, code, reason) in table {
        assert_eq!(frame(&Said::Closed(end)), Frame::Close { code, reason: reason.into() });
    }
    let Frame::Close { reason, .. } = frame(&Said::Closed(End::Revoked("ü".repeat(200)))) else { panic!() };
    assert!(reason.len() <= CLOSE_REASON && reason.len() > 100);
}
