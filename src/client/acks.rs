//! Acknowledgements on their way to the node: a bounded queue and the task
//! that sends them, several at once.
//!
//! The task ends when the client and its streams are gone; what is queued then
//! gets the time of one attempt. What is lost of it the node sends again.

use super::{connection::Connection, error::Error};
use crate::proto::mpc::router::v1::AcknowledgeMessageRequest;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::sync::Arc;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::Code;

/// Acknowledgements that wait; a stream reads no further meanwhile.
const QUEUE: usize = 256;
/// Calls under way.
const AT_ONCE: usize = 16;

pub(super) enum Order {
    Acknowledge {
        message_id: String,
        session_id: String,
    },
    /// To be answered when all before it are done; with the last failure.
    Flush(oneshot::Sender<Result<(), Error>>),
}

pub(super) type Sender = mpsc::Sender<Order>;
pub(super) type Permit = mpsc::OwnedPermit<Order>;

/// Starts the task.
pub(super) fn start(connection: Arc<Connection>) -> Sender {
    let (sender, orders) = mpsc::channel(QUEUE);
    tokio::spawn(Acks { connection, under_way: FuturesUnordered::new(), failed: None }.run(orders));
    sender
}

struct Acks {
    connection: Arc<Connection>,
    under_way: FuturesUnordered<BoxFuture<'static, Result<(), Error>>>,
    /// Since the last flush.
    failed: Option<Error>,
}

impl Acks {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                Some(done) = self.under_way.next() => self.note(done),
                order = orders.recv(), if self.under_way.len() < AT_ONCE => match order {
                    Some(Order::Acknowledge { message_id, session_id }) => {
                        self.under_way.push(Box::pin(acknowledge(self.connection.clone(), message_id, session_id)));
                    }
                    Some(Order::Flush(answer)) => {
                        self.drain().await;
                        // Who asked may have gone.
                        let _ = answer.send(self.failed.take().map_or(Ok(()), Err));
                    }
                    None => break,
                },
            }
        }
        let last = self.connection.attempt();
        let _late = timeout(last, self.drain()).await;
    }

    async fn drain(&mut self) {
        while let Some(done) = self.under_way.next().await {
            self.note(done);
        }
    }

    fn note(&mut self, done: Result<(), Error>) {
        if let Err(error) = done {
            tracing::warn!(%error, "a message is not acknowledged; it comes again");
            self.failed = Some(error);
        }
    }
}

async fn acknowledge(connection: Arc<Connection>, message_id: String, session_id: String) -> Result<(), Error> {
    match finish(&connection, message_id, session_id, None).await {
        // It expired meanwhile: there is nothing left to acknowledge.
        Err(error) if error.code() == Some(Code::NotFound) => Ok(()),
        done => done,
    }
}

/// Says that the client's party is done with a message; `failed`: that it
/// cannot take it, and why.
pub(super) async fn finish(
    connection: &Connection,
    message_id: String,
    session_id: String,
    failed: Option<String>,
) -> Result<(), Error> {
    let request = AcknowledgeMessageRequest {
        message_id,
        session_id,
        party_id: connection.party().to_owned(),
        success: failed.is_none(),
        error_message: failed.unwrap_or_default(),
    };
    let call = |mut api: super::connection::Api| {
        let request = connection.request(request.clone());
        async move { api.acknowledge_message(request).await }
    };
    connection.call(call).await.map(drop)
}
