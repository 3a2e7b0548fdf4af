//! Events as large as they are wanted, and the moment each was sent at inside.

use crate::proto::protocol::sync::v1::{
    Event,
    event::{Kind, UserAddedToGuild, UserRejectedInvite},
};
use bytes::{BufMut, Bytes};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// Bytes of one event, unless others are asked for.
pub const EVENT: usize = 256;
/// The smallest message that has room for its stamp.
pub const SMALLEST: usize = 64;
/// A stamp: decimal microseconds.
const STAMP: usize = 20;

/// What the receiver does with an event.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A user was added to a guild: the log, and a row of the guild list at a
    /// random place in it.
    Added,
    /// A user rejected an invite: the log alone.
    Rejected,
}

/// An event of [`EVENT`] bytes: one of ten thousand users and a thousand
/// guilds. A field that nobody knows fills it up.
pub fn event(shape: Shape, number: u64) -> Bytes {
    event_of(shape, number, EVENT, &[])
}

/// The same of so many bytes (of at least [`SMALLEST`]), stamped now.
pub fn stamped_event(shape: Shape, number: u64, size: usize) -> Bytes {
    event_of(shape, number, size, stamp().as_bytes())
}

fn event_of(shape: Shape, number: u64, size: usize, end: &[u8]) -> Bytes {
    // Ids are random in life: neighbours in the queue are none in a list. No
    // pair comes twice, since 7919 and 10,000 share no factor.
    let user_id = (number * 7919 % 10_000 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let guild_id = number / 10_000 + 1;
    let kind = match shape {
        Shape::Added => Kind::UserAddedToGuild(UserAddedToGuild { user_id, guild_id }),
        Shape::Rejected => Kind::UserRejectedInvite(UserRejectedInvite { guild_id, user_id, invite_id: "i".into() }),
    };
    let mut body = Event { kind: Some(kind) }.encode_to_vec();
    encode_key(2000, WireType::LengthDelimited, &mut body);
    // The length takes one to three bytes itself.
    let left = size.saturating_sub(body.len());
    let rest = left.saturating_sub(if left <= 128 { 1 } else { 2 + usize::from(left > 16_385) }).max(end.len());
    encode_varint(rest as u64, &mut body);
    body.put_bytes(0x2a, rest - end.len());
    body.put_slice(end);
    body.into()
}

/// A text of so many bytes (of at least [`SMALLEST`]), stamped now.
pub fn stamped_text(size: usize) -> String {
    let mut text = "*".repeat(size.saturating_sub(STAMP));
    text.push_str(&stamp());
    text
}

fn since() -> Duration {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST.elapsed()
}

fn stamp() -> String {
    format!("{:020}", since().as_micros())
}

/// How long ago a message was stamped by this process; `None`: it is none of these.
pub fn age(message: &[u8]) -> Option<Duration> {
    let (_, end) = message.split_at_checked(message.len().checked_sub(STAMP)?)?;
    let micros = std::str::from_utf8(end).ok()?.parse().ok()?;
    Some(since().saturating_sub(Duration::from_micros(micros)))
}

#[cfg(test)]
mod tests;
