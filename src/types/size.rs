//! How a size in bytes is written in the configuration: "1GiB", "64KiB",
//! "1000B". For `#[serde(with = "crate::types::size")]` on a [`ByteSize`].
//!
//! Written in the largest unit that loses nothing (the crate's own text rounds
//! to one decimal), so that a printed configuration reads back as it was.

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serializer};

const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

/// `size` without loss.
pub fn text(size: ByteSize) -> String {
    let bytes = size.as_u64();
    match UNITS.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

pub fn serialize<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*size))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    ByteSize::deserialize(deserializer)
}

#[cfg(test)]
mod tests;
