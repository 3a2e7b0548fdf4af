//! An event on its way to clients: as it came, and signed once when the first
//! client is to get it.

use super::{
    envelope::{self, PURPOSE},
    ring::Kept,
};
use crate::{
    identity::node_key::NodeKey,
    proto::galaxy::backend::push::v1::ClientEvent,
    types::{Cursor, PublicKey},
};
use bytes::Bytes;
use std::{fmt, sync::OnceLock};

/// The gateway's id and key.
#[derive(Clone)]
pub struct Signer {
    pub gateway: String,
    key: NodeKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("gateway", &self.gateway).field("key", &self.key.public()).finish()
    }
}

impl Signer {
    pub fn new(gateway: String, key: NodeKey) -> Self {
        Self { gateway, key }
    }

    pub fn public(&self) -> PublicKey {
        self.key.public()
    }
}

#[derive(Debug)]
pub struct Event {
    cursor: Cursor,
    event: ClientEvent,
    envelope: OnceLock<Bytes>,
}

impl Event {
    pub fn new(cursor: Cursor, event: ClientEvent) -> Self {
        Self { cursor, event, envelope: OnceLock::new() }
    }

    /// Empty for an event that names a session alone.
    pub fn user(&self) -> &str {
        &self.event.user_id
    }

    /// A user's event is for all of its sessions, or for the one it names.
    pub fn is_for(&self, user: &str, session: &str) -> bool {
        let (of_user, of_session) = (&self.event.user_id, &self.event.device_session_id);
        match (of_user.is_empty(), of_session.is_empty()) {
            (true, true) => false,
            (true, false) => of_session == session,
            (false, any) => of_user == user && (any || of_session == session),
        }
    }

    /// Signed JSON; always the same.
    pub fn envelope(&self, signer: &Signer) -> Bytes {
        let made = || {
            let bytes = envelope::bytes(&signer.gateway, self.cursor, &self.event);
            let signature = signer.key.sign(PURPOSE, &bytes);
            envelope::json(&signer.gateway, self.cursor, &self.event, &signature).into()
        };
        self.envelope.get_or_init(made).clone()
    }
}

impl Kept for Event {
    fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// With the envelope it may get, in which a payload can grow by its
    /// escapes.
    fn size(&self) -> usize {
        let event = &self.event;
        let texts = [&event.user_id, &event.device_session_id, &event.kind, &event.event_id, &event.request_id];
        let texts: usize = texts.iter().map(|text| text.len()).sum();
        512 + 2 * (texts + event.trace_id.len()) + 3 * event.payload.len()
    }
}
