//! What a client is told, as Server-Sent Events and as WebSocket frames. Pure.
//!
//! The words are documented in docs/gateway.md; a token is never among them.

use crate::types::Cursor;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

/// Why a client's stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The session was ended; the backend's reason.
    Revoked(String),
    /// The session's time is over.
    Expired,
    /// The gateway may have missed that a session ended: come again at once
    /// and be validated anew.
    Revalidate,
    /// It does not read as fast as events come.
    Slow,
    /// The gateway stops.
    Stopping,
}

impl End {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Revoked(_) => "revoked",
            Self::Expired => "expired",
            Self::Revalidate => "revalidate",
            Self::Slow => "slow",
            Self::Stopping => "stopping",
        }
    }

    /// Of the WebSocket; 4000 and up are ours.
    pub fn code(&self) -> u16 {
        match self {
            Self::Revoked(_) => 4001,
            Self::Expired => 4002,
            Self::Revalidate => 4003,
            Self::Slow => 4004,
            Self::Stopping => 1001,
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Revoked(why) => why,
            _ => "",
        }
    }
}

/// How a stream begins.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    pub gateway: String,
    /// The gateway's public key, base64.
    pub key: String,
    pub user_id: String,
    pub device_session_id: String,
    /// Unix milliseconds; 0: never.
    pub expires_at: i64,
    /// Goes on after the event that the client named.
    pub resumed: bool,
}

/// One thing that a client is told.
#[derive(Debug, Clone)]
pub enum Said {
    /// `id`: what it may resume after even before an event came.
    Ready { id: Option<Cursor>, ready: Box<Ready>, retry_ms: u64 },
    /// `envelope`: JSON on one line.
    Event { id: Cursor, envelope: Bytes },
    /// Events after `last` are gone; the stream goes on after `id`.
    Reset { id: Option<Cursor>, last: String },
    /// Nothing, so that the connection is seen to be alive.
    Quiet,
    /// The end.
    Closed(End),
}

/// What goes out over a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Ping,
    Close { code: u16, reason: String },
}

/// A close frame has room for so many bytes of reason.
const CLOSE_REASON: usize = 123;

/// As a piece of an event stream.
pub fn sse(said: &Said) -> Bytes {
    let id = |id: &Option<Cursor>| id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    match said {
        Said::Ready { id: at, ready, retry_ms } => {
            format!("retry: {retry_ms}\n{}event: ready\ndata: {}\n\n", id(at), json!(ready)).into()
        }
        Said::Event { id, envelope } => {
            let mut out = Vec::with_capacity(envelope.len() + 40);
            out.extend_from_slice(format!("id: {id}\ndata: ").as_bytes());
            out.extend_from_slice(envelope);
            out.extend_from_slice(b"\n\n");
            out.into()
        }
        Said::Reset { id: at, last } => {
            format!("{}event: reset\ndata: {}\n\n", id(at), json!({ "last_event_id": last })).into()
        }
        Said::Quiet => Bytes::from_static(b":\n\n"),
        Said::Closed(end) => {
            let data = json!({ "reason": end.reason(), "detail": end.detail() });
            format!("event: closed\ndata: {data}\n\n").into()
        }
    }
}

/// As a frame of a WebSocket.
pub fn frame(said: &Said) -> Frame {
    let text = |id: &Option<Cursor>| id.map(|id| id.to_string());
    match said {
        Said::Ready { id, ready, .. } => {
            let mut message = json!(ready);
            message["type"] = "ready".into();
            message["id"] = text(id).into();
            Frame::Text(message.to_string())
        }
        Said::Event { id, envelope } => {
            let envelope = String::from_utf8_lossy(envelope);
            Frame::Text(format!(r#"{{"type":"event","id":"{id}","envelope":{envelope}}}"#))
        }
        Said::Reset { id, last } => {
            Frame::Text(json!({ "type": "reset", "id": text(id), "last_event_id": last }).to_string())
        }
        Said::Quiet => Frame::Ping,
        Said::Closed(end) => {
            let mut reason = match end.detail() {
                "" => end.reason().to_owned(),
                detail => format!("{}: {detail}", end.reason()),
            };
            reason.truncate(reason.floor_char_boundary(CLOSE_REASON));
            Frame::Close { code: end.code(), reason }
        }
    }
}

#[cfg(test)]
mod tests;
