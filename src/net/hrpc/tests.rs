//! Both sides against each other, in memory and over real HTTP; and the
//! service that the tests of either side use.

use super::*;
use crate::proto::protocol::auth::v1::{
    KeyRequest, KeyResponse,
    auth_service_client::AuthServiceClient,
    auth_service_server::{AuthService, AuthServiceServer},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use prost::Message;
use std::{convert::Infallible, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status, body::Body, service::Routes};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::{ErrorDetails, StatusExt};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};

/// Answers the caller's authorization as the key, or fails as `x-fail` (a gRPC
/// code) says, asking to come back after `x-retry-ms`.
pub(super) struct Echo;

#[tonic::async_trait]
impl AuthService for Echo {
    async fn key(&self, request: tonic::Request<KeyRequest>) -> Result<tonic::Response<KeyResponse>, Status> {
        let metadata = request.metadata();
        let number = |name| metadata.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(code) = number("x-fail") {
            let delay = number("x-retry-ms").map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
            let mut details = ErrorDetails::new();
            details.set_retry_info(delay);
            return Err(Status::with_error_details(Code::from_i32(code), "as you wish: 100 %", details));
        }
        let key = metadata.get("authorization").map(|value| Bytes::copy_from_slice(value.as_bytes()));
        let mut answer = tonic::Response::new(KeyResponse { key: key.unwrap_or_default(), ..Default::default() });
        answer.metadata_mut().insert("x-answered", "yes".parse().unwrap());
        Ok(answer)
    }
}

pub(super) fn methods() -> Methods {
    Methods::of(&[crate::proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]).unwrap()
}

/// A node's stack: hRPC in front of gRPC-Web in front of the routes.
pub(super) fn node()
-> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    let (_, health) = tonic_health::server::health_reporter();
    let routes = Routes::new(AuthServiceServer::new(Echo)).add_service(health);
    HrpcLayer::new(methods(), DEFAULT_MAX_BODY).layer(GrpcWebLayer::new().layer(routes))
}

/// A call of `Key` with these metadata, through a generated client.
pub(super) async fn key<S>(
    service: S,
    metadata: &[(&'static str, &str)],
) -> Result<tonic::Response<KeyResponse>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error: Into<tower::BoxError>>,
{
    let mut request = tonic::Request::new(KeyRequest {});
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    AuthServiceClient::with_origin(service, "http://node.test:7443".parse().unwrap()).key(request).await
}

#[derive(Clone, Copy)]
enum Http {
    One,
    Two,
}

/// Plain HTTP to [`node`] over a connection of its own for each call.
fn dial(
    http: Http,
) -> impl Service<Request<Body>, Response = Response<hyper::body::Incoming>, Error = hyper::Error, Future: Send> + Clone
{
    tower::service_fn(move |request: Request<Body>| async move {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let service = TowerToHyperService::new(tower::service_fn(|request: Request<hyper::body::Incoming>| {
                node().oneshot(request.map(Body::new))
            }));
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.serve_connection(TokioIo::new(theirs), service).await
        });
        match http {
            Http::One => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await?;
                tokio::spawn(connection);
                sender.send_request(request).await
            }
            Http::Two => {
                let executor = TokioExecutor::new();
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(executor, TokioIo::new(ours)).await?;
                tokio::spawn(connection);
                sender.send_request(request).await
            }
        }
    })
}

#[tokio::test]
async fn a_call_and_its_metadata_come_through_on_http_1_and_2() {
    for http in [Http::One, Http::Two] {
        let answer = key(HrpcClient::new(dial(http), 1024), &[("authorization", "a token")]).await.unwrap();
        assert_eq!(answer.metadata().get("x-answered").unwrap(), "yes");
        assert_eq!(answer.into_inner().key, "a token");
        // An empty request with an empty answer.
        let answer = key(HrpcClient::new(dial(http), 0), &[]).await.unwrap();
        assert_eq!(answer.into_inner(), KeyResponse::default());
    }
}

#[tokio::test]
async fn grpc_passes_by() {
    let (over_grpc, over_hrpc) = tokio::join!(
        key(dial(Http::Two).map_response(|answer| answer.map(Body::new)), &[("authorization", "a token")]),
        key(HrpcClient::new(dial(Http::Two), 1024), &[("authorization", "a token")]),
    );
    assert_eq!(over_grpc.unwrap().into_inner(), over_hrpc.unwrap().into_inner());
}

#[tokio::test]
async fn an_error_comes_back_with_code_text_and_delay() {
    for http in [Http::One, Http::Two] {
        for code in 1..=16 {
            let fail = code.to_string();
            let metadata = [("x-fail", fail.as_str()), ("x-retry-ms", "1500")];
            let status = key(HrpcClient::new(dial(http), 1024), &metadata).await.unwrap_err();
            let code = Code::from_i32(code);
            let expected = if matches!(code, Code::Unknown | Code::Internal) { Code::Unavailable } else { code };
            assert_eq!((status.code(), status.message()), (expected, "as you wish: 100 %"));
            let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
            let told = matches!(code, Code::ResourceExhausted | Code::Unavailable).then_some(Duration::from_secs(2));
            assert_eq!(delay, told, "{code:?}");
        }
    }
}

#[tokio::test]
async fn a_stream_is_not_implemented_and_a_unary_method_beside_it_is() {
    let mut client =
        HealthClient::with_origin(HrpcClient::new(dial(Http::One), 1024), "http://n.test".parse().unwrap());
    assert!(client.check(HealthCheckRequest::default()).await.is_ok());
    let status = client.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.metadata().get(IDENTIFIER).unwrap(), "hrpc.not-implemented");
}

#[tokio::test]
async fn an_answer_longer_than_the_limit_is_out_of_range() {
    let status = key(HrpcClient::new(dial(Http::One), 8), &[("authorization", "longer")]).await.map(|_| ());
    assert!(status.is_ok(), "tag, length and 6 bytes are 8: {status:?}");
    let status = key(HrpcClient::new(dial(Http::One), 7), &[("authorization", "longer")]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}

/// The bytes of the answer to `request`, an HTTP/1.1 request that asks for the
/// connection to be closed.
async fn raw(request: &[u8]) -> String {
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let service = TowerToHyperService::new(tower::service_fn(|request: Request<hyper::body::Incoming>| {
        node().oneshot(request.map(Body::new))
    }));
    let served = hyper::server::conn::http1::Builder::new();
    let served = tokio::spawn(async move { served.serve_connection(TokioIo::new(theirs), service).await });
    ours.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    served.await.unwrap().unwrap();
    String::from_utf8(answer).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn a_chunked_body_without_length_is_taken() {
    const HEAD: &str = "POST /protocol.auth.v1.AuthService/Key HTTP/1.1\r\ncontent-type: application/hrpc\r\n\
        hrpc-version: 1\r\nhost: node.test\r\nauthorization: abc\r\nconnection: close\r\n";
    // Nothing, and an unknown field in two chunks.
    for body in ["0\r\n\r\n", "1\r\n\x08\r\n1\r\n\x01\r\n0\r\n\r\n"] {
        let answer = raw(format!("{HEAD}transfer-encoding: chunked\r\n\r\n{body}").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        for line in ["content-type: application/hrpc", "hrpc-version: 1", "content-length: 5", "x-answered: yes"] {
            assert!(head.lines().any(|found| found == line), "{line} is not in {head}");
        }
        assert!(!head.contains("grpc"), "{head}");
        let expected = KeyResponse { key: "abc".into(), ..Default::default() }.encode_to_vec();
        assert_eq!(body.as_bytes(), expected);
    }
}

#[tokio::test]
async fn browsers_grpc_web_passes_by_to_its_own_layer() {
    let request = Request::post("/protocol.auth.v1.AuthService/Key")
        .header("content-type", "application/grpc-web+proto")
        .body(Body::new(http_body_util::Full::new(Bytes::from_static(&[0; 5]))))
        .unwrap();
    let answer = node().oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/grpc-web+proto");
    assert!(!answer.headers().contains_key("hrpc-version"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(body.windows(13).any(|part| part == b"grpc-status:0"), "{body:?}");
}
