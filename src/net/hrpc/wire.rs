//! The two envelopes of one message: bare (hRPC) and with a gRPC frame, and
//! the headers that belong to an envelope and not to the call.
//!
//! Every read is bounded by a limit in bytes. Never decodes a message.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::{
    convert::Infallible,
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tonic::Status;
use tower::BoxError;

pub const HRPC: HeaderValue = HeaderValue::from_static("application/hrpc");
pub const VERSION: HeaderName = HeaderName::from_static("hrpc-version");
pub const VERSION_1: HeaderValue = HeaderValue::from_static("1");

/// A gRPC frame's head: one byte "compressed", four bytes length, big-endian.
const HEAD: usize = 5;

/// Headers of one connection or one envelope, and those that would speak of
/// gRPC where there is none. All others are the call's own and are carried.
const OF_THE_ENVELOPE: [HeaderName; 17] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-encoding"),
    Status::GRPC_MESSAGE,
    Status::GRPC_STATUS,
    Status::GRPC_STATUS_DETAILS,
    VERSION,
];

/// The base64 of gRPC's binary metadata: padded or not.
const DETAILS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Leaves the headers that are the call's own.
pub fn strip(headers: &mut HeaderMap) {
    for name in &OF_THE_ENVELOPE {
        headers.remove(name);
    }
}

/// The media type alone, without parameters; empty when there is none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

pub fn is_hrpc(headers: &HeaderMap) -> bool {
    media_type(headers).eq_ignore_ascii_case("application/hrpc")
}

/// gRPC or gRPC-Web, whatever the codec.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let prefix = b"application/grpc";
    media_type(headers).as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether the body stands as it is, not compressed.
pub fn is_plain(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// The gRPC status among headers or trailers. tonic panics on details that are
/// not base64, so such are left out.
pub fn status_in(headers: &HeaderMap) -> Option<Status> {
    let details = headers.get(Status::GRPC_STATUS_DETAILS);
    if details.is_none_or(|details| DETAILS.decode(details).is_ok()) {
        return Status::from_header_map(headers);
    }
    let mut headers = headers.clone();
    headers.remove(Status::GRPC_STATUS_DETAILS);
    Status::from_header_map(&headers)
}

/// Why a body gave no message.
#[derive(Debug)]
pub enum Unread {
    /// Longer than the limit.
    TooLong,
    /// gRPC: a second message began.
    Many,
    /// gRPC: the frame says its message is compressed.
    Compressed,
    /// gRPC: the body ended within a frame.
    Cut,
    /// The transport, or the service behind the body, failed.
    Broken(Status),
}

/// Bytes of a body as they come in. A body of one chunk is not copied. Further
/// chunks are: kept as they are, a body sent in chunks of one byte would hold
/// forty times its size.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn push(&mut self, chunk: Bytes) {
        if self.bytes().is_empty() {
            self.first = chunk;
            return;
        }
        if self.all.is_empty() {
            self.all.put(std::mem::take(&mut self.first));
        }
        self.all.put(chunk);
    }

    fn bytes(&self) -> &[u8] {
        if self.all.is_empty() { &self.first } else { &self.all }
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// Reads a bare message of at most `limit` bytes. Trailers are dropped.
pub async fn read_bare<B>(body: B, limit: usize) -> Result<Bytes, Unread>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    if body.size_hint().lower() > limit as u64 {
        return Err(Unread::TooLong);
    }
    let mut gathered = Gathered::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unread::Broken(Status::from_error(error.into())))?;
        let Ok(chunk) = frame.into_data() else { continue };
        if chunk.len() > limit - gathered.bytes().len() {
            return Err(Unread::TooLong);
        }
        gathered.push(chunk);
    }
    Ok(gathered.finish())
}

/// Reads a gRPC body of at most one message: the message without its frame,
/// and the trailers. Says [`Unread::Many`] as soon as a second one begins.
pub async fn read_framed<B>(body: B) -> Result<(Option<Bytes>, HeaderMap), Unread>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut gathered = Gathered::default();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| Unread::Broken(Status::from_error(error.into())))?.into_data() {
            Ok(chunk) => {
                gathered.push(chunk);
                whole(gathered.bytes())?;
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    match (gathered.bytes().is_empty(), whole(gathered.bytes())?) {
        (true, _) => Ok((None, trailers)),
        (false, false) => Err(Unread::Cut),
        (false, true) => {
            let mut message = gathered.finish();
            message.advance(HEAD);
            Ok((Some(message), trailers))
        }
    }
}

/// Whether `bytes` are one whole frame.
fn whole(bytes: &[u8]) -> Result<bool, Unread> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(false) };
    let [compressed, length @ ..] = *head;
    if compressed != 0 {
        return Err(Unread::Compressed);
    }
    let length = u64::from(u32::from_be_bytes(length));
    match (rest.len() as u64).cmp(&length) {
        std::cmp::Ordering::Less => Ok(false),
        std::cmp::Ordering::Equal => Ok(true),
        std::cmp::Ordering::Greater => Err(Unread::Many),
    }
}

/// A gRPC body of one message, which is not copied.
#[derive(Debug)]
pub struct Framed {
    head: Option<Bytes>,
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Framed {
    /// `None` if `message` is longer than a frame can say (4 GiB).
    pub fn new(message: Bytes, trailers: Option<HeaderMap>) -> Option<Self> {
        let length = u32::try_from(message.len()).ok()?;
        let mut head = BytesMut::with_capacity(HEAD);
        head.put_u8(0);
        head.put_u32(length);
        Some(Self { head: Some(head.freeze()), message: Some(message).filter(|m| !m.is_empty()), trailers })
    }
}

impl Body for Framed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.head.take().or_else(|| self.message.take()).map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_none() && self.message.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests;
