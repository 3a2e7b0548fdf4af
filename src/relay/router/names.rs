//! What a session or a party may be called: 1 to 256 bytes printable, without
//! spaces.

use super::Refusal;
use std::fmt::Display;

/// In bytes.
const NAME_MAX: usize = 256;

pub fn check_session(session: &str) -> Result<(), Refusal> {
    check_id("session_id", session)
}

/// The name of a party without its server; `field` is what the refusal names. An
/// '@' is refused: what follows it would pass for a server.
pub fn check_party(field: impl Display, name: &str) -> Result<(), Refusal> {
    check_id(&field, name)?;
    match name.contains('@') {
        true => Err(Refusal::Invalid(format!("{field}: the name has an '@'; a party is name or name@server:port"))),
        false => Ok(()),
    }
}

/// By the standard library's word: what it shows as it is.
fn is_printable(text: &str) -> bool {
    let quoted = text.chars().filter(|c| matches!(c, '"' | '\'' | '\\')).count();
    text.escape_debug().count() == text.chars().count() + quoted
}

/// What holds of every id that a caller gives.
pub fn check_id(field: impl Display, text: &str) -> Result<(), Refusal> {
    let why = if text.is_empty() {
        "is empty"
    } else if text.len() > NAME_MAX {
        "is too long"
    } else if text.chars().any(char::is_whitespace) || !is_printable(text) {
        "has a space or a character that is not printable"
    } else {
        return Ok(());
    };
    Err(Refusal::Invalid(format!("{field}: {why}; it has 1 to {NAME_MAX} bytes, printable, without spaces")))
}
