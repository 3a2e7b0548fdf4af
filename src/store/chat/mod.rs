//! The rows of chats: their users, what was said in its order, and what waits
//! for its place.
//!
//! Owns the tables of `0005_chat.sql` and `0008_telling.sql`. What may be changed is [`Change`]. There
//! is one op of a chat under way at a time, so that the changes of many ops can
//! be written kind by kind.

mod batch;
mod change;
mod messages;
mod topics;

pub use change::{Change, Entry, Member, Message, NewTopic, Post, Told};
pub use messages::Place;
pub use topics::{HeadRow, LinkRow, TopicRow};

pub(super) use batch::Batch;
pub(super) use messages::said;
pub(super) use topics::apply;

/// The key of a message: its chat and its revision.
fn key(topic: u64, revision: u64) -> i64 {
    (topic << 32 | revision.min(u64::from(u32::MAX))).cast_signed()
}

/// The revision in a key.
fn revision(key: i64) -> u64 {
    key.cast_unsigned() & u64::from(u32::MAX)
}

/// The chat in a key.
fn topic(key: i64) -> u64 {
    key.cast_unsigned() >> 32
}

#[cfg(test)]
mod tests;
