//! What was said, in its order, and what waits for its place.

use super::{
    change::{Change, Entry, Message, Post, Told},
    key, revision,
    topics::{topic_of, uuid},
};
use crate::{
    error::Error,
    store::{
        self, Store, error,
        rows::{bits, count, cut_page, unbits},
    },
    types::{Millis, uuid::Uuid},
};
use bytes::Bytes;
use sqlx::{Executor, Sqlite, SqliteConnection};
use std::collections::{HashMap, HashSet};

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the log of this chat, at this revision.
    Logged(u64, u64),
    /// It waits in this chat, at this place; its telling, if it was told before.
    Waiting(u64, i64, Option<Told>),
    /// It waited there, and was given up.
    GivenUp(u64, i64, Option<Told>),
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
    since: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct EntryColumns {
    key: i64,
    seq: i64,
    chain: i64,
    told: i64,
    resume: i64,
    #[sqlx(flatten)]
    message: Columns,
}

#[derive(sqlx::FromRow)]
struct ToldColumns {
    told: i64,
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
            since: row.since.map(unbits),
        }
    }
}

impl From<EntryColumns> for Entry {
    fn from(row: EntryColumns) -> Self {
        let told = Told { at: revision(row.told), resume: revision(row.resume) };
        let (revision, seq, chain) = (revision(row.key), unbits(row.seq), unbits(row.chain));
        Self { revision, seq, chain, told, message: row.message.into() }
    }
}

fn told(at: Option<i64>, resume: Option<i64>) -> Option<Told> {
    Some(Told { at: revision(at?), resume: revision(resume?) })
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
            "SELECT key, seq, chain, coalesce(told, key) AS told, coalesce(resume, told, key) AS resume, id, author, sent_at, client_id, signature, head, content, since
             FROM chat_message WHERE key > $1 AND key <= $2 ORDER BY key LIMIT $3",
        )
        .bind(key(topic, after))
        .bind(key(topic, u64::MAX))
        .bind(count(limit))
        .fetch(&self.readers);
        let row = |row: EntryColumns| Entry::from(row);
        Ok(cut_page(found, row, |entry| entry.message.size(), max_bytes).await?.0)
    }

    /// What readers of a chat are told after a telling, in that order, with the
    /// same bounds: the log, and what waits again since the log was cut back.
    pub async fn chat_tellings(
        &self,
        topic: u64,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Message)>, Error> {
        let found = sqlx::query_as(
            "SELECT key AS told, id, author, sent_at, client_id, signature, head, content, since FROM chat_message
             WHERE key > $1 AND key <= $2 AND told IS NULL AND id IS NOT NULL
             UNION ALL
             SELECT told, id, author, sent_at, client_id, signature, head, content, since FROM chat_message
             WHERE told > $1 AND told <= $2
             UNION ALL
             SELECT told, id, author, sent_at, client_id, signature, head, content, since FROM chat_post
             WHERE told > $1 AND told <= $2
             ORDER BY told LIMIT $3",
        )
        .bind(key(topic, after))
        .bind(key(topic, u64::MAX))
        .bind(count(limit))
        .fetch(&self.readers);
        let row = |row: ToldColumns| (revision(row.told), Message::from(row.message));
        Ok(cut_page(found, row, |(_, message)| message.size(), max_bytes).await?.0)
    }

    /// Where a message of a chat stands in the order in which readers are told (`None`: it
    /// waits and was not told), and the first telling of anything that does not stand in
    /// the log up to it (`None`: there is nothing, or it waits itself).
    pub async fn chat_told_of(&self, topic: u64, id: Uuid) -> Result<Option<(Option<Told>, Option<u64>)>, Error> {
        // The log may be cut back between the questions.
        let mut snapshot = self.readers.begin().await.map_err(error)?;
        let found: Option<(Option<i64>, Option<i64>, Option<i64>)> = sqlx::query_as(
            "SELECT key, coalesce(told, key), coalesce(resume, told, key) FROM chat_message
             WHERE id = $1 AND key > $2 AND key <= $3
             UNION ALL SELECT NULL, told, coalesce(resume, told) FROM chat_post WHERE id = $1 AND topic = $4",
        )
        .bind(id.as_bytes().as_slice())
        .bind(key(topic, 0))
        .bind(key(topic, u64::MAX))
        .bind(bits(topic))
        .fetch_optional(&mut *snapshot)
        .await
        .map_err(error)?;
        let Some((key, at, resume)) = found else { return Ok(None) };
        let behind = match key {
            Some(key) => told_behind(&mut *snapshot, topic, revision(key)).await.map_err(error)?,
            None => None,
        };
        Ok(Some((told(at, resume), behind)))
    }

    /// The first telling of anything that does not stand in a log up to a revision;
    /// what was told and waits again does not.
    pub async fn chat_told_behind(&self, topic: u64, behind: u64) -> Result<Option<u64>, Error> {
        told_behind(&self.readers, topic, behind).await.map_err(error)
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
            "SELECT key, seq, chain, coalesce(told, key) AS told, coalesce(resume, told, key) AS resume, id, author, sent_at, client_id, signature, head, content, since
             FROM chat_message WHERE key >= $1 AND key < $2 AND id IS NOT NULL ORDER BY key DESC LIMIT $3",
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
        places(&self.readers, ids).await.map_err(error)
    }

    /// The oldest posts of a chat that wait, with the same bounds as a log.
    pub async fn chat_posts(&self, topic: u64, limit: usize, max_bytes: usize) -> Result<Vec<Post>, Error> {
        let found = sqlx::query_as(
            "SELECT place, id, author, sent_at, client_id, signature, head, content, since FROM chat_post
             WHERE topic = $1 AND failed = 0 ORDER BY place LIMIT $2",
        )
        .bind(bits(topic))
        .bind(count(limit))
        .fetch(&self.readers);
        let row = |row: PostColumns| Post { place: row.place, message: row.message.into() };
        Ok(cut_page(found, row, |post| post.message.size(), max_bytes).await?.0)
    }

    /// How many messages behind a revision would wait again if the log were cut
    /// back to it, the first telling of any, and seq and chain there.
    pub async fn chat_behind(&self, topic: u64, revision: u64) -> Result<(usize, Option<u64>, u64, u64), Error> {
        let (behind, told): (i64, Option<i64>) = sqlx::query_as(
            "SELECT count(*), min(coalesce(told, key)) FROM chat_message
             WHERE key > $1 AND key <= $2 AND id IS NOT NULL",
        )
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
        Ok((usize::try_from(behind).unwrap_or(0), told.map(super::revision), unbits(seq), unbits(chain)))
    }
}

async fn told_behind<'c>(
    executor: impl Executor<'c, Database = Sqlite>,
    topic: u64,
    behind: u64,
) -> Result<Option<u64>, sqlx::Error> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT min(told) FROM (
             SELECT * FROM (SELECT key AS told FROM chat_message WHERE key > $1 AND key <= $2 AND told IS NULL
                 AND id IS NOT NULL ORDER BY key LIMIT 1)
             UNION ALL
             SELECT * FROM (SELECT told FROM chat_message WHERE told > $3 AND told <= $2 AND key > $1
                 ORDER BY told LIMIT 1)
             UNION ALL
             SELECT * FROM (SELECT told FROM chat_post WHERE told > $3 AND told <= $2 ORDER BY told LIMIT 1))",
    )
    .bind(key(topic, behind))
    .bind(key(topic, u64::MAX))
    .bind(key(topic, 0))
    .fetch_one(executor)
    .await?;
    Ok(found.map(revision))
}

async fn places<'c>(
    executor: impl Executor<'c, Database = Sqlite>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Place>, sqlx::Error> {
    // One bound value, whatever their number: each id is cut out of it.
    let all: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    type Columns = (Vec<u8>, i64, Option<i64>, bool, Option<i64>, Option<i64>);
    let found: Vec<Columns> = sqlx::query_as(
        "WITH RECURSIVE asked (at, id) AS (SELECT 1, substr($1, 1, 16)
             UNION ALL SELECT at + 16, substr($1, at + 16, 16) FROM asked WHERE at + 16 < length($1))
         SELECT m.id, m.key, NULL, 0, NULL, NULL FROM asked CROSS JOIN chat_message m ON m.id = asked.id
         UNION ALL
         SELECT p.id, p.topic, p.place, p.failed, p.told, coalesce(p.resume, p.told)
         FROM asked CROSS JOIN chat_post p ON p.id = asked.id",
    )
    .bind(all)
    .fetch_all(executor)
    .await?;
    let place = |(id, at, place, failed, telling, resume): Columns| {
        let told = told(telling, resume);
        let found = match place {
            None => Place::Logged(topic_of(at), revision(at)),
            Some(place) if failed => Place::GivenUp(unbits(at), place, told),
            Some(place) => Place::Waiting(unbits(at), place, told),
        };
        Ok((uuid(&id).map_err(|error| sqlx::Error::Decode(error.into()))?, found))
    };
    found.into_iter().map(place).collect()
}

/// Which of the messages are here that must not be, for these changes to be made.
pub(in crate::store) async fn said(
    connection: &mut SqliteConnection,
    changes: impl IntoIterator<Item = &store::Change>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let asked = changes.into_iter().filter_map(|change| match change {
        store::Change::Chat(Change::Unsaid(ids)) => Some(ids.as_slice()),
        _ => None,
    });
    let asked: Vec<&[Uuid]> = asked.collect();
    if asked.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(places(connection, &asked.concat()).await?.into_keys().collect())
}

/// What is behind the revision waits again, in its order, from `first_place` on. Whoever
/// found any of it in the history has not seen what stood behind it, or waits already, and
/// of that some may come before it now: they go on there.
pub(super) async fn cut_back(
    connection: &mut SqliteConnection,
    topic: u64,
    revision: u64,
    first_place: i64,
    stored_at: Millis,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE chat_post SET since = min(coalesce(since, $2), $2) WHERE topic = $1 AND failed = 0")
        .bind(bits(topic))
        .bind(bits(revision))
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO chat_post (topic, place, id, stored_at, failed, author, sent_at, client_id, signature, head,
             content, told, resume, since)
         SELECT $1, $2 + row_number() OVER (ORDER BY key) - 1, id, $3, 0, author, sent_at, client_id, signature,
             head, content, coalesce(told, key),
             min(coalesce(resume, told, key),
                 coalesce(min(coalesce(told, key))
                     OVER (ORDER BY key ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), $5) - 1,
                 coalesce((SELECT min(told) FROM chat_post WHERE told > $7 AND told <= $5), $5) - 1),
             min(coalesce(since, $6), $6)
         FROM chat_message WHERE key > $4 AND key <= $5 AND id IS NOT NULL",
    )
    .bind(bits(topic))
    .bind(first_place)
    .bind(stored_at.0)
    .bind(key(topic, revision))
    .bind(key(topic, u64::MAX))
    .bind(bits(revision))
    .bind(key(topic, 0))
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM chat_message WHERE key > $1 AND key <= $2")
        .bind(key(topic, revision))
        .bind(key(topic, u64::MAX))
        .execute(connection)
        .await
        .map(drop)
}
