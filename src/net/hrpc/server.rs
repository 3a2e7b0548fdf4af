//! The server's side: a layer in front of the routes that turns an hRPC call
//! into a gRPC one and the answer back.
//!
//! Told apart by content type, on any version of HTTP; gRPC, gRPC-Web and all
//! that is not a POST pass through untouched. Every answer to an hRPC call,
//! refusals too, carries hRPC's content type and version.
//! Never reads more of a request than its limit, nor longer than its deadline.

use super::{
    errors::{Refusal, by_http},
    methods::{Methods, Shape},
    wire::{self, Framed, Unread},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};
use tower::{BoxError, Layer, Service};

/// How long a request's body may take: as long as the slowest call of a peer.
const READ: Duration = Duration::from_secs(30);
/// How long an answer may take from its head to its end. A unary one is made
/// whole before its head is; what still runs then is a stream.
const END: Duration = Duration::from_secs(5);

/// Speaks hRPC in front of gRPC services.
#[derive(Debug, Clone)]
pub struct HrpcLayer(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    methods: Methods,
    max_body: usize,
    read: Duration,
    end: Duration,
}

impl HrpcLayer {
    /// `methods`: those of all contracts, built or not; a path among them that
    /// nobody serves is "not implemented", others are "not found".
    /// `max_body`: bytes of a request's message.
    pub fn new(methods: Methods, max_body: usize) -> Self {
        Self(Arc::new(Settings { methods, max_body, read: READ, end: END }))
    }

    #[cfg(test)]
    pub(super) fn with_deadlines(methods: Methods, max_body: usize, read: Duration, end: Duration) -> Self {
        Self(Arc::new(Settings { methods, max_body, read, end }))
    }
}

impl<S> Layer<S> for HrpcLayer {
    type Service = Hrpc<S>;

    fn layer(&self, inner: S) -> Hrpc<S> {
        Hrpc { inner, settings: Arc::clone(&self.0) }
    }
}

/// The service that [`HrpcLayer`] makes.
#[derive(Debug, Clone)]
pub struct Hrpc<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, B, R> Service<Request<B>> for Hrpc<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(Body::new);
        match kind(request.method(), request.headers()) {
            Kind::Foreign => {
                let answer = self.inner.call(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
            Kind::Refused(refusal) => {
                let settings = Arc::clone(&self.settings);
                Box::pin(async move { Ok(refused(&refusal, request, &settings).await) })
            }
            Kind::Unary => {
                // The clone was not asked whether it is ready; `self.inner` was.
                let spare = self.inner.clone();
                let inner = mem::replace(&mut self.inner, spare);
                Box::pin(unary(inner, request, Arc::clone(&self.settings)))
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Unary,
    Refused(Refusal),
    /// None of hRPC's business.
    Foreign,
}

/// What a request is, by its head alone.
fn kind(method: &Method, headers: &HeaderMap) -> Kind {
    let hrpc = wire::is_hrpc(headers);
    if *method == Method::GET && is_hrpc_upgrade(headers) {
        let text = "streaming over WebSocket is not implemented; use gRPC or gRPC-Web";
        return Kind::Refused(Refusal::not_implemented(text));
    }
    if *method == Method::OPTIONS || wire::is_grpc(headers) {
        return Kind::Foreign;
    }
    match (*method == Method::POST, hrpc) {
        (true, true) if wire::is_plain(headers) => Kind::Unary,
        (true, true) => Kind::Refused(Refusal::bad_request("content-encoding: only identity is taken; send it plain")),
        (true, false) => Kind::Refused(Refusal::bad_request(
            "content-type: a POST is application/hrpc, application/grpc or application/grpc-web here",
        )),
        (false, true) => Kind::Refused(Refusal::bad_request("method: a unary hRPC call is a POST")),
        (false, false) => Kind::Foreign,
    }
}

fn is_hrpc_upgrade(headers: &HeaderMap) -> bool {
    lists(headers, header::UPGRADE, "websocket") && lists(headers, header::SEC_WEBSOCKET_PROTOCOL, "hrpc1")
}

/// Whether a comma-separated header names `word`.
fn lists(headers: &HeaderMap, name: http::HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

/// Refuses by the head alone, but reads the body first: an answer before its
/// end would end the connection, and a reset might overtake the answer.
async fn refused(refusal: &Refusal, request: Request<Body>, settings: &Settings) -> Response<Body> {
    let version = request.version();
    let _ = timeout(settings.read, wire::read_bare(request.into_body(), settings.max_body)).await;
    refuse(refusal, HeaderMap::new(), version)
}

async fn unary<S, R>(mut inner: S, request: Request<Body>, settings: Arc<Settings>) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<R>>,
    R: http_body::Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let version = request.version();
    let shape = settings.methods.shape(request.uri().path());
    let request = match translate(request, shape, &settings).await {
        Ok(request) => request,
        Err(refusal) => return Ok(refuse(&refusal, HeaderMap::new(), version)),
    };
    let (head, body) = inner.call(request).await?.into_parts();
    let mut headers = head.headers.clone();
    wire::strip(&mut headers);
    let outcome = match timeout(settings.end, wire::read_framed(body)).await {
        Err(_) | Ok(Err(Unread::Many)) => Err(is_a_stream()),
        Ok(Err(unread)) => Err(Refusal::from(&failed(unread))),
        Ok(Ok((message, mut trailers))) => {
            let outcome = settle(&head, &trailers, message, shape);
            wire::strip(&mut trailers);
            headers.extend(trailers);
            outcome
        }
    };
    let mut answer = match outcome {
        Ok(message) => answer(StatusCode::OK, message, headers, version),
        Err(refusal) => refuse(&refusal, headers, version),
    };
    *answer.extensions_mut() = head.extensions;
    Ok(answer)
}

/// The gRPC request of an hRPC one: same path, extensions and metadata.
async fn translate(request: Request<Body>, shape: Shape, settings: &Settings) -> Result<Request<Body>, Refusal> {
    if shape == Shape::Streaming {
        return Err(is_a_stream());
    }
    let (mut head, body) = request.into_parts();
    let message = match timeout(settings.read, wire::read_bare(body, settings.max_body)).await {
        Ok(Ok(message)) => message,
        Ok(Err(Unread::TooLong)) => return Err(too_long(settings.max_body)),
        Ok(Err(Unread::Broken(status)))
            if matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded) =>
        {
            return Err(Refusal::from(&status));
        }
        Ok(Err(_)) => return Err(Refusal::bad_request("body: it broke off; send it again")),
        Err(_) => {
            let seconds = settings.read.as_secs();
            return Err(Refusal::bad_request(format!("body: not whole after {seconds} s; send it again")));
        }
    };
    let framed = Framed::new(message, None).ok_or_else(|| too_long(settings.max_body))?;
    wire::strip(&mut head.headers);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    // gRPC is HTTP/2, and gRPC-Web's layer refuses it under any other name.
    head.version = Version::HTTP_2;
    Ok(Request::from_parts(head, Body::new(framed)))
}

/// What the service said: its message, or why there is none.
fn settle(
    head: &http::response::Parts,
    trailers: &HeaderMap,
    message: Option<Bytes>,
    shape: Shape,
) -> Result<Bytes, Refusal> {
    let status = wire::status_in(trailers).or_else(|| wire::status_in(&head.headers)).unwrap_or_else(|| {
        if head.status.is_success() {
            Status::internal("the service answered no status")
        } else {
            Status::new(by_http(head.status), "")
        }
    });
    match (status.code(), message) {
        (Code::Ok, Some(message)) => Ok(message),
        (Code::Ok, None) => Err(Refusal::from(&Status::internal("the service answered no message"))),
        // So answer the routes where nothing is; a method's own refusal says why.
        (Code::Unimplemented, _) if shape == Shape::Unknown && status.message().is_empty() => {
            Err(Refusal::not_found("no such method here; the path is /<package>.<Service>/<Method>"))
        }
        _ => Err(Refusal::from(&status)),
    }
}

fn failed(unread: Unread) -> Status {
    match unread {
        Unread::Broken(status) if status.code() != Code::Ok => status,
        _ => Status::internal("the service's answer is not one plain gRPC message"),
    }
}

fn is_a_stream() -> Refusal {
    Refusal::not_implemented("the method is a stream, which is not implemented over hRPC; use gRPC or gRPC-Web")
}

fn too_long(limit: usize) -> Refusal {
    // Not "resource exhausted": that says "later", and later it is as long.
    Refusal::bad_request(format!("body: longer than {limit} bytes; send less in one call"))
}

/// The answer to an hRPC call that is refused before anything is read of it;
/// `None` when the call is not hRPC's.
pub fn refused_early<B>(status: &Status, request: &Request<B>) -> Option<Response<Body>> {
    let refuse = || refuse(&Refusal::from(status), HeaderMap::new(), request.version());
    wire::is_hrpc(request.headers()).then(refuse)
}

fn refuse(refusal: &Refusal, headers: HeaderMap, version: Version) -> Response<Body> {
    answer(refusal.http, refusal.body().into(), headers, version)
}

/// `headers`: the call's own.
fn answer(status: StatusCode, message: Bytes, headers: HeaderMap, version: Version) -> Response<Body> {
    let mut answer = Response::new(Body::new(Full::new(message)));
    *answer.status_mut() = status;
    *answer.version_mut() = version;
    *answer.headers_mut() = headers;
    answer.headers_mut().insert(header::CONTENT_TYPE, wire::HRPC);
    answer.headers_mut().insert(wire::VERSION, wire::VERSION_1);
    answer
}

#[cfg(test)]
mod tests;
