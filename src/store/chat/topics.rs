//! Chats and their users, and the rare changes of them.

use super::{
    change::{Change, Member, NewTopic},
    key, messages, revision, topic,
};
use crate::{
    error::Error,
    store::{
        Store, broken, error,
        rows::{bits, count, unbits},
        transaction::Failure,
    },
    types::{Millis, PeerId, uuid::Uuid},
};
use sqlx::SqliteConnection;
use std::collections::HashMap;

/// A chat as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRow {
    pub number: u64,
    pub chat: Uuid,
    /// `None`: this node.
    pub home: Option<PeerId>,
    pub lost: bool,
    pub members: Vec<Member>,
    pub links: Vec<LinkRow>,
    /// Revision, seq and chain of the last change.
    pub head: (u64, u64, u64),
    /// Posts that wait and are not given up; the first place of any, and the
    /// one behind the last.
    pub waiting: (usize, i64, i64),
    /// The last telling to readers, and the first of what waits again.
    pub told: (u64, Option<u64>),
}

/// A peer that a chat is talked about with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkRow {
    pub peer: PeerId,
    /// It knows the chat.
    pub introduced: bool,
    /// As [`Change::Behind`] left it.
    pub behind: Option<u64>,
}

/// Where a chat stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRow {
    pub topic: u64,
    pub chat: Uuid,
    pub revision: u64,
    pub chain: u64,
    /// Posts wait for their place in it.
    pub waits: bool,
}

pub(super) fn uuid(bytes: &[u8]) -> Result<Uuid, Error> {
    Uuid::from_slice(bytes).ok_or_else(|| broken("the id of a chat or message"))
}

impl Store {
    pub async fn chat(&self, chat: Uuid) -> Result<Option<TopicRow>, Error> {
        self.chat_where("SELECT number, chat, home, lost FROM chat_topic WHERE chat = $1", chat.as_bytes()).await
    }

    /// The chat of these users, by [`NewTopic::members_key`].
    pub async fn chat_of(&self, members_key: &[u8; 32]) -> Result<Option<TopicRow>, Error> {
        self.chat_where(
            "SELECT number, chat, home, lost FROM chat_topic WHERE members = $1 ORDER BY number LIMIT 1",
            members_key,
        )
        .await
    }

    async fn chat_where(&self, query: &'static str, bytes: &[u8]) -> Result<Option<TopicRow>, Error> {
        let found: Option<(i64, Vec<u8>, i64, bool)> =
            sqlx::query_as(query).bind(bytes).fetch_optional(&self.readers).await.map_err(error)?;
        let Some((number, chat, home, lost)) = found else { return Ok(None) };
        let members: Vec<(i64, String, String)> =
            sqlx::query_as("SELECT peer, name, qualified FROM chat_member WHERE topic = $1 ORDER BY place")
                .bind(number)
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        let links: Vec<(i64, bool, Option<i64>)> =
            sqlx::query_as("SELECT peer, introduced, behind FROM chat_link WHERE topic = $1 ORDER BY peer")
                .bind(number)
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        let (waiting, first, next): (i64, i64, i64) = sqlx::query_as(
            "SELECT coalesce(sum(failed = 0), 0), coalesce(min(place), 0), coalesce(max(place) + 1, 0)
             FROM chat_post WHERE topic = $1",
        )
        .bind(number)
        .fetch_one(&self.readers)
        .await
        .map_err(error)?;
        let number = unbits(number);
        let last: Option<(i64, i64, i64)> = sqlx::query_as(
            "SELECT key, seq, chain FROM chat_message WHERE key BETWEEN $1 AND $2 ORDER BY key DESC LIMIT 1",
        )
        .bind(key(number, 0))
        .bind(key(number, u64::MAX))
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        let told = self.chat_told(number).await?;
        let link = |(peer, introduced, behind): (i64, bool, Option<i64>)| LinkRow {
            peer: PeerId(peer),
            introduced,
            behind: behind.map(unbits),
        };
        let member = |(peer, name, qualified)| Member { peer: PeerId(peer), name, qualified };
        Ok(Some(TopicRow {
            number,
            chat: uuid(&chat)?,
            home: (home != 0).then_some(PeerId(home)),
            lost,
            members: members.into_iter().map(member).collect(),
            links: links.into_iter().map(link).collect(),
            head: last.map_or((0, 0, 0), |(key, seq, chain)| (revision(key), unbits(seq), unbits(chain))),
            waiting: (usize::try_from(waiting).unwrap_or(0), first, next),
            told,
        }))
    }

    /// The last telling of a chat, and the first of what waits again.
    async fn chat_told(&self, topic: u64) -> Result<(u64, Option<u64>), Error> {
        // What is told in the log's order has its last where the others have theirs, or behind.
        let (last, away): (i64, Option<i64>) = sqlx::query_as(
            "WITH other (last) AS (SELECT max(
                 coalesce((SELECT max(told) FROM chat_message WHERE told > $1 AND told <= $2), $1),
                 coalesce((SELECT max(told) FROM chat_post WHERE told > $1 AND told <= $2), $1)))
             SELECT coalesce((SELECT key FROM chat_message WHERE key > other.last AND key <= $2 AND told IS NULL
                     AND id IS NOT NULL ORDER BY key DESC LIMIT 1), other.last),
                 (SELECT min(told) FROM chat_post WHERE told > $1 AND told <= $2 AND failed = 0)
             FROM other",
        )
        .bind(key(topic, 0))
        .bind(key(topic, u64::MAX))
        .fetch_one(&self.readers)
        .await
        .map_err(error)?;
        Ok((revision(last), away.map(revision)))
    }

    /// The greatest number of a chat; 0: there is none.
    pub async fn newest_chat(&self) -> Result<u64, Error> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT max(number) FROM chat_topic").fetch_one(&self.readers).await.map_err(error)?;
        Ok(unbits(found.unwrap_or(0)))
    }

    /// How many chats there are, by their maker: a peer, or this node's
    /// principal. Reads all of them; for the start.
    pub async fn chat_makers(&self) -> Result<Vec<(PeerId, Option<String>, u64)>, Error> {
        let found: Vec<(i64, Option<String>, i64)> =
            sqlx::query_as("SELECT maker_peer, maker, count(*) FROM chat_topic GROUP BY maker_peer, maker")
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        Ok(found.into_iter().map(|(peer, maker, chats)| (PeerId(peer), maker, unbits(chats))).collect())
    }

    /// Bytes that letters of peers made this node keep.
    pub async fn chat_usage(&self) -> Result<HashMap<PeerId, u64>, Error> {
        let found: Vec<(i64, i64)> =
            sqlx::query_as("SELECT peer, bytes FROM chat_usage").fetch_all(&self.readers).await.map_err(error)?;
        Ok(found.into_iter().map(|(peer, bytes)| (PeerId(peer), unbits(bytes))).collect())
    }

    /// Where the chats stand that are talked about with a peer, those after
    /// `after`, by number.
    pub async fn chat_heads(&self, peer: PeerId, after: u64, limit: usize) -> Result<Vec<HeadRow>, Error> {
        type Columns = (i64, Vec<u8>, Option<i64>, Option<i64>, bool);
        let found: Vec<Columns> = sqlx::query_as(
            "SELECT t.number, t.chat, m.key, m.chain,
                 EXISTS (SELECT 1 FROM chat_post p WHERE p.topic = t.number AND p.failed = 0)
             FROM chat_link l CROSS JOIN chat_topic t ON t.number = l.topic
             LEFT JOIN chat_message m ON m.key = (SELECT max(key) FROM chat_message
                 WHERE key BETWEEN (t.number << 32) AND (t.number << 32 | 4294967295))
             WHERE l.peer = $1 AND l.topic > $2 AND l.introduced = 1 ORDER BY l.topic LIMIT $3",
        )
        .bind(peer.0)
        .bind(bits(after))
        .bind(count(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        let row = |(number, chat, key, chain, waits): Columns| {
            let (revision, chain) = (key.map_or(0, revision), unbits(chain.unwrap_or(0)));
            Ok(HeadRow { topic: unbits(number), chat: uuid(&chat)?, revision, chain, waits })
        };
        found.into_iter().map(row).collect()
    }

    /// The peers that chats are talked about with.
    pub async fn chat_peers(&self) -> Result<Vec<PeerId>, Error> {
        let found: Vec<i64> =
            sqlx::query_scalar("SELECT DISTINCT peer FROM chat_link").fetch_all(&self.readers).await.map_err(error)?;
        Ok(found.into_iter().map(PeerId).collect())
    }

    /// Chats after `after` that somebody has to be introduced to, or whose posts
    /// wait: their numbers and ids.
    pub async fn chats_due(&self, after: u64, limit: usize) -> Result<Vec<(u64, Uuid)>, Error> {
        let found: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT number, chat FROM chat_topic WHERE number > $1 AND number IN
                 (SELECT topic FROM chat_link WHERE introduced = 0 UNION
                  SELECT topic FROM chat_post WHERE failed = 0)
             ORDER BY number LIMIT $2",
        )
        .bind(bits(after))
        .bind(count(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(|(number, chat)| Ok((unbits(number), uuid(&chat)?))).collect()
    }

    /// Posts stored before a moment that still wait: chat and places.
    pub async fn overdue_posts(&self, before: Millis, limit: usize) -> Result<Vec<(Uuid, i64)>, Error> {
        let found: Vec<(Vec<u8>, i64)> = sqlx::query_as(
            "SELECT t.chat, p.place FROM chat_post p CROSS JOIN chat_topic t ON t.number = p.topic
             WHERE p.failed = 0 AND p.stored_at < $1 ORDER BY p.stored_at LIMIT $2",
        )
        .bind(before.0)
        .bind(count(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(|(chat, place)| Ok((uuid(&chat)?, place))).collect()
    }
}

/// Makes a rare change.
pub(in crate::store) async fn apply(connection: &mut SqliteConnection, change: &Change) -> Result<(), Failure> {
    match change {
        Change::Topic(new) => make(connection, new).await,
        Change::CutBack { topic, revision, first_place, stored_at } => {
            Ok(messages::cut_back(connection, *topic, *revision, *first_place, *stored_at).await?)
        }
        Change::GiveUp { topic, places } => {
            let places = format!("[{}]", places.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
            sqlx::query(
                "UPDATE chat_post SET failed = 1
                 WHERE topic = $1 AND place IN (SELECT value FROM json_each($2))",
            )
            .bind(bits(*topic))
            .bind(places)
            .execute(&mut *connection)
            .await?;
            Ok(set_lost(connection, *topic, true).await?)
        }
        Change::Found { topic } => Ok(set_lost(connection, *topic, false).await?),
        _ => Err(Failure::Refused(Error::internal("a grouped change among the rare ones"))),
    }
}

async fn set_lost(connection: &mut SqliteConnection, topic: u64, lost: bool) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE chat_topic SET lost = $2 WHERE number = $1")
        .bind(bits(topic))
        .bind(lost)
        .execute(connection)
        .await
        .map(drop)
}

async fn make(connection: &mut SqliteConnection, new: &NewTopic) -> Result<(), Failure> {
    let made = sqlx::query(
        "INSERT INTO chat_topic (number, chat, members, home, lost, maker, maker_peer, created_at)
         VALUES ($1, $2, $3, $4, 0, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(bits(new.number))
    .bind(new.chat.as_bytes().as_slice())
    .bind(new.members_key.as_slice())
    .bind(new.home.map_or(0, |home| home.0))
    .bind(new.maker.as_deref())
    .bind(new.maker_peer.0)
    .bind(new.created_at.0)
    .execute(&mut *connection)
    .await?;
    if made.rows_affected() == 0 {
        return Err(Failure::Refused(Error::Conflict(format!("the chat {} is here already", new.chat))));
    }
    for (place, member) in new.members.iter().enumerate() {
        sqlx::query("INSERT INTO chat_member (topic, place, peer, name, qualified) VALUES ($1, $2, $3, $4, $5)")
            .bind(bits(new.number))
            .bind(count(place))
            .bind(member.peer.0)
            .bind(&member.name)
            .bind(&member.qualified)
            .execute(&mut *connection)
            .await?;
    }
    for (peer, introduced) in &new.links {
        sqlx::query("INSERT INTO chat_link (peer, topic, introduced) VALUES ($1, $2, $3)")
            .bind(peer.0)
            .bind(bits(new.number))
            .bind(*introduced)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The chat that a message's key names.
pub(super) fn topic_of(key: i64) -> u64 {
    topic(key)
}
