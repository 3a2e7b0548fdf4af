//! Whatever a server answers becomes a status.

use super::*;
use crate::proto::protocol::auth::v1::{KeyRequest, auth_service_client::AuthServiceClient};
use tonic::Status;
use tower::service_fn;

async fn ask(answer: impl Fn() -> Response<Body> + Clone + Send + 'static) -> Status {
    let service = service_fn(move |_: Request<Body>| {
        let answer = answer.clone();
        async move { Ok::<_, std::io::Error>(answer()) }
    });
    AuthServiceClient::new(Strict(service)).key(KeyRequest {}).await.unwrap_err()
}

#[tokio::test]
async fn what_is_not_grpc_is_transient_whatever_its_status() {
    for status in [200, 301, 401, 403, 404, 500, 502, 503] {
        let answer = move || {
            let response = Response::builder().status(status).header("content-type", "text/html");
            response.body(Body::new("<html>".to_string())).unwrap()
        };
        let error = ask(answer).await;
        assert_eq!(error.code(), Code::Unavailable, "{status}");
        assert!(error.message().contains(&status.to_string()), "{error}");
    }
}

#[tokio::test]
async fn details_that_are_not_base64_are_left_out() {
    for details in ["####", "a", ""] {
        let answer = move || {
            let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "7");
            response.header(DETAILS, details).body(Body::empty()).unwrap()
        };
        assert_eq!(ask(answer).await.code(), Code::PermissionDenied);
    }
}
