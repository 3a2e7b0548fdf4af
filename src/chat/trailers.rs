//! Metadata behind an answer: tonic puts what an answer says in front of it
//! only, and `x-more` of a history is to be in the trailers.
//!
//! Knows nothing of chats but the name of that one key.

use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{body::Body, server::NamedService};
use tower::Service;

/// There are older messages than those in the answer.
pub const MORE: &str = "x-more";

/// The service whose answers it is.
#[derive(Debug, Clone)]
pub struct Trailing<S>(pub S);

impl<S: NamedService> NamedService for Trailing<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Trailing<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let Some(more) = answer.headers().get(MORE).cloned() else { return Ok(answer) };
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |frame| match frame.into_trailers() {
                    Ok(mut trailers) => {
                        trailers.insert(MORE, more.clone());
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                }))
            }))
        })
    }
}
