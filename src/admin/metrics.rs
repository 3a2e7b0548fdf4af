//! `GET /metrics` in Prometheus text, on a listener of its own.
//!
//! Sets the gauges of peers and queues when it is asked. Serves nothing else.

use crate::{federation::Federation, metrics::Metrics};
use http::{Method, Request, Response, StatusCode, header};
use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};
use tonic::body::Body;

/// The service behind `[metrics] listen`.
#[derive(Clone)]
pub struct Service {
    pub metrics: Metrics,
    pub federation: Federation,
}

impl Service {
    fn answer(&self, method: &Method, path: &str) -> Response<Body> {
        let (status, text) = match (method, path) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                self.measure();
                (StatusCode::OK, self.metrics.render())
            }
            (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, b"only /metrics is served here\n".to_vec()),
            _ => (StatusCode::METHOD_NOT_ALLOWED, b"only GET is answered here\n".to_vec()),
        };
        let length = text.len();
        let body = if method == Method::HEAD { Body::empty() } else { Body::new(http_body_util::Full::from(text)) };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; version=0.0.4"));
        headers.insert(header::CONTENT_LENGTH, length.into());
        response
    }

    fn measure(&self) {
        let peers = self.federation.peers();
        let failing = peers.iter().filter(|peer| peer.is_failing()).count();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.peers.with_label_values(&["failing"]).set(count(failing));
        self.metrics.peers.with_label_values(&["well"]).set(count(peers.len() - failing));
        let (events, bytes) = peers.iter().fold((0u64, 0u64), |(events, bytes), peer| {
            let (more_events, more_bytes) = peer.queued();
            (events + more_events, bytes + more_bytes)
        });
        self.metrics.queued_events.set(i64::try_from(events).unwrap_or(i64::MAX));
        self.metrics.queued_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl tower::Service<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Ok(self.answer(request.method(), request.uri().path())))
    }
}
