//! Names of parties as callers write them: `name`, or `name@domain:port` of
//! another server.
//!
//! Pure. The short and the qualified name of a party of this node are the same
//! party.

use super::router::{check_id, check_party};
use crate::{error::Error, types::ServerId};

/// A name as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    pub name: String,
    /// `None`: of this node.
    pub server: Option<ServerId>,
}

/// Reads the name in `field`; `is_own` tells the ids of this node.
pub fn parse(field: &str, text: &str, is_own: impl Fn(&ServerId) -> bool) -> Result<Name, Error> {
    let Some((name, server)) = text.rsplit_once('@') else {
        check_id(field, text)?;
        return Ok(Name { name: text.to_owned(), server: None });
    };
    // The server is not counted: who has a name here has it everywhere.
    check_party(field, name)?;
    let server: ServerId = server.parse().map_err(|error| Error::invalid(format!("{field}: {error}")))?;
    Ok(Name { name: name.to_owned(), server: Some(server).filter(|server| !is_own(server)) })
}

/// A name as it is shown: qualified when it belongs to another server.
pub fn show(name: &str, server: Option<&ServerId>) -> String {
    server.map_or_else(|| name.to_owned(), |server| format!("{name}@{server}"))
}

#[cfg(test)]
mod tests;
