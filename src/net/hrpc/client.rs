//! The client's side: a service under a generated gRPC client that makes each
//! call over hRPC.
//!
//! Whatever the peer answers becomes a gRPC answer with a status; what is not
//! hRPC is UNAVAILABLE. Only errors of the connection come out as errors.
//! Never retries, follows no redirect, and sets no deadline: dropping the
//! future ends the call, answer included.

use super::{
    errors,
    wire::{self, Framed, Unread},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Status, body::Body};
use tower::{BoxError, Service};

/// The greatest body of an error, in bytes.
const MAX_ERROR: usize = 64 << 10;

/// Makes hRPC calls of the gRPC calls it is given. Unary only: a request of
/// more than one message is answered UNIMPLEMENTED and not sent.
#[derive(Debug, Clone)]
pub struct HrpcClient<S> {
    inner: S,
    max_answer: usize,
}

impl<S> HrpcClient<S> {
    /// `inner`: plain HTTP, 1.1 or 2. The URI is passed on as it came, the
    /// version says 1.1; a `host` header, where one is needed, is for `inner`.
    /// `max_answer`: bytes of an answer's message; a longer one is OUT_OF_RANGE,
    /// as tonic has it. (The generated client has a limit of its own.)
    pub fn new(inner: S, max_answer: usize) -> Self {
        Self { inner, max_answer }
    }
}

impl<S, B> Service<Request<Body>> for HrpcClient<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone was not asked whether it is ready; `self.inner` was.
        let spare = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, spare);
        let max_answer = self.max_answer;
        Box::pin(async move {
            let request = match translate(request).await {
                Ok(request) => request,
                Err(status) => return Ok(status.into_http()),
            };
            let answer = inner.call(request).await?;
            Ok(receive(answer, max_answer).await.unwrap_or_else(Status::into_http))
        })
    }
}

/// The hRPC request of a gRPC one: same URI, extensions and metadata.
async fn translate(request: Request<Body>) -> Result<Request<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let message = match wire::read_framed(body).await {
        Ok((Some(message), _)) => message,
        Ok((None, _)) => return Err(Status::internal("a unary call without a message")),
        Err(Unread::Many) => return Err(Status::unimplemented("streams are not implemented over hRPC")),
        Err(Unread::Compressed) => return Err(Status::unimplemented("compression is not implemented over hRPC")),
        Err(Unread::Broken(status)) if status.code() != Code::Ok => return Err(status),
        Err(_) => return Err(Status::internal("the request is not one gRPC message")),
    };
    head.method = Method::POST;
    head.version = Version::HTTP_11;
    wire::strip(&mut head.headers);
    head.headers.insert(header::CONTENT_TYPE, wire::HRPC);
    head.headers.insert(wire::VERSION, wire::VERSION_1);
    // The document requires it, of an empty message too.
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(message.len()));
    Ok(Request::from_parts(head, Body::new(Full::new(message))))
}

/// The gRPC answer of what came, or the status of what is no success.
async fn receive<B>(answer: Response<B>, max_answer: usize) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = answer.into_parts();
    let typed = wire::is_hrpc(&head.headers);
    if !head.status.is_success() {
        let body = match (wire::is_plain(&head.headers), wire::read_bare(body, MAX_ERROR).await) {
            (true, Ok(body)) => body,
            _ => Bytes::new(),
        };
        return Err(errors::received(head.status, typed, &body));
    }
    if !typed || !wire::is_plain(&head.headers) {
        return Err(Status::unavailable(format!(
            "the peer answered HTTP {} with something that is not plain application/hrpc; is a proxy between?",
            head.status.as_u16()
        )));
    }
    // Some servers leave the version out.
    if head.headers.get(wire::VERSION).is_some_and(|version| version.as_bytes().trim_ascii() != b"1") {
        return Err(Status::unimplemented("the peer speaks an hRPC version other than 1"));
    }
    let too_long = || Status::out_of_range(format!("the peer's answer is longer than {max_answer} bytes"));
    let message = match wire::read_bare(body, max_answer).await {
        Ok(message) => message,
        Err(Unread::TooLong) => return Err(too_long()),
        Err(_) => return Err(Status::unavailable("the peer's answer broke off")),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    let framed = Framed::new(message, Some(trailers)).ok_or_else(too_long)?;
    head.status = StatusCode::OK;
    head.version = Version::HTTP_2;
    wire::strip(&mut head.headers);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(Response::from_parts(head, Body::new(framed)))
}

#[cfg(test)]
mod tests;
