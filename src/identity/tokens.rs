//! The tokens of local callers: issued, listed, revoked, checked.
//!
//! Rows hold hashes only. What was checked lately is remembered, so that a call
//! costs no read; a revoked token is forgotten before the revocation is
//! answered. When a token was last used is written in passing.
//! Never logs a token.

use super::principal::{Principal, bearer, new_token, token_hash};
use crate::{
    error::Error,
    store::{Change, Store, TokenHash, TokenRow},
    types::Millis,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;

/// Checked tokens remembered; beyond that they are read again.
const REMEMBERED_MAX: usize = 10_000;
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// A fresh token: what to show once, and what to call it later.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token: String,
    pub id: String,
}

#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    store: Store,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<TokenHash, (Principal, Option<Millis>)>,
    used: HashMap<TokenHash, Millis>,
    /// Counts revocations: what was read before one is not remembered after it.
    revocations: u64,
}

impl Tokens {
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, known: Mutex::default() }))
    }

    /// `ttl`: none for a token that does not expire.
    pub async fn issue(&self, principal: &Principal, ttl: Option<Duration>) -> Result<Issued, Error> {
        let token = new_token()?;
        let hash = token_hash(&token).ok_or_else(|| Error::internal("a fresh token is well formed"))?;
        let id = format!("{:08x}", getrandom::u32().map_err(Error::internal)?);
        let now = Millis::now();
        let row = TokenRow {
            hash,
            id: id.clone(),
            principal: principal.to_string(),
            created_at: now,
            expires_at: ttl.map(|ttl| now.plus(ttl)),
            last_used_at: None,
        };
        self.0.store.submit(Change::PutToken(row)).await?;
        Ok(Issued { token, id })
    }

    /// All tokens, with the last use as far as it is known.
    pub async fn list(&self) -> Result<Vec<TokenRow>, Error> {
        let mut rows = self.0.store.tokens().await?;
        let known = self.lock();
        for row in &mut rows {
            row.last_used_at = row.last_used_at.max(known.used.get(&row.hash).copied());
        }
        Ok(rows)
    }

    /// Counts no longer when this returns.
    pub async fn revoke(&self, id: &str) -> Result<(), Error> {
        let revoked = self.0.store.submit(Change::RevokeToken { id: id.to_owned() }).await;
        let mut known = self.lock();
        known.tokens.clear();
        known.revocations += 1;
        drop(known);
        match revoked {
            Ok(_) => Ok(()),
            Err(Error::NotFound(_)) => {
                Err(Error::NotFound(format!("there is no token {id:?}; `pillarbox token list` shows them")))
            }
            Err(error) => Err(error),
        }
    }

    /// Who calls, by `authorization: Bearer <token>`.
    pub async fn authenticate(&self, metadata: &MetadataMap) -> Result<Principal, Error> {
        let refused = |why: &str| Error::Unauthenticated(format!("authorization: {why}"));
        let header = metadata
            .get("authorization")
            .ok_or_else(|| refused("missing; send `Bearer <token>`, `pillarbox token new` makes one"))?;
        let hash = header.to_str().ok().and_then(bearer).and_then(token_hash);
        let hash = hash.ok_or_else(|| refused("not `Bearer` and a token of this node"))?;
        let (principal, expires_at) = self.look_up(&hash).await?.ok_or_else(|| refused("unknown or revoked token"))?;
        let now = Millis::now();
        if expires_at.is_some_and(|at| at <= now) {
            return Err(refused("the token has expired"));
        }
        self.lock().used.insert(hash, now);
        Ok(principal)
    }

    async fn look_up(&self, hash: &TokenHash) -> Result<Option<(Principal, Option<Millis>)>, Error> {
        let revocations = {
            let known = self.lock();
            if let Some(found) = known.tokens.get(hash) {
                return Ok(Some(found.clone()));
            }
            known.revocations
        };
        let Some(row) = self.0.store.token_by_hash(hash).await? else { return Ok(None) };
        let found = (row.principal.parse()?, row.expires_at);
        let mut known = self.lock();
        if known.revocations == revocations {
            if known.tokens.len() >= REMEMBERED_MAX {
                known.tokens.clear();
            }
            known.tokens.insert(*hash, found.clone());
        }
        Ok(Some(found))
    }

    /// Writes last uses in passing, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let stopping = stop.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await.is_none();
            let used: Vec<_> = std::mem::take(&mut self.lock().used).into_iter().collect();
            if !used.is_empty()
                && let Err(error) = self.0.store.submit(Change::TouchTokens(used)).await
            {
                tracing::debug!(%error, "the last use of tokens could not be written");
            }
            if stopping {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
