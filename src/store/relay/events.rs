//! Session events, and which parties of this node they are for.

use super::batch::Batch;
use crate::{
    error::Error,
    store::{
        Store, error,
        rows::{ManyRows, Script, bits, count, counter, page, unbits},
    },
    types::{Millis, PeerId},
};
use bytes::Bytes;
use std::sync::LazyLock;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// In the order of the commits.
    pub number: u64,
    pub event_id: String,
    pub owner: PeerId,
    pub session: String,
    pub kind: String,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub body: Bytes,
}

type EventColumns = (i64, String, i64, String, String, i64, i64, Vec<u8>);

fn event(columns: EventColumns) -> EventRow {
    let (number, event_id, owner, session, kind, created_at, expires_at, body) = columns;
    EventRow {
        number: unbits(number),
        event_id,
        owner: PeerId(owner),
        session,
        kind,
        created_at: Millis(created_at),
        expires_at: Millis(expires_at),
        body: body.into(),
    }
}

/// [`EventColumns`] of what `source` has as `e`, their number by another name.
macro_rules! select_events {
    ($number:literal, $source:literal) => {
        concat!(
            "SELECT ",
            $number,
            ", e.event_id, e.owner, e.session, e.kind, e.created_at, e.expires_at, e.body FROM ",
            $source
        )
    };
}

const PAGE: &str =
    select_events!("e.number", "session_event e WHERE e.number > $1 AND e.expires_at > $2 ORDER BY e.number LIMIT $3");
/// Two lists in the order of the numbers, which SQLite merges as they come. The
/// second must show the column of its index, or it is sorted first.
pub(super) const PARTY_PAGE: &str = concat!(
    select_events!("e.number", "session_event e WHERE e.named IS NULL AND e.number > $1 AND e.expires_at > $2"),
    " UNION ALL ",
    select_events!(
        "p.event",
        "event_party p CROSS JOIN session_event e ON e.number = p.event
         WHERE p.party = $4 AND p.event > $1 AND e.expires_at > $2"
    ),
    " ORDER BY 1 LIMIT $3"
);

impl Store {
    /// The events after a number that are not expired, oldest first: every one,
    /// or those for a party of this node (for all, or naming it). At most
    /// `max_rows`, and no more than `max_bytes` of bodies unless the first alone
    /// has more.
    pub async fn event_page(
        &self,
        party: Option<&str>,
        after: u64,
        now: Millis,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<EventRow>, Error> {
        let mut query = sqlx::query_as::<_, EventColumns>(party.map_or(PAGE, |_| PARTY_PAGE))
            .bind(counter(after))
            .bind(now.0)
            .bind(count(max_rows));
        if let Some(party) = party {
            query = query.bind(party);
        }
        page(query.fetch(&self.readers), event, |row| row.body.len(), max_bytes).await
    }

    /// An event that is kept.
    pub async fn event(&self, owner: PeerId, session: &str, event_id: &str) -> Result<Option<EventRow>, Error> {
        const FIND: &str =
            select_events!("e.number", "session_event e WHERE e.event_id = $1 AND e.owner = $2 AND e.session = $3");
        let query = sqlx::query_as::<_, EventColumns>(FIND).bind(event_id).bind(owner.0).bind(session);
        Ok(query.fetch_optional(&self.readers).await.map_err(error)?.map(event))
    }

    /// The number of an event; the lowest where several servers or sessions
    /// gave the same id, so that who goes on behind it misses none.
    pub async fn event_number(&self, event_id: &str) -> Result<Option<u64>, Error> {
        let found: Option<i64> = sqlx::query_scalar("SELECT min(number) FROM session_event WHERE event_id = $1")
            .bind(event_id)
            .fetch_one(&self.readers)
            .await
            .map_err(error)?;
        Ok(found.map(unbits))
    }
}

/// A repeat is left out, and so are its parties: there is no row with its
/// number then.
pub(super) fn insert(script: &mut Script, batch: &Batch<'_>) {
    static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO session_event
             (number, event_id, owner, session, kind, created_at, expires_at, named, size, body) VALUES",
            "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            "ON CONFLICT DO NOTHING",
        )
    });
    static NAME: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH new (party, event) AS (VALUES",
            "(?, ?)",
            ") INSERT INTO event_party (party, event) SELECT party, event FROM new
             WHERE EXISTS (SELECT 1 FROM session_event WHERE session_event.number = new.event)
             ON CONFLICT DO NOTHING",
        )
    });
    INSERT.write(script, &batch.events, |script, (number, new)| {
        script.bind(bits(*number)).bind(new.event_id.clone()).bind(new.owner.0).bind(new.session.clone());
        script.bind(new.kind.clone()).bind(new.created_at.0).bind(new.expires_at.0);
        script.bind(new.local_parties.as_ref().map(|parties| count(parties.len())));
        script.bind(count(new.body.len())).bind(new.body.to_vec());
    });
    let named = |(number, new): &'_ (u64, Box<_>)| -> Vec<(String, u64)> {
        let new: &super::NewEvent = new;
        new.local_parties.iter().flatten().map(|party| (party.clone(), *number)).collect()
    };
    let parties: Vec<(String, u64)> = batch.events.iter().flat_map(named).collect();
    NAME.write(script, &parties, |script, (party, number)| {
        script.bind(party.clone()).bind(bits(*number));
    });
}
