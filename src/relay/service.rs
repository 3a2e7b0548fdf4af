//! `mpc.router.v1.MessageRouter` as its callers see it.
//!
//! Verifies who calls and for whom, reads and names the fields, calls the
//! handle, maps the answer. Never touches the store.

use super::{
    Relay,
    names::Name,
    notify,
    router::check_session,
    routing::Route,
    status::{Acknowledgement, Status as MessageStatus},
};
use crate::{
    error::Error,
    identity::{
        principal::Principal,
        tokens::{Answers, Tokens},
    },
    proto::mpc::router::v1::{
        AcknowledgeMessageRequest, AcknowledgeMessageResponse, GetMessageStatusRequest, GetMessageStatusResponse,
        GetPendingMessagesRequest, GetPendingMessagesResponse, GetRegisteredPartiesRequest,
        GetRegisteredPartiesResponse, HeartbeatRequest, HeartbeatResponse, MessageDeliveryStatus, MpcMessage,
        NotificationChannel, PublishSessionEventRequest, PublishSessionEventResponse, RegisterPartyRequest,
        RegisterPartyResponse, RegisteredParty, RouteMessageRequest, RouteMessageResponse, SessionEvent,
        SubscribeMessagesRequest, SubscribeSessionEventsRequest,
        message_router_server::{MessageRouter, MessageRouterServer},
    },
    store::relay::{PartyRole, PartyRow},
    types::Millis,
};
use prost::Message;
use tonic::{Request, Response, Status, metadata::MetadataMap};

/// What one call may send: a stock client refuses to read a message over 4 MiB,
/// and the subscriber's copy of this one must stay below.
pub const PAYLOAD_MAX: usize = (4 << 20) - (64 << 10);
/// The request around the payload.
const REQUEST_MAX: usize = 5 << 20;
/// A stock client reads no more.
const ANSWER_MAX: usize = 4 << 20;
const KEY_MAX: usize = 256;
/// Version, message type and error text.
const TEXT_MAX: usize = 1_024;

/// The service; hold it behind the node's one port.
#[derive(Clone)]
pub struct Service {
    relay: Relay,
    tokens: Tokens,
}

impl Relay {
    pub fn service(&self, tokens: Tokens) -> MessageRouterServer<Service> {
        MessageRouterServer::new(Service { relay: self.clone(), tokens }).max_decoding_message_size(REQUEST_MAX)
    }
}

impl Service {
    async fn caller(&self, metadata: &MetadataMap) -> Result<Principal, Error> {
        match self.tokens.authenticate(metadata).await? {
            principal @ (Principal::Party(_) | Principal::Service(_) | Principal::Admin(_)) => Ok(principal),
            other => Err(Error::Denied(format!("{other} may not use the router; a party: or service: principal may"))),
        }
    }

    /// The local name of the party in `field`, if the caller may act as it.
    fn act_as(&self, caller: &Principal, field: &str, text: &str) -> Result<String, Error> {
        let Name { name, server } = self.relay.name(field, text)?;
        if let Some(server) = server {
            let text = format!("{field}: {name}@{server} is not a party of this server; it calls its own");
            return Err(if matches!(caller, Principal::Service(_)) {
                Error::Invalid(text)
            } else {
                Error::Denied(text)
            });
        }
        match caller {
            Principal::Service(_) => Ok(name),
            Principal::Party(own) if self.relay.is_party(own, &name) => Ok(name),
            other => Err(Error::Denied(format!("{field}: {other} may not act as {name}"))),
        }
    }
}

fn check_text(field: &str, text: &str) -> Result<(), Error> {
    match text.len() {
        0..=TEXT_MAX => Ok(()),
        length => Err(Error::invalid(format!("{field}: {length} bytes; the limit is {TEXT_MAX}"))),
    }
}

fn role_of(field: &str, text: &str) -> Result<PartyRole, Error> {
    check_text(field, text)?;
    PartyRole::parse(text)
        .ok_or_else(|| Error::invalid(format!("{field}: {text:?}; it is persistent, delegate or temporary")))
}

/// A way to reach a party; empty: none.
fn channel(
    field: &str,
    text: String,
    check: impl Fn(&str) -> Result<(), &'static str>,
) -> Result<Option<String>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    // What is refused may be somebody's address: it is not quoted.
    check(&text).map_err(|why| Error::invalid(format!("notification.{field}: {why}")))?;
    Ok(Some(text))
}

/// The key under which a call may be repeated.
fn idempotency_key(metadata: &MetadataMap) -> Result<Option<String>, Error> {
    let Some(value) = metadata.get("idempotency-key") else { return Ok(None) };
    let bad = |why: &str| Error::invalid(format!("metadata idempotency-key: {why}"));
    let key = value.to_str().map_err(|_| bad("not ASCII"))?;
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(bad(&format!("{} bytes; it has 1 to {KEY_MAX}", key.len())));
    }
    Ok(Some(key.to_owned()))
}

#[tonic::async_trait]
impl MessageRouter for Service {
    type SubscribeMessagesStream = Answers<MpcMessage>;
    type SubscribeSessionEventsStream = Answers<SessionEvent>;

    async fn route_message(
        &self,
        request: Request<RouteMessageRequest>,
    ) -> Result<Response<RouteMessageResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let key = idempotency_key(request.metadata())?;
        let request = request.into_inner();
        let from = self.act_as(&caller, "from_party", &request.from_party)?;
        check_session(&request.session_id).map_err(Error::from)?;
        check_text("message_type", &request.message_type)?;
        if request.payload.len() > PAYLOAD_MAX {
            let length = request.payload.len();
            return Err(Error::exhausted(format!("payload: {length} bytes; the limit is {PAYLOAD_MAX}")).into());
        }
        let once = key.map(|key| (caller.to_string(), key));
        let RouteMessageRequest { session_id, to_parties, round_number, message_type, payload, .. } = request;
        let route =
            Route { session: session_id, from, to: to_parties, round: round_number, kind: message_type, payload, once };
        let message_id = self.relay.route(route).await?;
        Ok(Response::new(RouteMessageResponse { success: true, message_id }))
    }

    async fn subscribe_messages(
        &self,
        request: Request<SubscribeMessagesRequest>,
    ) -> Result<Response<Answers<MpcMessage>>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let (metadata, _, SubscribeMessagesRequest { session_id, party_id }) = request.into_parts();
        let party = self.act_as(&caller, "party_id", &party_id)?;
        let messages = self.relay.subscribe(party, session(session_id)?).await?;
        Ok(Response::new(self.tokens.until_lapse(&metadata, messages)))
    }

    async fn get_pending_messages(
        &self,
        request: Request<GetPendingMessagesRequest>,
    ) -> Result<Response<GetPendingMessagesResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let GetPendingMessagesRequest { session_id, party_id, after_timestamp } = request.into_inner();
        let party = self.act_as(&caller, "party_id", &party_id)?;
        self.relay.contact(&party);
        let messages = self.relay.pending(&party, session(session_id)?.as_deref(), after_timestamp).await?;
        Ok(Response::new(GetPendingMessagesResponse { messages }))
    }

    async fn acknowledge_message(
        &self,
        request: Request<AcknowledgeMessageRequest>,
    ) -> Result<Response<AcknowledgeMessageResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let AcknowledgeMessageRequest { message_id, party_id, session_id, success, error_message } =
            request.into_inner();
        let party = self.act_as(&caller, "party_id", &party_id)?;
        check_text("message_id", &message_id)?;
        check_text("error_message", &error_message)?;
        let session = session(session_id)?;
        let acknowledgement = Acknowledgement { message_id, party, session, failed: !success, error: error_message };
        let message = self.relay.acknowledge(acknowledgement).await?;
        Ok(Response::new(AcknowledgeMessageResponse { success: true, message }))
    }

    async fn get_message_status(
        &self,
        request: Request<GetMessageStatusRequest>,
    ) -> Result<Response<GetMessageStatusResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let GetMessageStatusRequest { message_id, session_id } = request.into_inner();
        check_text("message_id", &message_id)?;
        let MessageStatus { session_id, deliveries } =
            self.relay.status(&caller, &message_id, session(session_id)?.as_deref()).await?;
        let all_acknowledged = deliveries.iter().all(|delivery| delivery.status == "acknowledged");
        let deliveries = deliveries.into_iter().map(MessageDeliveryStatus::from).collect();
        Ok(Response::new(GetMessageStatusResponse { message_id, session_id, deliveries, all_acknowledged }))
    }

    async fn register_party(
        &self,
        request: Request<RegisterPartyRequest>,
    ) -> Result<Response<RegisterPartyResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let RegisterPartyRequest { party_id, party_role: role, version, notification } = request.into_inner();
        let name = self.act_as(&caller, "party_id", &party_id)?;
        let role = role_of("party_role", &role)?;
        let NotificationChannel { email, phone, push_token } = notification.unwrap_or_default();
        let (email, phone, push_token) = (
            channel("email", email, notify::check_email)?,
            channel("phone", phone, notify::check_phone)?,
            channel("push_token", push_token, notify::check_push_token)?,
        );
        check_text("version", &version)?;
        let now = Millis::now();
        let row = PartyRow { name, role, version, email, phone, push_token, registered_at: now, last_seen_at: now };
        let (row, again) = self.relay.register(row).await?;
        let mut message = String::from(if again { "registration updated" } else { "registered" });
        if is_offline(&row) {
            message.push_str(match self.relay.tells(&row) {
                true => "; offline mode: notified when something waits",
                false => "; offline mode, but this server sends no notifications over these channels",
            });
        }
        Ok(Response::new(RegisterPartyResponse { success: true, message, registered_at: row.registered_at.0 }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let party = self.act_as(&caller, "party_id", &request.into_inner().party_id)?;
        let (now, waiting) = self.relay.heartbeat(&party).await?;
        let pending_messages = i32::try_from(waiting).unwrap_or(i32::MAX);
        Ok(Response::new(HeartbeatResponse { success: true, server_timestamp: now.0, pending_messages }))
    }

    async fn subscribe_session_events(
        &self,
        request: Request<SubscribeSessionEventsRequest>,
    ) -> Result<Response<Answers<SessionEvent>>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let after = request.metadata().get("after-event-id").map(|value| {
            value.to_str().map(str::to_owned).map_err(|_| Error::invalid("metadata after-event-id: not ASCII"))
        });
        let after = after.transpose()?;
        let (metadata, _, SubscribeSessionEventsRequest { party_id, event_types }) = request.into_parts();
        let party = match (&caller, party_id.is_empty()) {
            (Principal::Service(_), true) => None,
            _ => Some(self.act_as(&caller, "party_id", &party_id)?),
        };
        let events = self.relay.subscribe_events(party, event_types, after).await?;
        Ok(Response::new(self.tokens.until_lapse(&metadata, events)))
    }

    async fn publish_session_event(
        &self,
        request: Request<PublishSessionEventRequest>,
    ) -> Result<Response<PublishSessionEventResponse>, Status> {
        match self.caller(request.metadata()).await? {
            Principal::Service(_) => {}
            other => {
                let text = format!("{other} may not publish session events; a service: principal may");
                return Err(Error::Denied(text).into());
            }
        }
        let event = request.into_inner().event.ok_or_else(|| Error::invalid("event: it is missing"))?;
        let subscriber_count = i32::try_from(self.relay.publish(event).await?).unwrap_or(i32::MAX);
        Ok(Response::new(PublishSessionEventResponse { success: true, subscriber_count }))
    }

    async fn get_registered_parties(
        &self,
        request: Request<GetRegisteredPartiesRequest>,
    ) -> Result<Response<GetRegisteredPartiesResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let GetRegisteredPartiesRequest { role_filter, only_online } = request.into_inner();
        let role = match role_filter.is_empty() {
            true => None,
            false => Some(role_of("role_filter", &role_filter)?),
        };
        let found = self.relay.registered(role, only_online);
        let parties: Vec<RegisteredParty> = found
            .into_iter()
            .map(|(row, online)| {
                let may_see = match &caller {
                    Principal::Party(own) => self.relay.is_party(own, &row.name),
                    _ => true,
                };
                let PartyRow { name, role, email, phone, push_token, registered_at, last_seen_at, .. } = row;
                RegisteredParty {
                    party_id: name,
                    role: role.as_str().into(),
                    online,
                    registered_at: registered_at.0,
                    last_seen_at: last_seen_at.0,
                    notification: may_see.then(|| NotificationChannel {
                        email: email.unwrap_or_default(),
                        phone: phone.unwrap_or_default(),
                        push_token: push_token.unwrap_or_default(),
                    }),
                }
            })
            .collect();
        let total_count = i32::try_from(parties.len()).unwrap_or(i32::MAX);
        let answer = GetRegisteredPartiesResponse { parties, total_count };
        if answer.encoded_len() > ANSWER_MAX {
            let text = format!(
                "{total_count} parties are more than one answer holds; narrow it by role_filter or only_online"
            );
            return Err(Error::exhausted(text).into());
        }
        Ok(Response::new(answer))
    }
}

/// An empty session stands for all of them.
fn session(id: String) -> Result<Option<String>, Error> {
    if id.is_empty() {
        return Ok(None);
    }
    check_session(&id)?;
    Ok(Some(id))
}

/// The party asked to be told elsewhere when something waits for it.
pub fn is_offline(row: &PartyRow) -> bool {
    row.email.is_some() || row.phone.is_some() || row.push_token.is_some()
}
