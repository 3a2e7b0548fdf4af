//! A party, or the service behind it, as a client of the router.

use crate::common::{LONG, TestNode};
use pillarbox::{
    net::link::Link,
    proto::mpc::router::v1::{
        AcknowledgeMessageRequest, GetMessageStatusRequest, GetMessageStatusResponse, GetPendingMessagesRequest,
        HeartbeatRequest, HeartbeatResponse, MpcMessage, PublishSessionEventRequest, RegisterPartyRequest,
        RouteMessageRequest, SessionEvent, SubscribeMessagesRequest, SubscribeSessionEventsRequest,
        message_router_client::MessageRouterClient,
    },
};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

/// The name of a party of this node, as other nodes know it.
pub fn at(name: &str, node: &TestNode) -> String {
    format!("{name}@{}", node.id)
}

pub struct Party {
    pub name: String,
    pub client: MessageRouterClient<Link>,
    bearer: MetadataValue<Ascii>,
}

impl Party {
    /// A client with the token of `party:NAME`.
    pub async fn of(node: &TestNode, name: &str) -> Self {
        Self::acting_as(node, &format!("party:{name}"), name).await
    }

    pub async fn service(node: &TestNode) -> Self {
        Self::acting_as(node, "service:coordinator", "").await
    }

    pub async fn acting_as(node: &TestNode, principal: &str, name: &str) -> Self {
        let link = node.dial(false).await;
        let origin = link.origin();
        let client = MessageRouterClient::with_origin(link, origin).max_decoding_message_size(5 << 20);
        Self { name: name.into(), client, bearer: node.bearer(principal).await }
    }

    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    pub fn message(&self, session: &str, to: &[&str], payload: &[u8]) -> RouteMessageRequest {
        RouteMessageRequest {
            session_id: session.into(),
            from_party: self.name.clone(),
            to_parties: to.iter().map(|to| (*to).to_owned()).collect(),
            round_number: 1,
            message_type: "test".into(),
            payload: payload.to_vec().into(),
        }
    }

    pub async fn route(&self, session: &str, to: &[&str], payload: &[u8]) -> Result<String, Status> {
        let request = self.request(self.message(session, to, payload));
        Ok(self.client.clone().route_message(request).await?.into_inner().message_id)
    }

    pub async fn route_once(&self, key: &str, session: &str, to: &[&str], payload: &[u8]) -> Result<String, Status> {
        let mut request = self.request(self.message(session, to, payload));
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
        Ok(self.client.clone().route_message(request).await?.into_inner().message_id)
    }

    pub async fn subscribe(&self, session: &str) -> Result<Messages, Status> {
        let request = SubscribeMessagesRequest { session_id: session.into(), party_id: self.name.clone() };
        self.client.clone().subscribe_messages(self.request(request)).await.map(|answer| Messages(answer.into_inner()))
    }

    pub async fn acknowledge(&self, id: &str, success: bool, error: &str) -> Result<String, Status> {
        let request = AcknowledgeMessageRequest {
            message_id: id.into(),
            party_id: self.name.clone(),
            session_id: String::new(),
            success,
            error_message: error.into(),
        };
        let answer = self.client.clone().acknowledge_message(self.request(request)).await?.into_inner();
        assert!(answer.success);
        Ok(answer.message)
    }

    pub async fn pending(&self, session: &str, after_timestamp: i64) -> Result<Vec<MpcMessage>, Status> {
        let request =
            GetPendingMessagesRequest { session_id: session.into(), party_id: self.name.clone(), after_timestamp };
        Ok(self.client.clone().get_pending_messages(self.request(request)).await?.into_inner().messages)
    }

    pub async fn status(&self, id: &str) -> Result<GetMessageStatusResponse, Status> {
        let request = GetMessageStatusRequest { message_id: id.into(), session_id: String::new() };
        self.client.clone().get_message_status(self.request(request)).await.map(tonic::Response::into_inner)
    }

    /// The state of each recipient, in the order of their names.
    pub async fn states(&self, id: &str) -> Vec<(String, String)> {
        let status = self.status(id).await.unwrap();
        let mut states: Vec<_> =
            status.deliveries.into_iter().map(|delivery| (delivery.party_id, delivery.status)).collect();
        states.sort();
        states
    }

    pub async fn register(&self, role: &str) -> Result<i64, Status> {
        let request = RegisterPartyRequest {
            party_id: self.name.clone(),
            party_role: role.into(),
            version: "1".into(),
            notification: None,
        };
        Ok(self.client.clone().register_party(self.request(request)).await?.into_inner().registered_at)
    }

    pub async fn heartbeat(&self) -> Result<HeartbeatResponse, Status> {
        let request = HeartbeatRequest { party_id: self.name.clone(), timestamp: 0 };
        self.client.clone().heartbeat(self.request(request)).await.map(tonic::Response::into_inner)
    }

    pub async fn publish(&self, event: SessionEvent) -> Result<i32, Status> {
        let request = self.request(PublishSessionEventRequest { event: Some(event) });
        Ok(self.client.clone().publish_session_event(request).await?.into_inner().subscriber_count)
    }

    pub async fn events(&self, types: &[&str]) -> Result<Events, Status> {
        self.events_after(types, None).await
    }

    pub async fn events_after(&self, types: &[&str], after: Option<&str>) -> Result<Events, Status> {
        let event_types = types.iter().map(|kind| (*kind).to_owned()).collect();
        let mut request = self.request(SubscribeSessionEventsRequest { party_id: self.name.clone(), event_types });
        if let Some(after) = after {
            request.metadata_mut().insert("after-event-id", after.parse().unwrap());
        }
        self.client.clone().subscribe_session_events(request).await.map(|answer| Events(answer.into_inner()))
    }
}

/// Messages as they come.
pub struct Messages(pub Streaming<MpcMessage>);

impl Messages {
    pub async fn next(&mut self) -> Result<MpcMessage, Status> {
        let message = timeout(LONG, self.0.message()).await.expect("no message came")?;
        message.ok_or_else(|| Status::new(Code::Ok, "the stream ended"))
    }

    pub async fn payload(&mut self) -> Vec<u8> {
        self.next().await.unwrap().payload.to_vec()
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

/// Session events as they come.
pub struct Events(pub Streaming<SessionEvent>);

impl Events {
    pub async fn next(&mut self) -> SessionEvent {
        timeout(LONG, self.0.message()).await.expect("no event came").unwrap().expect("the stream ended")
    }
}

/// An event that says who computes in a session.
pub fn announcement(session: &str, parties: &[&str]) -> SessionEvent {
    SessionEvent {
        event_type: "session_created".into(),
        session_id: session.into(),
        threshold_n: i32::try_from(parties.len()).unwrap(),
        threshold_t: 2,
        selected_parties: parties.iter().map(|party| (*party).to_owned()).collect(),
        join_tokens: parties.iter().map(|party| ((*party).to_owned(), format!("token of {party}"))).collect(),
        ..SessionEvent::default()
    }
}
