//! Device sessions as gateways see them: whose a token is, and that one
//! expired.
//!
//! Never logs a token.

use super::{AGENT_MAX, LOOK_AGAIN, LOOK_EVERY, Tokens, left_until};
use crate::{
    error::Error,
    identity::principal::{Principal, token_hash},
    store::push::Change as Told,
    types::Millis,
};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A device session that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: String,
    /// The user's name.
    pub user: String,
    pub expires_at: Option<Millis>,
}

impl Tokens {
    /// Whose session a token is that stands in `field` of a request. It counts as
    /// used, by what `user_agent` says (empty: by what it was).
    ///
    /// `Unauthenticated`: it is no user's, or does not count. The text begins
    /// with the field, so that it is not taken for the caller's own.
    pub async fn session(&self, field: &str, token: &str, user_agent: &str) -> Result<Session, Error> {
        let refused = |why: &str| Error::Unauthenticated(format!("{field}: {why}"));
        let hash = token_hash(token).ok_or_else(|| refused("not a token of this node"))?;
        let agent = &user_agent[..user_agent.floor_char_boundary(AGENT_MAX)];
        let found =
            self.check(&hash, Some(agent).filter(|agent| !agent.is_empty())).await.map_err(|error| match error {
                Error::Unauthenticated(text) => refused(text.trim_start_matches("authorization: ")),
                other => other,
            })?;
        match found.principal {
            Principal::User(user) => Ok(Session { id: found.id, user, expires_at: found.expires_at }),
            _ => Err(refused("it is no user's")),
        }
    }

    /// Tells gateways of sessions that expire, until `stop`.
    pub async fn tell_lapses(self, stop: CancellationToken) {
        loop {
            let pause = match self.tell_lapsed().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "that sessions expired could not be told; trying again");
                    LOOK_AGAIN
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.0.lapsing.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Returns when to look again.
    async fn tell_lapsed(&self) -> Result<Duration, Error> {
        loop {
            let now = Millis::now();
            match self.0.store.next_lapse().await? {
                None => return Ok(LOOK_EVERY),
                Some(at) if at > now => return Ok(left_until(at).min(LOOK_EVERY)),
                Some(_) => {}
            }
            self.0.store.submit(Told::Expired { at: now }).await?;
        }
    }
}
