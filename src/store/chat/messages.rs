//! What was said, in its order, and what waits for its place.

use super::{
    change::{Entry, Message, Post},
    key, revision,
    topics::{topic_of, uuid},
};
use crate::{
    error::Error,
    store::{
        Store, error,
        rows::{bits, count, cut_page, unbits},
    },
    types::{Millis, uuid::Uuid},
};
use bytes::Bytes;
use sqlx::SqliteConnection;
use std::collections::HashMap;

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the log of this chat, at this revision.
    Logged(u64, u64),
    /// It waits in this chat, at this place.
    Waiting(u64, i64),
    /// It waited there, and was given up.
    GivenUp(u64, i64),
}

/// What a row of either table says of its message.
#[derive(sqlx::FromRow)]
struct Columns {
    id: Option<Vec<u8>>,
    author: i64,
    sent_at: i64,
    client_id: String,
    signature: Option<Vec<u8>>,
    head: Vec<u8>,
    content: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct EntryColumns {
    key: i64,
    seq: i64,
    chain: i64,
    #[sqlx(flatten)]
    message: Columns,
}

#[derive(sqlx::FromRow)]
struct PostColumns {
    place: i64,
    #[sqlx(flatten)]
    message: Columns,
}

impl From<Columns> for Message {
    fn from(row: Columns) -> Self {
        Self {
            id: row.id.as_deref().and_then(Uuid::from_slice),
            author: u32::try_from(row.author).unwrap_or(u32::MAX),
            sent_at: Millis(row.sent_at),
            client_id: row.client_id,
            head: row.head.into(),
            content: row.content.into(),
            signature: row.signature.map(Bytes::from),
        }
    }
}

impl From<EntryColumns> for Entry {
    fn from(row: EntryColumns) -> Self {
        let (revision, seq, chain) = (revision(row.key), unbits(row.seq), unbits(row.chain));
        Self { revision, seq, chain, message: row.message.into() }
    }
}

impl Store {
    /// The log of a chat after a revision, in its order: at most `limit` and
    /// `max_bytes`, but one at least.
    pub async fn chat_entries(
        &self,
        topic: u64,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Error> {
        let found = sqlx::query_as(
            "SELECT key, seq, chain, id, author, sent_at, client_id, signature, head, content FROM chat_message
             WHERE key > $1 AND key <= $2 ORDER BY key LIMIT $3",
        )
        .bind(key(topic, after))
        .bind(key(topic, u64::MAX))
        .bind(count(limit))
        .fetch(&self.readers);
        let row = |row: EntryColumns| Entry::from(row);
        Ok(cut_page(found, row, |entry| entry.message.size(), max_bytes).await?.0)
    }

    /// The log before a revision, the newest first, and whether older ones were
    /// left out for their bytes.
    pub async fn chat_entries_before(
        &self,
        topic: u64,
        before: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Entry>, bool), Error> {
        let found = sqlx::query_as(
            "SELECT key, seq, chain, id, author, sent_at, client_id, signature, head, content FROM chat_message
             WHERE key >= $1 AND key < $2 AND id IS NOT NULL ORDER BY key DESC LIMIT $3",
        )
        .bind(key(topic, 0))
        .bind(key(topic, before))
        .bind(count(limit))
        .fetch(&self.readers);
        let row = |row: EntryColumns| Entry::from(row);
        cut_page(found, row, |entry| entry.message.size(), max_bytes).await
    }

    /// The chains of a log at some revisions, where it has them.
    pub async fn chat_chains(&self, topic: u64, revisions: &[u64]) -> Result<HashMap<u64, u64>, Error> {
        let keys: Vec<_> = revisions.iter().map(|revision| key(topic, *revision).to_string()).collect();
        let found: Vec<(i64, i64)> =
            sqlx::query_as("SELECT key, chain FROM chat_message WHERE key IN (SELECT value FROM json_each($1))")
                .bind(format!("[{}]", keys.join(",")))
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        Ok(found.into_iter().map(|(key, chain)| (revision(key), unbits(chain))).collect())
    }

    /// Where messages with these ids are, of those that are here.
    pub async fn chat_places(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, Place>, Error> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        // One bound value, whatever their number: each id is cut out of it.
        let all: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
        let found: Vec<(Vec<u8>, i64, Option<i64>, bool)> = sqlx::query_as(
            "WITH RECURSIVE asked (at, id) AS (SELECT 1, substr($1, 1, 16)
                 UNION ALL SELECT at + 16, substr($1, at + 16, 16) FROM asked WHERE at + 16 < length($1))
             SELECT m.id, m.key, NULL, 0 FROM asked CROSS JOIN chat_message m ON m.id = asked.id
             UNION ALL
             SELECT p.id, p.topic, p.place, p.failed FROM asked CROSS JOIN chat_post p ON p.id = asked.id",
        )
        .bind(all)
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        let place = |(id, at, place, failed): (Vec<u8>, i64, Option<i64>, bool)| {
            let found = match place {
                None => Place::Logged(topic_of(at), revision(at)),
                Some(place) if failed => Place::GivenUp(unbits(at), place),
                Some(place) => Place::Waiting(unbits(at), place),
            };
            Ok((uuid(&id)?, found))
        };
        found.into_iter().map(place).collect()
    }

    /// The oldest posts of a chat that wait, with the same bounds as a log.
    pub async fn chat_posts(&self, topic: u64, limit: usize, max_bytes: usize) -> Result<Vec<Post>, Error> {
        let found = sqlx::query_as(
            "SELECT place, id, author, sent_at, client_id, signature, head, content FROM chat_post
             WHERE topic = $1 AND failed = 0 ORDER BY place LIMIT $2",
        )
        .bind(bits(topic))
        .bind(count(limit))
        .fetch(&self.readers);
        let row = |row: PostColumns| Post { place: row.place, message: row.message.into() };
        Ok(cut_page(found, row, |post| post.message.size(), max_bytes).await?.0)
    }

    /// How many messages behind a revision would wait again if the log were cut
    /// back to it, and seq and chain there.
    pub async fn chat_behind(&self, topic: u64, revision: u64) -> Result<(usize, u64, u64), Error> {
        let (behind,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM chat_message WHERE key > $1 AND key <= $2 AND id IS NOT NULL")
                .bind(key(topic, revision))
                .bind(key(topic, u64::MAX))
                .fetch_one(&self.readers)
                .await
                .map_err(error)?;
        let at: Option<(i64, i64)> = sqlx::query_as("SELECT seq, chain FROM chat_message WHERE key = $1")
            .bind(key(topic, revision))
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        let (seq, chain) = at.unwrap_or((0, 0));
        Ok((usize::try_from(behind).unwrap_or(0), unbits(seq), unbits(chain)))
    }
}

/// What is behind the revision waits again, in its order, from `first_place` on.
pub(super) async fn cut_back(
    connection: &mut SqliteConnection,
    topic: u64,
    revision: u64,
    first_place: i64,
    stored_at: Millis,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO chat_post (topic, place, id, stored_at, failed, author, sent_at, client_id, signature, head,
             content)
         SELECT $1, $2 + row_number() OVER (ORDER BY key) - 1, id, $3, 0, author, sent_at, client_id, signature,
             head, content
         FROM chat_message WHERE key > $4 AND key <= $5 AND id IS NOT NULL",
    )
    .bind(bits(topic))
    .bind(first_place)
    .bind(stored_at.0)
    .bind(key(topic, revision))
    .bind(key(topic, u64::MAX))
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM chat_message WHERE key > $1 AND key <= $2")
        .bind(key(topic, revision))
        .bind(key(topic, u64::MAX))
        .execute(connection)
        .await
        .map(drop)
}
