//! The one connection of a client to its node, made again whenever it broke.
//!
//! Every attempt has a deadline, every outage a bound, every wait before the
//! next attempt jitter. Knows no message: whoever calls says what is called.

use super::{
    backoff::Backoff,
    error::{Error, Failure},
    options::Options,
};
use crate::{
    net::{
        dial::{DialConfig, Dialer, Target},
        grpc::Strict,
        link::Link,
    },
    proto::mpc::router::v1::{HeartbeatRequest, message_router_client::MessageRouterClient},
};
use std::time::Duration;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};

/// The generated client over our connection.
pub(super) type Api = MessageRouterClient<Strict<Link>>;

/// A message of 4 MiB and what is around it.
const ANSWER_MAX: usize = 5 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    dialer: Dialer,
    target: Target,
    bearer: MetadataValue<Ascii>,
    party: String,
    patience: Duration,
    attempt: Duration,
    /// Held while it is made, so that those who wait make one.
    link: Mutex<Option<Link>>,
}

impl Connection {
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        let Options { target, party, bearer, ca_file, patience, attempt } = options;
        let dialer = Dialer::new(&DialConfig { allow_private_addresses: true, ca_file })
            .map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Self { dialer, target, bearer, party, patience, attempt, link: Mutex::new(None) })
    }

    pub(super) fn party(&self) -> &str {
        &self.party
    }

    /// The time of one attempt; also how long a quiet connection is trusted.
    pub(super) fn attempt(&self) -> Duration {
        self.attempt
    }

    pub(super) fn outage(&self) -> Outage {
        let began = Instant::now();
        Outage { began, until: began.checked_add(self.patience), backoff: Backoff::default() }
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    /// The connection there is, or a new one.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Link, Failure> {
        let Ok(mut slot) = timeout_at(deadline, self.link.lock()).await else {
            return Err(Failure::outage("another call dials, and was not done in time"));
        };
        if let Some(link) = slot.as_ref().filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        *slot = None;
        let link = self.dialer.dial(&self.target, deadline).await?;
        *slot = Some(link.clone());
        Ok(link)
    }

    /// The connection did not answer: the next call makes another one.
    pub(super) async fn distrust(&self, link: &Link) {
        let mut slot = self.link.lock().await;
        if slot.as_ref().is_some_and(|current| current.is_same(link)) {
            *slot = None;
        }
    }

    /// One attempt at one call of the router.
    pub(super) async fn once<T, Fut>(&self, call: impl FnOnce(Api) -> Fut) -> Result<(Link, T), Failure>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.over(|link| call(api(&link))).await.map(|(link, answer)| (link, answer.into_inner()))
    }

    /// One attempt at one call of any service.
    pub(super) async fn over<T, Fut>(&self, call: impl FnOnce(Link) -> Fut) -> Result<(Link, Response<T>), Failure>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.attempt;
        let link = self.link(deadline).await?;
        match timeout_at(deadline, call(link.clone())).await {
            Ok(Ok(answer)) => Ok((link, answer)),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => {
                self.distrust(&link).await;
                Err(Failure::outage(format!("no answer within {} s", self.attempt.as_secs_f64())))
            }
        }
    }

    /// Calls until the node answered, or the client's patience is over.
    pub(super) async fn call<T, Fut>(&self, call: impl Fn(Api) -> Fut) -> Result<T, Error>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut outage = self.outage();
        loop {
            match self.once(&call).await {
                Ok((_, answer)) => return Ok(answer),
                Err(failure) => outage.wait(failure).await?,
            }
        }
    }

    /// Whether anybody answers at the other end of this very connection.
    pub(super) async fn answers(&self, link: &Link) -> Result<(), Failure> {
        let heartbeat = HeartbeatRequest { party_id: self.party.clone(), timestamp: 0 };
        let deadline = Instant::now() + self.attempt;
        let answer = timeout_at(deadline, api(link).heartbeat(self.request(heartbeat))).await;
        match answer.unwrap_or_else(|_| Err(Status::unavailable("no answer to a heartbeat"))) {
            Ok(_) => Ok(()),
            Err(status) => match Failure::from(status) {
                Failure::Final(Error::Refused(status)) if status.code() == Code::Unauthenticated => {
                    Err(Failure::Final(Error::Refused(status)))
                }
                // Not registered, or no party at all: it is an answer.
                Failure::Final(_) => Ok(()),
                outage @ Failure::Outage { .. } => {
                    self.distrust(link).await;
                    Err(outage)
                }
            },
        }
    }
}

fn api(link: &Link) -> Api {
    MessageRouterClient::with_origin(Strict(link.clone()), link.origin()).max_decoding_message_size(ANSWER_MAX)
}

/// A time in which the node is not reached.
#[derive(Debug)]
pub(super) struct Outage {
    began: Instant,
    /// `None`: it is waited out, however long it lasts.
    until: Option<Instant>,
    backoff: Backoff,
}

impl Outage {
    /// Waits before the next attempt; an error when there is to be none.
    pub(super) async fn wait(&mut self, failure: Failure) -> Result<(), Error> {
        let (why, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Outage { why, after } => (why, after),
        };
        // Without randomness: the full wait.
        let wait = self.backoff.next(getrandom::u64().unwrap_or(0)).max(after);
        let now = Instant::now();
        if self.until.is_some_and(|until| now + wait >= until) {
            return Err(Error::Unreachable { tried: now - self.began, why });
        }
        tracing::debug!(why, ?wait, "the node is not reached; trying again");
        sleep(wait).await;
        Ok(())
    }
}
