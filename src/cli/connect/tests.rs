//! Statuses become one line; no node, one that says how to start it.

use super::*;
use crate::proto::pillarbox::admin::v1::{ListDeadRequest, ShowKeyRequest, ShowKeyResponse};
use bytes::{BufMut, Bytes};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic_types::ErrorDetails;

#[test]
fn a_status_is_one_line_with_its_code() {
    let status = Status::failed_precondition("b.example:1 is not a peer\nadd it: pillarbox peer add b.example:1");
    let expected = "b.example:1 is not a peer add it: pillarbox peer add b.example:1 (FAILED_PRECONDITION)";
    assert_eq!(line(&status), expected);
    assert!(!line(&Status::internal("")).starts_with(' '));
}

#[test]
fn the_oldest_cursor_and_the_pause_are_told() {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-oldest-cursor", MetadataValue::from_static("17"));
    let status = Status::with_metadata(Code::OutOfRange, "cursor 3 is not kept any more", metadata);
    assert_eq!(line(&status), "cursor 3 is not kept any more; the oldest cursor is 17 (OUT_OF_RANGE)");

    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
    let status = Status::with_error_details(Code::Unavailable, "the disk is full", details);
    assert_eq!(line(&status), "the disk is full; try again in 2s (UNAVAILABLE)");
}

#[test]
fn every_code_has_its_own_name() {
    let mut names: Vec<_> = (0..=16).map(|code| name(Code::from_i32(code))).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 17);
}

fn failure(result: Result<Admin, Failure>) -> String {
    match result {
        Err(Failure::Failed(text)) => text,
        other => panic!("no failure: {other:?}"),
    }
}

#[tokio::test]
async fn without_a_node_the_error_says_how_to_start_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let start = format!("pillarbox serve --data-dir {}", dir.path().display());
    let never_was = failure(connect(dir.path()).await);
    assert!(never_was.contains("no node is running") && never_was.contains(&start), "{never_was}");

    // A socket that a crashed node left behind.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("admin.sock")).expect("a socket"));
    let crashed = failure(connect(dir.path()).await);
    assert!(crashed.contains("no node is running") && crashed.contains(&start), "{crashed}");
}

#[tokio::test]
async fn a_node_that_goes_away_in_a_call_is_told_as_such() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let listener = tokio::net::UnixListener::bind(dir.path().join("admin.sock")).expect("a socket");
    let gone = tokio::spawn(async move { drop(listener.accept().await) });
    let mut node = connect(dir.path()).await.expect("the socket takes us");
    gone.await.expect("the listener accepts");
    let answer = call(node.show_key(ShowKeyRequest {})).await;
    let Err(Failure::Failed(text)) = answer else { panic!("{answer:?}") };
    assert!(text.contains("broke"), "{text}");
}

/// A gRPC answer by hand: the messages, then the status.
fn answer(
    messages: &[Vec<u8>],
    status: &'static str,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = hyper::Error> + use<>> {
    let mut frames = Vec::new();
    for message in messages {
        frames.put_u8(0);
        frames.put_u32(u32::try_from(message.len()).expect("a small message"));
        frames.put_slice(message);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a header"));
    trailers.insert("grpc-message", "no%20such%20thing".parse().expect("a header"));
    let body = Full::new(Bytes::from(frames)).map_err(|never| match never {});
    let body = body.with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
}

#[tokio::test]
async fn a_call_goes_to_the_admin_service_and_its_answer_comes_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let listener = tokio::net::UnixListener::bind(dir.path().join("admin.sock")).expect("a socket");
    let key = ShowKeyResponse { server_id: "a.example:1".into(), key: Bytes::from_static(&[7; 32]) };
    let message = key.encode_to_vec();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let service = service_fn(|request: Request<Incoming>| {
            let answer = match request.uri().path() {
                "/pillarbox.admin.v1.Admin/ShowKey" => answer(std::slice::from_ref(&message), "0"),
                "/pillarbox.admin.v1.Admin/ListDead" => answer(&[vec![0x08, 1], vec![0x08, 2]], "5"),
                other => panic!("{other}"),
            };
            async { Ok::<_, std::convert::Infallible>(answer) }
        });
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        served.serve_connection(TokioIo::new(stream), service).await
    });

    let mut node = connect(dir.path()).await.expect("the socket takes us");
    assert_eq!(call(node.show_key(ShowKeyRequest {})).await.expect("an answer"), key);
    let mut letters = call(node.list_dead(ListDeadRequest::default())).await.expect("a stream");
    assert_eq!(next(&mut letters).await.expect("the first").map(|letter| letter.id), Some(1));
    assert_eq!(next(&mut letters).await.expect("the second").map(|letter| letter.id), Some(2));
    let Err(Failure::Failed(text)) = next(&mut letters).await else { panic!("the status is lost") };
    assert_eq!(text, "no such thing (NOT_FOUND)");
    drop((letters, node));
    // The connection ends with the client: nothing of it is left behind.
    server.await.expect("the server ends").expect("in good order");
}
