//! A gateway as a client of the push channel, and the backend behind it.

use crate::common::{LONG, TestNode};
use pillarbox::{
    net::link::Link,
    proto::{
        galaxy::backend::push::v1::{
            ClientEvent, GatewaySubscribeRequest, PushEvent, push_client::PushClient, push_event::Kind,
        },
        pillarbox::push::v1::{
            CheckRequest, CheckResponse, PublishRequest, PublishResponse, publisher_client::PublisherClient,
            sessions_client::SessionsClient,
        },
    },
};
use tokio::time::timeout;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

#[derive(Clone)]
pub struct Caller {
    link: Link,
    bearer: MetadataValue<Ascii>,
}

impl Caller {
    pub async fn of(node: &TestNode, principal: &str) -> Self {
        Self { link: node.dial(false).await, bearer: node.bearer(principal).await }
    }

    /// On another connection.
    pub async fn again(&self, node: &TestNode) -> Self {
        Self { link: node.dial(false).await, bearer: self.bearer.clone() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    pub async fn subscribe(&self, id: &str, cursor: &str) -> Result<Feed, Status> {
        let request = self.request(GatewaySubscribeRequest { gateway_client_id: id.into(), cursor: cursor.into() });
        let answer = PushClient::with_origin(self.link.clone(), self.link.origin()).subscribe_push(request).await?;
        let text = |key| answer.metadata().get(key).map(|value| value.to_str().unwrap().to_owned());
        let (reset, oldest) = (text("x-cursor-reset"), text("x-oldest-cursor").unwrap());
        Ok(Feed { stream: answer.into_inner(), reset, oldest, _link: self.link.clone() })
    }

    pub async fn publish(&self, request: PublishRequest) -> Result<PublishResponse, Status> {
        let mut client = PublisherClient::with_origin(self.link.clone(), self.link.origin());
        client.publish(self.request(request)).await.map(tonic::Response::into_inner)
    }

    /// Publishes a number for a user, under an id of its own.
    pub async fn tell(&self, user: &str, number: usize) -> String {
        self.publish(numbered(user, number)).await.unwrap().cursor
    }

    pub async fn check(&self, token: &str, agent: &str) -> Result<CheckResponse, Status> {
        let mut client = SessionsClient::with_origin(self.link.clone(), self.link.origin());
        let request = CheckRequest { token: token.into(), user_agent: agent.into() };
        client.check(self.request(request)).await.map(tonic::Response::into_inner)
    }
}

pub fn numbered(user: &str, number: usize) -> PublishRequest {
    PublishRequest {
        user_id: user.into(),
        kind: "test.number".into(),
        payload: number.to_string().into(),
        event_id: format!("n{number}"),
        ..PublishRequest::default()
    }
}

/// An open `SubscribePush`.
pub struct Feed {
    stream: Streaming<PushEvent>,
    pub reset: Option<String>,
    pub oldest: String,
    /// A connection ends soon after nobody holds its link.
    _link: Link,
}

impl Feed {
    pub async fn next(&mut self) -> Result<PushEvent, Status> {
        let event = timeout(LONG, self.stream.message()).await.expect("no event came")?;
        event.ok_or_else(|| Status::ok("the stream ended"))
    }

    /// The next event, which is for a client.
    pub async fn event(&mut self) -> ClientEvent {
        match self.next().await.unwrap().kind.unwrap() {
            Kind::ClientEvent(event) => event,
            other => panic!("{other:?}"),
        }
    }

    /// The number that [`Caller::tell`] published.
    pub async fn number(&mut self) -> usize {
        number(&self.event().await)
    }

    /// User, session and reason of the next event, which ends a session.
    pub async fn ended(&mut self) -> (String, String, String) {
        match self.next().await.unwrap().kind.unwrap() {
            Kind::SessionInvalidation(told) => (told.user_id, told.device_session_id, told.reason),
            other => panic!("{other:?}"),
        }
    }

    /// The error that ends it.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub fn number(event: &ClientEvent) -> usize {
    std::str::from_utf8(&event.payload).unwrap().parse().unwrap()
}
