//! Notifications by webhook: phone number and push token of a party, posted to
//! the operator's address and signed as Standard Webhooks are.
//!
//! The body says that something waits, never what.

use super::{Failure, Notice, rule::Kind};
use crate::{
    net::{
        dial::Dialer,
        post::{Answer, PostUrl, post},
    },
    types::unix_seconds,
};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ring::hmac;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

/// Bytes of a secret, as the specification has it.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Padding may be there or not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads `whsec_` and base64.
pub fn key(secret: &str) -> Result<hmac::Key, &'static str> {
    let encoded = secret.strip_prefix("whsec_").ok_or("does not begin with whsec_")?;
    let bytes = LENIENT.decode(encoded).map_err(|_| "what follows whsec_ is not base64")?;
    if !KEY_BYTES.contains(&bytes.len()) {
        return Err("what follows whsec_ is the base64 of 24 to 64 bytes");
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// Posts notifications.
pub struct Webhook {
    url: PostUrl,
    key: hmac::Key,
    dialer: Dialer,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    party_id: &'a str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    push_token: Option<&'a str>,
}

impl Webhook {
    pub fn new(url: PostUrl, key: hmac::Key, dialer: Dialer) -> Self {
        Self { url, key, dialer }
    }

    /// The same `webhook-id` at every attempt: the receiver can tell a repeat.
    pub async fn send(
        &self,
        phone: Option<&str>,
        push_token: Option<&str>,
        notice: &Notice<'_>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let body = body(phone, push_token, notice).map_err(|cause| Failure::last(cause.to_string()))?;
        let headers = self.headers(notice.id, unix_seconds(), &body);
        let answer = post(&self.dialer, &self.url, headers, body.into(), deadline).await;
        judge(answer.map_err(|error| Failure::transient(error.to_string()))?)
    }

    fn headers(&self, id: &str, timestamp: u64, body: &str) -> HeaderMap {
        let signed = hmac::sign(&self.key, format!("{id}.{timestamp}.{body}").as_bytes());
        let value = |text: String| HeaderValue::try_from(text).expect("letters, digits and base64 are a header");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("webhook-id", value(id.to_owned()));
        headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
        headers.insert("webhook-signature", value(format!("v1,{}", STANDARD.encode(signed))));
        headers
    }
}

fn body(phone: Option<&str>, push_token: Option<&str>, notice: &Notice<'_>) -> Result<String, serde_json::Error> {
    let since = UNIX_EPOCH + Duration::from_millis(notice.since.0.max(0).cast_unsigned());
    serde_json::to_string(&Body {
        r#type: match notice.kind {
            Kind::Message => "mpc.message_waiting",
            Kind::Event => "mpc.session_event",
        },
        timestamp: humantime::format_rfc3339_millis(since).to_string(),
        data: Data { party_id: notice.party, session_id: notice.session, phone, push_token },
    })
}

/// 2xx took it; 408, 429 and 5xx may take it later; anything else never will.
fn judge(answer: Answer) -> Result<(), Failure> {
    let Answer { status, retry_after } = answer;
    let cause = format!("the webhook answered {}", status.as_u16());
    match status {
        _ if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(Failure::later(cause, retry_after)),
        _ if status.is_server_error() => Err(Failure::later(cause, retry_after)),
        _ => Err(Failure::last(cause)),
    }
}

#[cfg(test)]
mod tests;
