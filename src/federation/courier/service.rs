//! Courier as other nodes call it: verify the opening and each batch, hand batches
//! to the peer's driver, answer with receipts and grants.
//!
//! One stream a peer, one task a stream. Never touches the store; never holds more
//! batches than the node has places for, but one that waits for its place.

use super::{Cargo, open};
use crate::{
    error::Error,
    federation::{
        Federation, Inner,
        driver::Command,
        peers::Peer,
        remote::{IDLE, Method},
        service::REQUEST_MAX,
        stream::Mark,
        window::{WINDOW, grant},
    },
    net::connection::Connection,
    proto::pillarbox::federation::v1::{
        Batch, Receipt,
        courier_server::{Courier, CourierServer},
    },
};
use std::{
    collections::VecDeque,
    future::pending,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{
        OwnedSemaphorePermit, mpsc,
        oneshot::{self, error::TryRecvError},
    },
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

/// A batch waits no longer for its turn and the disk.
const BATCH_PATIENCE: Duration = Duration::from_secs(25);
/// A stream waits no longer for the node to have a place for its first batch.
const PLACE_PATIENCE: Duration = Duration::from_secs(10);
/// A sender opens a stream because something waits; then its first batch comes.
const FIRST_BATCH: Duration = Duration::from_secs(5);
/// Its sender ends an idle stream before.
const IDLE_STREAM: Duration = IDLE.saturating_add(Duration::from_secs(30));

/// At shutdown, for what is being applied.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a stream's batches have in common.
#[derive(Debug, Default)]
pub struct Line {
    /// One of them was not taken: nor is any behind it.
    broken: AtomicBool,
}

impl Line {
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    pub fn set_broken(&self) {
        self.broken.store(true, Relaxed);
    }
}

/// Why a batch was not taken, and the state then, if it is worth telling.
#[derive(Debug)]
pub struct Turned {
    pub state: Option<Mark>,
    pub error: Error,
}

/// How far the stream is applied once the batch is.
pub type Reply = oneshot::Sender<Result<Mark, Turned>>;

/// A verified batch on its way to the driver.
pub struct Arrived {
    pub cargo: Cargo,
    pub line: Arc<Line>,
    /// Its place in the node's bound, given back once it is applied.
    pub place: OwnedSemaphorePermit,
    pub reply: Reply,
}

/// The service; hold it behind the node's one port.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

impl Federation {
    /// Speaks "courier/1".
    pub fn courier_service(&self) -> CourierServer<Service> {
        CourierServer::new(Service(self.0.clone())).max_decoding_message_size(REQUEST_MAX)
    }
}

/// To the sender. Boxed, as a channel makes room for many at once.
type Told = Result<Box<Receipt>, Status>;
type Receipts = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

#[tonic::async_trait]
impl Courier for Service {
    type DeliverStream = Receipts;

    async fn deliver(&self, request: Request<Streaming<Batch>>) -> Result<Response<Receipts>, Status> {
        let (metadata, extensions, batches) = request.into_parts();
        let address = extensions.get::<Arc<Connection>>().map(|connection| connection.remote().ip());
        let opened = self.open(&metadata, address).await;
        let code = opened.as_ref().err().map_or(tonic::Code::Ok, Error::code);
        self.0.metrics.calls.with_label_values(&[Method::Deliver.name(), &format!("{code:?}")]).inc();
        let (inbound, receipts) = opened?;
        self.0.tasks.spawn(inbound.run(batches));
        Ok(Response::new(Box::pin(ReceiverStream::new(receipts).map(|receipt| receipt.map(|receipt| *receipt)))))
    }
}

impl Service {
    async fn open(
        &self,
        metadata: &MetadataMap,
        address: Option<IpAddr>,
    ) -> Result<(Inbound, mpsc::Receiver<Told>), Error> {
        let inner = &self.0;
        let caller = inner.admit(Method::Deliver, metadata, address, &[]).await?;
        let (peer, nonce) = (caller.peer, caller.nonce.unwrap_or_default());
        // A node that comes back is not flooded: its peers begin as it has places.
        let busy = || Error::unavailable("this server is busy with the batches of others; try again");
        let place = timeout(PLACE_PATIENCE, inner.batches.clone().acquire_owned()).await.map_err(|_| busy())?;
        let ended = peer.begin_stream();
        let state = peer.ask(BATCH_PATIENCE, Command::Applied).await?;
        let (sender, receipts) = mpsc::channel(2 * usize::try_from(WINDOW).unwrap_or(usize::MAX >> 4));
        let mut inbound = Inbound {
            inner: inner.clone(),
            peer,
            nonce,
            ended,
            line: Arc::default(),
            receipts: sender,
            place: place.ok(),
            waiting: None,
            pending: VecDeque::new(),
            taken: 0,
            covered: 0,
            granted: 0,
        };
        inbound.answer(state).map_err(Error::unavailable)?;
        Ok((inbound, receipts))
    }
}

/// A batch at the driver.
struct Pending {
    answer: oneshot::Receiver<Result<Mark, Turned>>,
    until: Instant,
}

/// One stream of a peer.
struct Inbound {
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    nonce: Vec<u8>,
    ended: CancellationToken,
    line: Arc<Line>,
    receipts: mpsc::Sender<Told>,
    /// For the batch that comes next.
    place: Option<OwnedSemaphorePermit>,
    /// Read, and without a place yet.
    waiting: Option<(Cargo, Place)>,
    pending: VecDeque<Pending>,
    taken: u64,
    covered: u64,
    granted: u64,
}

type Place = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>> + Send>>;

/// What comes next in a stream.
enum Next {
    Batch(Result<Option<Batch>, Status>),
    Place(Result<OwnedSemaphorePermit, tokio::sync::AcquireError>),
    Answer(Result<Mark, Turned>),
    Idle,
    Late,
}

impl Inbound {
    async fn run(mut self, mut batches: Streaming<Batch>) {
        let (stop, ended, gone) = (self.inner.stop.clone(), self.ended.clone(), self.receipts.clone());
        let outcome = tokio::select! {
            biased;
            () = gone.closed() => return,
            () = ended.cancelled() => Err(self.why_ended()),
            () = stop.cancelled() => Err(Box::pin(self.farewell()).await),
            outcome = self.take_all(&mut batches) => outcome,
        };
        self.line.set_broken();
        if let Err(error) = outcome {
            tracing::debug!(peer = %self.peer.server_id(), %error, "a stream of batches ends");
            // One that does not read its receipts does not learn why.
            let _ = self.receipts.try_send(Err(error.into()));
        }
    }

    /// What is being applied gets its receipt.
    async fn farewell(&mut self) -> Error {
        let deadline = Instant::now() + FAREWELL;
        while !self.pending.is_empty() {
            let Ok(answer) = timeout_at(deadline, front(&mut self.pending)).await else { break };
            if let Err(error) = self.on_answer(answer) {
                return error;
            }
        }
        Error::unavailable("the node stops")
    }

    fn why_ended(&self) -> Error {
        let id = self.peer.server_id();
        match self.inner.registry.by_row(self.peer.row_id()) {
            Some(_) => Error::unavailable(format!("another stream of {id} began, or it has a new key: open it again")),
            None => Error::Denied(format!("{id} is not a peer of this server")),
        }
    }

    /// Until the sender has sent its last batch and has its receipt.
    async fn take_all(&mut self, batches: &mut Streaming<Batch>) -> Result<(), Error> {
        let mut idle_at = Instant::now() + FIRST_BATCH;
        let mut over = false;
        while !over || self.waiting.is_some() || !self.pending.is_empty() {
            let may_read = !over && self.waiting.is_none();
            let late_at = self.pending.front().map(|pending| pending.until);
            let next = tokio::select! {
                answer = front(&mut self.pending), if !self.pending.is_empty() => Next::Answer(answer),
                place = placed(&mut self.waiting), if self.waiting.is_some() => Next::Place(place),
                batch = batches.message(), if may_read => Next::Batch(batch),
                () = sleep_until(late_at.unwrap_or(idle_at)), if late_at.is_some() => Next::Late,
                () = sleep_until(idle_at), if may_read && late_at.is_none() => Next::Idle,
            };
            match next {
                Next::Answer(answer) => self.on_answer(answer)?,
                Next::Place(place) => {
                    let place = place.map_err(|_| Error::unavailable("the node stops"))?;
                    if let Some((cargo, _)) = self.waiting.take() {
                        Box::pin(self.hand_over(cargo, place)).await?;
                    }
                }
                Next::Batch(Ok(Some(batch))) => {
                    // Boxed: most streams are idle most of the time.
                    Box::pin(self.on_batch(batch)).await?;
                    idle_at = Instant::now() + IDLE_STREAM;
                }
                Next::Batch(Ok(None)) => over = true,
                Next::Batch(Err(status)) => return Err(Error::unavailable(status.message().to_owned())),
                Next::Idle if self.place.take().is_some() => idle_at = Instant::now() + IDLE_STREAM,
                Next::Idle => return Ok(()),
                Next::Late => {
                    let patience = BATCH_PATIENCE.as_secs();
                    return Err(Error::unavailable(format!("a batch was not applied within {patience} s")));
                }
            }
        }
        Ok(())
    }

    async fn on_batch(&mut self, batch: Batch) -> Result<(), Error> {
        if self.taken == self.granted {
            return Err(Error::invalid(format!("only {} batches were granted: wait for a receipt", self.granted)));
        }
        self.taken += 1;
        let id = || self.peer.server_id();
        let key = self.peer.key().ok_or_else(|| Error::Unauthenticated(format!("no key of {} is known", id())))?;
        let cargo = open(batch, &key, &self.nonce, |id| self.inner.is_own_id(id))?;
        match self.place.take() {
            Some(place) => self.hand_over(cargo, place).await?,
            None => self.waiting = Some((cargo, Box::pin(self.inner.batches.clone().acquire_owned()))),
        }
        Ok(())
    }

    async fn hand_over(&mut self, cargo: Cargo, place: OwnedSemaphorePermit) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let arrived = Arrived { cargo, line: self.line.clone(), place, reply };
        self.peer.tell(Command::Batch(arrived)).await?;
        self.pending.push_back(Pending { answer, until: Instant::now() + BATCH_PATIENCE });
        Ok(())
    }

    /// One receipt for all that is applied by now.
    fn on_answer(&mut self, answer: Result<Mark, Turned>) -> Result<(), Error> {
        let mut answer = answer;
        loop {
            self.pending.pop_front();
            self.covered += 1;
            let next = match &answer {
                Ok(_) => at_hand(&mut self.pending),
                Err(_) => None,
            };
            match next {
                Some(Ok(mark)) => answer = Ok(mark),
                // What was taken before it is told first.
                Some(Err(turned)) => {
                    if let Ok(mark) = answer {
                        self.answer(mark).map_err(Error::unavailable)?;
                    }
                    answer = Err(turned);
                }
                None => break,
            }
        }
        match answer {
            Ok(mark) => self.answer(mark).map_err(Error::unavailable),
            Err(Turned { state, error }) => {
                if let Some(state) = state {
                    self.answer(state).map_err(Error::unavailable)?;
                }
                Err(error)
            }
        }
    }

    fn answer(&mut self, state: Mark) -> Result<(), &'static str> {
        self.granted = grant(self.granted, self.covered, self.inner.batches.available_permits());
        let receipt = Receipt { state: Some(state.into()), batches: self.covered, granted: self.granted };
        self.receipts.try_send(Ok(Box::new(receipt))).map_err(|_| "the receipts are not read")
    }
}

/// The driver's answer to the oldest batch.
async fn front(pending: &mut VecDeque<Pending>) -> Result<Mark, Turned> {
    let Some(oldest) = pending.front_mut() else { return self::pending().await };
    (&mut oldest.answer).await.map_err(|_| gone())?
}

/// The same, if it is there. Whoever asks takes it off: it cannot be asked again.
fn at_hand(pending: &mut VecDeque<Pending>) -> Option<Result<Mark, Turned>> {
    match pending.front_mut()?.answer.try_recv() {
        Ok(answer) => Some(answer),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => Some(Err(gone())),
    }
}

/// The driver has ended.
fn gone() -> Turned {
    Turned { state: None, error: Error::unavailable("the node stops, or the peer is being removed") }
}

async fn placed(waiting: &mut Option<(Cargo, Place)>) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
    match waiting {
        Some((_, place)) => place.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driver_that_ended_is_an_answer_too() {
        let until = Instant::now() + BATCH_PATIENCE;
        let (replies, mut pending): (Vec<Reply>, VecDeque<Pending>) = (0..3)
            .map(|_| {
                let (reply, answer) = oneshot::channel();
                (reply, Pending { answer, until })
            })
            .unzip();
        let mut replies = replies.into_iter();
        assert!(at_hand(&mut pending).is_none());
        let mark = Mark { epoch: 1, number: 2, id: 3 };
        let _ = replies.next().unwrap().send(Ok(mark));
        assert_eq!(front(&mut pending).await.ok(), Some(mark));
        pending.pop_front();
        assert!(at_hand(&mut pending).is_none(), "it is under way");
        drop(replies);
        assert!(matches!(at_hand(&mut pending), Some(Err(Turned { state: None, .. }))));
        pending.pop_front();
        assert!(matches!(front(&mut pending).await, Err(Turned { state: None, .. })));
    }
}
