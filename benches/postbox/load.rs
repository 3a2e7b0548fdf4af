//! What drives a node from outside: a connection as any client has one, calls
//! in flight, and a queue filled and watched through the Mailroom.

use crate::{Failure, process::NodeProcess, usage::cpu};
use bytes::{BufMut, Bytes};
use pillarbox::{
    net::{
        dial::{DialConfig, Dialer, Target},
        link::Link,
    },
    proto::{
        pillarbox::postbox::v1::{
            Peer, PeersRequest, ReceiveRequest, Received, SendRequest, mailroom_client::MailroomClient,
        },
        protocol::sync::v1::{
            Event,
            event::{Kind, UserAddedToGuild, UserRejectedInvite},
        },
    },
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use std::{
    future::Future,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

/// Bytes of one event.
pub const EVENT: usize = 256;
/// Events in one `Send` that fills a queue, and such calls in flight.
const FILL_EVENTS: u64 = 1024;
const FILLERS: u64 = 4;
/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the receiver does with an event.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A user was added to a guild: the log, and a row of the guild list at a
    /// random place in it.
    Added,
    /// A user rejected an invite: the log alone.
    Rejected,
}

/// An event of [`EVENT`] bytes: one of ten thousand users and a thousand
/// guilds. A field that nobody knows fills it up.
pub fn event(shape: Shape, number: u64) -> Bytes {
    // Ids are random in life: neighbours in the queue are none in a list. No
    // pair comes twice, since 7919 and 10,000 share no factor.
    let user_id = (number * 7919 % 10_000 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let guild_id = number / 10_000 + 1;
    let kind = match shape {
        Shape::Added => Kind::UserAddedToGuild(UserAddedToGuild { user_id, guild_id }),
        Shape::Rejected => Kind::UserRejectedInvite(UserRejectedInvite { guild_id, user_id, invite_id: "i".into() }),
    };
    let mut body = Event { kind: Some(kind) }.encode_to_vec();
    encode_key(2000, WireType::LengthDelimited, &mut body);
    // The length takes two bytes itself.
    let rest = EVENT - body.len() - 2;
    encode_varint(rest as u64, &mut body);
    body.put_bytes(0x2a, rest);
    body.into()
}

/// One HTTP/2 connection over TLS, to who holds `key`.
pub async fn connect(listen: &str, key: &str) -> Result<Link, Failure> {
    let address: SocketAddr = listen.parse()?;
    let target = Target {
        id: format!("localhost:{}", address.port()).parse()?,
        address: Some((address.ip().to_string(), address.port())),
        plaintext: false,
        http1: false,
        pinned: Some(key.parse()?),
        trusted: true,
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    Ok(Dialer::new(&DialConfig::default())?.dial(&target, deadline).await?)
}

/// How calls went.
pub struct Rate {
    /// Calls finished a second.
    pub calls: f64,
    /// Microseconds of the called process on a core, a call.
    pub cpu: f64,
}

/// Calls `process` with so many in flight.
pub async fn calls<C, F>(process: u32, in_flight: usize, span: Duration, call: C) -> Result<Rate, Failure>
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (call, done, stop) = (Arc::new(call), Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (call, done, stop) = (call.clone(), done.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                call().await?;
                done.fetch_add(1, Relaxed);
            }
            Ok::<_, Status>(())
        });
    }
    sleep(span / 5).await;
    let (before, used, since) = (done.load(Relaxed), cpu(process)?, Instant::now());
    sleep(span).await;
    let (count, used, took) = ((done.load(Relaxed) - before) as f64, cpu(process)? - used, since.elapsed());
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(Rate { calls: count / took.as_secs_f64(), cpu: used * 1e6 / count })
}

/// The homeserver behind a node.
#[derive(Clone)]
pub struct Backend {
    mailroom: MailroomClient<Link>,
    authorization: MetadataValue<Ascii>,
}

impl Backend {
    pub async fn of(node: &NodeProcess) -> Result<Self, Failure> {
        let link = connect(&node.listen, &node.key).await?;
        let origin = link.origin();
        let token = node.ok(&["token", "new", "service:bench"]);
        let authorization = format!("Bearer {}", token.trim()).parse()?;
        Ok(Self { mailroom: MailroomClient::with_origin(link, origin), authorization })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }

    /// Returns once the events are on disk.
    pub async fn send(&self, to: &str, events: Vec<Bytes>) -> Result<(), Status> {
        let request = self.request(SendRequest { to: to.to_owned(), events });
        self.mailroom.clone().send(request).await.map(drop)
    }

    /// Sends events numbered `from..to`, many a call.
    pub async fn fill(&self, to: &str, shape: Shape, numbers: Range<u64>) -> Result<(), Failure> {
        let next = Arc::new(AtomicU64::new(numbers.start));
        let mut tasks = JoinSet::new();
        for _ in 0..FILLERS {
            let (backend, to, next, end) = (self.clone(), to.to_owned(), next.clone(), numbers.end);
            tasks.spawn(async move {
                loop {
                    let first = next.fetch_add(FILL_EVENTS, Relaxed);
                    if first >= end {
                        return Ok::<_, Status>(());
                    }
                    backend
                        .send(&to, (first..end.min(first + FILL_EVENTS)).map(|number| event(shape, number)).collect())
                        .await?;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// What the node's log takes from now on.
    pub async fn receive(&self) -> Result<Streaming<Received>, Status> {
        let request = self.request(ReceiveRequest { cursor: 0 });
        self.mailroom.clone().receive(request).await.map(tonic::Response::into_inner)
    }

    pub async fn peer(&self, id: &str) -> Result<Peer, Failure> {
        let answer = self.mailroom.clone().peers(self.request(PeersRequest {})).await?.into_inner();
        answer.peers.into_iter().find(|peer| peer.server_id == id).ok_or_else(|| format!("{id} is no peer").into())
    }

    /// Looks until it is so, at most ten minutes.
    pub async fn until(&self, id: &str, what: &str, is: impl Fn(&Peer) -> bool) -> Result<Peer, Failure> {
        let look = async {
            loop {
                let peer = self.peer(id).await?;
                if is(&peer) {
                    return Ok::<_, Failure>(peer);
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(PATIENCE, look).await {
            Ok(peer) => peer,
            Err(_) => Err(format!("{id} was not {what} within {PATIENCE:?}: {:?}", self.peer(id).await?).into()),
        }
    }
}
