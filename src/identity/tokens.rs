//! The tokens of local callers: issued, listed, revoked, checked. A user's
//! token is a device session.
//!
//! Rows hold hashes only. What was checked lately is remembered, so that a call
//! costs no read; a revoked token is forgotten before the revocation is
//! answered, and what streams to its holder ends. That a session ends is told
//! to gateways in the same transaction. When a token was last used, and by what
//! program of its user, is written in passing.
//! Never logs a token.

mod parties;
mod sessions;

pub use sessions::Session;

use super::principal::{Principal, bearer, new_token, token_hash};
use crate::{
    error::Error,
    net::feed::{Feed, Held, Patience},
    store::{
        Change, Done, Op, Store, TokenHash, TokenRow, TokenUse, UserState,
        push::{Change as Told, Whose},
    },
    types::{Millis, UserId},
};
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_stream::{Stream, StreamExt};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, metadata::MetadataMap};

/// Checked tokens remembered; beyond that they are read again.
const REMEMBERED_MAX: usize = 10_000;
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// A stream looks at the clock this often: its token may expire by it.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A stream whose token cannot be looked up looks again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a user agent that are kept.
const AGENT_MAX: usize = 256;
/// Ids of tokens are short and random; a taken one is drawn again.
const DRAWS: usize = 4;

/// A fresh token: what to show once, and what to call it later.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token: String,
    pub id: String,
}

/// What streams to a caller.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    store: Store,
    known: Mutex<Known>,
    /// Wakes streams; each looks whether it was its own token.
    revoked: watch::Sender<()>,
    /// A session that expires was made.
    lapsing: Notify,
    parties: parties::Parties,
    /// What must be seen through even when its caller stops waiting, and what
    /// streams to callers.
    tasks: TaskTracker,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<TokenHash, Token>,
    used: HashMap<TokenHash, TokenUse>,
    /// Counts revocations: what was read before one is not remembered after it.
    revocations: u64,
    /// Those under way: what is read meanwhile may be out of date at once.
    ending: usize,
}

/// One that counts, but for its expiry.
#[derive(Clone)]
struct Token {
    id: String,
    principal: Principal,
    user: Option<UserId>,
    expires_at: Option<Millis>,
    user_agent: Option<String>,
}

/// Why tokens stop counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// `user`: it must be one of this user's.
    Revoked {
        id: String,
        user: Option<UserId>,
    },
    SignedOut {
        user: UserId,
    },
    Disabled {
        user: UserId,
    },
    Deleted {
        user: UserId,
    },
}

impl Ending {
    /// All that is written for it, in one transaction; nothing else ends a
    /// token before its time. Gateways are told of the sessions first, while
    /// they are there.
    fn op(&self, at: Millis) -> Op {
        let told = |whose, reason| Op::from(Told::Ending { whose, reason, at });
        match self.clone() {
            Self::Revoked { id, user } => {
                told(Whose::Session(id.clone()), "revoked").with(Change::RevokeToken { id, user })
            }
            Self::SignedOut { user } => told(Whose::User(user), "signed_out").with(Change::EndSessions { user }),
            Self::Disabled { user } => {
                told(Whose::User(user), "disabled").with(Change::SetUserState { user, state: UserState::Disabled })
            }
            Self::Deleted { user } => told(Whose::User(user), "deleted")
                .with(Change::SetUserState { user, state: UserState::Deleted })
                .with(Change::EndSessions { user }),
        }
    }

    /// Whose sessions end, if only a user's may.
    pub(super) fn user(&self) -> Option<UserId> {
        match self {
            Self::Revoked { user, .. } => *user,
            Self::SignedOut { user } | Self::Disabled { user } | Self::Deleted { user } => Some(*user),
        }
    }

    fn ends(&self, token: &Token) -> bool {
        match self {
            Self::Revoked { id, .. } => token.id == *id,
            all => token.user == all.user(),
        }
    }
}

impl Tokens {
    pub fn new(store: Store) -> Self {
        let (known, revoked, tasks) = (Mutex::default(), watch::Sender::default(), TaskTracker::new());
        Self(Arc::new(Inner {
            store,
            known,
            revoked,
            lapsing: Notify::new(),
            parties: parties::Parties::default(),
            tasks,
        }))
    }

    /// `user`: the one whom the principal names, if it is a user; `ttl`: none
    /// for a token that does not expire. `Precondition` when the user is not
    /// active.
    pub(super) async fn issue(
        &self,
        principal: &Principal,
        user: Option<UserId>,
        ttl: Option<Duration>,
    ) -> Result<Issued, Error> {
        self.issue_bound(principal, user, ttl, None).await
    }

    /// The same; `bound`: the user that the party is bound to.
    pub(super) async fn issue_bound(
        &self,
        principal: &Principal,
        user: Option<UserId>,
        ttl: Option<Duration>,
        bound: Option<UserId>,
    ) -> Result<Issued, Error> {
        let token = new_token()?;
        let hash = token_hash(&token).ok_or_else(|| Error::internal("a fresh token is well formed"))?;
        let now = Millis::now();
        let mut row = TokenRow {
            hash,
            id: String::new(),
            principal: principal.to_string(),
            user,
            created_at: now,
            expires_at: ttl.map(|ttl| now.plus(ttl)),
            last_used_at: None,
            user_agent: None,
        };
        let mut draws = 1;
        loop {
            row.id = format!("{:08x}", getrandom::u32().map_err(Error::internal)?);
            let mut op = Op::from(Change::PutToken(row.clone()));
            op.changes.extend(bound.map(|user| Change::BindToken { id: row.id.clone(), user }));
            match self.0.store.submit(op).await {
                Err(Error::Conflict(_)) if draws < DRAWS => draws += 1,
                done => {
                    if row.user.is_some() && row.expires_at.is_some() {
                        self.0.lapsing.notify_one();
                    }
                    if bound.is_some() {
                        self.parties_changed().await;
                    }
                    return done.map(|_| Issued { token, id: row.id });
                }
            }
        }
    }

    /// All tokens, with the last use as far as it is known.
    pub async fn list(&self) -> Result<Vec<TokenRow>, Error> {
        let rows = self.0.store.tokens().await?;
        Ok(self.as_used(rows))
    }

    /// Those of one user.
    pub(super) async fn sessions(&self, user: UserId) -> Result<Vec<TokenRow>, Error> {
        let rows = self.0.store.tokens_of(user).await?;
        Ok(self.as_used(rows))
    }

    fn as_used(&self, mut rows: Vec<TokenRow>) -> Vec<TokenRow> {
        let known = self.lock();
        for row in &mut rows {
            if let Some(used) = known.used.get(&row.hash) {
                row.last_used_at = row.last_used_at.max(Some(used.at));
                row.user_agent = used.user_agent.clone().or(row.user_agent.take());
            }
        }
        rows
    }

    /// Counts no longer when this returns.
    pub async fn revoke(&self, id: &str) -> Result<(), Error> {
        let (tokens, ending) = (self.clone(), Ending::Revoked { id: id.to_owned(), user: None });
        match self.see_through(async move { tokens.end(ending).await }).await {
            Ok(_) => Ok(()),
            Err(Error::NotFound(_)) => {
                Err(Error::NotFound(format!("there is no token {id:?}; `pillarbox token list` shows them")))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends tokens: when this returns they count no longer, and streams of
    /// their callers were woken. To be seen through.
    pub(super) async fn end(&self, ending: Ending) -> Result<Done, Error> {
        // Forgotten before the commit, too: whoever hears of it finds nobody who still remembers.
        self.lock().forget(&ending, 1);
        let done = self.0.store.submit(ending.op(Millis::now())).await;
        self.lock().forget(&ending, -1);
        if self.has_bound_parties() {
            self.parties_changed().await;
        }
        self.0.revoked.send_replace(());
        done
    }

    /// Work whose second half must follow its first even when the caller stops
    /// waiting: what is committed must be forgotten in memory, too.
    pub(super) async fn see_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.0.tasks.spawn(work).await.map_err(Error::internal)?
    }

    /// Who calls, by `authorization: Bearer <token>`.
    pub async fn authenticate(&self, metadata: &MetadataMap) -> Result<Principal, Error> {
        let hash = hash_of(metadata)?;
        self.check(&hash, user_agent(metadata)).await.map(|token| token.principal)
    }

    /// Whose it is. `user_agent`: as the caller just said, if it did.
    async fn check(&self, hash: &TokenHash, user_agent: Option<&str>) -> Result<Token, Error> {
        let token = self.look_up(hash).await?;
        let now = Millis::now();
        if token.expires_at.is_some_and(|at| at <= now) {
            return Err(refused("the token has expired"));
        }
        let user_agent = user_agent.filter(|agent| token.user.is_some() && token.user_agent.as_deref() != Some(agent));
        self.lock().used(TokenUse { hash: *hash, at: now, user_agent: user_agent.map(str::to_owned) });
        Ok(token)
    }

    /// A stream to the caller, which ends with UNAUTHENTICATED once its token
    /// is revoked or expires. To be called after [`Tokens::authenticate`].
    pub fn until_lapse<T: Send + 'static, I: Into<Held<T>>>(
        &self,
        metadata: &MetadataMap,
        stream: impl Stream<Item = Result<I, Status>> + Send + 'static,
    ) -> Answers<T> {
        self.feed(metadata, stream, None, std::future::pending())
    }

    /// The same, ended with this status as soon as there is one.
    pub fn until_lapse_or<T: Send + 'static, I: Into<Held<T>>>(
        &self,
        metadata: &MetadataMap,
        stream: impl Stream<Item = Result<I, Status>> + Send + 'static,
        end: impl Future<Output = Status> + Send + 'static,
    ) -> Answers<T> {
        self.feed(metadata, stream, None, end)
    }

    /// The same, and ends for who does not read, too.
    pub fn while_read<T: Send + 'static, I: Into<Held<T>>>(
        &self,
        metadata: &MetadataMap,
        stream: impl Stream<Item = Result<I, Status>> + Send + 'static,
        patience: Option<Patience>,
    ) -> Answers<T> {
        self.feed(metadata, stream, patience, std::future::pending())
    }

    fn feed<T: Send + 'static, I: Into<Held<T>>>(
        &self,
        metadata: &MetadataMap,
        stream: impl Stream<Item = Result<I, Status>> + Send + 'static,
        patience: Option<Patience>,
        end: impl Future<Output = Status> + Send + 'static,
    ) -> Answers<T> {
        // Before anything else: what is revoked from now on is heard of.
        let revoked = self.0.revoked.subscribe();
        let lapse = self.clone().lapse(hash_of(metadata), revoked);
        let stream = stream.map(|item| item.map(I::into));
        let end = async {
            tokio::select! {
                error = lapse => error.into(),
                status = end => status,
            }
        };
        Box::pin(Feed::new(&self.0.tasks, stream, end, patience))
    }

    async fn lapse(self, hash: Result<TokenHash, Error>, mut revoked: watch::Receiver<()>) -> Error {
        let hash = match hash {
            Ok(hash) => hash,
            Err(error) => return error,
        };
        loop {
            let pause = match self.check(&hash, None).await.map(|token| token.expires_at) {
                Ok(None) => LOOK_EVERY,
                Ok(Some(at)) => left_until(at).min(LOOK_EVERY),
                Err(error @ Error::Unauthenticated(_)) => return error,
                Err(_) => LOOK_AGAIN,
            };
            tokio::select! {
                Ok(()) = revoked.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    async fn look_up(&self, hash: &TokenHash) -> Result<Token, Error> {
        let revocations = {
            let known = self.lock();
            if let Some(found) = known.tokens.get(hash) {
                return Ok(found.clone());
            }
            known.revocations
        };
        let found = self.0.store.token_by_hash(hash).await?;
        let (row, state) = found.ok_or_else(|| refused("unknown or revoked token"))?;
        let TokenRow { id, principal, user, expires_at, user_agent, .. } = row;
        let principal: Principal = principal.parse()?;
        match (user, state) {
            (None, _) | (Some(_), Some(UserState::Active)) => {}
            (Some(_), Some(UserState::Disabled)) => {
                return Err(refused(&format!(
                    "{principal} is disabled on this server; its operator can enable it again"
                )));
            }
            (Some(_), _) => return Err(refused(&format!("{principal} was deleted"))),
        }
        let found = Token { id, principal, user, expires_at, user_agent };
        let mut known = self.lock();
        if known.revocations == revocations && known.ending == 0 {
            if known.tokens.len() >= REMEMBERED_MAX {
                known.tokens.clear();
            }
            known.tokens.insert(*hash, found.clone());
        }
        Ok(found)
    }

    /// Writes last uses in passing, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let stopping = stop.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await.is_none();
            let used: Vec<_> = std::mem::take(&mut self.lock().used).into_values().collect();
            if !used.is_empty()
                && let Err(error) = self.0.store.submit(Change::TouchTokens(used.clone())).await
            {
                tracing::debug!(%error, "the last use of tokens could not be written");
                self.lock().not_written(used);
            }
            if stopping {
                self.0.tasks.close();
                self.0.tasks.wait().await;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// `under_way`: what the count of endings under way changes by.
    fn forget(&mut self, ending: &Ending, under_way: isize) {
        self.tokens.retain(|_, token| !ending.ends(token));
        self.revocations += 1;
        self.ending = self.ending.saturating_add_signed(under_way);
    }

    fn used(&mut self, used: TokenUse) {
        if let (Some(agent), Some(token)) = (&used.user_agent, self.tokens.get_mut(&used.hash)) {
            token.user_agent = Some(agent.clone());
        }
        let before = self.used.entry(used.hash).or_insert_with(|| used.clone());
        before.at = used.at;
        before.user_agent = used.user_agent.or(before.user_agent.take());
    }

    /// Kept for the next time; what was used since then stands.
    fn not_written(&mut self, uses: Vec<TokenUse>) {
        for used in uses {
            let since = self.used.entry(used.hash).or_insert_with(|| used.clone());
            since.user_agent = since.user_agent.take().or(used.user_agent);
        }
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

/// What the caller's program calls itself, as much of it as is kept.
fn user_agent(metadata: &MetadataMap) -> Option<&str> {
    let text = metadata.get("user-agent")?.to_str().ok()?;
    // A header that reads as text is ASCII.
    Some(text.get(..AGENT_MAX).unwrap_or(text)).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
