//! The homeserver behind a node: sends events, reads the log, looks at the queues.

use super::{
    Error,
    caller::Caller,
    events::{Shape, event},
};
use crate::{
    net::link::Link,
    proto::pillarbox::postbox::v1::{
        Peer, PeersRequest, ReceiveRequest, Received, SendRequest, mailroom_client::MailroomClient,
    },
};
use bytes::Bytes;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, Streaming};

/// Events in one `Send` that fills a queue, and such calls in flight.
const FILL_EVENTS: u64 = 1024;
const FILLERS: u64 = 4;
/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(10);

/// A cheap clone.
#[derive(Debug, Clone)]
pub struct Mailroom {
    client: MailroomClient<Link>,
    caller: Caller,
}

impl Mailroom {
    pub fn new(caller: Caller) -> Self {
        Self { client: MailroomClient::with_origin(caller.link.clone(), caller.link.origin()), caller }
    }

    /// Returns once the events are on disk.
    pub async fn send(&self, to: &str, events: Vec<Bytes>) -> Result<(), Status> {
        let request = self.caller.request(SendRequest { to: to.to_owned(), events });
        self.client.clone().send(request).await.map(drop)
    }

    /// Sends events numbered `from..to`, many a call.
    pub async fn fill(&self, to: &str, shape: Shape, numbers: Range<u64>) -> Result<(), Error> {
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
                    let numbers = first..end.min(first + FILL_EVENTS);
                    backend.send(&to, numbers.map(|number| event(shape, number)).collect()).await?;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// What the node's log holds, and what it takes from now on.
    pub async fn receive(&self) -> Result<Streaming<Received>, Status> {
        let request = self.caller.request(ReceiveRequest { cursor: 0 });
        self.client.clone().receive(request).await.map(tonic::Response::into_inner)
    }

    pub async fn peers(&self) -> Result<Vec<Peer>, Error> {
        Ok(self.client.clone().peers(self.caller.request(PeersRequest {})).await?.into_inner().peers)
    }

    pub async fn peer(&self, id: &str) -> Result<Peer, Error> {
        let peers = self.peers().await?;
        let peer = peers.into_iter().find(|peer| peer.server_id == id);
        peer.ok_or_else(|| format!("{id} is no peer of the node").into())
    }

    /// Looks until it is so, at most ten minutes.
    pub async fn until(&self, id: &str, what: &str, is: impl Fn(&Peer) -> bool) -> Result<Peer, Error> {
        let look = async {
            loop {
                let peer = self.peer(id).await?;
                if is(&peer) {
                    return Ok(peer);
                }
                sleep(LOOK).await;
            }
        };
        match timeout(PATIENCE, look).await {
            Ok(peer) => peer,
            Err(_) => Err(format!("{id} was not {what} within {PATIENCE:?}: {:?}", self.peer(id).await?).into()),
        }
    }
}
