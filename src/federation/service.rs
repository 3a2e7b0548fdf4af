//! The postbox as other servers call it: verify, hand to the peer's driver,
//! answer.
//!
//! Works on the request's bytes, because the token signs them. Never touches
//! the store.

use super::{
    Federation, Inner, courier,
    driver::Command,
    inbox, parcels,
    peers::{Evidence, Peer, PullAsked},
    remote::{Method, SPEAKS},
    wire,
};
use crate::{
    error::Error,
    net::{answer::Answer, connection::Connection},
    proto::protocol::{
        auth::v1::{
            KeyRequest, KeyResponse,
            auth_service_server::{AuthService, AuthServiceServer},
        },
        sync::v1::postbox_service_server::{PostboxService, PostboxServiceServer},
    },
};
use bytes::Bytes;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tonic::{Request, Response, Status};

/// A call of a peer waits no longer for its turn and the disk.
const PUSH_PATIENCE: Duration = Duration::from_secs(25);
const PULL_PATIENCE: Duration = Duration::from_secs(9);
/// The largest request: a parcel, its position and room for what we do not know.
pub(super) const REQUEST_MAX: usize = 5 << 20;

/// The node's face towards other servers.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

impl Federation {
    pub fn postbox_service(&self) -> PostboxServiceServer<Service> {
        PostboxServiceServer::new(Service(self.0.clone())).max_decoding_message_size(REQUEST_MAX)
    }

    pub fn auth_service(&self) -> AuthServiceServer<Service> {
        AuthServiceServer::new(Service(self.0.clone()))
    }
}

impl Service {
    /// Verifies the call, then `act`s as its peer.
    async fn as_peer<F>(
        &self,
        method: Method,
        request: Request<Bytes>,
        act: impl FnOnce(Arc<Peer>, Bytes, Option<Evidence>, Option<IpAddr>) -> F,
    ) -> Result<Response<Bytes>, Status>
    where
        F: Future<Output = Result<Bytes, Error>>,
    {
        let (metadata, extensions, body) = request.into_parts();
        let address = extensions.get::<Arc<Connection>>().map(|connection| connection.remote().ip());
        let evidence = match method {
            Method::Pull => extensions.get::<Answer>().map(Evidence::of),
            Method::Push | Method::NotifyNewId | Method::Deliver => None,
        };
        let answer = match self.0.admit(method, &metadata, address, &body).await {
            Ok(caller) => act(caller.peer, body, evidence, address).await,
            Err(error) => Err(error),
        };
        let code = answer.as_ref().err().map_or(tonic::Code::Ok, Error::code);
        self.0.metrics.calls.with_label_values(&[method.name(), &format!("{code:?}")]).inc();
        Ok(Response::new(answer?))
    }
}

#[tonic::async_trait]
impl PostboxService for Service {
    async fn push(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.as_peer(Method::Push, request, |peer, body, _, _| async move {
            let row = wire::read_push(body).map_err(Error::Invalid)?;
            if row.body.is_empty() {
                return Err(Error::invalid("event: it is empty; an event has one of its kinds"));
            }
            let limit = inbox::limit(&row.body);
            if row.body.len() > limit {
                return Err(Error::invalid(format!("event: {} bytes; the limit is {limit}", row.body.len())));
            }
            let state = peer.ask(PUSH_PATIENCE, |reply| Command::Push { row, reply }).await??;
            Ok(wire::push_answer(state))
        })
        .await
    }

    async fn pull(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.as_peer(Method::Pull, request, |peer, body, evidence, _| async move {
            let (state, waiting) = wire::read_pull(body).map_err(Error::Invalid)?;
            let asked = PullAsked { state, waiting, evidence };
            let page = peer.ask(PULL_PATIENCE, |reply| Command::Pull { asked, reply }).await??;
            Ok(wire::pull_answer(page))
        })
        .await
    }

    async fn notify_new_id(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.as_peer(Method::NotifyNewId, request, |peer, body, _, address| async move {
            self.0.hear_new_id(&peer, body, address).await?;
            Ok(Bytes::new())
        })
        .await
    }
}

#[tonic::async_trait]
impl AuthService for Service {
    async fn key(&self, _: Request<KeyRequest>) -> Result<Response<KeyResponse>, Status> {
        Ok(Response::new(KeyResponse {
            key: Bytes::copy_from_slice(self.0.key.public().as_bytes()),
            speaks: vec![SPEAKS.into(), parcels::SPEAKS.into(), parcels::SPEAKS_CHAT.into(), courier::SPEAKS.into()],
            server_id: self.0.own_id().to_string(),
            former_ids: self.0.former_ids().iter().map(ToString::to_string).collect(),
        }))
    }
}
