//! The push channel from Rust: a gateway's feed of events, subscribed again
//! after each outage, and the question whose token a client has.
//!
//! Says when the feed begins anew, so that nobody takes a gap for silence.
//! Has no task and no queue: it reads when it is polled. Never keeps a cursor
//! on disk; whoever hands the events on does.

use super::{
    connection::{Connection, Outage},
    error::{Error, Failure},
    live::{Happened, Open},
    options::Options,
};
use crate::{
    net::{grpc::Strict, link::Link},
    proto::{
        galaxy::backend::push::v1::{GatewaySubscribeRequest, PushEvent, push_client::PushClient},
        pillarbox::push::v1::{CheckRequest, CheckResponse, sessions_client::SessionsClient},
    },
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// In the answer to a subscription: the cursor led nowhere.
const RESET: &str = "x-cursor-reset";
/// A payload of 64 KiB and what is around it, with room for other backends.
const ANSWER_MAX: usize = 5 << 20;

/// A backend, as seen by one of its gateways. Cheap to clone; clones share one
/// connection.
#[derive(Debug, Clone)]
pub struct Push {
    connection: Arc<Connection>,
}

/// What became of a feed.
#[derive(Debug)]
pub enum Fed {
    /// Subscribed. `gapless`: right after the cursor that was asked for;
    /// otherwise from now on, and what came since that cursor is not known.
    Subscribed { gapless: bool },
    /// The next event; it counts as handed on when the next one is asked for.
    Event(PushEvent),
    /// The backend keeps no more what comes after the cursor: this gateway was too
    /// slow. The next call subscribes from now on.
    Overrun(String),
    /// The backend is not reached, or broke off; the next call tries again.
    Away(String),
}

impl Push {
    /// `options`: made with the gateway's id for a party. Nothing is dialled
    /// yet; the patience has no meaning here.
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self { connection: Arc::new(Connection::new(options.patience(Duration::MAX))?) })
    }

    /// The id this gateway subscribes under.
    pub fn gateway(&self) -> &str {
        self.connection.party()
    }

    /// The events after `cursor`; empty: from now on.
    pub fn feed(&self, cursor: &str) -> Feed {
        let connection = self.connection.clone();
        Feed { connection, cursor: cursor.to_owned(), open: None, outage: None, failed: None }
    }

    /// Whose token this is. [`Code::Unauthenticated`]: nobody's. One attempt:
    /// the client that waits can come again.
    pub async fn check(&self, token: &str, user_agent: &str) -> Result<CheckResponse, Error> {
        let request =
            self.connection.request(CheckRequest { token: token.to_owned(), user_agent: user_agent.to_owned() });
        let call = |link: Link| async move {
            SessionsClient::with_origin(Strict(link.clone()), link.origin()).check(request).await
        };
        let began = Instant::now();
        match self.connection.over(call).await {
            Ok((_, answer)) => Ok(answer.into_inner()),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Outage { why, .. }) => Err(Error::Unreachable { tried: began.elapsed(), why }),
        }
    }
}

/// The events of a backend, over any number of connections; made by
/// [`Push::feed`].
pub struct Feed {
    connection: Arc<Connection>,
    /// Of the event given last.
    cursor: String,
    open: Option<Open<PushEvent>>,
    /// From the loss of a stream until the next one has proved itself.
    outage: Option<Outage>,
    /// To be waited for before the next attempt.
    failed: Option<Failure>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("cursor", &self.cursor).field("open", &self.open.is_some()).finish()
    }
}

impl Feed {
    /// What happens next. An error is the end: the backend refuses, and would
    /// refuse again. [`Code::Aborted`]: another gateway subscribed under this
    /// id. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Fed, Error> {
        loop {
            if let Some(open) = &mut self.open {
                let quiet = self.connection.attempt();
                match open.happened(quiet, |link| answers(&self.connection, link)).await {
                    Happened::Came(event) => {
                        self.outage = None;
                        if !event.cursor.is_empty() {
                            self.cursor.clone_from(&event.cursor);
                        }
                        return Ok(Fed::Event(event));
                    }
                    Happened::Alive => continue,
                    Happened::Lost(failure) => {
                        if open.lasted(quiet) {
                            self.outage = None;
                        }
                        self.open = None;
                        return self.away(failure);
                    }
                }
            }
            if let Some(Failure::Outage { why, after }) = &self.failed {
                let failure = Failure::Outage { why: why.clone(), after: *after };
                self.outage.get_or_insert_with(|| self.connection.outage()).wait(failure).await?;
                self.failed = None;
            }
            return match self.subscribe().await {
                Ok(gapless) => Ok(Fed::Subscribed { gapless }),
                Err(failure) => self.away(failure),
            };
        }
    }

    /// Subscribes again after `cursor`, whatever was read.
    pub fn restart(&mut self, cursor: &str) {
        cursor.clone_into(&mut self.cursor);
        self.open = None;
    }

    fn away(&mut self, failure: Failure) -> Result<Fed, Error> {
        let overrun = failure.code() == Some(Code::OutOfRange);
        match passing(failure) {
            Failure::Final(error) => Err(error),
            Failure::Outage { why, after } => {
                self.failed = Some(Failure::Outage { why: why.clone(), after });
                Ok(if overrun { Fed::Overrun(why) } else { Fed::Away(why) })
            }
        }
    }

    async fn subscribe(&mut self) -> Result<bool, Failure> {
        let request = self.connection.request(GatewaySubscribeRequest {
            gateway_client_id: self.connection.party().to_owned(),
            cursor: self.cursor.clone(),
        });
        let call = |link: Link| async move {
            let mut api = PushClient::with_origin(Strict(link.clone()), link.origin());
            api = api.max_decoding_message_size(ANSWER_MAX);
            api.subscribe_push(request).await
        };
        let (link, answer) = self.connection.over(call).await?;
        let gapless = !self.cursor.is_empty() && !answer.metadata().contains_key(RESET);
        self.open = Some(Open::new(link, answer.into_inner()));
        Ok(gapless)
    }
}

/// A gateway outlives more than a caller: only what the operator must change
/// is the end.
fn passing(failure: Failure) -> Failure {
    match failure {
        Failure::Final(Error::Refused(status)) if !is_final(status.code()) => {
            Failure::outage(format!("{:?}: {}", status.code(), status.message()))
        }
        other => other,
    }
}

fn is_final(code: Code) -> bool {
    use Code::{Aborted, FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated, Unimplemented};
    matches!(code, Aborted | FailedPrecondition | InvalidArgument | PermissionDenied | Unauthenticated | Unimplemented)
}

/// Whether anybody answers at the other end of this very connection; whatever
/// it says is an answer.
async fn answers(connection: &Connection, link: Link) -> Result<(), Failure> {
    let mut api = HealthClient::with_origin(Strict(link.clone()), link.origin());
    let asked = api.check(connection.request(HealthCheckRequest::default()));
    let answer = timeout_at(Instant::now() + connection.attempt(), asked).await;
    match answer.unwrap_or_else(|_| Err(Status::unavailable("no answer to a health check"))) {
        Ok(_) => Ok(()),
        Err(status) => match Failure::from(status) {
            Failure::Final(_) => Ok(()),
            outage @ Failure::Outage { .. } => {
                connection.distrust(&link).await;
                Err(outage)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_operator_must_change_ends_a_feed() {
        let ends = |code| {
            let failure = Failure::from(Status::new(code, "no"));
            matches!(passing(failure), Failure::Final(_))
        };
        for code in [Code::Aborted, Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented] {
            assert!(ends(code), "{code:?}");
        }
        for code in [Code::Unavailable, Code::OutOfRange, Code::Internal, Code::Unknown, Code::ResourceExhausted] {
            assert!(!ends(code), "{code:?}");
        }
    }
}
