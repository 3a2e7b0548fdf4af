//! `pillarbox.relay.v1.Sessions` as its callers see it: verifies who calls,
//! calls the handle, maps the answer. Never touches the store.

use super::Caller;
use crate::{
    error::Error,
    identity::tokens::{Answers, Tokens},
    net::feed::Feed,
    proto::pillarbox::relay::v1::{
        EvidenceRequest, EvidenceResponse, ListRequest, ListResponse, TranscriptRequest, TranscriptResponse, View,
        WatchRequest,
        sessions_server::{Sessions, SessionsServer},
    },
    relay::{Relay, router::check_session},
};
use std::future::pending;
use tonic::{Request, Response, Status, metadata::MetadataMap};

/// The service; hold it behind the node's one port, or the operator's socket.
#[derive(Clone)]
pub struct Service {
    relay: Relay,
    /// `None`: whoever reaches it is the operator.
    tokens: Option<Tokens>,
}

impl Relay {
    pub fn sessions_service(&self, tokens: Tokens) -> SessionsServer<Service> {
        SessionsServer::new(Service { relay: self.clone(), tokens: Some(tokens) })
    }
}

/// The same without tokens: for the operator's socket only.
pub fn operator_service(relay: &Relay) -> SessionsServer<Service> {
    SessionsServer::new(Service { relay: relay.clone(), tokens: None })
}

impl Service {
    async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        match &self.tokens {
            None => Ok(Caller::Operator),
            Some(tokens) => tokens.authenticate(metadata).await.map(Caller::Principal),
        }
    }
}

#[tonic::async_trait]
impl Sessions for Service {
    type WatchStream = Answers<View>;

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        Ok(Response::new(self.relay.list(&caller, request.into_inner()).await?))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let (metadata, _, WatchRequest { session_id }) = request.into_parts();
        check_session(&session_id).map_err(Error::from)?;
        let views = self.relay.watch(caller, session_id)?;
        Ok(Response::new(match &self.tokens {
            None => Box::pin(Feed::new(&self.relay.0.tasks, views, pending(), None)),
            Some(tokens) => tokens.until_lapse(&metadata, views),
        }))
    }

    async fn transcript(&self, request: Request<TranscriptRequest>) -> Result<Response<TranscriptResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        check_session(&request.session_id).map_err(Error::from)?;
        Ok(Response::new(self.relay.transcript(&caller, request).await?))
    }

    async fn evidence(&self, request: Request<EvidenceRequest>) -> Result<Response<EvidenceResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        check_session(&request.session_id).map_err(Error::from)?;
        Ok(Response::new(self.relay.evidence(&caller, request).await?))
    }
}
