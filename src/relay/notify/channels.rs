//! What a party may register as the ways to reach it.
//!
//! Pure. Refuses, before a row is written, what could never be sent to and what
//! would say more than an address to the server it is sent by.

use lettre::Address;

/// As SMTP has it, in bytes.
const EMAIL_MAX: usize = 254;
const PHONE_MAX: usize = 256;
const PUSH_TOKEN_MAX: usize = 1_024;

/// An address alone: no name beside it, no list.
pub fn check_email(text: &str) -> Result<(), &'static str> {
    if text.len() > EMAIL_MAX {
        return Err("too long; an e-mail address has at most 254 bytes");
    }
    let printable = text.chars().all(|c| !c.is_control() && !c.is_whitespace());
    match printable && text.parse::<Address>().is_ok() {
        true => Ok(()),
        false => Err("not an e-mail address; it is name@domain"),
    }
}

pub fn check_phone(text: &str) -> Result<(), &'static str> {
    match text.len() <= PHONE_MAX && is_printable(text) {
        true => Ok(()),
        false => Err("it has at most 256 bytes, all printable"),
    }
}

pub fn check_push_token(text: &str) -> Result<(), &'static str> {
    match text.len() <= PUSH_TOKEN_MAX && is_printable(text) {
        true => Ok(()),
        false => Err("it has at most 1024 bytes, all printable"),
    }
}

/// Spaces are, line ends of any kind are not.
fn is_printable(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().all(|c| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}'))
}

#[cfg(test)]
mod tests;
