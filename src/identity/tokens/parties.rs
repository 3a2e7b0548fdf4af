//! Which parties of the router are users of this node: those whose token says
//! so.
//!
//! Known in memory, read anew when a token comes or goes.

use super::Tokens;
use crate::{error::Error, store::BoundParty, types::Millis};
use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};
use tokio::sync::Mutex;

#[derive(Default)]
pub(super) struct Parties {
    bound: RwLock<HashMap<String, BoundParty>>,
    /// Held while they are read anew: the last reading counts.
    reading: Mutex<()>,
}

impl Tokens {
    /// The user that a party of this node is bound to, by the newest of its
    /// tokens that says so.
    pub fn user_of_party(&self, party: &str, now: Millis) -> Option<String> {
        let bound = self.0.parties.bound.read().unwrap_or_else(PoisonError::into_inner);
        let found = bound.get(party).filter(|bound| bound.expires_at.is_none_or(|at| at > now));
        found.map(|bound| bound.user.clone())
    }

    /// Reads which party is whose; once at the start.
    pub async fn read_parties(&self) -> Result<(), Error> {
        let _turn = self.0.parties.reading.lock().await;
        let rows = self.0.store.bound_parties().await?.into_iter();
        let party = |row: BoundParty| Some((row.principal.strip_prefix("party:")?.to_owned(), row));
        let read = rows.filter_map(party).collect();
        *self.0.parties.bound.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// A token came or went.
    pub(super) async fn parties_changed(&self) {
        if let Err(error) = self.read_parties().await {
            tracing::warn!(%error, "which party is which user's could not be read; it is as it was before");
        }
    }

    pub(super) fn has_bound_parties(&self) -> bool {
        !self.0.parties.bound.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
