//! The slots of a session's chain, and the claims that were made twice.
//!
//! What is in an entry is the word of who made it. A chain loses links from its
//! front only, and never its last one while the session is there.

use super::{
    batch::{Batch, Message},
    chain::{Hash, Head, Heads, link},
    json,
};
use crate::{
    error::Error,
    store::{
        Store, broken, error,
        rows::{ManyRows, Script, bits, count, counter, unbits},
    },
    types::Millis,
};
use sqlx::SqliteConnection;
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// Slots of one digest that are looked at for one with a proof.
const LOOKED_AT: usize = 64;

/// What this node accepted, as it stands in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRow {
    pub session: String,
    /// From 1, without a hole.
    pub position: u64,
    /// `None`: another server's message that was here already.
    pub message: Option<u64>,
    /// `None`: the message's row is no longer kept.
    pub accepted_at: Option<Millis>,
    /// The link before this one.
    pub before: Hash,
    pub entry: Vec<u8>,
    /// Of the payload.
    pub digest: Hash,
    pub proof: Option<[u8; 96]>,
}

impl SlotRow {
    pub fn link(&self) -> Hash {
        link(&self.before, &self.session, &self.entry, &self.digest)
    }

    pub fn head(&self) -> Head {
        Head { position: self.position, link: self.link() }
    }
}

/// A claim with more than one digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EquivocationRow {
    /// In the order they were found.
    pub number: u64,
    pub session: String,
    /// Of the slot that showed it.
    pub entry: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct SlotColumns {
    session: String,
    position: i64,
    message: Option<i64>,
    accepted_at: Option<i64>,
    before: Vec<u8>,
    entry: Vec<u8>,
    digest: Vec<u8>,
    proof: Option<Vec<u8>>,
}

fn slot(row: SlotColumns) -> Result<SlotRow, Error> {
    let hash = |bytes: Vec<u8>| bytes.try_into().map_err(|_| broken("a hash of a slot"));
    let proof = row.proof.map(|proof| proof.try_into().map_err(|_| broken("the proof of a slot")));
    Ok(SlotRow {
        session: row.session,
        position: unbits(row.position),
        message: row.message.map(unbits),
        accepted_at: row.accepted_at.map(Millis),
        before: hash(row.before)?,
        entry: row.entry,
        digest: hash(row.digest)?,
        proof: proof.transpose()?,
    })
}

macro_rules! select_slots {
    ($tail:literal) => {
        concat!(
            "SELECT t.session, t.position, t.message, m.accepted_at, t.before, t.entry, t.digest, t.proof
             FROM slot t LEFT JOIN message m ON m.number = t.message ",
            $tail
        )
    };
}

pub(super) const PAGE: &str = select_slots!("WHERE t.session = $1 AND t.position > $2 ORDER BY t.position LIMIT $3");
pub(super) const LAST: &str = select_slots!("WHERE t.session = $1 ORDER BY t.position DESC LIMIT 1");
/// The next digest after $3. The planner would rather walk the whole chain, which
/// has the order too.
pub(super) const CLAIMED: &str =
    "SELECT t.session, t.position, t.message, m.accepted_at, t.before, t.entry, t.digest, t.proof
     FROM slot t INDEXED BY slot_claim LEFT JOIN message m ON m.number = t.message
     WHERE t.session = $1 AND t.claim = $2 AND t.digest =
       (SELECT min(n.digest) FROM slot n WHERE n.session = $1 AND n.claim = $2 AND n.digest > $3)
     ORDER BY t.position LIMIT $4";
/// One look for each claim.
pub(super) const TWICE: &str = "SELECT e.claim FROM json_each($2) j CROSS JOIN equivocation e
     WHERE e.session = $1 AND e.claim = unhex(j.value)";
/// One look for each session, however many slots it has.
pub(super) const HEADS: &str = "WITH RECURSIVE s (session) AS (
       SELECT min(session) FROM slot
       UNION ALL
       SELECT (SELECT min(session) FROM slot WHERE slot.session > s.session) FROM s WHERE s.session IS NOT NULL
     )
     SELECT t.session, t.position, NULL AS message, NULL AS accepted_at, t.before, t.entry, t.digest, NULL AS proof
     FROM s CROSS JOIN slot t ON t.session = s.session
     WHERE t.position = (SELECT max(position) FROM slot WHERE slot.session = s.session)";

impl Store {
    /// The slots of a session after a position, in their order; at most `limit`.
    pub async fn slots(&self, session: &str, after: u64, limit: usize) -> Result<Vec<SlotRow>, Error> {
        let found: Vec<SlotColumns> = sqlx::query_as(PAGE)
            .bind(session)
            .bind(counter(after))
            .bind(count(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(error)?;
        found.into_iter().map(slot).collect()
    }

    /// The last slot of a session.
    pub async fn last_slot(&self, session: &str) -> Result<Option<SlotRow>, Error> {
        let found: Option<SlotColumns> =
            sqlx::query_as(LAST).bind(session).fetch_optional(&self.readers).await.map_err(error)?;
        found.map(slot).transpose()
    }

    /// The first slots with each of the first digests under a claim: those with a
    /// proof before those without, `each` at most of `digests` at most.
    pub async fn claimed(
        &self,
        session: &str,
        claim: &[u8; 16],
        digests: usize,
        each: usize,
    ) -> Result<Vec<SlotRow>, Error> {
        let (mut found, mut after) = (Vec::new(), Vec::new());
        for _ in 0..digests {
            let rows: Vec<SlotColumns> = sqlx::query_as(CLAIMED)
                .bind(session)
                .bind(&claim[..])
                .bind(after.as_slice())
                .bind(count(LOOKED_AT))
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
            let Some(first) = rows.first() else { break };
            after.clone_from(&first.digest);
            let mut rows = rows.into_iter().map(slot).collect::<Result<Vec<_>, _>>()?;
            rows.sort_by_key(|row| row.proof.is_none());
            rows.truncate(each);
            found.append(&mut rows);
        }
        Ok(found)
    }

    /// Equivocations of one session, or of all, after a number; at most `limit`.
    pub async fn equivocations(
        &self,
        session: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<EquivocationRow>, Error> {
        let text = match session {
            Some(_) => {
                "SELECT number, session, entry FROM equivocation WHERE session = $3 AND number > $1
                 ORDER BY number LIMIT $2"
            }
            None => "SELECT number, session, entry FROM equivocation WHERE number > $1 ORDER BY number LIMIT $2",
        };
        let mut query = sqlx::query_as::<_, (i64, String, Vec<u8>)>(text).bind(counter(after)).bind(count(limit));
        if let Some(session) = session {
            query = query.bind(session);
        }
        let found = query.fetch_all(&self.readers).await.map_err(error)?;
        let row = |(number, session, entry)| EquivocationRow { number: unbits(number), session, entry };
        Ok(found.into_iter().map(row).collect())
    }

    /// How many equivocations a session has.
    pub async fn equivocation_count(&self, session: &str) -> Result<u64, Error> {
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM equivocation WHERE session = $1")
            .bind(session)
            .fetch_one(&self.readers)
            .await
            .map_err(error)?;
        Ok(unbits(found))
    }

    /// Those of these claims that were made twice in a session.
    pub async fn claimed_twice(
        &self,
        session: &str,
        claims: impl IntoIterator<Item = [u8; 16]>,
    ) -> Result<HashSet<[u8; 16]>, Error> {
        let claims = json(claims.into_iter().map(|claim| format!("\"{:032x}\"", u128::from_be_bytes(claim))));
        let found: Vec<Vec<u8>> =
            sqlx::query_scalar(TWICE).bind(session).bind(claims).fetch_all(&self.readers).await.map_err(error)?;
        found.into_iter().map(|claim| claim.try_into().map_err(|_| broken("a claim"))).collect()
    }

    /// The greatest number an equivocation has; 0: none.
    pub async fn newest_equivocation(&self) -> Result<u64, Error> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT max(number) FROM equivocation").fetch_one(&self.readers).await.map_err(error)?;
        Ok(unbits(found.unwrap_or(0)))
    }
}

pub(in crate::store) async fn heads(connection: &mut SqliteConnection) -> Result<Heads, sqlx::Error> {
    let found: Vec<SlotColumns> = sqlx::query_as(HEADS).fetch_all(connection).await?;
    let head = |row| slot(row).map(|row| (row.session.clone(), row.head()));
    let heads: Result<HashMap<String, Head>, Error> = found.into_iter().map(head).collect();
    heads.map(Heads::new).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A claim whose digest is not that of one before.
const TWICE_HEAD: &str = "WITH new (session, claim, digest, position, entry) AS (VALUES";
const TWICE_ROW: &str = "(?, ?, ?, ?, ?)";
const TWICE_TAIL: &str = ") INSERT INTO equivocation (session, claim, entry) SELECT session, claim, entry FROM new
     WHERE EXISTS (SELECT 1 FROM slot t WHERE t.session = new.session AND t.claim = new.claim
       AND t.digest < new.digest AND +t.position < new.position)
     OR EXISTS (SELECT 1 FROM slot t WHERE t.session = new.session AND t.claim = new.claim
       AND t.digest > new.digest AND +t.position < new.position)
     ON CONFLICT DO NOTHING";

pub(super) fn insert(script: &mut Script, batch: &Batch<'_>) {
    static LOCAL: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO slot (session, position, message, before, entry, digest, claim, proof) VALUES",
            "(?, ?, ?, ?, ?, ?, ?, ?)",
            "",
        )
    });
    static REMOTE: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH new (session, position, message, before, entry, digest, claim, proof) AS (VALUES",
            "(?, ?, ?, ?, ?, ?, ?, ?)",
            ") INSERT INTO slot (session, position, message, before, entry, digest, claim, proof)
             SELECT session, position, (SELECT number FROM message WHERE message.number = new.message), before, entry,
             digest, claim, proof FROM new",
        )
    });
    static TWICE: LazyLock<ManyRows> = LazyLock::new(|| ManyRows::new(TWICE_HEAD, TWICE_ROW, TWICE_TAIL));
    let (local, remote): (Vec<&Message>, Vec<&Message>) = batch.messages.iter().partition(|message| message.is_local());
    for (many, rows) in [(&LOCAL, local), (&REMOTE, remote)] {
        many.write(script, &rows, |script, row| {
            let (new, slot) = (&row.new, &row.new.slot);
            script.bind(new.session.clone()).bind(bits(row.position)).bind(bits(new.number)).bind(row.before.to_vec());
            script.bind(slot.entry.to_vec()).bind(slot.digest.to_vec());
            script.bind(slot.claim.map(|claim| claim.to_vec())).bind(slot.proof.map(|proof| proof.to_vec()));
        });
    }
    let claims: Vec<_> = batch.messages.iter().filter_map(|row| Some((row, row.new.slot.claim?))).collect();
    TWICE.write(script, &claims, |script, (row, claim)| {
        let slot = &row.new.slot;
        script.bind(row.new.session.clone()).bind(claim.to_vec()).bind(slot.digest.to_vec());
        script.bind(bits(row.position)).bind(slot.entry.to_vec());
    });
}

/// Drops the first slots of a session whose messages are gone, at most `limit`;
/// never the last one.
pub(super) async fn trim(connection: &mut SqliteConnection, session: &str, limit: usize) -> Result<(), sqlx::Error> {
    let front: Vec<(i64, bool)> = sqlx::query_as(
        "SELECT position, EXISTS (SELECT 1 FROM message WHERE message.number = slot.message)
         FROM slot WHERE session = $1 ORDER BY position LIMIT $2",
    )
    .bind(session)
    .bind(count(limit))
    .fetch_all(&mut *connection)
    .await?;
    let kept = front.iter().find(|(_, kept)| *kept).or(front.last());
    if let Some((first, _)) = kept {
        sqlx::query("DELETE FROM slot WHERE session = $1 AND position < $2")
            .bind(session)
            .bind(first)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Drops the first slots of a session, at most `limit`. Returns how many.
pub(super) async fn forget(connection: &mut SqliteConnection, session: &str, limit: u64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "DELETE FROM slot WHERE session = $1 AND position <
         (SELECT min(position) FROM slot WHERE session = $1) + $2",
    )
    .bind(session)
    .bind(bits(limit))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests;
