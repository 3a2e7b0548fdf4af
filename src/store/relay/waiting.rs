//! What waits for a party of this node, asked by its notifications.
//!
//! Reads only. Each query ends soon, however much waits: an event counts among
//! the newest that name the party.

use crate::{
    error::Error,
    store::{
        Store, error,
        rows::{count, counter, unbits},
    },
    types::Millis,
};

/// What waits for a party in one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    pub message: bool,
    pub event: bool,
}

/// The newest 1,024 events that name a party, after one.
macro_rules! newest_events {
    () => {
        "(SELECT event FROM event_party WHERE party = $1 AND event > $2 ORDER BY event DESC LIMIT 1024)"
    };
}

pub(super) const MESSAGE_WAITS: &str =
    "SELECT 1 FROM delivery WHERE party = $1 AND session = $2 AND peer = 0 AND finished_at IS NULL LIMIT 1";
pub(super) const EVENT_WAITS: &str = concat!(
    "SELECT 1 FROM ",
    newest_events!(),
    " p CROSS JOIN session_event e ON e.number = p.event WHERE e.expires_at > $3 AND e.session = $4 LIMIT 1"
);
/// From one session to the next, so that what waits in each is passed over.
pub(super) const MESSAGE_SESSIONS: &str = "WITH RECURSIVE found(session) AS (
         SELECT min(session) FROM delivery WHERE party = $1 AND peer = 0 AND finished_at IS NULL
         UNION ALL
         SELECT (SELECT min(d.session) FROM delivery d
                 WHERE d.party = $1 AND d.session > f.session AND d.peer = 0 AND d.finished_at IS NULL)
         FROM found f WHERE f.session IS NOT NULL
     ) SELECT session FROM found WHERE session IS NOT NULL LIMIT $2";
const EVENT_SESSIONS: &str = concat!(
    "SELECT DISTINCT e.session FROM ",
    newest_events!(),
    " p CROSS JOIN session_event e ON e.number = p.event WHERE e.expires_at > $3 LIMIT $4"
);

impl Store {
    /// What waits for a party in a session: deliveries that are not final (one
    /// that expired counts until it was failed), and events that name it, came
    /// after the one with the number `after`, and are not expired.
    pub async fn waits(&self, party: &str, session: &str, after: u64, now: Millis) -> Result<Waits, Error> {
        let message: Option<i64> = sqlx::query_scalar(MESSAGE_WAITS)
            .bind(party)
            .bind(session)
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        let event: Option<i64> = sqlx::query_scalar(EVENT_WAITS)
            .bind(party)
            .bind(counter(after))
            .bind(now.0)
            .bind(session)
            .fetch_optional(&self.readers)
            .await
            .map_err(error)?;
        Ok(Waits { message: message.is_some(), event: event.is_some() })
    }

    /// Sessions in which deliveries wait for a party, in the order of their
    /// names, at most `limit`.
    pub async fn sessions_with_messages(&self, party: &str, limit: usize) -> Result<Vec<String>, Error> {
        let query = sqlx::query_scalar(MESSAGE_SESSIONS).bind(party).bind(count(limit));
        query.fetch_all(&self.readers).await.map_err(error)
    }

    /// Sessions whose events wait for a party, as in [`Store::waits`], at most
    /// `limit`.
    pub async fn sessions_with_events(
        &self,
        party: &str,
        after: u64,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<String>, Error> {
        let query = sqlx::query_scalar(EVENT_SESSIONS).bind(party).bind(counter(after)).bind(now.0).bind(count(limit));
        query.fetch_all(&self.readers).await.map_err(error)
    }

    /// The number of the newest event; 0: there is none.
    pub async fn newest_event(&self) -> Result<u64, Error> {
        let found: Option<i64> = sqlx::query_scalar("SELECT max(number) FROM session_event")
            .fetch_one(&self.readers)
            .await
            .map_err(error)?;
        Ok(found.map_or(0, unbits))
    }
}
