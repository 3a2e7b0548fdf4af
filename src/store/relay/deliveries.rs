//! Deliveries: what waits for whom, and how far it is.
//!
//! A final state lowers `open` of its message exactly by the rows it changed:
//! they are counted first, by the statement that lowers, and changed after.

use super::{
    batch::{Batch, Delivery, Phase},
    change::DeliveryState,
    json,
    messages::{MessageColumns, MessageRow, message_columns},
};
use crate::{
    error::Error,
    store::{
        Store, broken, error,
        op::ROWS_AN_OP,
        rows::{ManyRows, Script, bits, count, counter, cut_page, page, unbits},
    },
    types::{Millis, PartyRef, PeerId},
};
use bytes::Bytes;
use std::sync::LazyLock;

/// One recipient of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    pub seq: u64,
    pub message: u64,
    pub party: PartyRef,
    pub created_at: Millis,
    pub state: DeliveryState,
    pub delivered_at: Option<Millis>,
    pub finished_at: Option<Millis>,
    pub retries: u32,
    /// Why it failed.
    pub error: String,
}

/// A delivery that is not final, with all that its recipient gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDelivery {
    pub seq: u64,
    pub party: PartyRef,
    pub created_at: Millis,
    pub state: DeliveryState,
    pub retries: u32,
    pub message: MessageRow,
    pub body: Bytes,
}

/// A state that the origin of the message has not been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreported {
    pub seq: u64,
    pub origin: PeerId,
    pub remote_id: String,
    /// Of this node.
    pub party: String,
    pub state: DeliveryState,
    pub delivered_at: Option<Millis>,
    pub finished_at: Option<Millis>,
    pub retries: u32,
    pub error: String,
}

#[derive(sqlx::FromRow)]
struct DeliveryColumns {
    seq: i64,
    message: i64,
    peer: i64,
    party: String,
    created_at: i64,
    state: i64,
    delivered_at: Option<i64>,
    finished_at: Option<i64>,
    retries: u32,
    error: String,
}

#[derive(sqlx::FromRow)]
struct OpenColumns {
    #[sqlx(flatten)]
    message: MessageColumns,
    seq: i64,
    peer: i64,
    party: String,
    created_at: i64,
    state: i64,
    retries: u32,
    body: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct UnreportedColumns {
    seq: i64,
    origin: i64,
    remote_id: String,
    party: String,
    state: i64,
    delivered_at: Option<i64>,
    finished_at: Option<i64>,
    retries: u32,
    error: String,
}

fn state(code: i64) -> Result<DeliveryState, Error> {
    DeliveryState::of_code(code).ok_or_else(|| broken("the state of a delivery"))
}

fn delivery(row: DeliveryColumns) -> Result<DeliveryRow, Error> {
    Ok(DeliveryRow {
        seq: unbits(row.seq),
        message: unbits(row.message),
        party: PartyRef { peer: PeerId(row.peer), name: row.party },
        created_at: Millis(row.created_at),
        state: state(row.state)?,
        delivered_at: row.delivered_at.map(Millis),
        finished_at: row.finished_at.map(Millis),
        retries: row.retries,
        error: row.error,
    })
}

fn open(row: OpenColumns) -> Result<OpenDelivery, Error> {
    Ok(OpenDelivery {
        seq: unbits(row.seq),
        party: PartyRef { peer: PeerId(row.peer), name: row.party },
        created_at: Millis(row.created_at),
        state: state(row.state)?,
        retries: row.retries,
        message: row.message.into(),
        body: row.body.into(),
    })
}

fn unreported(row: UnreportedColumns) -> Result<Unreported, Error> {
    Ok(Unreported {
        seq: unbits(row.seq),
        origin: PeerId(row.origin),
        remote_id: row.remote_id,
        party: row.party,
        state: state(row.state)?,
        delivered_at: row.delivered_at.map(Millis),
        finished_at: row.finished_at.map(Millis),
        retries: row.retries,
        error: row.error,
    })
}

/// For the bound of a page: texts count too, so that it has an end when bodies
/// are empty.
fn size(row: &OpenColumns) -> usize {
    128 + row.body.len() + row.message.texts() + row.party.len()
}

/// [`OpenColumns`] of the deliveries `source` has as `d`. The joins stand in
/// this order for the planner too: the index of the deliveries gives the order.
macro_rules! select_open {
    ($source:literal, $tail:literal) => {
        concat!(
            "SELECT ",
            message_columns!(),
            ", d.seq, d.peer, d.party, d.created_at, d.state, d.retries, coalesce(b.body, x'') AS body FROM ",
            $source,
            " CROSS JOIN message m ON m.number = d.message LEFT JOIN message_body b ON b.number = m.number ",
            $tail
        )
    };
}

pub(super) const PAGE: &str = select_open!(
    "delivery d",
    "WHERE d.party = $1 AND d.peer = 0 AND d.finished_at IS NULL AND d.seq > $2 AND m.expires_at > $3
     ORDER BY d.seq LIMIT $4"
);
pub(super) const SESSION_PAGE: &str = select_open!(
    "delivery d",
    "WHERE d.party = $1 AND d.peer = 0 AND d.finished_at IS NULL AND d.seq > $2 AND m.expires_at > $3
     AND d.session = $5 ORDER BY d.seq LIMIT $4"
);
/// The moment of a recipient's deliveries rises with seq: ordered by one is
/// ordered by the other.
pub(super) const PENDING: &str = select_open!(
    "delivery d",
    "WHERE d.party = $1 AND d.peer = 0 AND d.finished_at IS NULL AND d.created_at > $2 AND m.expires_at > $3
     ORDER BY d.seq LIMIT $4"
);
pub(super) const SESSION_PENDING: &str = select_open!(
    "delivery d",
    "WHERE d.party = $1 AND d.peer = 0 AND d.finished_at IS NULL AND d.created_at > $2 AND m.expires_at > $3
     AND d.session = $5 ORDER BY d.seq LIMIT $4"
);
pub(super) const BY_SEQ: &str = select_open!(
    "json_each($1) j CROSS JOIN delivery d ON d.seq = j.value",
    "WHERE d.finished_at IS NULL ORDER BY j.key"
);
pub(super) const WAITING: &str = "SELECT count(*) FROM delivery WHERE party = $1 AND peer = 0 AND finished_at IS NULL";
pub(super) const UNREPORTED: &str =
    "SELECT d.seq, m.origin, m.remote_id, d.party, d.state, d.delivered_at, d.finished_at, d.retries, d.error
     FROM delivery d CROSS JOIN message m ON m.number = d.message
     WHERE d.state > d.reported AND d.seq > $1 ORDER BY d.seq LIMIT $2";

impl Store {
    /// All recipients of a message, in the order they were given.
    pub async fn deliveries(&self, message: u64) -> Result<Vec<DeliveryRow>, Error> {
        let found: Vec<DeliveryColumns> = sqlx::query_as(
            "SELECT seq, message, peer, party, created_at, state, delivered_at, finished_at, retries, error
             FROM delivery WHERE message = $1 ORDER BY seq",
        )
        .bind(bits(message))
        .fetch_all(&self.readers)
        .await
        .map_err(error)?;
        found.into_iter().map(delivery).collect()
    }

    /// The delivery of a message to one recipient.
    pub async fn delivery(&self, message: u64, party: &PartyRef) -> Result<Option<DeliveryRow>, Error> {
        let found: Option<DeliveryColumns> = sqlx::query_as(
            "SELECT seq, message, peer, party, created_at, state, delivered_at, finished_at, retries, error
             FROM delivery WHERE message = $1 AND peer = $2 AND party = $3",
        )
        .bind(bits(message))
        .bind(party.peer.0)
        .bind(party.name.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(error)?;
        found.map(delivery).transpose()
    }

    /// What is not final and not expired for a party of this node after a seq,
    /// oldest first, of one session or of all: at most `max_rows`, and no more
    /// than `max_bytes` of bodies and texts unless the first alone has more.
    /// Also says whether there may be more.
    pub async fn delivery_page(
        &self,
        party: &str,
        session: Option<&str>,
        after_seq: u64,
        now: Millis,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<(Vec<OpenDelivery>, bool), Error> {
        let (after, text) = (counter(after_seq), session.map_or(PAGE, |_| SESSION_PAGE));
        self.open_page(text, (party, session), after, now, max_rows, max_bytes).await
    }

    /// The same for those with a `created_at` above a moment.
    pub async fn pending_page(
        &self,
        party: &str,
        session: Option<&str>,
        created_after: i64,
        now: Millis,
        max_bytes: usize,
    ) -> Result<Vec<OpenDelivery>, Error> {
        let text = session.map_or(PENDING, |_| SESSION_PENDING);
        self.open_page(text, (party, session), created_after, now, ROWS_AN_OP, max_bytes).await.map(|(page, _)| page)
    }

    async fn open_page(
        &self,
        text: &'static str,
        (party, session): (&str, Option<&str>),
        after: i64,
        now: Millis,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<(Vec<OpenDelivery>, bool), Error> {
        let mut query =
            sqlx::query_as::<_, OpenColumns>(text).bind(party).bind(after).bind(now.0).bind(count(max_rows));
        if let Some(session) = session {
            query = query.bind(session);
        }
        let (rows, cut) = cut_page(query.fetch(&self.readers), |row| row, size, max_bytes).await?;
        let more = cut || rows.len() >= max_rows;
        Ok((rows.into_iter().map(open).collect::<Result<_, _>>()?, more))
    }

    /// Those of these deliveries that are not final, in the order asked for,
    /// expired or not: as many as `max_bytes` has room for, one at least. Who
    /// wants the rest asks again without the first of them.
    pub async fn open_deliveries(&self, seqs: &[u64], max_bytes: usize) -> Result<Vec<OpenDelivery>, Error> {
        let seqs = json(seqs.iter().map(|seq| counter(*seq)));
        let found = sqlx::query_as::<_, OpenColumns>(BY_SEQ).bind(seqs).fetch(&self.readers);
        let rows = page(found, |row| row, size, max_bytes).await?;
        rows.into_iter().map(open).collect()
    }

    /// How many deliveries for a party of this node are not final. One that
    /// expired counts until [`super::Change::FailExpired`] has seen it.
    pub async fn waiting(&self, party: &str) -> Result<u64, Error> {
        let found: i64 = sqlx::query_scalar(WAITING).bind(party).fetch_one(&self.readers).await.map_err(error)?;
        Ok(unbits(found))
    }

    /// States of deliveries here, of messages of other servers, that their
    /// origin has not been told: those after a seq, oldest delivery first, at
    /// most `limit`.
    pub async fn unreported(&self, after: u64, limit: usize) -> Result<Vec<Unreported>, Error> {
        let found: Vec<UnreportedColumns> = sqlx::query_as(UNREPORTED)
            .bind(counter(after))
            .bind(count(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(error)?;
        found.into_iter().map(unreported).collect()
    }
}

pub(super) fn insert(script: &mut Script, batch: &Batch<'_>) {
    static LOCAL: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO delivery
             (seq, message, session, peer, party, created_at, reported, state, retries, error) VALUES",
            "(?, ?, ?, ?, ?, ?, ?, 0, 0, '')",
            "",
        )
    });
    static REMOTE: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH new (seq, message, session, peer, party, created_at, reported) AS (VALUES",
            "(?, ?, ?, ?, ?, ?, ?)",
            ") INSERT INTO delivery (seq, message, session, peer, party, created_at, reported, state, retries, error)
             SELECT seq, message, session, peer, party, created_at, reported, 0, 0, '' FROM new
             WHERE EXISTS (SELECT 1 FROM message WHERE message.number = new.message)",
        )
    });
    let is_local = |row: &&Delivery| batch.messages[row.message].is_local();
    let (local, remote): (Vec<&Delivery>, Vec<&Delivery>) = batch.deliveries.iter().partition(is_local);
    for (many, rows) in [(&LOCAL, local), (&REMOTE, remote)] {
        many.write(script, &rows, |script, row| {
            let message = &batch.messages[row.message];
            let told = row.party.peer == PeerId::SELF && !message.is_local();
            let reported = if told { DeliveryState::Pending } else { DeliveryState::Failed };
            script.bind(bits(row.seq)).bind(bits(message.new.number)).bind(message.new.session.clone());
            script.bind(row.party.peer.0).bind(row.party.name.clone()).bind(row.created_at).bind(reported.code());
        });
    }
}

pub(super) fn send(script: &mut Script, batch: &Batch<'_>) {
    static SEND: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH sent (seq, at, retries) AS (VALUES",
            "(?, ?, ?)",
            ") UPDATE delivery SET state = max(state, 1), delivered_at = coalesce(delivered_at, sent.at),
               retries = max(delivery.retries, sent.retries)
             FROM sent WHERE delivery.seq = sent.seq AND delivery.peer = 0",
        )
    });
    let rows: Vec<_> = batch.sent.iter().collect();
    SEND.write(script, &rows, |script, (seq, (at, retries))| {
        script.bind(bits(**seq)).bind(at.0).bind(*retries);
    });
}

pub(super) fn finish(script: &mut Script, phase: &Phase) {
    static LOWER: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH done (seq, message) AS (VALUES",
            "(?, ?)",
            ") UPDATE message SET open = open - closed.rows FROM (
               SELECT d.message, count(*) AS rows FROM done CROSS JOIN delivery d ON d.seq = done.seq
               WHERE d.message = done.message AND d.finished_at IS NULL GROUP BY d.message
             ) AS closed WHERE message.number = closed.message",
        )
    });
    static FINISH: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH done (seq, message, state, at, error) AS (VALUES",
            "(?, ?, ?, ?, ?)",
            ") UPDATE delivery SET state = done.state, finished_at = done.at, error = done.error
             FROM done WHERE delivery.seq = done.seq AND delivery.message = done.message
             AND delivery.finished_at IS NULL",
        )
    });
    let rows: Vec<_> = phase.finished.iter().collect();
    LOWER.write(script, &rows, |script, ((seq, message), _)| {
        script.bind(bits(*seq)).bind(bits(*message));
    });
    FINISH.write(script, &rows, |script, ((seq, message), done)| {
        script.bind(bits(*seq)).bind(bits(*message)).bind(done.state.code()).bind(done.at.0).bind(done.error.clone());
    });
}

pub(super) fn tell(script: &mut Script, phase: &Phase) {
    static LOWER: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH told (message, peer, party) AS (VALUES",
            "(?, ?, ?)",
            ") UPDATE message SET open = open - closed.rows FROM (
               SELECT d.message, count(*) AS rows FROM told CROSS JOIN delivery d
               ON d.message = told.message AND d.peer = told.peer AND d.party = told.party
               WHERE d.finished_at IS NULL GROUP BY d.message
             ) AS closed WHERE message.number = closed.message",
        )
    });
    static TELL: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH told (message, peer, party, state, delivered_at, finished_at, retries, error) AS (VALUES",
            "(?, ?, ?, ?, ?, ?, ?, ?)",
            ") UPDATE delivery SET
               state = iif(delivery.finished_at IS NULL, max(delivery.state, told.state), delivery.state),
               error = iif(delivery.finished_at IS NULL, told.error, delivery.error),
               finished_at = coalesce(delivery.finished_at, told.finished_at),
               delivered_at = coalesce(delivery.delivered_at, told.delivered_at),
               retries = max(delivery.retries, told.retries)
             FROM told
             WHERE delivery.message = told.message AND delivery.peer = told.peer AND delivery.party = told.party",
        )
    });
    let ended: Vec<_> = phase.told.iter().filter(|(_, told)| told.state.is_final()).collect();
    LOWER.write(script, &ended, |script, ((message, party), _)| {
        script.bind(bits(*message)).bind(party.peer.0).bind(party.name.clone());
    });
    let rows: Vec<_> = phase.told.iter().collect();
    TELL.write(script, &rows, |script, ((message, party), told)| {
        script.bind(bits(*message)).bind(party.peer.0).bind(party.name.clone()).bind(told.state.code());
        script.bind(told.delivered_at.map(|at| at.0)).bind(told.finished_at.map(|at| at.0));
        script.bind(told.retries).bind(told.error.clone());
    });
}

pub(super) fn report(script: &mut Script, batch: &Batch<'_>) {
    static REPORT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH told (seq, state) AS (VALUES",
            "(?, ?)",
            ") UPDATE delivery SET reported = max(reported, told.state) FROM told WHERE delivery.seq = told.seq",
        )
    });
    let rows: Vec<_> = batch.reported.iter().collect();
    REPORT.write(script, &rows, |script, (seq, state)| {
        script.bind(bits(**seq)).bind(state.code());
    });
}
