//! Changes that are made seldom: each by a statement of its own, in an op that
//! has its transaction for itself.

use super::{
    batch::Counters,
    chat, dead, inbound, node,
    op::{Change, Done, Gone},
    outbox::{self, Burial},
    peers, push, relay, tokens,
    transaction::Failure,
    users,
};
use crate::error::Error;
use sqlx::SqliteConnection;

/// Adds to `done` what left its table, for a change that takes rows away.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    change: &Change,
    counters: &mut Counters,
    done: &mut Done,
) -> Result<(), Failure> {
    match change {
        Change::PutNode { server_id, port } => node::put(connection, server_id, *port).await?,
        Change::PutFormerId { server_id, until } => node::put_former(connection, server_id, *until).await?,
        Change::PutPeer(row) => peers::put(connection, row).await?,
        Change::RenamePeer { peer, new_id } => {
            if !peers::rename(connection, *peer, new_id).await? {
                return Err(missing("peer", peer.0));
            }
        }
        Change::PutUser(row) => users::put(connection, row).await?,
        Change::SetUserState { user, state } => {
            if !users::set_state(connection, *user, *state).await? {
                return Err(missing("user", user));
            }
        }
        Change::PutToken(row) => {
            if let Some(user) = row.user
                && !tokens::has_room(connection, user).await?
            {
                let limit = tokens::SESSIONS_MAX;
                return Err(Failure::Refused(Error::exhausted(format!(
                    "the user has {limit} sessions, which is the limit; `pillarbox session revoke` ends some"
                ))));
            }
            if !tokens::put(connection, row).await? {
                return Err(Failure::Refused(Error::Precondition("the user of this token is not active".into())));
            }
        }
        Change::BindToken { id, user } => {
            if !tokens::bind(connection, id, *user).await? {
                return Err(missing("token", id));
            }
        }
        Change::Relay(change) => relay::apply(connection, change, done).await?,
        Change::Chat(change) => chat::apply(connection, change).await?,
        Change::Push(change) => push::apply(connection, change, &mut counters.push, done).await?,
        taking => done.gone.push(take(connection, taking).await?),
    }
    Ok(())
}

async fn take(connection: &mut SqliteConnection, change: &Change) -> Result<Gone, Failure> {
    match change {
        Change::BuryRows { peer, from, through, reason, died_at, limit } => {
            let (peer, from, through, died_at, limit) = (*peer, *from, *through, *died_at, *limit);
            let burial = Burial { peer, from, through, stored_before: None, reason, died_at, limit };
            Ok(outbox::bury(connection, &burial).await?)
        }
        Change::BuryOlder { peer, stored_before, reason, died_at, limit } => {
            let (peer, stored_before, died_at, limit) = (*peer, Some(*stored_before), *died_at, *limit);
            let burial = Burial { peer, from: 0, through: u64::MAX, stored_before, reason, died_at, limit };
            Ok(outbox::bury(connection, &burial).await?)
        }
        Change::DropDead { id } => dead::drop_one(connection, *id).await?.ok_or_else(|| missing("dead letter", id)),
        Change::TrimInbound { received_before } => Ok(inbound::trim(connection, *received_before).await?),
        Change::TrimDead { max_rows, max_bytes } => Ok(dead::trim(connection, *max_rows, *max_bytes).await?),
        Change::RevokeToken { id, user } => {
            tokens::revoke(connection, id, *user).await?.ok_or_else(|| missing("token", id))
        }
        Change::EndSessions { user } => Ok(tokens::end_sessions(connection, *user).await?),
        _ => Err(Failure::Refused(Error::internal("a grouped change among the rare ones"))),
    }
}

fn missing(what: &str, id: impl std::fmt::Display) -> Failure {
    Failure::Refused(Error::NotFound(format!("no {what} {id}")))
}
