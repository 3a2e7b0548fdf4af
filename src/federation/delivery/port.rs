//! The words between a delivery machine and its driver: what the store hands
//! in at the start, what is reported ([`Input`]), what is to be done
//! ([`Action`]). Data only; every rule is in the machine.

use crate::federation::stream::Mark;
use std::time::{Duration, Instant};

/// What the peer is, as far as it has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    #[default]
    Unknown,
    /// A Harmony server that knows nothing of positions and states.
    Stock,
    /// A pillarbox.
    Ours,
}

/// What the store remembers of the stream to this peer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Saved {
    pub kind: Kind,
    /// Epoch of our stream to it, and the last row known to be applied there.
    pub settled: Mark,
    /// Number of the newest row that waits, 0 when none does.
    pub newest: u64,
    pub queued: bool,
    pub held: bool,
}

/// A state the peer told, and what we know of the row at its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub mark: Mark,
    /// Id of our row to this peer with that number, waiting or dead; `None`:
    /// there is none.
    pub id_here: Option<u64>,
}

/// Why a call to the peer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// May go well next time. The peer may ask for patience.
    Transient { retry_after: Option<Duration> },
    /// No retry cures it: unauthenticated, denied, unimplemented.
    Refused,
    /// Our own store could not take what the peer gave. Not the peer's fault.
    Local,
}

/// Names one answered Pull of the peer.
pub type Call = u64;

#[derive(Debug, Clone, Copy)]
pub enum Input {
    /// Rows were committed; this is the newest one's number.
    Stored {
        newest: u64,
    },
    /// Rows were dropped or expired; `newest` is what is left, 0: nothing.
    Dropped {
        newest: u64,
    },
    /// There was no row to push or to offer.
    Empty,
    /// The Push of this row was answered well, `heard` by a peer of ours.
    Pushed {
        number: u64,
        id: u64,
        heard: Option<Heard>,
    },
    /// The Push failed, or the session it had become.
    PushFailed(Failure),
    /// The Push cannot be a session and was not made; the next one is to be.
    NoSession,
    /// The Push became a session: batches go out while it lasts. `heard`: what
    /// the peer said when it opened.
    Opened {
        heard: Heard,
    },
    /// The peer's receipt for batches of the session, the last of which ended
    /// with this row.
    Receipt {
        number: u64,
        heard: Heard,
    },
    /// The session ended in good order with nothing in flight.
    Closed,
    /// A Forget or an epoch is on disk.
    Saved(Mark),
    /// The peer asks for what waits. `waiting`: rows wait for us there.
    PullAsked {
        call: Call,
        heard: Option<Heard>,
        waiting: bool,
    },
    /// The answer to `call` holds the rows through this one; `all`: no more
    /// waited when it was made.
    Offered {
        call: Call,
        number: u64,
        id: u64,
        all: bool,
    },
    /// The answer reached a stock peer.
    AnswerSettled {
        call: Call,
    },
    /// The answer may not have reached it.
    AnswerBroken {
        call: Call,
    },
    /// Our Pull was answered and its rows, if any, are applied and committed.
    Pulled {
        heard: Option<Heard>,
        rows: bool,
    },
    PullFailed(Failure),
    /// A Push of the peer was applied or refused.
    PushTaken,
    /// What `Key` says the peer is.
    Learnt(Kind),
    Hold(bool),
    /// The operator wants a Pull now and, with `push`, Queued to end.
    RetryNow {
        push: bool,
    },
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send the first row after this mark; report `Pushed`, `PushFailed`, or
    /// `Empty` if there is none. Or open a session and report `Opened`.
    Push { after: Mark },
    /// Send batches in the session, the first one after this mark, and those
    /// of rows that are stored meanwhile; report each `Receipt`, and `Closed` or
    /// `PushFailed` when it has ended.
    Deliver { after: Mark },
    /// Send no further batch; report the receipts that are due, then `Closed`.
    EndSession,
    /// The session is void: let go of it and report nothing more of it.
    DropSession,
    /// Pull the peer; `waiting`: say that rows wait for it. Report `Pulled` or
    /// `PullFailed`.
    Pull { waiting: bool },
    /// Answer the Pull with rows after the mark, then report `Offered`, or
    /// `Empty` if there is none; `None`: answer empty, nothing to report.
    Answer { call: Call, after: Option<Mark> },
    /// Delete the rows up to the mark and save it; report `Saved`.
    Forget { through: Mark },
    /// Save the mark, delete nothing; report `Saved`. A new epoch must be on
    /// disk before a row leaves under it.
    Save { mark: Mark, because: Because },
    /// Save whether the peer is Queued; nothing to report.
    SaveQueued(bool),
}

/// Why a stream's mark was set other than by delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The peer lost rows it had applied: those after `from`, through
    /// `through`, are a hole there.
    PeerRestored { from: u64, through: u64 },
    /// The peer knows rows we do not: *we* came from a backup.
    WeWereRestored,
}

/// What becomes of a Push that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    Apply,
    /// After the Pull that is under way.
    Wait,
    /// One waits already.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Live,
    Retrying { failed: u32, at: Instant },
    Queued,
}
