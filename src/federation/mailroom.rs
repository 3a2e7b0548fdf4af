//! `pillarbox.postbox.v1.Mailroom`: the postbox as the homeserver behind this
//! node uses it, and the log of inbound events it reads.
//!
//! Verifies the caller, calls the handle, maps the answer. A reader is woken,
//! then reads rows after its cursor: nothing is kept for it in memory.

use super::{Federation, peers::Peer};
use crate::{
    error::Error,
    identity::{principal::Principal, tokens::Tokens},
    proto::pillarbox::postbox::v1::{
        self as proto, ListGuildsRequest, ListGuildsResponse, ListInvitesRequest, ListInvitesResponse, PeersRequest,
        PeersResponse, ReceiveRequest, Received, SendRequest, SendResponse,
        list_guilds_response::Guild,
        list_invites_response::Invite,
        mailroom_server::{Mailroom, MailroomServer},
    },
    store::InboundRow,
    types::Millis,
};
use futures_util::stream;
use std::{collections::VecDeque, pin::Pin};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, metadata::MetadataMap};

const PAGE_ROWS: usize = 1024;
const PAGE_BYTES: usize = 1 << 20;
/// `SendRequest` may hold 1024 events of 64 KiB.
const REQUEST_MAX: usize = 66 << 20;

pub type ReceivedStream = Pin<Box<dyn Stream<Item = Result<Received, Status>> + Send>>;

/// The service; hold it behind the node's one port.
#[derive(Clone)]
pub struct Service {
    federation: Federation,
    tokens: Tokens,
}

impl Federation {
    pub fn mailroom_service(&self, tokens: Tokens) -> MailroomServer<Service> {
        MailroomServer::new(Service { federation: self.clone(), tokens }).max_decoding_message_size(REQUEST_MAX)
    }

    /// Inbound events after `cursor`, first what is kept, then live. Ends with
    /// the node. `OutOfRange` when events after the cursor are no longer kept,
    /// or the cursor lies in the future.
    pub async fn events(&self, cursor: u64) -> Result<ReceivedStream, Status> {
        self.check_cursor(cursor).await?;
        let head = self.0.store.inbound_head();
        let reader = Reader { federation: self.clone(), head, cursor, page: VecDeque::new() };
        Ok(Box::pin(stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(received) => Some((Ok(received), Some(reader))),
                Err(end) => Some((Err(end), None)),
            }
        })))
    }

    async fn check_cursor(&self, cursor: u64) -> Result<(), Status> {
        if cursor == 0 {
            return Ok(());
        }
        let head = *self.0.store.inbound_head().borrow();
        let range = self.0.store.inbound_range().await?;
        // Rows can be read a moment before the head tells of them.
        let newest = range.as_ref().map_or(head, |range| head.max(*range.end()));
        let oldest = range.map_or(newest + 1, |range| *range.start());
        if cursor <= newest && cursor + 1 >= oldest {
            return Ok(());
        }
        let text = match cursor > newest {
            true => format!("cursor: {cursor} was never given; the newest is {newest}"),
            false => format!("cursor: events after {cursor} are no longer kept; the oldest is {oldest}"),
        };
        let mut status = Status::from(Error::OutOfRange(text));
        status.metadata_mut().insert("x-oldest-cursor", (oldest - 1).into());
        Err(status)
    }

    /// How a peer fares, as both the Mailroom and the operator see it. Its driver is not
    /// asked: a caller may look at a thousand peers again and again.
    pub fn describe(&self, peer: &Peer) -> proto::Peer {
        let (health, (queued, queued_bytes)) = (peer.health(), peer.queued());
        let millis = |at: Option<Millis>| at.map_or(0, |at| at.0);
        proto::Peer {
            server_id: peer.server_id().to_string(),
            state: peer.state().into(),
            queued,
            queued_bytes,
            outbound_ok_at: millis(health.outbound_ok_at),
            inbound_ok_at: millis(health.inbound_ok_at),
            outbound_error: health.outbound_error,
        }
    }
}

struct Reader {
    federation: Federation,
    head: watch::Receiver<u64>,
    cursor: u64,
    page: VecDeque<InboundRow>,
}

impl Reader {
    /// The next event; an error ends the stream.
    async fn next(&mut self) -> Result<Received, Status> {
        loop {
            if let Some(row) = self.page.pop_front() {
                let received = self.received(row).await?;
                self.cursor = received.cursor;
                return Ok(received);
            }
            self.head.borrow_and_update();
            // It was slow, and what it has not read was cleared away meanwhile: it is told.
            self.federation.check_cursor(self.cursor).await?;
            let store = &self.federation.0.store;
            self.page.extend(store.inbound_page(self.cursor, PAGE_ROWS, PAGE_BYTES).await?);
            if self.page.is_empty() {
                tokio::select! {
                    changed = self.head.changed() => changed.map_err(|_| stops())?,
                    () = self.federation.0.stop.cancelled() => return Err(stops().into()),
                }
            }
        }
    }

    async fn received(&mut self, row: InboundRow) -> Result<Received, Error> {
        let sender = self.federation.name_of(row.peer).await?;
        Ok(Received { cursor: row.cursor, sender: sender.to_string(), received_at: row.received_at.0, event: row.body })
    }
}

fn stops() -> Error {
    Error::unavailable("the node stops; go on from your cursor")
}

impl Service {
    async fn authorize(&self, metadata: &MetadataMap) -> Result<(), Status> {
        match self.tokens.authenticate(metadata).await? {
            Principal::Service(_) => Ok(()),
            other => Err(Error::Denied(format!("{other} may not use the Mailroom; a service: principal may")).into()),
        }
    }
}

#[tonic::async_trait]
impl Mailroom for Service {
    type ReceiveStream = ReceivedStream;

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        self.authorize(request.metadata()).await?;
        let SendRequest { to, events } = request.into_inner();
        let to = to.parse().map_err(|error| Error::invalid(format!("to: {error}")))?;
        let first_number = self.federation.send(&to, events).await?;
        Ok(Response::new(SendResponse { first_number }))
    }

    async fn receive(&self, request: Request<ReceiveRequest>) -> Result<Response<ReceivedStream>, Status> {
        self.authorize(request.metadata()).await?;
        let events = self.federation.events(request.get_ref().cursor).await?;
        Ok(Response::new(self.tokens.until_lapse(request.metadata(), events)))
    }

    async fn peers(&self, request: Request<PeersRequest>) -> Result<Response<PeersResponse>, Status> {
        self.authorize(request.metadata()).await?;
        let peers = self.federation.peers().iter().map(|peer| self.federation.describe(peer)).collect();
        Ok(Response::new(PeersResponse { peers }))
    }

    async fn list_guilds(&self, request: Request<ListGuildsRequest>) -> Result<Response<ListGuildsResponse>, Status> {
        self.authorize(request.metadata()).await?;
        let mut guilds = vec![];
        for (guild_id, peer) in self.federation.0.store.guilds(request.into_inner().user_id).await? {
            guilds.push(Guild { guild_id, server_id: self.federation.name_of(peer).await?.to_string() });
        }
        Ok(Response::new(ListGuildsResponse { guilds }))
    }

    async fn list_invites(
        &self,
        request: Request<ListInvitesRequest>,
    ) -> Result<Response<ListInvitesResponse>, Status> {
        self.authorize(request.metadata()).await?;
        let mut invites = vec![];
        for row in self.federation.0.store.invites(request.into_inner().user_id).await? {
            let server_id = self.federation.name_of(row.peer).await?.to_string();
            invites.push(Invite { invite_id: row.invite, server_id, inviter_id: row.inviter });
        }
        Ok(Response::new(ListInvitesResponse { invites }))
    }
}
