//! The way from a command to the running node: gRPC over the Unix socket
//! `DATA_DIR/admin.sock`.
//!
//! Turns what goes wrong on it into one line.

use super::Failure;
use crate::admin::client;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{future::Future, io, path::Path, time::Duration};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

pub use crate::admin::client::{Client as Admin, Sessions};

/// The longest a command's call may take; the node itself gives a peer 30 s.
const CALL: Duration = Duration::from_secs(60);

/// How often a stream that has nothing to print looks whether anybody reads.
const READER_LOOKED_AT: Duration = Duration::from_secs(1);

/// Connects to the node that runs on `data_dir`.
pub async fn connect(data_dir: &Path) -> Result<Admin, Failure> {
    let socket = data_dir.join("admin.sock");
    client::connect(&socket).await.map_err(|error| Failure::Failed(why_not(data_dir, &socket, &error)))
}

/// The same for the sessions of MPC parties.
pub async fn connect_sessions(data_dir: &Path) -> Result<Sessions, Failure> {
    let socket = data_dir.join("admin.sock");
    let failed = |error| Failure::Failed(why_not(data_dir, &socket, &error));
    client::connect_sessions(&socket).await.map_err(failed)
}

fn why_not(data_dir: &Path, socket: &Path, error: &io::Error) -> String {
    let (dir, socket) = (data_dir.display(), socket.display());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no node is running on {dir} (nobody answers at {socket})\n  \
             start one:         pillarbox serve --data-dir {dir}\n  \
             or mean another:   pillarbox --data-dir DIR …"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{socket} belongs to another user; run this command as the user that runs the node")
        }
        io::ErrorKind::TimedOut => {
            format!("the node on {dir} does not answer at {socket}; look at its log, or start it again")
        }
        _ => format!("cannot connect to {socket}: {error}"),
    }
}

/// Waits for the answer to one call.
pub async fn call<T>(pending: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Failure> {
    match timeout(CALL, pending).await {
        Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| Failure::Failed(line(&status))),
        Err(_) => Err(Failure::Failed(format!("the node gave no answer within {} s; look at its log", CALL.as_secs()))),
    }
}

/// The next of a list that has an end; None at the end.
pub async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
    match timeout(CALL, stream.message()).await {
        Ok(message) => message.map_err(|status| Failure::Failed(line(&status))),
        Err(_) => {
            Err(Failure::Failed(format!("the node went silent for {} s in the middle of a list", CALL.as_secs())))
        }
    }
}

/// The next of a stream that goes on until one side ends it; also ends when
/// nobody reads what is printed any more: `pillarbox … --watch | head`.
pub async fn next_live<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
    loop {
        if let Ok(message) = timeout(READER_LOOKED_AT, stream.message()).await {
            return message.map_err(|status| Failure::Failed(line(&status)));
        }
        if is_reader_gone() {
            return Err(Failure::ReaderGone);
        }
    }
}

/// Whether stdout is a pipe or terminal whose other end is closed.
fn is_reader_gone() -> bool {
    let stdout = io::stdout();
    let mut stdout = [PollFd::new(&stdout, PollFlags::empty())];
    let closed = PollFlags::ERR | PollFlags::HUP;
    poll(&mut stdout, Some(&Timespec::default())).is_ok() && stdout[0].revents().intersects(closed)
}

/// A status as one line: what the node said, what helps, and the code.
fn line(status: &Status) -> String {
    // Made here, not by the node: its source is the broken connection.
    if std::error::Error::source(status).is_some() {
        return "the connection to the node broke: it was stopped, or it crashed; its log says more".to_owned();
    }
    let mut text: String = status.message().split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        status.code().description().clone_into(&mut text);
    }
    if let Some(oldest) = status.metadata().get("x-oldest-cursor").and_then(|value| value.to_str().ok()) {
        text.push_str(&format!("; the oldest cursor is {oldest}"));
    }
    if let Some(after) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        text.push_str(&format!("; try again in {}", humantime::format_duration(after)));
    }
    if status.code() == Code::Unimplemented {
        text.push_str("; is the running node of an older version than this command?");
    }
    format!("{text} ({})", name(status.code()))
}

/// The name of a code as the gRPC documents write it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests;
