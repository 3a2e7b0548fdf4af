//! Messages, their bodies, and the keys by which a retry finds its message.

use super::batch::{Batch, Key, Message};
use crate::{
    error::Error,
    store::{
        Store, broken, error,
        op::ROWS_AN_OP,
        rows::{ManyRows, Script, bits, count, unbits},
    },
    types::{Millis, PeerId},
};
use std::sync::LazyLock;

/// A message without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    pub number: u64,
    /// Random; with the number it is the id of a message of this node.
    pub tag: u64,
    pub origin: PeerId,
    /// The id of a message of another server.
    pub remote_id: Option<String>,
    pub session: String,
    /// Without the server, which is `origin`.
    pub sender: String,
    pub broadcast: bool,
    pub round: i32,
    pub kind: String,
    pub accepted_at: Millis,
    pub expires_at: Millis,
    /// Of the body, also when it is no longer kept.
    pub size: u64,
    /// Its deliveries here, and how many of them are not final.
    pub recipients: u64,
    pub open: u64,
    /// The body is no longer kept.
    pub freed: bool,
}

/// What a message counts in quotas besides its body: its rows.
pub const MESSAGE_BYTES: u64 = 256;

/// Bytes of bodies, with [`MESSAGE_BYTES`] for each, and whose they are: what
/// quotas count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyBytes {
    pub session: String,
    pub origin: PeerId,
    pub sender: String,
    pub bytes: u64,
}

#[derive(sqlx::FromRow)]
pub(super) struct MessageColumns {
    number: i64,
    tag: i64,
    origin: i64,
    remote_id: Option<String>,
    session: String,
    sender: String,
    broadcast: bool,
    round: i32,
    kind: String,
    accepted_at: i64,
    expires_at: i64,
    size: i64,
    recipients: i64,
    open: i64,
    freed: bool,
}

impl MessageColumns {
    /// Bytes of its texts.
    pub(super) fn texts(&self) -> usize {
        let id = self.remote_id.as_ref().map_or(0, String::len);
        id + self.session.len() + self.sender.len() + self.kind.len()
    }
}

/// The columns of [`MessageColumns`], of the table `m`.
macro_rules! message_columns {
    () => {
        "m.number, m.tag, m.origin, m.remote_id, m.session, m.sender, m.broadcast, m.round, m.kind, m.accepted_at,
         m.expires_at, m.size, m.recipients, m.open, m.freed"
    };
}
pub(super) use message_columns;

impl From<MessageColumns> for MessageRow {
    fn from(row: MessageColumns) -> Self {
        Self {
            number: unbits(row.number),
            tag: unbits(row.tag),
            origin: PeerId(row.origin),
            remote_id: row.remote_id,
            session: row.session,
            sender: row.sender,
            broadcast: row.broadcast,
            round: row.round,
            kind: row.kind,
            accepted_at: Millis(row.accepted_at),
            expires_at: Millis(row.expires_at),
            size: unbits(row.size),
            recipients: unbits(row.recipients),
            open: unbits(row.open),
            freed: row.freed,
        }
    }
}

impl Store {
    pub async fn message(&self, number: u64) -> Result<Option<MessageRow>, Error> {
        let found: Option<MessageColumns> =
            sqlx::query_as(concat!("SELECT ", message_columns!(), " FROM message m WHERE m.number = $1"))
                .bind(bits(number))
                .fetch_optional(&self.readers)
                .await
                .map_err(error)?;
        Ok(found.map(MessageRow::from))
    }

    /// The greatest number of a message that is kept; 0: none.
    pub async fn newest_message(&self) -> Result<u64, Error> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT max(number) FROM message").fetch_one(&self.readers).await.map_err(error)?;
        Ok(unbits(found.unwrap_or(0)))
    }

    /// The messages of other servers with this id: more than one when several
    /// servers gave the same, and no more than `ROWS_AN_OP`.
    pub async fn remote_messages(&self, remote_id: &str) -> Result<Vec<MessageRow>, Error> {
        let found: Vec<MessageColumns> = sqlx::query_as(concat!(
            "SELECT ",
            message_columns!(),
            " FROM message m WHERE m.remote_id = $1 AND m.origin <> 0 ORDER BY m.origin LIMIT $2"
        ))
        .bind(remote_id)
        .bind(count(ROWS_AN_OP))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        Ok(found.into_iter().map(MessageRow::from).collect())
    }

    /// Number, tag and digest of the message a caller's key stands for.
    pub async fn idempotent(&self, caller: &str, key: &str) -> Result<Option<(u64, u64, [u8; 32])>, Error> {
        let found: Option<(i64, i64, Vec<u8>)> = sqlx::query_as(
            "SELECT m.number, m.tag, i.digest FROM idempotency i CROSS JOIN message m ON m.number = i.message
             WHERE i.caller = $1 AND i.key = $2",
        )
        .bind(caller)
        .bind(key)
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        let digest = |digest: Vec<u8>| digest.try_into().map_err(|_| broken("the digest of a message"));
        found.map(|(number, tag, bytes)| Ok((unbits(number), unbits(tag), digest(bytes)?))).transpose()
    }

    /// The bodies that are kept, by session and sender: what quotas start with.
    /// Reads all of them; for the start.
    pub async fn stored_bytes(&self) -> Result<Vec<BodyBytes>, Error> {
        let found: Vec<(String, i64, String, i64)> = sqlx::query_as(
            "SELECT m.session, m.origin, m.sender, sum(m.size + $1)
             FROM message_body b CROSS JOIN message m ON m.number = b.number
             GROUP BY m.session, m.origin, m.sender ORDER BY m.session, m.origin, m.sender",
        )
        .bind(bits(MESSAGE_BYTES))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        let share = |(session, origin, sender, bytes)| BodyBytes {
            session,
            origin: PeerId(origin),
            sender,
            bytes: unbits(bytes),
        };
        Ok(found.into_iter().map(share).collect())
    }
}

/// The messages with their bodies. A repeat of another server's is left out,
/// and so is what belongs to it: there is no row with its number then.
pub(super) fn insert(script: &mut Script, batch: &Batch<'_>) {
    static LOCAL: LazyLock<ManyRows> = LazyLock::new(|| insert_messages(""));
    // By the id alone: a number that is taken is no repeat, and what belongs to
    // it must not be given to another message.
    static REMOTE: LazyLock<ManyRows> =
        LazyLock::new(|| insert_messages("ON CONFLICT (remote_id, origin) WHERE origin <> 0 DO NOTHING"));
    static LOCAL_BODY: LazyLock<ManyRows> =
        LazyLock::new(|| ManyRows::new("INSERT INTO message_body (number, body) VALUES", "(?, ?)", ""));
    static REMOTE_BODY: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH new (number, body) AS (VALUES",
            "(?, ?)",
            ") INSERT INTO message_body (number, body) SELECT number, body FROM new
             WHERE EXISTS (SELECT 1 FROM message WHERE message.number = new.number)",
        )
    });
    let (local, remote): (Vec<&Message>, Vec<&Message>) = batch.messages.iter().partition(|message| message.is_local());
    for (many, bodies, rows) in [(&LOCAL, &LOCAL_BODY, local), (&REMOTE, &REMOTE_BODY, remote)] {
        many.write(script, &rows, |script, row| bind(script, row));
        bodies.write(script, &rows, |script, row| {
            script.bind(bits(row.new.number)).bind(row.new.body.to_vec());
        });
    }
}

fn insert_messages(tail: &str) -> ManyRows {
    ManyRows::new(
        "INSERT INTO message (number, tag, origin, remote_id, session, sender, broadcast, round, kind, accepted_at,
         expires_at, size, recipients, open, freed) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        tail,
    )
}

fn bind(script: &mut Script, row: &Message) {
    let new = &row.new;
    script.bind(bits(new.number)).bind(bits(new.tag)).bind(new.origin.0).bind(new.remote_id.clone());
    script.bind(new.session.clone()).bind(new.sender.clone()).bind(new.broadcast).bind(new.round);
    script.bind(new.kind.clone()).bind(new.accepted_at.0).bind(new.expires_at.0).bind(count(new.body.len()));
    script.bind(count(row.recipients)).bind(count(row.recipients));
}

pub(super) fn insert_keys(script: &mut Script, batch: &Batch<'_>) {
    static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO idempotency (caller, key, message, digest) VALUES",
            "(?, ?, ?, ?)",
            "ON CONFLICT DO NOTHING",
        )
    });
    INSERT.write(script, &batch.keys, |script, row: &Key| {
        script.bind(row.caller.clone()).bind(row.key.clone()).bind(bits(row.message)).bind(row.digest.to_vec());
    });
}
