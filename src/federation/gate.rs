//! Who may call: every inbound postbox call passes here, in this order: a token
//! that can be read, its time, whether the server is let in at all, what the
//! token is bound to, whose key signed it, whether it was used before.
//!
//! For a server that is not let in no key is fetched and no row made. Never
//! logs a token.

use super::{Inner, peers::Peer, remote::Method};
use crate::{
    error::Error,
    identity::postbox_token::{Claim, Request},
    types::{PublicKey, ServerId, unix_seconds},
};
use std::{net::IpAddr, sync::Arc, time::Instant};
use tonic::metadata::MetadataMap;

/// Who called, proven.
pub struct Caller {
    pub peer: Arc<Peer>,
    /// Of a bound token.
    pub nonce: Option<Vec<u8>>,
}

/// Whether a server is let in.
pub enum Admission {
    Known(Arc<Peer>),
    /// Not a peer yet, but `allow` lets it be one.
    Open,
    Closed,
}

impl Inner {
    pub(super) fn is_denied(&self, id: &ServerId) -> bool {
        self.config.deny.iter().any(|pattern| pattern.matches(id))
    }

    /// Deny wins; then whoever is a peer; then the patterns of `allow`.
    pub(super) fn admission(&self, id: &ServerId) -> Admission {
        if self.is_denied(id) {
            return Admission::Closed;
        }
        match self.registry.find(id) {
            Some(peer) => Admission::Known(peer),
            None if self.config.allow.iter().any(|pattern| pattern.matches(id)) => Admission::Open,
            None => Admission::Closed,
        }
    }

    /// Lets a call in or says why not. `body`: the serialized request message.
    pub(super) async fn admit(
        &self,
        method: Method,
        metadata: &MetadataMap,
        address: Option<IpAddr>,
        body: &[u8],
    ) -> Result<Caller, Error> {
        let claim = claim(metadata)?;
        claim.check_time(unix_seconds())?;
        if let Some(peer) = self.registry.expected(&claim.server_id) {
            self.take_over(&claim, &peer, Request { method: method.path(), body }).await?;
        }
        let admission = self.admission(&claim.server_id);
        let known = match &admission {
            Admission::Closed => {
                return Err(Error::Denied(format!("{} is not a peer of this server", claim.server_id)));
            }
            Admission::Known(peer) => Some(peer.clone()),
            Admission::Open => None,
        };
        claim.check_binding(Request { method: method.path(), body }, |id| self.is_own_id(id))?;
        if method == Method::Deliver && !claim.is_bound() {
            return Err(Error::Unauthenticated("the token of a stream must be bound to it".into()));
        }
        let key = self.verify(&claim, known.as_ref(), address).await?;
        let peer = match known {
            Some(peer) => peer,
            None => self.registry.discover(claim.server_id.clone(), Some(key)).await?,
        };
        if let (Some(nonce), Method::Pull | Method::NotifyNewId | Method::Deliver) = (claim.nonce(), method) {
            // A repeated Push is harmless by its number.
            peer.use_nonce(nonce, Instant::now())?;
        }
        peer.note_inbound(claim.is_bound());
        Ok(Caller { peer, nonce: claim.nonce().map(<[u8]>::to_vec) })
    }

    /// A token that names the id a peer said it would have, signed by the key
    /// the peer is known by, is what gives the peer that id.
    async fn take_over(&self, claim: &Claim, peer: &Peer, request: Request<'_>) -> Result<(), Error> {
        if self.is_denied(&claim.server_id) {
            return Ok(());
        }
        claim.check_binding(request, |id| self.is_own_id(id))?;
        if !peer.key().is_some_and(|key| claim.is_signed_by(&key)) {
            return Err(bad_signature(&claim.server_id));
        }
        self.registry.take_over(peer.row_id()).await.map(drop)
    }

    /// The key that signed the claim. A learnt key that does not verify is
    /// asked for once more, in case the peer has a new one.
    async fn verify(
        &self,
        claim: &Claim,
        peer: Option<&Arc<Peer>>,
        address: Option<IpAddr>,
    ) -> Result<PublicKey, Error> {
        use crate::store::KeyOrigin;
        let known = peer.and_then(|peer| peer.row().key);
        if let Some(known) = known {
            if claim.is_signed_by(&known.key) {
                return Ok(known.key);
            }
            if known.origin == KeyOrigin::Operator {
                return Err(bad_signature(&claim.server_id));
            }
        }
        let target = match peer {
            Some(peer) => peer.target(),
            None => super::remote::stranger(claim.server_id.clone()),
        };
        let found = self.keys.fetch(&self.dialer, target, known.is_some(), address, &self.metrics).await?;
        if !claim.is_signed_by(&found.key) {
            return Err(bad_signature(&claim.server_id));
        }
        if let Some(peer) = peer {
            self.registry.learn(peer.row_id(), found.clone()).await?;
        }
        Ok(found.key)
    }
}

fn bad_signature(id: &ServerId) -> Error {
    Error::Unauthenticated(format!("the token's signature is not by the key this server knows of {id}"))
}

fn claim(metadata: &MetadataMap) -> Result<Claim, Error> {
    if let Some(value) = metadata.get("authorization") {
        let text = value.to_str().map_err(|_| Error::Unauthenticated("authorization: not ASCII".into()))?;
        return Claim::from_text(text);
    }
    if let Some(value) = metadata.get_bin("authorization-bin") {
        let bytes = value.to_bytes().map_err(|_| Error::Unauthenticated("authorization-bin: not base64".into()))?;
        return Claim::from_bytes(&bytes);
    }
    Err(Error::Unauthenticated("no authorization header: a serialized harmonytypes.v1.Token is expected".into()))
}
