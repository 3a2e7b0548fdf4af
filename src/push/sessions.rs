//! `pillarbox.push.v1.Sessions`: whose token a client of a gateway shows.
//!
//! Verifies who calls, calls the handle, maps the answer. Never logs a token.

use crate::{
    error::Error,
    identity::{
        principal::Principal,
        tokens::{Session, Tokens},
    },
    proto::pillarbox::push::v1::{
        CheckRequest, CheckResponse,
        sessions_server::{Sessions as Face, SessionsServer},
    },
};
use tonic::{Request, Response, Status};

/// A token and what a program calls itself.
const REQUEST_MAX: usize = 64 << 10;

/// The service; hold it behind the node's one port.
#[derive(Clone)]
pub struct Sessions {
    tokens: Tokens,
}

impl Sessions {
    pub fn service(tokens: Tokens) -> SessionsServer<Self> {
        SessionsServer::new(Self { tokens }).max_decoding_message_size(REQUEST_MAX)
    }
}

#[tonic::async_trait]
impl Face for Sessions {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        match self.tokens.authenticate(request.metadata()).await? {
            Principal::Gateway(_) => {}
            other => {
                let text = format!("{other} may not check the tokens of others; a gateway: principal may");
                return Err(Error::Denied(text).into());
            }
        }
        let CheckRequest { token, user_agent } = request.into_inner();
        let Session { id, user, expires_at } = self.tokens.session("token", &token, &user_agent).await?;
        let expires_at = expires_at.map_or(0, |at| at.0);
        Ok(Response::new(CheckResponse { user_id: user, device_session_id: id, expires_at }))
    }
}
