//! The push log: what is to be told to users' gateways, in the order of the
//! commits.
//!
//! Owns the table of `0007_push.sql` and the log's columns in the node's row.
//! What may be changed is [`Change`]; cursors are given by the writer, which
//! alone knows whether the log is open. Payloads are bytes.

mod batch;
mod change;
mod log;
mod sessions;

pub use change::{Change, NewEvent, Whose};
pub use log::{Bounds, Head, Row, What};

pub(super) use batch::Batch;
pub(super) use log::{apply, end_of};

/// Where the log stands, as of the last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Log {
    /// The cursor that is given next.
    pub(super) next: u64,
    /// Events stored so far.
    pub(super) total: u64,
    pub(super) open: bool,
}

impl Log {
    /// As readers are told of it.
    pub(super) fn head(self) -> Head {
        Head { newest: self.next - 1, open: self.open }
    }
}

#[cfg(test)]
mod tests;
