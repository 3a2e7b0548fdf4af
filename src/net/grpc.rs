//! Makes whatever a server answers fit for a gRPC client.
//!
//! A proxy's HTML page or an empty 502 is a transient fault of the way there,
//! not the peer's word; and a trailer that is not what it should be must not
//! reach a decoder that trusts it. Never looks into messages.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, body::Body};
use tower::Service;

const DETAILS: &str = "grpc-status-details-bin";
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Wraps the service below a generated client.
#[derive(Debug, Clone)]
pub struct Strict<S>(pub S);

impl<S, B> Service<Request<Body>> for Strict<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { Ok(strict(answer.await?)) })
    }
}

fn strict<B>(response: Response<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut parts, body) = response.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        let text = format!("the answer is not gRPC: HTTP {}", parts.status.as_u16());
        let mut answer = Response::new(Body::empty());
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(Code::Unavailable as i32));
        if let Ok(text) = HeaderValue::from_str(&text) {
            headers.insert("grpc-message", text);
        }
        answer.extensions_mut().insert(NotGrpc);
        return answer;
    }
    without_bad_details(&mut parts.headers);
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            without_bad_details(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    Response::from_parts(parts, Body::new(body))
}

/// Marks an answer that did not come from a gRPC server.
#[derive(Debug, Clone, Copy)]
pub struct NotGrpc;

/// The status decoder takes these for base64 on trust.
fn without_bad_details(headers: &mut HeaderMap) {
    let good = |value: &HeaderValue| BASE64.decode(value.as_bytes()).is_ok();
    if headers.get_all(DETAILS).iter().any(|value| !good(value)) {
        headers.remove(DETAILS);
    }
}

#[cfg(test)]
mod tests;
