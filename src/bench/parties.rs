//! The service behind the parties of a node, at its MPC router.

use super::caller::Caller;
use crate::{
    net::link::Link,
    proto::mpc::router::v1::{
        AcknowledgeMessageRequest, MpcMessage, PublishSessionEventRequest, RouteMessageRequest, SessionEvent,
        SubscribeMessagesRequest, message_router_client::MessageRouterClient,
    },
};
use bytes::Bytes;
use tonic::{Status, Streaming};

/// Bytes of one message, unless others are asked for.
pub const PAYLOAD: usize = 256;
/// Settings of a node under load: nothing is refused for its size, and nothing comes twice.
pub const ROOMY: [(&str, &str); 4] = [
    ("RELAY__SENDER_MAX_BYTES", "1TiB"),
    ("RELAY__SESSION_MAX_BYTES", "1TiB"),
    ("RELAY__REDELIVER_AFTER", "10m"),
    ("LIMITS__CALLS_PER_SECOND", "0"),
];

/// A cheap clone.
#[derive(Debug, Clone)]
pub struct Parties {
    client: MessageRouterClient<Link>,
    caller: Caller,
}

impl Parties {
    pub fn new(caller: Caller) -> Self {
        Self { client: MessageRouterClient::with_origin(caller.link.clone(), caller.link.origin()), caller }
    }

    /// A message of `from`; to nobody named, a broadcast.
    pub async fn route(&self, session: &str, from: &str, to: Vec<String>, payload: Bytes) -> Result<(), Status> {
        let message = RouteMessageRequest {
            session_id: session.into(),
            from_party: from.into(),
            to_parties: to,
            round_number: 1,
            message_type: "share".into(),
            payload,
        };
        self.client.clone().route_message(self.caller.request(message)).await.map(drop)
    }

    /// Opens a session with these parties.
    pub async fn open_session(&self, session: &str, parties: Vec<String>) -> Result<(), Status> {
        let event = SessionEvent {
            event_type: "session_created".into(),
            session_id: session.into(),
            selected_parties: parties,
            ..SessionEvent::default()
        };
        let request = self.caller.request(PublishSessionEventRequest { event: Some(event) });
        self.client.clone().publish_session_event(request).await.map(drop)
    }

    pub async fn subscribe(&self, party: &str) -> Result<Streaming<MpcMessage>, Status> {
        let request = SubscribeMessagesRequest { session_id: String::new(), party_id: party.into() };
        self.client.clone().subscribe_messages(self.caller.request(request)).await.map(tonic::Response::into_inner)
    }

    pub async fn acknowledge(&self, party: &str, message: MpcMessage) -> Result<(), Status> {
        let request = AcknowledgeMessageRequest {
            message_id: message.message_id,
            party_id: party.into(),
            session_id: message.session_id,
            success: true,
            error_message: String::new(),
        };
        self.client.clone().acknowledge_message(self.caller.request(request)).await.map(drop)
    }
}
