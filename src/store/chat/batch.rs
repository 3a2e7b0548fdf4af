//! The changes of chats from many ops, and how they are written together.
//!
//! Each kind goes over many rows at once. Their order among themselves does not
//! matter: a chat has one op under way at a time, in which no two touch one row.

use super::{
    change::{Change, Entry, Post},
    key,
};
use crate::{
    store::rows::{ManyRows, Script, bits},
    types::{Millis, PeerId, uuid::Uuid},
};
use std::{collections::BTreeMap, sync::LazyLock};

#[derive(Debug, Default)]
pub(in crate::store) struct Batch {
    entries: Vec<(u64, Entry)>,
    cleared: Vec<(u64, i64)>,
    posts: Vec<(u64, Millis, Post)>,
    introduced: BTreeMap<(PeerId, u64), bool>,
    behind: BTreeMap<(PeerId, u64), Option<u64>>,
    used: BTreeMap<PeerId, u64>,
}

impl Batch {
    /// Takes a grouped change.
    pub(in crate::store) fn take(&mut self, change: &Change) {
        match change {
            Change::Append { topic, entries, cleared } => {
                self.entries.extend(entries.iter().map(|entry| (*topic, entry.clone())));
                self.cleared.extend(cleared.iter().map(|place| (*topic, *place)));
            }
            Change::Wait { topic, stored_at, posts } => {
                self.posts.extend(posts.iter().map(|post| (*topic, *stored_at, post.clone())));
            }
            Change::Introduced { topic, peer, introduced } => {
                self.introduced.insert((*peer, *topic), *introduced);
            }
            Change::Behind { topic, peer, behind } => {
                self.behind.insert((*peer, *topic), *behind);
            }
            Change::Used { peer, bytes } => *self.used.entry(*peer).or_default() += bytes,
            // It was checked; rare ones never come here.
            Change::Unsaid(_)
            | Change::Topic(_)
            | Change::CutBack { .. }
            | Change::GiveUp { .. }
            | Change::Found { .. } => {}
        }
    }

    pub(in crate::store) fn write(&self, script: &mut Script) {
        static ENTRIES: LazyLock<ManyRows> = LazyLock::new(|| {
            ManyRows::new(
                "INSERT INTO chat_message (key, id, seq, chain, author, sent_at, client_id, signature, head, content,
                 told, resume, since) VALUES",
                "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                "",
            )
        });
        static POSTS: LazyLock<ManyRows> = LazyLock::new(|| {
            ManyRows::new(
                "INSERT INTO chat_post (topic, place, id, stored_at, failed, author, sent_at, client_id, signature,
                 head, content) VALUES",
                "(?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?)",
                "",
            )
        });
        static CLEARED: LazyLock<ManyRows> = LazyLock::new(|| {
            ManyRows::new(
                "WITH done (topic, place) AS (VALUES",
                "(?, ?)",
                ") DELETE FROM chat_post WHERE (topic, place) IN (SELECT topic, place FROM done)",
            )
        });
        ENTRIES.write(script, &self.entries, |script, (topic, entry)| {
            let message = &entry.message;
            script.bind(key(*topic, entry.revision)).bind(id(message.id)).bind(bits(entry.seq));
            script.bind(bits(entry.chain)).bind(i64::from(message.author)).bind(message.sent_at.0);
            script.bind(message.client_id.clone()).bind(message.signature.as_ref().map(|bytes| bytes.to_vec()));
            script.bind(message.head.to_vec()).bind(message.content.to_vec());
            let (told, resume) = (entry.told.at, entry.told.resume);
            let is_told = message.id.is_some();
            script.bind((is_told && told != entry.revision).then(|| key(*topic, told)));
            script.bind((is_told && resume != told).then(|| key(*topic, resume))).bind(message.since.map(bits));
        });
        POSTS.write(script, &self.posts, |script, (topic, stored_at, post)| {
            let message = &post.message;
            script.bind(bits(*topic)).bind(post.place).bind(id(message.id)).bind(stored_at.0);
            script.bind(i64::from(message.author)).bind(message.sent_at.0).bind(message.client_id.clone());
            script.bind(message.signature.as_ref().map(|bytes| bytes.to_vec()));
            script.bind(message.head.to_vec()).bind(message.content.to_vec());
        });
        CLEARED.write(script, &self.cleared, |script, (topic, place)| {
            script.bind(bits(*topic)).bind(*place);
        });
        for ((peer, topic), introduced) in &self.introduced {
            script.add("UPDATE chat_link SET introduced = ? WHERE peer = ? AND topic = ?");
            script.bind(*introduced).bind(peer.0).bind(bits(*topic));
        }
        for ((peer, topic), behind) in &self.behind {
            script.add("UPDATE chat_link SET behind = ? WHERE peer = ? AND topic = ?");
            script.bind(behind.map(bits)).bind(peer.0).bind(bits(*topic));
        }
        for (peer, bytes) in &self.used {
            script.add(
                "INSERT INTO chat_usage (peer, bytes) VALUES (?, ?)
                 ON CONFLICT (peer) DO UPDATE SET bytes = chat_usage.bytes + excluded.bytes",
            );
            script.bind(peer.0).bind(bits(*bytes));
        }
    }
}

fn id(id: Option<Uuid>) -> Option<Vec<u8>> {
    id.map(|id| id.as_bytes().to_vec())
}
