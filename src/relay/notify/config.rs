//! The section `[relay.notify]` of the configuration.
//!
//! Refuses what cannot work, without quoting a secret. Never reads a file,
//! never connects.

use super::{mail::Server, webhook};
use crate::{error::Error, net::post::PostUrl};
use lettre::message::Mailbox;
use ring::hmac;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// The section `[relay.notify]`. An empty address: that way is off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `smtps://user:password@host:465`, or `smtp://` for STARTTLS.
    pub smtp_url: Hidden,
    /// The sender's address.
    pub smtp_from: String,
    /// Where phone numbers and push tokens are posted to.
    pub webhook_url: Hidden,
    /// What the posts are signed with: `whsec_` and base64 of 24 to 64 bytes.
    pub webhook_secret: Hidden,
}

/// A text that holds a secret, or may: only [`Hidden::text`] tells it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    pub fn text(&self) -> &str {
        &self.0
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "(hidden)" }
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.shown(), f)
    }
}

/// For whoever prints the configuration; it does not read back.
impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl Config {
    /// The text begins with the key to change.
    pub fn check(&self) -> Result<(), Error> {
        self.mail()?;
        self.webhook().map(drop)
    }

    /// `None`: no e-mail is sent.
    pub(super) fn mail(&self) -> Result<Option<(Server, Mailbox)>, Error> {
        if self.smtp_url.text().is_empty() {
            return Ok(None);
        }
        let server = Server::parse(self.smtp_url.text()).map_err(|error| bad("smtp_url", &error.to_string()))?;
        if self.smtp_from.is_empty() {
            return Err(bad("smtp_from", "is empty; smtp_url needs the sender's address"));
        }
        let from = self.smtp_from.parse().map_err(|_| bad("smtp_from", "not an e-mail address"))?;
        Ok(Some((server, from)))
    }

    /// `None`: nothing is posted.
    pub(super) fn webhook(&self) -> Result<Option<(PostUrl, hmac::Key)>, Error> {
        if self.webhook_url.text().is_empty() {
            return Ok(None);
        }
        let url = self.webhook_url.text().parse().map_err(|error: Error| bad("webhook_url", &error.to_string()))?;
        if self.webhook_secret.text().is_empty() {
            return Err(bad("webhook_secret", "is empty; webhook_url needs a secret to sign with"));
        }
        let key = webhook::key(self.webhook_secret.text()).map_err(|why| bad("webhook_secret", why))?;
        Ok(Some((url, key)))
    }
}

fn bad(key: &str, why: &str) -> Error {
    Error::invalid(format!("relay.notify.{key}: {why}"))
}

#[cfg(test)]
mod tests;
