//! The token a homeserver's call carries (`harmonytypes.v1.Token` over
//! `sync.v1.AuthData`), and its way into and out of a header.
//!
//! Pure but for nothing: time and the header come in. Never logs a token; a
//! refusal names the reason, not the bytes.

use super::node_key::NodeKey;
use crate::{
    error::Error,
    proto::{
        pillarbox::federation::v1::Binding,
        protocol::{harmonytypes::v1::Token, sync::v1::AuthData},
    },
    types::{PublicKey, ServerId},
};
use base64::{
    Engine,
    alphabet::{STANDARD as STANDARD_ALPHABET, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

/// How far a token's time may lie from ours, in seconds (the contract
/// recommends a minute).
pub const TIME_WINDOW: u64 = 60;
/// No honest token comes near this, in bytes of header value.
const HEADER_MAX: usize = 4096;
const NONCE_LENGTH: usize = 16;

/// What makes a token one of its kind.
pub type Nonce = [u8; NONCE_LENGTH];

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD_ALPHABET, LENIENT);
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// One request, as a token binds it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The gRPC path.
    pub method: &'a str,
    /// The serialized request message, without framing.
    pub body: &'a [u8],
}

/// Makes the header value for one attempt: padded base64 of the token, bound
/// to destination, method and body. `now`: Unix seconds.
pub fn mint(
    key: &NodeKey,
    own: &ServerId,
    destination: &ServerId,
    request: Request,
    now: u64,
) -> Result<String, Error> {
    Ok(mint_with(key, own, destination, request, now, fresh_nonce()?))
}

pub fn fresh_nonce() -> Result<Nonce, Error> {
    let mut nonce = [0; NONCE_LENGTH];
    getrandom::fill(&mut nonce).map_err(Error::internal)?;
    Ok(nonce)
}

/// The same with a nonce that the caller needs, too; it must be a fresh one.
pub fn mint_with(
    key: &NodeKey,
    own: &ServerId,
    destination: &ServerId,
    request: Request,
    now: u64,
    nonce: Nonce,
) -> String {
    let data = AuthData {
        server_id: own.to_string(),
        time: now,
        binding: Some(Binding {
            destination: destination.to_string(),
            method: request.method.to_owned(),
            body_sha256: Bytes::copy_from_slice(&Sha256::digest(request.body)),
            nonce: Bytes::copy_from_slice(&nonce),
        }),
    }
    .encode_to_vec();
    let sig = Bytes::copy_from_slice(&key.sign_token_data(&data));
    STANDARD.encode(Token { sig, data: data.into() }.encode_to_vec())
}

/// A token that was read; nothing of it is proven yet.
#[derive(Debug, Clone)]
pub struct Claim {
    pub server_id: ServerId,
    time: u64,
    binding: Option<Binding>,
    data: Bytes,
    sig: Bytes,
}

impl Claim {
    /// Reads an `authorization` header: padded or bare base64 or base64url, or
    /// hex, after an optional `Bearer ` or `Harmony `.
    pub fn from_text(header: &str) -> Result<Self, Error> {
        if header.len() > HEADER_MAX {
            return Err(unreadable("longer than 4096 bytes"));
        }
        let text = ["bearer ", "harmony "]
            .iter()
            .find_map(|scheme| {
                header.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme))?;
                header.get(scheme.len()..)
            })
            .unwrap_or(header)
            .trim();
        [BASE64.decode(text).ok(), BASE64URL.decode(text).ok(), decode_hex(text)]
            .into_iter()
            .flatten()
            .find_map(|bytes| Self::from_bytes(&bytes).ok())
            .ok_or_else(|| unreadable("neither base64 nor hex of a serialized Token with a 64-byte signature"))
    }

    /// Reads a serialized token (`authorization-bin`).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let token = Token::decode(bytes).map_err(|_| unreadable("not a serialized Token"))?;
        if token.sig.len() != 64 {
            return Err(unreadable("the signature does not have 64 bytes"));
        }
        let data = AuthData::decode(token.data.clone()).map_err(|_| unreadable("its data is not an AuthData"))?;
        // Some servers write their id as a URL.
        let id = data.server_id.strip_prefix("https://").or(data.server_id.strip_prefix("http://"));
        let server_id = id
            .unwrap_or(&data.server_id)
            .trim_end_matches('/')
            .parse()
            .map_err(|error| unreadable(&format!("AuthData.server_id: {error}")))?;
        Ok(Self { server_id, time: data.time, binding: data.binding, data: token.data, sig: token.sig })
    }

    /// The token's time is within the window around `now` (Unix seconds).
    pub fn check_time(&self, now: u64) -> Result<(), Error> {
        let apart = now.abs_diff(self.time);
        if apart > TIME_WINDOW {
            let side = if self.time > now { "ahead of" } else { "behind" };
            return Err(Error::Unauthenticated(format!(
                "the token's time is {apart} s {side} this server's clock; {TIME_WINDOW} s are allowed: set the clocks"
            )));
        }
        Ok(())
    }

    /// If the token is bound, it must be to this very request and to an id of
    /// ours; `is_ours` says which ids are. Plain tokens pass: the contract's
    /// own name neither.
    pub fn check_binding(&self, request: Request, is_ours: impl Fn(&str) -> bool) -> Result<(), Error> {
        let Some(binding) = &self.binding else { return Ok(()) };
        let wrong = |what: &str| Err(Error::Unauthenticated(format!("the token is bound to another {what}")));
        if !is_ours(&binding.destination) {
            return wrong("destination");
        }
        if binding.method != request.method {
            return wrong("method");
        }
        if binding.body_sha256[..] != Sha256::digest(request.body)[..] {
            return wrong("request body");
        }
        if binding.nonce.len() != NONCE_LENGTH {
            return Err(unreadable("its nonce does not have 16 bytes"));
        }
        Ok(())
    }

    /// The signature is over the data exactly as received.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify(&self.data, &self.sig)
    }

    /// What makes this token one of its kind; `None` for a plain one, of which
    /// two honest ones of one second are identical.
    pub fn nonce(&self) -> Option<&[u8]> {
        self.binding.as_ref().map(|binding| &binding.nonce[..])
    }

    pub fn is_bound(&self) -> bool {
        self.binding.is_some()
    }

    /// The id of ours the token was made for.
    pub fn destination(&self) -> Option<&str> {
        self.binding.as_ref().map(|binding| binding.destination.as_str())
    }
}

fn unreadable(why: &str) -> Error {
    Error::Unauthenticated(format!("authorization: unreadable token: {why}"))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests;
