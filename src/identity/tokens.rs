//! The tokens of local callers: issued, listed, revoked, checked.
//!
//! Rows hold hashes only. What was checked lately is remembered, so that a call
//! costs no read; a revoked token is forgotten before the revocation is
//! answered, and what streams to its holder ends. When a token was last used is written in passing.
//! Never logs a token.

use super::principal::{Principal, bearer, new_token, token_hash};
use crate::{
    error::Error,
    store::{Change, Store, TokenHash, TokenRow},
    types::Millis,
};
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, metadata::MetadataMap};

/// Checked tokens remembered; beyond that they are read again.
const REMEMBERED_MAX: usize = 10_000;
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// A stream looks at the clock this often: its token may expire by it.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A stream whose token cannot be looked up looks again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    /// Wakes streams; each looks whether it was its own token.
    revoked: watch::Sender<()>,
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
        Self(Arc::new(Inner { store, known: Mutex::default(), revoked: watch::Sender::default() }))
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
        self.0.revoked.send_replace(());
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
        let hash = hash_of(metadata)?;
        self.check(&hash).await.map(|(principal, _)| principal)
    }

    /// Who it is, and until when.
    async fn check(&self, hash: &TokenHash) -> Result<(Principal, Option<Millis>), Error> {
        let (principal, expires_at) = self.look_up(hash).await?.ok_or_else(|| refused("unknown or revoked token"))?;
        let now = Millis::now();
        if expires_at.is_some_and(|at| at <= now) {
            return Err(refused("the token has expired"));
        }
        self.lock().used.insert(*hash, now);
        Ok((principal, expires_at))
    }

    /// A stream to the caller, which ends with UNAUTHENTICATED once its token
    /// is revoked or expires. To be called after [`Tokens::authenticate`].
    pub fn until_lapse<T: 'static>(
        &self,
        metadata: &MetadataMap,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
        // Before anything else: what is revoked from now on is heard of.
        let revoked = self.0.revoked.subscribe();
        let lapse = self.clone().lapse(hash_of(metadata), revoked);
        Box::pin(Lapsing { open: Some((Box::pin(stream), Box::pin(lapse))) })
    }

    async fn lapse(self, hash: Result<TokenHash, Error>, mut revoked: watch::Receiver<()>) -> Error {
        let hash = match hash {
            Ok(hash) => hash,
            Err(error) => return error,
        };
        loop {
            let pause = match self.check(&hash).await {
                Ok((_, None)) => LOOK_EVERY,
                Ok((_, Some(at))) => left_until(at).min(LOOK_EVERY),
                Err(error @ Error::Unauthenticated(_)) => return error,
                Err(_) => LOOK_AGAIN,
            };
            tokio::select! {
                Ok(()) = revoked.changed() => {}
                () = sleep(pause) => {}
            }
        }
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

fn left_until(at: Millis) -> Duration {
    Duration::from_millis(u64::try_from(at.0.saturating_sub(Millis::now().0)).unwrap_or(0))
}

fn refused(why: &str) -> Error {
    Error::Unauthenticated(format!("authorization: {why}"))
}

fn hash_of(metadata: &MetadataMap) -> Result<TokenHash, Error> {
    let header = metadata
        .get("authorization")
        .ok_or_else(|| refused("missing; send `Bearer <token>`, `pillarbox token new` makes one"))?;
    let hash = header.to_str().ok().and_then(bearer).and_then(token_hash);
    hash.ok_or_else(|| refused("not `Bearer` and a token of this node"))
}

type Open<T> = (Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>, Pin<Box<dyn Future<Output = Error> + Send>>);

/// A stream and the end of its caller's token; dropped with it.
struct Lapsing<T> {
    open: Option<Open<T>>,
}

impl<T> Stream for Lapsing<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((stream, lapse)) = &mut self.open else { return Poll::Ready(None) };
        if let Poll::Ready(error) = lapse.as_mut().poll(context) {
            self.open = None;
            return Poll::Ready(Some(Err(error.into())));
        }
        stream.as_mut().poll_next(context)
    }
}

#[cfg(test)]
mod tests;
