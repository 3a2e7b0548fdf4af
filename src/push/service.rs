//! `galaxy.backend.push.v1.Push`: gateways subscribe to what their users'
//! clients are to be told.
//!
//! Verifies who calls, calls the handle, maps the answer. Never touches the
//! store.

use super::{Push, reader::Opened};
use crate::{
    error::Error,
    identity::{
        principal::Principal,
        tokens::{Answers, Tokens},
    },
    proto::galaxy::backend::push::v1::{
        GatewaySubscribeRequest, PushEvent,
        push_server::{Push as Face, PushServer},
    },
    types::Cursor,
};
use tonic::{Request, Response, Status, metadata::MetadataValue};

/// An id and a cursor.
const REQUEST_MAX: usize = 64 << 10;

/// The service; hold it behind the node's one port.
#[derive(Clone)]
pub struct Service {
    push: Push,
    tokens: Tokens,
}

impl Push {
    pub fn service(&self, tokens: Tokens) -> PushServer<Service> {
        PushServer::new(Service { push: self.clone(), tokens }).max_decoding_message_size(REQUEST_MAX)
    }
}

/// The id of the gateway that calls, which must be the one it says.
fn own_id(caller: Principal, said: &str) -> Result<String, Error> {
    let own = match caller {
        Principal::Gateway(own) => own,
        other => {
            return Err(Error::Denied(format!("{other} may not subscribe; a gateway: principal may")));
        }
    };
    match said {
        "" => Err(Error::invalid("gateway_client_id: it is missing")),
        said if said != own => {
            Err(Error::Denied(format!("gateway_client_id: gateway:{own} may subscribe as {own} only")))
        }
        _ => Ok(own),
    }
}

#[tonic::async_trait]
impl Face for Service {
    type SubscribePushStream = Answers<PushEvent>;

    async fn subscribe_push(
        &self,
        request: Request<GatewaySubscribeRequest>,
    ) -> Result<Response<Self::SubscribePushStream>, Status> {
        let caller = self.tokens.authenticate(request.metadata()).await?;
        let (metadata, _, GatewaySubscribeRequest { gateway_client_id, cursor }) = request.into_parts();
        let gateway = own_id(caller, &gateway_client_id)?;
        let Opened { reader, reset, oldest } = self.push.subscribe(&gateway, &cursor).await?;
        let live = reader.live();
        let end = async move { live.ended().await.into() };
        let mut response = Response::new(self.tokens.until_lapse_or(&metadata, reader.into_stream(), end));
        let oldest = Cursor(oldest).to_string().parse().map_err(Error::internal)?;
        response.metadata_mut().insert("x-oldest-cursor", oldest);
        if let Some(reset) = reset {
            response.metadata_mut().insert("x-cursor-reset", MetadataValue::from_static(reset.as_str()));
        }
        Ok(response)
    }
}
