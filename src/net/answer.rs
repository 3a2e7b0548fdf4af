//! One request's answer on its way out: when its bytes were written whole.
//!
//! The HTTP library says nothing of that: it takes a body's pieces long before
//! flow control lets them go, and drops them unsaid when the stream is reset.
//! So each piece of a watched answer tells when it is let go of, and the
//! connection when what was let go of reached the system.

use crate::net::{connection::Connection, limits::Permit};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::watch;
use tonic::{Status, body::Body};

/// How far an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Progress {
    Pending,
    /// The system took every byte of its body for this connection. What became
    /// of them then, [`Connection::ended`] tells.
    Written,
    /// It will not be written whole, or it cannot be told: the connection
    /// broke, the body failed, or a stream of this connection was reset
    /// meanwhile.
    Lost,
}

/// A request carries it in its extensions. Clones are of one answer.
#[derive(Debug, Clone)]
pub struct Answer(Arc<State>);

#[derive(Debug)]
pub(super) struct State {
    connection: Arc<Connection>,
    resets_before: u64,
    /// Made when somebody asks.
    progress: OnceLock<watch::Sender<Progress>>,
    /// Pieces the HTTP library holds, and one for the body until its end.
    held: AtomicUsize,
}

impl Answer {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let resets_before = connection.resets();
        Self(Arc::new(State { connection, resets_before, progress: OnceLock::new(), held: AtomicUsize::new(1) }))
    }

    /// Ask before the handler returns: an answer nobody had asked about by
    /// then stays [`Progress::Pending`].
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.get_or_init(|| watch::Sender::new(Progress::Pending)).subscribe()
    }

    /// A stream of this connection was reset since the request began, maybe
    /// this one: then not even a written answer is sure to have been taken.
    pub fn doubtful(&self) -> bool {
        self.0.connection.resets() != self.0.resets_before
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.0.connection
    }
}

impl State {
    pub(super) fn lost(&self) {
        self.becomes(Progress::Lost);
    }

    /// `resets`: of the connection, now.
    pub(super) fn flushed(&self, resets: u64) {
        self.becomes(if resets == self.resets_before { Progress::Written } else { Progress::Lost });
    }

    fn becomes(&self, progress: Progress) {
        if let Some(sender) = self.progress.get() {
            sender.send_if_modified(|now| {
                let first = *now == Progress::Pending;
                if first {
                    *now = progress;
                }
                first
            });
        }
    }

    fn release(self: &Arc<Self>) {
        if self.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.connection.await_flush(self.clone());
        }
    }
}

/// A piece of the body; dropped by the HTTP library when it was written or
/// thrown away.
struct Piece {
    bytes: Bytes,
    watched: Option<Arc<State>>,
    _place: Option<Arc<Permit>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(state) = &self.watched {
            state.release();
        }
    }
}

/// A piece up to this size may leave its request's place before it is written.
const SMALL: usize = 4096;

/// A response's body: holds the request's place in the limits until it is
/// written, and tells of its pieces when somebody watches.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Body,
    watched: Option<Arc<State>>,
    place: Option<Arc<Permit>>,
}

impl Outgoing {
    pub(super) fn new(body: Body, answer: Option<Answer>, place: Option<Permit>) -> Self {
        let mut watched = answer.map(|answer| answer.0).filter(|state| state.progress.get().is_some());
        if body.is_end_stream()
            && let Some(state) = watched.take()
        {
            state.release();
        }
        Self { body, watched, place: place.map(Arc::new) }
    }

    fn piece(&self, bytes: Bytes) -> Bytes {
        if self.watched.is_none() && bytes.len() <= SMALL {
            return bytes;
        }
        if let Some(state) = &self.watched {
            state.held.fetch_add(1, Ordering::AcqRel);
        }
        Bytes::from_owner(Piece { bytes, watched: self.watched.clone(), _place: self.place.clone() })
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.is_data() => Some(Ok(frame.map_data(|bytes| self.piece(bytes)))),
            Some(Err(status)) => {
                if let Some(state) = self.watched.take() {
                    state.lost();
                }
                Some(Err(status))
            }
            // Trailers or nothing: the end.
            end => {
                if let Some(state) = self.watched.take() {
                    state.release();
                }
                end
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // A watched body is asked on until its end was seen.
        self.watched.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(state) = self.watched.take() {
            // HTTP/1.1 stops asking when the stated length is reached.
            if self.body.is_end_stream() || self.body.size_hint().exact() == Some(0) {
                state.release();
            } else {
                state.lost();
            }
        }
    }
}
