//! The newest messages of a session and how they fare, for who watches it.

use super::{DeliveryState, json};
use crate::{
    error::Error,
    store::{
        Store, broken, error,
        rows::{count, page_len, unbits},
    },
    types::{Millis, PartyRef, PeerId},
};
use std::collections::HashMap;

/// A message accepted in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionMessage {
    pub number: u64,
    pub sender: PartyRef,
    pub round: i32,
    pub accepted_at: Millis,
    pub deliveries: Vec<SessionDelivery>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDelivery {
    pub seq: u64,
    pub party: PartyRef,
    pub state: DeliveryState,
    pub delivered_at: Option<Millis>,
    pub finished_at: Option<Millis>,
}

pub(super) const MESSAGES: &str = "SELECT m.number, m.origin, m.sender, m.round, m.accepted_at, m.recipients
     FROM slot t CROSS JOIN message m ON m.number = t.message
     WHERE t.session = $1 ORDER BY t.position DESC LIMIT $2";
pub(super) const DELIVERIES: &str = "SELECT d.message, d.seq, d.peer, d.party, d.state, d.delivered_at, d.finished_at
     FROM json_each($1) j CROSS JOIN delivery d ON d.message = j.value";

type DeliveryColumns = (i64, i64, i64, String, i64, Option<i64>, Option<i64>);

impl Store {
    /// The newest messages of a session whose rows are kept, the newest first:
    /// at most so many, and so many deliveries (but one message at least). Also
    /// says whether older ones were left out.
    pub async fn session_messages(
        &self,
        session: &str,
        messages: usize,
        deliveries: usize,
    ) -> Result<(Vec<SessionMessage>, bool), Error> {
        let mut found: Vec<(i64, i64, String, i32, i64, i64)> = sqlx::query_as(MESSAGES)
            .bind(session)
            .bind(count(messages + 1))
            .fetch_all(&self.readers)
            .await
            .map_err(error)?;
        let all = found.len();
        found.truncate(page_len(found.iter().map(|row| row.5), deliveries).min(messages));
        let cut = found.len() < all;
        let numbers = json(found.iter().map(|row| row.0));
        let rows: Vec<DeliveryColumns> =
            sqlx::query_as(DELIVERIES).bind(numbers).fetch_all(&self.readers).await.map_err(error)?;
        let mut by_message: HashMap<i64, Vec<SessionDelivery>> = HashMap::new();
        for (message, seq, peer, name, state, delivered_at, finished_at) in rows {
            by_message.entry(message).or_default().push(SessionDelivery {
                seq: unbits(seq),
                party: PartyRef { peer: PeerId(peer), name },
                state: DeliveryState::of_code(state).ok_or_else(|| broken("the state of a delivery"))?,
                delivered_at: delivered_at.map(Millis),
                finished_at: finished_at.map(Millis),
            });
        }
        let message = |(number, origin, name, round, accepted_at, _)| SessionMessage {
            number: unbits(number),
            sender: PartyRef { peer: PeerId(origin), name },
            round,
            accepted_at: Millis(accepted_at),
            deliveries: by_message.remove(&number).unwrap_or_default(),
        };
        Ok((found.into_iter().map(message).collect(), cut))
    }
}
