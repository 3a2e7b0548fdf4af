//! The bytes of the document, and a vector that others can check against.

use super::*;
use crate::types::{PublicKey, signed_bytes};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::Value;

fn event() -> ClientEvent {
    ClientEvent {
        user_id: "alice".into(),
        device_session_id: String::new(),
        kind: "orders.shipped".into(),
        payload: "{\"n\":\"ü\"}\n".into(),
        event_id: "e1".into(),
        request_id: "r".into(),
        trace_id: "t".into(),
    }
}

#[test]
fn each_part_stands_behind_its_length() {
    let expected = [
        b"\0\0\0\x03web".as_slice(),
        b"\0\0\0\x1400000000000000000007",
        b"\0\0\0\x05alice",
        b"\0\0\0\0",
        b"\0\0\0\x0eorders.shipped",
        b"\0\0\0\x0b{\"n\":\"\xc3\xbc\"}\n",
        b"\0\0\0\x02e1",
        b"\0\0\0\x01r",
        b"\0\0\0\x01t",
    ];
    assert_eq!(bytes("web", Cursor(7), &event()), expected.concat());
}

#[test]
fn the_vector_of_the_document() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let signature = key.sign(&signed_bytes(PURPOSE, &bytes("web", Cursor(7), &event()))).to_bytes();
    let public = PublicKey::from_bytes(key.verifying_key().as_bytes()).unwrap();
    assert_eq!(public.to_string(), "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=");
    let shown: Value = serde_json::from_str(&json("web", Cursor(7), &event(), &signature)).unwrap();
    let mut names: Vec<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = ["gateway", "cursor", "user_id", "device_session_id", "kind", "payload", "event_id"].to_vec();
    expected.extend(["request_id", "trace_id", "signature"]);
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(shown["cursor"], "00000000000000000007");
    assert_eq!(shown["payload"], "{\"n\":\"ü\"}\n");
    assert_eq!(
        shown["signature"],
        "HhHjLk+fsXfbTHD07KSIqiKZbPfR77oS7lD0R6ALU7GnPZO1OI6tSig3ahHNZ1utyFhrQWRxELU43lV3vfCrDw=="
    );
}

#[test]
fn a_change_of_any_part_is_another_text() {
    let first = bytes("web", Cursor(7), &event());
    let changes: [fn(&mut ClientEvent); 7] = [
        |event| event.user_id.push('x'),
        |event| event.device_session_id.push('x'),
        |event| event.kind.push('x'),
        |event| event.payload = "x".into(),
        |event| event.event_id.push('x'),
        |event| event.request_id.push('x'),
        |event| event.trace_id.push('x'),
    ];
    for change in changes {
        let mut other = event();
        change(&mut other);
        assert_ne!(bytes("web", Cursor(7), &other), first);
    }
    // What moves from one part to the next does not stay the same.
    let moved = ClientEvent { user_id: "alic".into(), device_session_id: "e".into(), ..event() };
    assert_ne!(bytes("web", Cursor(7), &moved), first);
    assert_ne!(bytes("web", Cursor(8), &event()), first);
    assert_ne!(bytes("we", Cursor(7), &event()), first);
}

#[test]
fn a_payload_that_is_no_text_is_base64() {
    let event = ClientEvent { payload: b"\xff\x00".as_slice().into(), ..event() };
    let shown: Value = serde_json::from_str(&json("web", Cursor(7), &event, &[0; 64])).unwrap();
    assert!(shown.get("payload").is_none());
    assert_eq!(shown["payload_base64"], "/wA=");
}

#[test]
fn an_envelope_is_one_line() {
    let event = ClientEvent { payload: "a\r\nb\u{2028}".into(), kind: "k\n".into(), ..event() };
    let text = json("web", Cursor(7), &event, &[0; 64]);
    assert!(!text.contains(['\r', '\n']));
}
