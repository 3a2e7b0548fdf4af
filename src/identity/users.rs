//! The users of this node, and who may act as them.
//!
//! Rows are the truth; those looked up lately are remembered, so that a call
//! costs no read, and forgotten before a change of them is answered. A user's
//! tokens are its device sessions; what ends them is `Ending` in `tokens.rs`.
//! A deleted user keeps its name: other servers know people by name, and who
//! got it would be taken for the one before.

use super::{
    principal::Principal,
    tokens::{Ending, Issued, Tokens},
};
use crate::{
    error::Error,
    store::{Change, Done, Store, TokenRow},
    types::{Millis, UserId, check_user_name},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use crate::store::{UserRow as User, UserState};

/// Users remembered; beyond that they are read again.
const REMEMBERED_MAX: usize = 10_000;
/// Users of one page of the list.
const PAGE: usize = 1_000;
/// A name is taken once, an id next to never: then another is drawn.
const DRAWS: usize = 4;

/// The handle; clones are the same users.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

struct Inner {
    store: Store,
    tokens: Tokens,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_name: HashMap<String, User>,
    names: HashMap<UserId, String>,
    /// Counts changes of users: what was read before one is not remembered
    /// after it.
    changes: u64,
}

impl Users {
    pub fn new(store: Store, tokens: Tokens) -> Self {
        Self(Arc::new(Inner { store, tokens, known: Mutex::default() }))
    }

    /// Makes a user. `Conflict` when there is or was one of the name.
    pub async fn add(&self, name: &str) -> Result<User, Error> {
        check_user_name("name", name)?;
        match self.obtain(name).await? {
            (user, true) => Ok(user),
            (user, false) if user.state == UserState::Deleted => Err(Error::Conflict(format!(
                "user {name:?} was deleted, and no other person gets the name; choose another"
            ))),
            (_, false) => Err(Error::Conflict(format!("there is a user {name:?}; `pillarbox user list` shows it"))),
        }
    }

    /// The user of the name, made on first use; on disk when this returns. It
    /// may be disabled. `Precondition` when it was deleted.
    pub async fn ensure(&self, name: &str) -> Result<User, Error> {
        check_user_name("user", name)?;
        let (user, _) = self.obtain(name).await?;
        match user.state {
            UserState::Deleted => Err(Error::Precondition(format!("user {name:?} was deleted"))),
            _ => Ok(user),
        }
    }

    /// The user of the name, a disabled or deleted one too. Costs no read for
    /// those that were asked for lately.
    pub async fn find(&self, name: &str) -> Result<Option<User>, Error> {
        let changes = {
            let known = self.lock();
            if let Some(user) = known.by_name.get(name) {
                return Ok(Some(user.clone()));
            }
            known.changes
        };
        let found = self.0.store.user_by_name(name).await?;
        Ok(found.inspect(|user| self.lock().remember(user, changes)))
    }

    /// As [`Users::find`].
    pub async fn by_id(&self, id: UserId) -> Result<Option<User>, Error> {
        let changes = {
            let known = self.lock();
            if let Some(user) = known.names.get(&id).and_then(|name| known.by_name.get(name)) {
                return Ok(Some(user.clone()));
            }
            known.changes
        };
        let found = self.0.store.user_by_id(id).await?;
        Ok(found.inspect(|user| self.lock().remember(user, changes)))
    }

    /// The names of those of these ids that are users who are not deleted.
    pub async fn names(&self, ids: &[UserId]) -> Result<HashMap<UserId, String>, Error> {
        match ids {
            [] => Ok(HashMap::new()),
            ids => self.0.store.user_names(ids).await,
        }
    }

    /// A page of users by name, those after `after` (empty: from the first);
    /// the list ends with an empty page. `deleted`: deleted ones, too.
    pub async fn list(&self, after: &str, deleted: bool) -> Result<Vec<User>, Error> {
        self.0.store.users(after, deleted, PAGE).await
    }

    /// Its tokens do not count and streams of theirs end, until it is enabled.
    /// `NotFound` when there is none or it was deleted, as for all that follow.
    pub async fn disable(&self, name: &str) -> Result<User, Error> {
        let user = self.existing(name).await?;
        self.end(Ending::Disabled { user: user.id }).await?;
        Ok(User { state: UserState::Disabled, ..user })
    }

    pub async fn enable(&self, name: &str) -> Result<User, Error> {
        let user = self.existing(name).await?;
        let (users, enabled) = (self.clone(), Change::SetUserState { user: user.id, state: UserState::Active });
        let work = async move {
            let done = users.0.store.submit(enabled).await;
            users.lock().forget(user.id);
            done
        };
        self.0.tokens.see_through(work).await?;
        Ok(User { state: UserState::Active, ..user })
    }

    /// For good: its sessions go, its id and name stay taken. Returns how many
    /// sessions it had.
    pub async fn delete(&self, name: &str) -> Result<u64, Error> {
        let user = self.existing(name).await?;
        self.end(Ending::Deleted { user: user.id }).await
    }

    /// The device sessions of a user, expired ones too, oldest first.
    pub async fn sessions(&self, name: &str) -> Result<Vec<TokenRow>, Error> {
        let user = self.existing(name).await?;
        self.0.tokens.sessions(user.id).await
    }

    /// Whether it is a session of the user that has not ended. Whether the user
    /// is active is not asked.
    pub async fn has_session(&self, user: &User, session: &str) -> Result<bool, Error> {
        self.0.store.has_session(user.id, session, Millis::now()).await
    }

    /// Ends one session, or all of them, and returns how many.
    pub async fn revoke(&self, name: &str, session: Option<&str>) -> Result<u64, Error> {
        let user = self.existing(name).await?.id;
        let Some(id) = session else { return self.end(Ending::SignedOut { user }).await };
        match self.end(Ending::Revoked { id: id.to_owned(), user: Some(user) }).await {
            Err(Error::NotFound(_)) => Err(Error::NotFound(format!(
                "user {name:?} has no session {id:?}; `pillarbox session list {name}` shows them"
            ))),
            ended => ended,
        }
    }

    /// A token for a local caller. A user is made on first use; `Precondition`
    /// when it is disabled or deleted. `ttl`: none for a token that does not
    /// expire.
    pub async fn issue(&self, principal: &Principal, ttl: Option<Duration>) -> Result<Issued, Error> {
        let Principal::User(name) = principal else { return self.0.tokens.issue(principal, None, ttl).await };
        let user = self.enabled(name).await?;
        self.0.tokens.issue(principal, Some(user.id), ttl).await
    }

    /// A token for a party that is a user's: what the router has for the party
    /// is told to the user. `Invalid` when the principal is no party of this
    /// node; else as [`Users::issue`] for a user.
    pub async fn issue_bound(&self, principal: &Principal, ttl: Option<Duration>, name: &str) -> Result<Issued, Error> {
        if !matches!(principal, Principal::Party(party) if !party.contains('@')) {
            return Err(Error::invalid(format!(
                "user: {principal} cannot be bound to one; a party:NAME of this node can"
            )));
        }
        let user = self.enabled(name).await?.id;
        let (tokens, principal) = (self.0.tokens.clone(), principal.clone());
        let work = async move { tokens.issue_bound(&principal, None, ttl, Some(user)).await };
        self.0.tokens.see_through(work).await
    }

    /// The user of the name, made on first use.
    async fn enabled(&self, name: &str) -> Result<User, Error> {
        let user = self.ensure(name).await?;
        if user.state == UserState::Disabled {
            let text = format!("user {name:?} is disabled; `pillarbox user enable {name}` comes first");
            return Err(Error::Precondition(text));
        }
        Ok(user)
    }

    /// The user `caller` acts as: `text` in `field` is a name without a server.
    /// A service acts for any user, who is made on first use; a user only as
    /// itself; nobody else acts as a user.
    ///
    /// `Invalid` for a text that is no name; `Denied` for somebody else's, and
    /// for a user that is disabled or deleted.
    pub async fn acting(&self, caller: &Principal, field: &str, text: &str) -> Result<User, Error> {
        let denied = |why: String| Err(Error::Denied(format!("{field}: {why}")));
        if !matches!(caller, Principal::Service(_) | Principal::User(_)) {
            return denied(format!("{caller} may not act as a user; a user: or service: principal may"));
        }
        check_user_name(field, text)?;
        let user = match caller {
            Principal::User(own) if own == text => self.find(text).await?,
            Principal::User(_) => return denied(format!("{caller} may not act as {text}, only as itself")),
            _ => Some(self.obtain(text).await?.0),
        };
        match user {
            Some(user) if user.state == UserState::Active => Ok(user),
            Some(user) if user.state == UserState::Disabled => {
                denied(format!("user {text} is disabled on this server; its operator can enable it again"))
            }
            _ => denied(format!("user {text} was deleted")),
        }
    }

    /// The user of a name, in any state, and whether it was made just now. Of
    /// many at once one makes it, by the guard of its row.
    async fn obtain(&self, name: &str) -> Result<(User, bool), Error> {
        let mut draws = 0;
        loop {
            if let Some(user) = self.find(name).await? {
                return Ok((user, false));
            }
            let changes = self.lock().changes;
            let Some(id) = UserId::of_random(getrandom::u64().map_err(Error::internal)?) else { continue };
            let user = User { id, name: name.to_owned(), state: UserState::Active, created_at: Millis::now() };
            match self.0.store.submit(Change::PutUser(user.clone())).await {
                Ok(_) => {
                    self.lock().remember(&user, changes);
                    return Ok((user, true));
                }
                // Somebody else's, or an id that is taken.
                Err(Error::Conflict(_)) if draws < DRAWS => draws += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn existing(&self, name: &str) -> Result<User, Error> {
        check_user_name("user", name)?;
        match self.find(name).await? {
            Some(user) if user.state != UserState::Deleted => Ok(user),
            Some(_) => Err(Error::NotFound(format!("user {name:?} was deleted"))),
            None => Err(Error::NotFound(format!("there is no user {name:?}; `pillarbox user list` shows them"))),
        }
    }

    /// Ends sessions and returns how many left their table.
    async fn end(&self, ending: Ending) -> Result<u64, Error> {
        let users = self.clone();
        let work = async move {
            let user = ending.user();
            let done = users.0.tokens.end(ending).await;
            user.inspect(|user| users.lock().forget(*user));
            done
        };
        let Done { gone, .. } = self.0.tokens.see_through(work).await?;
        Ok(gone.iter().map(|gone| gone.rows).sum())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// `changes`: as it stood before the user was read.
    fn remember(&mut self, user: &User, changes: u64) {
        if self.changes != changes {
            return;
        }
        if self.by_name.len() >= REMEMBERED_MAX {
            self.by_name.clear();
            self.names.clear();
        }
        self.names.insert(user.id, user.name.clone());
        self.by_name.insert(user.name.clone(), user.clone());
    }

    fn forget(&mut self, user: UserId) {
        self.changes += 1;
        if let Some(name) = self.names.remove(&user) {
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests;
