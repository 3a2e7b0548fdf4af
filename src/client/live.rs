//! A server stream that outlives its connection: subscribed again, with
//! backoff, until the node gives a refusal or the patience is over.
//!
//! Has no task and no queue: it reads when it is polled, and what the node
//! sends ahead waits in the window of its connection. Knows no message.

use super::{
    connection::{Api, Connection, Outage},
    error::{Error, Failure},
};
use crate::net::link::Link;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};
use tonic::{Response, Status, Streaming};

pub(super) struct Live<T> {
    connection: Arc<Connection>,
    open: Option<Open<T>>,
    /// From the loss of a stream until the next one has proved itself.
    outage: Option<Outage>,
}

/// A stream while its connection lasts.
pub(super) struct Open<T> {
    link: Link,
    stream: Streaming<T>,
    since: Instant,
    /// The last sign of life.
    heard: Instant,
}

/// What happened to a stream.
pub(super) enum Happened<T> {
    Came(T),
    Alive,
    Lost(Failure),
}

impl<T> Live<T> {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, open: None, outage: None }
    }

    /// The next item. `subscribe` opens the stream, at first and whenever it
    /// was lost; an error is the end.
    pub(super) async fn next<Fut>(&mut self, subscribe: impl Fn(Api) -> Fut) -> Result<T, Error>
    where
        Fut: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        loop {
            let failure = match &mut self.open {
                Some(open) => {
                    match open.happened(self.connection.attempt(), |link| answers(&self.connection, link)).await {
                        Happened::Came(item) => {
                            self.outage = None;
                            return Ok(item);
                        }
                        Happened::Alive => continue,
                        Happened::Lost(failure) => {
                            if open.lasted(self.connection.attempt()) {
                                self.outage = None;
                            }
                            self.open = None;
                            failure
                        }
                    }
                }
                None => match self.connection.once(&subscribe).await {
                    Ok((link, stream)) => {
                        self.open = Some(Open::new(link, stream));
                        continue;
                    }
                    Err(failure) => failure,
                },
            };
            self.outage.get_or_insert_with(|| self.connection.outage()).wait(failure).await?;
        }
    }
}

async fn answers(connection: &Connection, link: Link) -> Result<(), Failure> {
    connection.answers(&link).await
}

impl<T> Open<T> {
    pub(super) fn new(link: Link, stream: Streaming<T>) -> Self {
        let now = Instant::now();
        Self { link, stream, since: now, heard: now }
    }

    /// It proved itself: losing it begins a new outage.
    pub(super) fn lasted(&self, long: Duration) -> bool {
        self.since.elapsed() > long
    }

    /// The next item, or a sign of life when none came for `quiet`. A broken
    /// link may never say so: it is asked whether anybody `answers`.
    pub(super) async fn happened<Fut>(&mut self, quiet: Duration, answers: impl FnOnce(Link) -> Fut) -> Happened<T>
    where
        Fut: Future<Output = Result<(), Failure>>,
    {
        let asked = async {
            sleep_until(self.heard + quiet).await;
            answers(self.link.clone()).await
        };
        let happened = tokio::select! {
            biased;
            item = self.stream.message() => match item {
                Ok(Some(item)) => Happened::Came(item),
                Ok(None) => Happened::Lost(Failure::outage("the stream ended")),
                Err(status) => Happened::Lost(status.into()),
            },
            answered = asked => match answered {
                Ok(()) => Happened::Alive,
                Err(failure) => Happened::Lost(failure),
            },
        };
        self.heard = Instant::now();
        happened
    }
}
