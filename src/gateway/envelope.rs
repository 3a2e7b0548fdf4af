//! What a client gets of an event: its fields and the gateway's signature over
//! bytes that are documented. Pure.
//!
//! A payload is bytes and stays the same bytes: as JSON text where it is UTF-8.

use crate::proto::galaxy::backend::push::v1::ClientEvent;
use crate::types::Cursor;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

/// What the signature is for, see `types::signed_bytes`.
pub const PURPOSE: &str = "gateway-event";

/// An event as it is shown; the field names are the contract's.
#[derive(Debug, Serialize)]
struct Envelope<'a> {
    gateway: &'a str,
    cursor: String,
    user_id: &'a str,
    device_session_id: &'a str,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    event_id: &'a str,
    request_id: &'a str,
    trace_id: &'a str,
    signature: String,
}

/// What is signed, below the purpose.
pub fn bytes(gateway: &str, cursor: Cursor, event: &ClientEvent) -> Vec<u8> {
    let cursor = cursor.to_string();
    let parts: [&[u8]; 9] = [
        gateway.as_bytes(),
        cursor.as_bytes(),
        event.user_id.as_bytes(),
        event.device_session_id.as_bytes(),
        event.kind.as_bytes(),
        &event.payload,
        event.event_id.as_bytes(),
        event.request_id.as_bytes(),
        event.trace_id.as_bytes(),
    ];
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        let length = u32::try_from(part.len()).expect("a message of gRPC is shorter than 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// The envelope as JSON on one line. `signature`: over [`bytes`].
pub fn json(gateway: &str, cursor: Cursor, event: &ClientEvent, signature: &[u8; 64]) -> String {
    let text = std::str::from_utf8(&event.payload).ok();
    let envelope = Envelope {
        gateway,
        cursor: cursor.to_string(),
        user_id: &event.user_id,
        device_session_id: &event.device_session_id,
        kind: &event.kind,
        payload: text,
        payload_base64: text.is_none().then(|| STANDARD.encode(&event.payload)),
        event_id: &event.event_id,
        request_id: &event.request_id,
        trace_id: &event.trace_id,
        signature: STANDARD.encode(signature),
    };
    serde_json::to_string(&envelope).expect("a struct of texts always becomes JSON")
}

#[cfg(test)]
mod tests;
