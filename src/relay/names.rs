//! Names of parties as callers write them: `name`, or `name@domain:port` of
//! another server.
//!
//! Pure. The short and the qualified name of a party of this node are the same
//! party.

use crate::{error::Error, types::ServerId};

/// Bytes of a party's name with its server, and of a session's id.
pub const NAME_MAX: usize = 256;

/// A name as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub name: String,
    /// `None`: of this node.
    pub server: Option<ServerId>,
}

/// Reads the name in `field`; `is_own` tells the ids of this node.
pub fn parse(field: &str, text: &str, is_own: impl Fn(&ServerId) -> bool) -> Result<Name, Error> {
    check(field, text)?;
    let Some((name, server)) = text.rsplit_once('@') else {
        return Ok(Name { name: text.to_owned(), server: None });
    };
    let server: ServerId = server.parse().map_err(|error| Error::invalid(format!("{field}: {error}")))?;
    if name.is_empty() {
        return Err(Error::invalid(format!("{field}: the name before the @ is missing")));
    }
    Ok(Name { name: name.to_owned(), server: Some(server).filter(|server| !is_own(server)) })
}

/// What holds of every id a caller gives: 1 to [`NAME_MAX`] bytes, printable.
pub fn check(field: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(Error::invalid(format!("{field}: {} bytes; it has 1 to {NAME_MAX}", text.len())));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Error::invalid(format!("{field}: it has a space or a control character")));
    }
    Ok(())
}

/// A name as it is shown: qualified when it belongs to another server.
pub fn show(name: &str, server: Option<&ServerId>) -> String {
    server.map_or_else(|| name.to_owned(), |server| format!("{name}@{server}"))
}

#[cfg(test)]
mod tests;
