//! One accepted connection: what became of it, and of the answers on it.
//!
//! An answer to a peer that cannot acknowledge counts as delivered only by how
//! its connection fared, so this file watches bytes, flushes, resets and the
//! end, below HTTP and above TLS. In doubt the end is [`End::Broken`]. Never
//! reads what the bytes say beyond the heads of HTTP/2 frames.

use crate::net::{answer, frames::Frames};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, Sleep, sleep, timeout_at},
};
use tokio_rustls::server::TlsStream;

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Open,
    /// The peer closed it in good order (its TLS close_notify, or its HTTP/2
    /// GOAWAY, or without TLS its FIN), and its system then acknowledged every
    /// byte of ours up to our own FIN without a reset. As a system resets a
    /// connection whose reader closed it with bytes unread or to come, the
    /// peer's program had read all of them.
    Good,
    /// As [`End::Good`], but over TLS with neither close_notify nor GOAWAY
    /// before the FIN (so do the gRPC C core and what is built on it when they
    /// close a channel). Who stands on the way could have forged it; but who
    /// does can as well keep a connection open that leads nowhere.
    Truncated,
    /// Anything else: a reset, a timeout, a cut, an end nobody watched.
    Broken,
}

/// A request carries `Arc<Connection>` in its extensions.
#[derive(Debug)]
pub struct Connection {
    remote: SocketAddr,
    id: u64,
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    flushed: AtomicU64,
    resets: AtomicU64,
    end: watch::Sender<End>,
    watched: AtomicBool,
    /// Answers whose bytes all left the HTTP library, and now wait for a flush.
    unflushed: Mutex<Vec<Arc<answer::State>>>,
    any_unflushed: AtomicBool,
    left: Mutex<Option<Left>>,
}

/// What the HTTP library let go of when it was done.
#[derive(Debug)]
struct Left {
    stream: Stream,
    seen: Seen,
}

impl Connection {
    pub(super) fn new(remote: SocketAddr, id: u64) -> Arc<Self> {
        Arc::new(Self {
            remote,
            id,
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            end: watch::Sender::new(End::Open),
            watched: AtomicBool::new(false),
            unflushed: Mutex::default(),
            any_unflushed: AtomicBool::new(false),
            left: Mutex::default(),
        })
    }

    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Unlike that of any other connection of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Requests begun on it so far, the refused ones too.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Bytes of HTTP (without TLS) read from the peer.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes of HTTP (without TLS) handed to TLS or the socket.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// [`Connection::bytes_written`] at the last time the system had taken all
    /// of them.
    pub fn bytes_flushed(&self) -> u64 {
        self.flushed.load(Relaxed)
    }

    /// HTTP/2 streams that either side reset with an error, CANCEL among them.
    /// If it grows after an answer was written, the peer may have given up on
    /// that very answer.
    pub fn resets(&self) -> u64 {
        self.resets.load(Relaxed)
    }

    /// Call it before the answer is given: the end of a connection that
    /// nobody watches is not looked into and counts as [`End::Broken`].
    pub fn ended(&self) -> watch::Receiver<End> {
        self.watched.store(true, Relaxed);
        self.end.subscribe()
    }

    pub(super) fn begin_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        *self.end.borrow() != End::Open
    }

    /// The answer's last byte left the HTTP library.
    pub(super) fn await_flush(&self, answer: Arc<answer::State>) {
        if self.is_over() {
            return answer.lost();
        }
        lock(&self.unflushed).push(answer);
        self.any_unflushed.store(true, Relaxed);
    }

    fn flushed(&self) {
        self.flushed.store(self.written.load(Relaxed), Relaxed);
        if self.any_unflushed.swap(false, Relaxed) {
            for answer in std::mem::take(&mut *lock(&self.unflushed)) {
                answer.flushed(self.resets());
            }
        }
    }

    /// The last word; only the first one counts.
    pub(super) fn finish(&self, end: End) {
        self.end.send_if_modified(|now| {
            let first = *now == End::Open;
            if first {
                *now = end;
            }
            first
        });
        for answer in std::mem::take(&mut *lock(&self.unflushed)) {
            answer.lost();
        }
    }

    /// After the HTTP library let go of the socket: finds out how it ended, in
    /// at most about twice `patience`, and closes it. Somebody must watch for
    /// that to be worth a wait.
    pub(super) async fn close(&self, patience: Duration) {
        let left = lock(&self.left).take();
        let end = match left {
            Some(left) if self.watched.load(Relaxed) => left.end(patience).await,
            _ => End::Broken,
        };
        self.finish(end);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Left {
    async fn end(mut self, patience: Duration) -> End {
        if self.seen.eof == Eof::None && !self.seen.failed {
            // We end it (the peer asked for that, or the node stops): say so and wait for the peer's end.
            if timeout_at(Instant::now() + patience, self.drain()).await.is_err() {
                return End::Broken;
            }
        }
        let end = match self.seen.eof {
            Eof::None => End::Broken,
            Eof::Clean => End::Good,
            Eof::Truncated if self.seen.client.goaway() => End::Good,
            Eof::Truncated => End::Truncated,
        };
        if end == End::Broken || self.seen.failed || !all_acknowledged(self.stream.into_tcp(), patience).await {
            return End::Broken;
        }
        end
    }

    async fn drain(&mut self) {
        let mut bytes = [0; 4096];
        self.seen.failed |= self.stream.shutdown().await.is_err();
        loop {
            let read = self.stream.read(&mut bytes).await;
            match self.seen.read(&read) {
                Some(piece) => self.seen.client.feed(&bytes[..piece]),
                None => return,
            }
        }
    }
}

/// After the peer's FIN: sends ours and waits until the peer's system has
/// acknowledged it and all before it. The system says ENOTCONN for the peer's
/// address once both directions are closed, and keeps the error if the peer
/// reset the connection or never answered (TCP_USER_TIMEOUT) instead.
async fn all_acknowledged(mut stream: TcpStream, patience: Duration) -> bool {
    if stream.shutdown().await.is_err_and(|cause| cause.kind() != io::ErrorKind::NotConnected) {
        return false;
    }
    let deadline = Instant::now() + patience;
    let mut step = Duration::from_millis(1);
    loop {
        // First the state, then the error: a reset sets the error first.
        let closed = stream.peer_addr().is_err_and(|cause| cause.kind() == io::ErrorKind::NotConnected);
        if !matches!(stream.take_error(), Ok(None)) {
            return false;
        }
        if closed {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // Nothing wakes a reader when the state changes after both FINs.
        sleep(step).await;
        step = (step * 2).min(Duration::from_millis(100));
    }
}

/// The accepted socket, with TLS or without.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn into_tcp(self) -> TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.into_inner().0,
        }
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $what:expr) => {
        match $stream {
            Stream::Plain($inner) => $what,
            Stream::Tls($inner) => $what,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut *self, inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eof {
    None,
    /// close_notify, or FIN without TLS.
    Clean,
    /// FIN under TLS without close_notify.
    Truncated,
}

#[derive(Debug)]
struct Seen {
    eof: Eof,
    failed: bool,
    client: Frames,
    server: Frames,
}

impl Seen {
    /// `Some`: how many bytes came. `None`: nothing more will.
    fn read(&mut self, result: &io::Result<usize>) -> Option<usize> {
        match result {
            Ok(0) => self.eof = Eof::Clean,
            Ok(piece) => return Some(*piece),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => self.eof = Eof::Truncated,
            Err(_) => self.failed = true,
        }
        None
    }
}

/// Between the HTTP library and the stream; tells the [`Connection`].
#[derive(Debug)]
pub(super) struct Tap {
    /// Taken only by `drop`.
    stream: Option<Stream>,
    seen: Option<Seen>,
    connection: Arc<Connection>,
    patience: Option<Pin<Box<Sleep>>>,
}

/// How long we wait at our own end of a watched connection for the peer's.
const PEER_FIRST: Duration = Duration::from_secs(1);

const TAKEN: &str = "only drop takes it";

impl Tap {
    pub(super) fn new(stream: Stream, connection: Arc<Connection>) -> Self {
        let seen = Seen { eof: Eof::None, failed: false, client: Frames::of_client(), server: Frames::of_server() };
        Self { stream: Some(stream), seen: Some(seen), connection, patience: None }
    }

    /// Reads and discards until the peer's end, an error, or [`PEER_FIRST`].
    fn poll_peer_closes(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut bytes);
            match self.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PEER_FIRST)));
                    return patience.as_mut().poll(cx);
                }
            }
        }
    }

    fn parts(&mut self) -> (Pin<&mut Stream>, &mut Seen, &Connection) {
        let stream = Pin::new(self.stream.as_mut().expect(TAKEN));
        (stream, self.seen.as_mut().expect(TAKEN), &self.connection)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let (Some(stream), Some(seen)) = (self.stream.take(), self.seen.take()) {
            *lock(&self.connection.left) = Some(Left { stream, seen });
        }
    }
}

/// Tells the connection of resets in what was just fed.
fn feed(frames: &mut Frames, bytes: &[u8], connection: &Connection) {
    let before = frames.resets();
    frames.feed(bytes);
    connection.resets.fetch_add(frames.resets() - before, Relaxed);
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (stream, seen, connection) = self.parts();
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = ready!(stream.poll_read(cx, buf));
        let result = result.map(|()| buf.filled().len() - before);
        if room > 0
            && let Some(piece) = seen.read(&result)
        {
            connection.read.fetch_add(piece as u64, Relaxed);
            feed(&mut seen.client, &buf.filled()[before..], connection);
        }
        Poll::Ready(result.map(drop))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (stream, seen, connection) = self.parts();
        let result = ready!(stream.poll_write_vectored(cx, slices));
        match &result {
            Ok(taken) => {
                connection.written.fetch_add(*taken as u64, Relaxed);
                if seen.client.is_http2() {
                    let mut left = *taken;
                    for slice in slices {
                        let piece = left.min(slice.len());
                        feed(&mut seen.server, &slice[..piece], connection);
                        left -= piece;
                    }
                }
            }
            Err(_) => seen.failed = true,
        }
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (stream, seen, connection) = self.parts();
        let result = ready!(stream.poll_flush(cx));
        match &result {
            Ok(()) => connection.flushed(),
            Err(_) => seen.failed = true,
        }
        Poll::Ready(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The peer may have closed altogether, or be about to: a close_notify
        // it never reads would be answered by a reset, which would look like a
        // loss. So where it matters the peer closes first, if it will soon.
        if self.seen.as_ref().is_some_and(|seen| seen.eof == Eof::None && !seen.failed)
            && self.connection.watched.load(Relaxed)
        {
            ready!(self.as_mut().poll_peer_closes(cx));
        }
        let (stream, seen, _) = self.parts();
        if seen.eof != Eof::None {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(stream.poll_shutdown(cx));
        seen.failed |= result.is_err();
        Poll::Ready(result)
    }
}
