//! A server that changes its id: telling peers, and following a peer.
//!
//! The id is a name for a key. A peer that says it has a new one must answer
//! `Key` there with the key it is known by, and takes the new id only when a
//! token signed by that key names it: `Key` is public, anybody could answer it
//! with somebody else's.

use super::{Federation, Inner, peers::Peer};
use crate::{error::Error, net::dial::Target, proto::protocol::sync::v1::NotifyNewIdRequest, types::ServerId};
use bytes::Bytes;
use prost::Message;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Looking up where a new id leads.
const RESOLVE: Duration = Duration::from_secs(5);

impl Federation {
    /// This node goes by `new_id` from now on; its peers are told, those that
    /// are away once they are back. To be called once `new_id` leads here.
    pub async fn rename(&self, new_id: ServerId) -> Result<(), Error> {
        let inner = &self.0;
        if inner.registry.find(&new_id).is_some() {
            return Err(Error::Conflict(format!("{new_id} is a peer of this server; remove it first")));
        }
        let mut ids = vec![new_id.clone(), inner.own_id()];
        ids.extend(inner.former_ids());
        (inner.before_rename)(&ids)?;
        inner.registry.renamed(new_id.clone()).await?;
        tracing::info!(is = %new_id, "this server has a new id");
        Ok(())
    }

    /// Ids this node had and still answers to.
    pub fn former_ids(&self) -> Vec<ServerId> {
        self.0.former_ids()
    }

    /// Ids a peer had before.
    pub fn former_ids_of(&self, peer: &Peer) -> Vec<ServerId> {
        self.0.registry.former_ids(peer)
    }
}

impl Inner {
    /// `with`: what changes at the same moment for all who sign.
    pub(super) fn set_own_id(&self, id: ServerId, with: impl FnOnce()) {
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        with();
        let was = std::mem::replace(&mut own.id, id.clone());
        own.former.retain(|former| *former != id);
        own.former.push(was);
    }

    /// A verified peer says it will go by another id. `address`: where the call
    /// came from.
    pub(super) async fn hear_new_id(
        &self,
        peer: &Arc<Peer>,
        body: Bytes,
        address: Option<IpAddr>,
    ) -> Result<(), Error> {
        let request = NotifyNewIdRequest::decode(body)
            .map_err(|error| Error::invalid(format!("not a NotifyNewIdRequest: {error}")))?;
        let new_id: ServerId =
            request.new_server_id.parse().map_err(|error| Error::invalid(format!("new_server_id: {error}")))?;
        if self.is_denied(&new_id) {
            return Err(Error::Denied(format!("new_server_id: {new_id} is refused here")));
        }
        if self.is_own_id(new_id.as_str()) {
            return Err(Error::invalid(format!("new_server_id: {new_id} is this server itself")));
        }
        if new_id != peer.server_id() {
            let key = peer.key().ok_or_else(|| Error::internal("a verified peer has a key"))?;
            let target = self.target_of(new_id.clone(), peer, address).await;
            let found = self.keys.fetch(&self.dialer, target, false, address, &self.metrics).await;
            let found = found.map_err(|error| match error {
                // One text, whatever is there or is not: a peer must not learn what this node can reach.
                Error::Unavailable { .. } => {
                    tracing::info!(peer = %peer.server_id(), %error, "a new id of a peer is not believed");
                    Error::unavailable(format!("new_server_id: no key of {new_id} could be had from there"))
                }
                other => other,
            })?;
            if found.key != key {
                return Err(Error::Denied(format!(
                    "new_server_id: {new_id} shows another key than {} is known by",
                    peer.server_id()
                )));
            }
        }
        self.registry.expect(peer.row_id(), new_id).await.map(drop)
    }

    /// The way a peer is reached stays the same, but for an address given for
    /// the old id. The operator gave that one, not the new one: it leads to no
    /// private address but the one where the peer is now.
    async fn target_of(&self, new_id: ServerId, peer: &Peer, from: Option<IpAddr>) -> Target {
        let now = peer.target();
        let target = Target { id: new_id, address: None, trusted: false, ..now.clone() };
        if !now.trusted {
            return target;
        }
        let deadline = Instant::now() + RESOLVE;
        let (was, is) = tokio::join!(self.dialer.resolve(&now, deadline), self.dialer.resolve(&target, deadline));
        let (was, is) = (was.unwrap_or_default(), is.unwrap_or_default());
        let same: Vec<IpAddr> =
            is.iter().map(SocketAddr::ip).filter(|ip| was.iter().any(|known| known.ip() == *ip)).collect();
        // A name may have several; where the call came from somebody is.
        let calls = |ip: &&IpAddr| from.is_some_and(|from| from.to_canonical() == ip.to_canonical());
        match same.iter().find(calls).or(same.first()) {
            Some(ip) => Target { address: Some((ip.to_string(), target.id.port())), trusted: true, ..target },
            None => target,
        }
    }
}
