//! A stream of answers that is worked on by a task of its own.
//!
//! An answer's stream is polled only while its client reads. One that read rows
//! by itself would keep what it was just given, a reader of the database or its
//! turn at the writer, for as long as a client likes not to read. So a task does
//! the work, and the client's side takes from a short queue. Owns that queue;
//! never knows what is in it.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt};
use tokio_util::task::TaskTracker;
use tonic::Status;

/// Items that wait for the client.
const QUEUE: usize = 8;

/// The room something large takes until its client has read it.
pub type Room = Arc<OwnedSemaphorePermit>;

/// An answer, and the room it takes.
#[derive(Debug)]
pub struct Held<T> {
    pub answer: T,
    pub room: Option<Room>,
}

impl<T> From<T> for Held<T> {
    fn from(answer: T) -> Self {
        Self { answer, room: None }
    }
}

type Item<T> = Result<Held<T>, Status>;

/// How long a client may leave what waits for it unread, and what it is told
/// when it reads again. What waits then is not given out any more.
#[derive(Debug, Clone)]
pub struct Patience {
    pub lasts: Duration,
    pub over: Status,
}

/// The client's side; the task ends when it is dropped.
pub struct Feed<T> {
    queue: mpsc::Receiver<Box<Item<T>>>,
    /// Set when it was ended from outside: nothing that waits is given out then.
    ended: Arc<OnceLock<Status>>,
    /// Of the answer given last: asked for the next one, the client has read it.
    room: Option<Room>,
    over: bool,
}

impl<T: Send + 'static> Feed<T> {
    /// `end`: ends it whenever it is ready, with this status. `patience`: none,
    /// a client may take all the time there is.
    pub fn new(
        tasks: &TaskTracker,
        stream: impl Stream<Item = Item<T>> + Send + 'static,
        end: impl Future<Output = Status> + Send + 'static,
        patience: Option<Patience>,
    ) -> Self {
        let (door, queue) = mpsc::channel(QUEUE);
        let ended = Arc::new(OnceLock::new());
        let feed = Self { queue, ended: ended.clone(), room: None, over: false };
        tasks.spawn(async move {
            let work = async {
                let mut stream = std::pin::pin!(stream);
                while let Some(item) = stream.next().await {
                    let sent = door.send(Box::new(item));
                    match &patience {
                        None => drop(sent.await),
                        Some(patience) if timeout(patience.lasts, sent).await.is_err() => {
                            return Some(patience.over.clone());
                        }
                        Some(_) => {}
                    }
                }
                None
            };
            let over = tokio::select! {
                biased;
                status = end => Some(status),
                () = door.closed() => None,
                over = work => over,
            };
            if let Some(status) = over {
                // Nobody else sets it.
                let _ = ended.set(status);
            }
        });
        feed
    }
}

impl<T> Stream for Feed<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.room = None;
        let mut next = Poll::Pending;
        if self.ended.get().is_none() {
            next = self.queue.poll_recv(context);
        }
        if let Some(status) = self.ended.get().cloned() {
            self.over = true;
            self.queue.close();
            return Poll::Ready(Some(Err(status)));
        }
        next.map(|item| {
            let item = item.map(|item| *item);
            self.over = item.as_ref().is_none_or(Result::is_err);
            item.map(|item| {
                item.map(|held| {
                    self.room = held.room;
                    held.answer
                })
            })
        })
    }
}

#[cfg(test)]
mod tests;
