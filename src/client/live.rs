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
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};
use tonic::{Response, Status, Streaming};

pub(super) struct Live<T> {
    connection: Arc<Connection>,
    open: Option<Open<T>>,
    /// From the loss of a stream until the next one has proved itself.
    outage: Option<Outage>,
}

struct Open<T> {
    link: Link,
    stream: Streaming<T>,
    since: Instant,
    /// The last sign of life.
    heard: Instant,
}

/// What happened to a stream.
enum Happened<T> {
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
                Some(open) => match open.happened(&self.connection).await {
                    Happened::Came(item) => {
                        self.outage = None;
                        return Ok(item);
                    }
                    Happened::Alive => continue,
                    Happened::Lost(failure) => {
                        if open.since.elapsed() > self.connection.attempt() {
                            self.outage = None;
                        }
                        self.open = None;
                        failure
                    }
                },
                None => match self.connection.once(&subscribe).await {
                    Ok((link, stream)) => {
                        let now = Instant::now();
                        self.open = Some(Open { link, stream, since: now, heard: now });
                        continue;
                    }
                    Err(failure) => failure,
                },
            };
            self.outage.get_or_insert_with(|| self.connection.outage()).wait(failure).await?;
        }
    }
}

impl<T> Open<T> {
    /// The next item, or a sign of life when none came for a while. A broken
    /// link may never say so: the node is asked.
    async fn happened(&mut self, connection: &Connection) -> Happened<T> {
        let asked = async {
            sleep_until(self.heard + connection.attempt()).await;
            connection.answers(&self.link).await
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
