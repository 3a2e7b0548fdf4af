//! The operator's calls (`pillarbox.admin.v1.Admin`): parse, call the handle,
//! map the answer. Never touches the store.

use crate::{
    error::Error,
    federation::{AddPeer, Federation, Peer, ReceivedStream, shown},
    identity::{
        principal::Principal,
        tokens::Tokens,
        users::{User, Users},
    },
    proto::pillarbox::{
        admin::v1::{admin_server::Admin, *},
        postbox::v1::{SendRequest, SendResponse},
    },
    store::{DeadRow, Direction, KeyOrigin, OutRow, PeerAddress, PeerKind, PeerTransport, TokenRow},
    types::{Millis, PeerId, PublicKey, ServerId},
};
use bytes::Bytes;
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

/// Rows on their way to a command.
const LISTED_MAX: usize = 64;

type Listing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub struct Service {
    pub federation: Federation,
    pub tokens: Tokens,
    pub users: Users,
    pub key: PublicKey,
    /// What it spawns is among these and ends with `stop`.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Service {
    fn peer(&self, id: &str) -> Result<Arc<Peer>, Error> {
        self.federation.peer(&server_id(id)?)
    }

    async fn detail(&self, peer: &Peer) -> Result<PeerDetail, Error> {
        let (view, row) = (self.federation.view(peer).await?, peer.row());
        let kind = match view.kind.into() {
            PeerKind::Unknown => "unknown",
            PeerKind::Stock => "stock",
            PeerKind::Pillarbox => "pillarbox",
        };
        let tokens = match peer.health().bound_tokens {
            Some(false) => "plain",
            Some(true) => "bound",
            None if kind == "pillarbox" => "bound",
            None if kind == "stock" => "plain",
            None => "",
        };
        let millis = |at: Option<Millis>| at.map_or(0, |at| at.0);
        Ok(PeerDetail {
            peer: Some(self.federation.describe(peer)),
            key: row.key.map_or_else(Bytes::new, |key| Bytes::copy_from_slice(key.key.as_bytes())),
            key_origin: match row.key.map(|key| key.origin) {
                None => "none",
                Some(KeyOrigin::Operator) => "operator",
                Some(KeyOrigin::Learnt) => "learnt",
            }
            .into(),
            address: row.address.map_or_else(String::new, |address| format!("{}:{}", address.host, address.port)),
            plaintext: row.plaintext,
            held: view.held,
            tokens: tokens.into(),
            kind: kind.into(),
            transport: match row.transport {
                PeerTransport::Unknown => "unknown",
                PeerTransport::Grpc => "grpc",
                PeerTransport::Hrpc => "hrpc",
            }
            .into(),
            epoch: view.settled.epoch,
            settled: view.settled.number,
            inbound_epoch: view.applied.epoch,
            inbound_mark: view.applied.number,
            next_attempt_at: millis(view.next_attempt),
            next_pull_at: millis(view.next_pull),
            former_ids: self.federation.former_ids_of(peer).iter().map(ToString::to_string).collect(),
            known_as: row.known_as.map_or_else(String::new, |id| id.to_string()),
            next_id: row.next_id.map_or_else(String::new, |id| id.to_string()),
            parcels: row.parcels,
            lane: peer.lane().into(),
        })
    }

    /// Whose dead letters: of one server, also one that was removed, or of all.
    async fn whose(&self, id: &str) -> Result<Option<PeerId>, Error> {
        match id {
            "" => Ok(None),
            id => Ok(Some(self.federation.row_of(&server_id(id)?).await?)),
        }
    }

    async fn dead_letter(&self, row: DeadRow) -> Result<DeadLetter, Error> {
        let letter = row.letter;
        Ok(DeadLetter {
            id: u64::try_from(row.id).unwrap_or(0),
            server_id: self.federation.name_of(letter.peer).await?.to_string(),
            direction: match letter.direction {
                Direction::In => "inbound",
                Direction::Out => "outbound",
            }
            .into(),
            reason: letter.reason,
            died_at: letter.died_at.0,
            number: letter.number,
            last_number: letter.last_number,
            size: letter.body.len() as u64,
            body: shown(letter.body),
        })
    }

    /// A list that a task of its own writes. It ends with its reader, or with
    /// the node: then the list says that it is not whole.
    fn listing<T, F>(&self, list: impl FnOnce(Self, mpsc::Sender<Result<T, Status>>) -> F) -> Response<Listing<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(LISTED_MAX);
        let (stop, list) = (self.stop.clone(), list(self.clone(), sender.clone()));
        self.tasks.spawn(async move {
            let stopped = || Err(Error::unavailable("the list is not whole: the node stops"));
            if let Err(error) = stop.run_until_cancelled(list).await.unwrap_or_else(stopped) {
                let _ = sender.send(Err(error.into())).await;
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn list_queue_into(
        &self,
        request: ListQueueRequest,
        sender: &mpsc::Sender<Result<QueuedEvent, Status>>,
    ) -> Result<(), Error> {
        let peers = match request.server_id.as_str() {
            "" => self.federation.peers(),
            id => vec![self.peer(id)?],
        };
        let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
        for peer in peers {
            let mut after = 0;
            loop {
                let rows = self.federation.queue(&peer, after).await?;
                let Some(last) = rows.last() else { break };
                after = last.number;
                for row in rows {
                    if left == 0 || sender.send(Ok(queued(&peer, row))).await.is_err() {
                        return Ok(());
                    }
                    left -= 1;
                }
            }
        }
        Ok(())
    }

    async fn list_dead_into(
        &self,
        request: ListDeadRequest,
        sender: &mpsc::Sender<Result<DeadLetter, Status>>,
    ) -> Result<(), Error> {
        let peer = self.whose(&request.server_id).await?;
        let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
        let mut before = None;
        loop {
            let rows = self.federation.dead_letters(peer, before).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            before = Some(last.id);
            for row in rows {
                if left == 0 || sender.send(Ok(self.dead_letter(row).await?)).await.is_err() {
                    return Ok(());
                }
                left -= 1;
            }
        }
    }

    async fn list_users_into(
        &self,
        request: ListUsersRequest,
        sender: &mpsc::Sender<Result<UserInfo, Status>>,
    ) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let users = self.users.list(&after, request.deleted).await?;
            let Some(last) = users.last() else { return Ok(()) };
            after.clone_from(&last.name);
            for user in users {
                if sender.send(Ok(user_info(user))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn queued(peer: &Peer, row: OutRow) -> QueuedEvent {
    let server_id = peer.server_id().to_string();
    QueuedEvent { number: row.number, server_id, stored_at: row.stored_at.0, event: shown(row.body) }
}

fn server_id(text: &str) -> Result<ServerId, Error> {
    text.parse()
}

fn address(text: &str) -> Result<Option<PeerAddress>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    // The grammar is that of a server id.
    let id: ServerId =
        text.parse().map_err(|_| Error::invalid(format!("address {text:?}: it is written host:port")))?;
    Ok(Some(PeerAddress { host: id.host().to_owned(), port: id.port() }))
}

#[tonic::async_trait]
impl Admin for Service {
    type ListQueueStream = Listing<QueuedEvent>;
    type ListDeadStream = Listing<DeadLetter>;
    type TailEventsStream = ReceivedStream;
    type ListUsersStream = Listing<UserInfo>;

    async fn show_key(&self, _: Request<ShowKeyRequest>) -> Result<Response<ShowKeyResponse>, Status> {
        let server_id = self.federation.own_id().to_string();
        Ok(Response::new(ShowKeyResponse { server_id, key: Bytes::copy_from_slice(self.key.as_bytes()) }))
    }

    async fn rename_server(
        &self,
        request: Request<RenameServerRequest>,
    ) -> Result<Response<RenameServerResponse>, Status> {
        self.federation.rename(server_id(&request.into_inner().new_server_id)?).await?;
        let former_ids = self.federation.former_ids().iter().map(ToString::to_string).collect();
        let to_tell = self.federation.peers().iter().filter(|peer| peer.known_as().is_some()).count();
        Ok(Response::new(RenameServerResponse {
            former_ids,
            peers_to_tell: u64::try_from(to_tell).unwrap_or(u64::MAX),
        }))
    }

    async fn add_peer(&self, request: Request<AddPeerRequest>) -> Result<Response<PeerDetail>, Status> {
        let request = request.into_inner();
        let key = match request.key.is_empty() {
            true => None,
            false => Some(PublicKey::from_bytes(&request.key)?),
        };
        let add = AddPeer {
            server_id: server_id(&request.server_id)?,
            key,
            address: address(&request.address)?,
            plaintext: request.plaintext,
        };
        let peer = self.federation.add_peer(add).await?;
        Ok(Response::new(self.detail(&peer).await?))
    }

    async fn list_peers(&self, _: Request<ListPeersRequest>) -> Result<Response<ListPeersResponse>, Status> {
        let mut peers = vec![];
        for peer in self.federation.peers() {
            peers.push(self.detail(&peer).await?);
        }
        Ok(Response::new(ListPeersResponse { peers }))
    }

    async fn show_peer(&self, request: Request<ShowPeerRequest>) -> Result<Response<PeerDetail>, Status> {
        let peer = self.peer(&request.into_inner().server_id)?;
        Ok(Response::new(self.detail(&peer).await?))
    }

    async fn retry_peer(&self, request: Request<RetryPeerRequest>) -> Result<Response<PeerDetail>, Status> {
        let RetryPeerRequest { server_id, push } = request.into_inner();
        let peer = self.peer(&server_id)?;
        self.federation.retry(&peer, push).await?;
        Ok(Response::new(self.detail(&peer).await?))
    }

    async fn remove_peer(&self, request: Request<RemovePeerRequest>) -> Result<Response<RemovePeerResponse>, Status> {
        let peer = self.peer(&request.into_inner().server_id)?;
        let dead = self.federation.remove_peer(&peer).await?;
        Ok(Response::new(RemovePeerResponse { dead }))
    }

    async fn list_queue(&self, request: Request<ListQueueRequest>) -> Result<Response<Self::ListQueueStream>, Status> {
        let request = request.into_inner();
        Ok(self.listing(|service, sender| async move { service.list_queue_into(request, &sender).await }))
    }

    async fn show_queue(&self, request: Request<ShowQueueRequest>) -> Result<Response<QueuedEvent>, Status> {
        let row = self.federation.queued_row(request.into_inner().number).await?;
        let server_id = self.federation.name_of(row.peer).await?.to_string();
        let event = QueuedEvent { number: row.number, server_id, stored_at: row.stored_at.0, event: shown(row.body) };
        Ok(Response::new(event))
    }

    async fn drop_queue(&self, request: Request<DropQueueRequest>) -> Result<Response<DropQueueResponse>, Status> {
        let DropQueueRequest { server_id, number } = request.into_inner();
        let peer = self.peer(&server_id)?;
        let dead = self.federation.drop_queued(&peer, (number > 0).then_some(number)).await?;
        Ok(Response::new(DropQueueResponse { dead }))
    }

    async fn hold_queue(&self, request: Request<HoldQueueRequest>) -> Result<Response<PeerDetail>, Status> {
        let peer = self.peer(&request.into_inner().server_id)?;
        let peer = self.federation.hold(&peer, true).await?;
        Ok(Response::new(self.detail(&peer).await?))
    }

    async fn release_queue(&self, request: Request<ReleaseQueueRequest>) -> Result<Response<PeerDetail>, Status> {
        let peer = self.peer(&request.into_inner().server_id)?;
        let peer = self.federation.hold(&peer, false).await?;
        Ok(Response::new(self.detail(&peer).await?))
    }

    async fn list_dead(&self, request: Request<ListDeadRequest>) -> Result<Response<Self::ListDeadStream>, Status> {
        let request = request.into_inner();
        Ok(self.listing(|service, sender| async move { service.list_dead_into(request, &sender).await }))
    }

    async fn show_dead(&self, request: Request<ShowDeadRequest>) -> Result<Response<DeadLetter>, Status> {
        let row = self.federation.dead_letter(dead_id(request.into_inner().id)?).await?;
        Ok(Response::new(self.dead_letter(row).await?))
    }

    async fn resend_dead(&self, request: Request<ResendDeadRequest>) -> Result<Response<ResendDeadResponse>, Status> {
        let number = self.federation.resend_dead(dead_id(request.into_inner().id)?).await?;
        Ok(Response::new(ResendDeadResponse { number }))
    }

    async fn send_event(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let SendRequest { to, events } = request.into_inner();
        let first_number = self.federation.send(&server_id(&to)?, events).await?;
        Ok(Response::new(SendResponse { first_number }))
    }

    async fn tail_events(
        &self,
        request: Request<TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        Ok(Response::new(self.federation.events(request.into_inner().after).await?))
    }

    async fn new_token(&self, request: Request<NewTokenRequest>) -> Result<Response<NewTokenResponse>, Status> {
        let NewTokenRequest { principal, ttl, user } = request.into_inner();
        let principal: Principal = principal.parse()?;
        let ttl = (ttl > 0).then(|| Duration::from_secs(ttl));
        let issued = match user.as_str() {
            "" => self.users.issue(&principal, ttl).await?,
            user => self.users.issue_bound(&principal, ttl, user).await?,
        };
        Ok(Response::new(NewTokenResponse { token: issued.token, id: issued.id }))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        let tokens = self.tokens.list().await?.into_iter().map(token_info).collect();
        Ok(Response::new(ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        self.tokens.revoke(&request.into_inner().id).await?;
        Ok(Response::new(RevokeTokenResponse {}))
    }

    async fn add_user(&self, request: Request<AddUserRequest>) -> Result<Response<UserInfo>, Status> {
        let user = self.users.add(&request.into_inner().name).await?;
        Ok(Response::new(user_info(user)))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<Self::ListUsersStream>, Status> {
        let request = request.into_inner();
        Ok(self.listing(|service, sender| async move { service.list_users_into(request, &sender).await }))
    }

    async fn disable_user(&self, request: Request<DisableUserRequest>) -> Result<Response<UserInfo>, Status> {
        let user = self.users.disable(&request.into_inner().name).await?;
        Ok(Response::new(user_info(user)))
    }

    async fn enable_user(&self, request: Request<EnableUserRequest>) -> Result<Response<UserInfo>, Status> {
        let user = self.users.enable(&request.into_inner().name).await?;
        Ok(Response::new(user_info(user)))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<DeleteUserResponse>, Status> {
        let sessions = self.users.delete(&request.into_inner().name).await?;
        Ok(Response::new(DeleteUserResponse { sessions }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let sessions = self.users.sessions(&request.into_inner().user).await?;
        Ok(Response::new(ListSessionsResponse { sessions: sessions.into_iter().map(token_info).collect() }))
    }

    async fn revoke_sessions(
        &self,
        request: Request<RevokeSessionsRequest>,
    ) -> Result<Response<RevokeSessionsResponse>, Status> {
        let RevokeSessionsRequest { user, id } = request.into_inner();
        let revoked = self.users.revoke(&user, Some(id.as_str()).filter(|id| !id.is_empty())).await?;
        Ok(Response::new(RevokeSessionsResponse { revoked }))
    }
}

fn token_info(row: TokenRow) -> TokenInfo {
    let millis = |at: Option<Millis>| at.map_or(0, |at| at.0);
    TokenInfo {
        id: row.id,
        principal: row.principal,
        created_at: row.created_at.0,
        expires_at: millis(row.expires_at),
        last_used_at: millis(row.last_used_at),
        user_agent: row.user_agent.unwrap_or_default(),
    }
}

fn user_info(user: User) -> UserInfo {
    UserInfo {
        id: user.id.to_string(),
        name: user.name,
        state: user.state.as_str().into(),
        created_at: user.created_at.0,
    }
}

fn dead_id(id: u64) -> Result<i64, Error> {
    i64::try_from(id).map_err(|_| Error::NotFound(format!("there is no dead letter {id}")))
}
