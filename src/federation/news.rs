//! Who hears of the events of other servers while they are applied.
//!
//! Owns what it is asked; what anybody is told is the listener's business. What
//! it answers shares the transaction that stores the event.

use super::{Inner, inbox::Plan};
use crate::{
    error::Error,
    proto::protocol::sync::v1::event::Kind,
    store::Change,
    types::{Millis, PeerId, ServerId},
};
use std::pin::Pin;

/// An event that is being applied.
#[derive(Debug)]
pub struct Heard {
    pub kind: Kind,
    /// Its place in the stream of its sender, which is no other's; of a server
    /// that numbers nothing one that was made up.
    pub id: String,
}

pub type Changes<'a> = Pin<Box<dyn Future<Output = Result<Vec<Change>, Error>> + Send + 'a>>;

/// Hears of events before they are stored.
pub trait Listener: Send + Sync {
    /// Whether there is anybody to hear of them now.
    fn listens(&self) -> bool;

    /// What goes with events of `server` into the transaction that stores them.
    /// An error keeps them from being stored for now.
    fn hear(&self, server: ServerId, heard: Vec<Heard>, now: Millis) -> Changes<'_>;
}

impl Inner {
    /// Adds to a plan what its events cause to be told.
    pub(super) async fn tell_news(
        &self,
        peer: PeerId,
        server: &ServerId,
        plan: &mut Plan,
        now: Millis,
    ) -> Result<(), Error> {
        let Some(listener) = self.listener.as_ref().filter(|listener| listener.listens()) else { return Ok(()) };
        if plan.heard.is_empty() {
            return Ok(());
        }
        let mut heard = Vec::with_capacity(plan.heard.len());
        for (position, kind) in plan.heard.drain(..) {
            let id = match position {
                Some(position) => format!("{}.{}.{}", peer.0, position.epoch, position.number),
                None => format!("{:016x}{:016x}", random()?, random()?),
            };
            heard.push(Heard { kind, id });
        }
        plan.op.changes.extend(listener.hear(server.clone(), heard, now).await?);
        Ok(())
    }
}

fn random() -> Result<u64, Error> {
    getrandom::u64().map_err(Error::internal)
}
