//! Who said what: a message counts as its author's node signed it.
//!
//! Never changes a row.

use super::{
    Chat, letters,
    room::Room,
    topic::{PURPOSE, Said, message_id},
};
use crate::{
    federation::Speaks,
    store::chat::Message,
    types::{PeerId, PublicKey, signed_bytes, uuid::Uuid},
};
use bytes::Bytes;

/// Why a message of another node is not taken as it is.
pub enum Doubt {
    /// Its author's node never signed it.
    Forged,
    /// The key of its author's node is not known yet.
    NoKey,
}

impl Chat {
    /// The message, if its author's node signed it.
    pub(super) async fn prove(&self, room: &Room, message: Message) -> Result<Message, (Message, Doubt)> {
        let Some(member) = room.member(message.author) else { return Err((message, Doubt::Forged)) };
        let id = message_id(room.chat, &member.qualified, &message.client_id);
        if message.id != Some(id) || !letters::is_sized(&message) {
            return Err((message, Doubt::Forged));
        }
        let key = match member.peer {
            PeerId::SELF => Some(self.0.key.public()),
            peer => self.key_of(peer).await,
        };
        let Some(key) = key else { return Err((message, Doubt::NoKey)) };
        let said = said(room, &member.qualified, &message, id);
        let framed = signed_bytes(PURPOSE, &said.to_sign());
        let good = message.signature.as_ref().is_some_and(|signature| key.verify(&framed, signature));
        match good {
            // This node signs its own again when it is asked.
            true if member.peer == PeerId::SELF => Ok(Message { signature: None, ..message }),
            true => Ok(message),
            false => Err((message, Doubt::Forged)),
        }
    }

    async fn key_of(&self, peer: PeerId) -> Option<PublicKey> {
        let federation = self.federation().ok()?;
        if let Some(key) = federation.key_of(peer) {
            return Some(key);
        }
        let server = federation.server_of(peer)?;
        federation.letter_peer(&server, Speaks::Chat).await.ok()?;
        federation.key_of(peer)
    }

    /// The signature that goes with a message: its author's node's.
    pub(super) fn signature(&self, room: &Room, message: &Message) -> Bytes {
        if let Some(signature) = &message.signature {
            return signature.clone();
        }
        let (Some(member), Some(id)) = (room.member(message.author), message.id) else { return Bytes::new() };
        let said = said(room, &member.qualified, message, id);
        Bytes::copy_from_slice(&self.0.key.sign(PURPOSE, &said.to_sign()))
    }
}

fn said<'a>(room: &Room, user: &'a str, message: &'a Message, id: Uuid) -> Said<'a> {
    Said {
        chat: room.chat,
        id,
        user,
        client_id: &message.client_id,
        sent_at: message.sent_at.0,
        head: &message.head,
        content: &message.content,
    }
}
