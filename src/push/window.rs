//! Where a gateway's stream begins, when it has fallen out of the window, and
//! when the log is closed.
//!
//! Pure: what the rows say and the time come in as arguments.

use crate::types::{Cursor, Millis};
use std::time::Duration;

/// That a gateway is there is noted so many times in a window.
const NOTES: u32 = 8;

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Behind this cursor.
    Resume(u64),
    /// With what is published from now on; a cursor that was given is of no use
    /// any more.
    Fresh(Option<Reset>),
}

/// Why a cursor is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// What came behind it is no longer kept.
    Expired,
    /// It was never given, or is none.
    Unknown,
}

impl Reset {
    /// As the caller is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }
}

fn read(text: &str) -> Option<u64> {
    text.parse().ok().map(|Cursor(cursor)| cursor)
}

/// The cursor that must be looked for in the log before [`start`] can tell.
/// `floor`: the lowest one that can be gone on from.
pub fn sought(text: &str, floor: u64) -> Option<u64> {
    read(text).filter(|cursor| *cursor > floor)
}

/// `found`: what was sought is an event of the log. An event behind the floor
/// is kept as long as the floor does not rise.
pub fn start(text: &str, floor: u64, found: bool) -> Start {
    match read(text) {
        None if text.is_empty() => Start::Fresh(None),
        None => Start::Fresh(Some(Reset::Unknown)),
        Some(cursor) if cursor < floor => Start::Fresh(Some(Reset::Expired)),
        Some(cursor) if cursor == floor || found => Start::Resume(cursor),
        Some(_) => Start::Fresh(Some(Reset::Unknown)),
    }
}

/// Something between the cursor and the rows that are kept is gone.
pub fn fell_out(cursor: u64, floor: u64) -> bool {
    cursor < floor
}

/// How often it is noted that a gateway is there, and looked whether none was
/// for long.
pub fn note_every(age: Duration) -> Duration {
    age / NOTES
}

/// It must be noted anew that a gateway is there.
pub fn is_note_due(seen_at: Millis, now: Millis, age: Duration) -> bool {
    seen_at.plus(note_every(age)) <= now || seen_at > now
}

/// No gateway was there for a window. A note may be late, so one is added.
///
/// `quiet`: for how long none was there, in this life of the node, whatever the
/// clock did meanwhile. The clock is asked only for what was before it:
/// `seen_before`, unless one was there since.
pub fn is_over(seen_before: Option<Millis>, now: Millis, quiet: Duration, age: Duration) -> bool {
    let long = age + note_every(age);
    quiet > long || seen_before.is_some_and(|at| at.plus(long) < now)
}

#[cfg(test)]
mod tests;
