//! The listener on real sockets.

use super::*;
use crate::net::{
    answer::Progress,
    dial::{DialConfig, Dialer, Target},
    fixture::{BIG, LONG, Served, later, node, pair, post, server, server_with},
    limits::Config,
    link::Link,
};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use rustls::pki_types::ServerName;
use std::{future::poll_fn, pin::Pin, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic_types::StatusExt;

const REQUEST: &[u8] = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello";
const LAST_REQUEST: &[u8] =
    b"POST /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
const BIG_REQUEST: &[u8] = b"POST /big HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";

fn plain(limits: Config) -> Served {
    server(None, limits, LONG)
}

fn with_tls() -> Served {
    server(Some(ServerTls::new(&pair(1, "localhost")).unwrap()), Config::default(), LONG)
}

async fn dial(target: &Target) -> Link {
    Dialer::new(&DialConfig::default()).unwrap().dial(target, later()).await.unwrap()
}

/// Writes a request over HTTP/1.1 and reads until `hello`.
async fn exchange(io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    exchange_of(io, REQUEST).await;
}

async fn exchange_of(io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), request: &[u8]) {
    io.write_all(request).await.unwrap();
    io.flush().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert_ne!(io.read_buf(&mut got).await.unwrap(), 0, "{got:?}");
    }
    assert!(got.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn http1_and_http2_are_served_on_one_port() {
    for tls in [false, true] {
        let mut served = if tls { with_tls() } else { plain(Config::default()) };
        let mut ids = Vec::new();
        for http1 in [false, true] {
            let target = if tls { Target { http1, ..served.target(Some(node(1).0)) } } else { served.plain(http1) };
            let link = dial(&target).await;
            for nth in 1..=2 {
                let response = link.send(post("/echo", "hello")).await.unwrap();
                assert_eq!(response.version(), if http1 { http::Version::HTTP_11 } else { http::Version::HTTP_2 });
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
                let seen = served.next().await;
                assert_eq!(seen.connection.requests(), nth);
                ids.push(seen.connection.id());
            }
        }
        assert!(ids[0] == ids[1] && ids[2] == ids[3] && ids[0] != ids[2], "{ids:?}");
        served.end().await;
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_at_once() {
    let mut served = plain(Config { connections_per_address: 1, ..Config::default() });
    let mut first = TcpStream::connect(served.address).await.unwrap();
    exchange(&mut first).await;
    let mut second = TcpStream::connect(served.address).await.unwrap();
    let mut none = [0];
    assert!(matches!(second.read(&mut none).await, Ok(0) | Err(_)));
    drop(first);
    assert_eq!(served.next().await.ended().await, End::Good);
    while served.limits.connections() > 0 {
        tokio::task::yield_now().await;
    }
    exchange(&mut TcpStream::connect(served.address).await.unwrap()).await;
}

#[tokio::test]
async fn a_call_over_the_limit_is_told_in_its_own_protocol() {
    let served = plain(Config { streams_per_address: 1, ..Config::default() });
    let link = dial(&served.plain(false)).await;
    let held = tokio::spawn({
        let link = link.clone();
        async move { link.send(post("/wait", "")).await.unwrap().status() }
    });
    let mut served = served;
    served.next().await;
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc-web"] {
        let mut request = post("/echo", "");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let response = link.send(request).await.unwrap();
        assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(8)));
        assert_eq!(response.headers()["content-type"], kind);
    }
    for http1 in [false, true] {
        let mut request = post("/echo", "hello");
        request.headers_mut().insert("content-type", "application/hrpc".parse().unwrap());
        let response = dial(&served.plain(http1)).await.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["hrpc-version"], "1");
        assert_eq!(response.headers()["content-type"], "application/hrpc");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let error = crate::proto::protocol::harmonytypes::v1::Error::decode(body).unwrap();
        // RetryInfo: one second.
        assert_eq!((&*error.identifier, &*error.more_details), ("hrpc.resource-exhausted", &[8, 1][..]));
    }
    let response = link.send(post("/echo", "")).await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "1");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&*body, b"too many requests from this address; again in 1 s\n");
    served.gate.add_permits(1);
    assert_eq!(held.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn bytes_over_the_rate_come_later_but_come() {
    let served = plain(Config { bytes_per_second: bytesize::ByteSize::b(20), ..Config::default() });
    let link = dial(&served.plain(false)).await;
    for body in ["0123456789012345678901234567890", "hello"] {
        let response = link.send(post("/echo", body)).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
    }
}

/// A gRPC request that says it has a message of `length` bytes, and the way to
/// send them.
fn begun(path: &str, length: u32) -> (Request<Body>, mpsc::Sender<Bytes>) {
    let (send, pieces) = mpsc::channel(4);
    let mut head = vec![0];
    head.extend(length.to_be_bytes());
    let head = stream::iter([Bytes::from(head)]).chain(ReceiverStream::new(pieces));
    let body = StreamBody::new(head.map(|bytes| Ok::<_, Status>(http_body::Frame::data(bytes))));
    let request = Request::post(path).header("content-type", "application/grpc").body(Body::new(body)).unwrap();
    (request, send)
}

fn status(response: &http::Response<impl Sized>) -> Option<Status> {
    Status::from_header_map(response.headers())
}

#[tokio::test]
async fn what_an_address_holds_unanswered_is_bounded_and_given_back_with_the_answer() {
    let mut served = plain(Config { unanswered_bytes: bytesize::ByteSize::b(2_000), ..Config::default() });
    let link = dial(&served.plain(false)).await;
    // Half of it at most, so that another address finds as much.
    let (request, rest) = begun("/echo", 900);
    let first = tokio::spawn({
        let link = link.clone();
        async move { link.send(request).await.unwrap() }
    });
    rest.send(Bytes::from(vec![7; 899])).await.unwrap();
    served.next().await;
    served.holds(904).await;
    let (request, more) = begun("/echo", 200);
    more.send(Bytes::from(vec![7; 199])).await.unwrap();
    let refusal = status(&link.send(request).await.unwrap()).unwrap();
    assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
    assert!(refusal.message().contains("limits.unanswered_bytes"), "{refusal}");
    assert!(refusal.get_details_retry_info().is_some());
    let small = link.send(post("/echo", "hello")).await.unwrap();
    assert_eq!(small.into_body().collect().await.unwrap().to_bytes(), "hello", "small calls find room");
    rest.send(Bytes::from_static(b"7")).await.unwrap();
    drop(rest);
    assert_eq!(first.await.unwrap().into_body().collect().await.unwrap().to_bytes().len(), 905);
    served.holds(0).await;
}

#[tokio::test]
async fn a_stream_that_was_answered_holds_what_is_not_whole() {
    let mut served = plain(Config { unanswered_bytes: bytesize::ByteSize::b(2_000), ..Config::default() });
    let link = dial(&served.plain(false)).await;
    let (request, pieces) = begun("/stream", 600);
    let response = tokio::spawn(async move { link.send(request).await.unwrap() }).await.unwrap();
    served.next().await;
    let mut answer = response.into_body();
    // Again and again more than there is room for at once.
    for _ in 0..5 {
        pieces.send(Bytes::from(vec![7; 599])).await.unwrap();
        served.holds(604).await;
        pieces.send(Bytes::from_static(&[7, 0, 0, 0, 2, 88])).await.unwrap();
        served.holds(5).await;
    }
    drop(pieces);
    while let Some(frame) = answer.frame().await {
        frame.unwrap();
    }
    served.holds(0).await;
}

#[tokio::test]
async fn a_message_that_began_must_be_whole_in_time() {
    let times = Times { handshake: LONG, message: Duration::from_millis(50), grace: LONG };
    let served = server_with(None, Config::default(), times);
    let link = dial(&served.plain(false)).await;
    let (request, rest) = begun("/echo", 900);
    let refusal = status(&link.send(request).await.unwrap()).unwrap();
    assert_eq!(refusal.code(), tonic::Code::DeadlineExceeded);
    drop(rest);
    served.holds(0).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_good_order_ends_well() {
    for (tls, http1) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut served = if tls { with_tls() } else { plain(Config::default()) };
        let target = if tls { Target { http1, ..served.target(Some(node(1).0)) } } else { served.plain(http1) };
        let link = dial(&target).await;
        let response = link.send(post("/echo", "hello")).await.unwrap();
        response.into_body().collect().await.unwrap();
        let mut seen = served.next().await;
        assert_eq!(seen.progressed().await, Progress::Written);
        assert!(!seen.answer.doubtful());
        assert_eq!(*seen.end.borrow(), End::Open);
        drop(link);
        assert_eq!(seen.ended().await, End::Good, "tls {tls}, http1 {http1}");
        served.end().await;
    }
}

#[tokio::test]
async fn a_reset_ends_badly() {
    let mut served = plain(Config::default());
    let mut client = TcpStream::connect(served.address).await.unwrap();
    exchange(&mut client).await;
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(served.next().await.ended().await, End::Broken);
}

#[tokio::test]
async fn a_client_that_leaves_with_its_answer_unread_ends_badly() {
    let mut served = plain(Config::default());
    let mut client = TcpStream::connect(served.address).await.unwrap();
    client.write_all(BIG_REQUEST).await.unwrap();
    client.readable().await.unwrap();
    let mut seen = served.next().await;
    drop(client);
    assert_eq!(seen.ended().await, End::Broken);
    assert_eq!(seen.progressed().await, Progress::Lost);
}

#[tokio::test]
async fn a_client_that_closed_before_its_answer_came_ends_badly() {
    let mut served = plain(Config::default());
    let link = dial(&served.plain(false)).await;
    let asking = tokio::spawn(async move { link.send(post("/wait", "hello")).await.map(drop) });
    let mut seen = served.next().await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    served.gate.add_permits(1);
    assert_eq!(seen.progressed().await, Progress::Lost);
    assert!(seen.answer.doubtful());
}

#[tokio::test]
async fn tls_cut_off_without_a_word_is_told_from_a_good_end() {
    let mut served = with_tls();
    let (config, _) = crate::net::tls::Roots::new(None).unwrap().client(Some(node(1).0), true).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for (request, polite, end) in [
        (REQUEST, true, End::Good),
        (REQUEST, false, End::Truncated),
        (LAST_REQUEST, true, End::Good),
        (LAST_REQUEST, false, End::Truncated),
    ] {
        let tcp = TcpStream::connect(served.address).await.unwrap();
        let mut client = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
        exchange_of(&mut client, request).await;
        if polite {
            client.shutdown().await.unwrap();
        }
        drop(client);
        assert_eq!(served.next().await.ended().await, end, "polite: {polite}, {request:?}");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_our_end_gets_it() {
    let mut served = plain(Config::default());
    let mut client = TcpStream::connect(served.address).await.unwrap();
    exchange_of(&mut client, LAST_REQUEST).await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    drop(client);
    assert_eq!(served.next().await.ended().await, End::Good);
}

#[tokio::test]
async fn a_big_answer_is_written_when_it_was_taken_not_before() {
    for http1 in [false, true] {
        let mut served = plain(Config::default());
        let link = dial(&served.plain(http1)).await;
        let mut response = link.send(post("/big", "")).await.unwrap();
        let mut seen = served.next().await;
        let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
        if !http1 {
            // More than the stream's window is still to come, and it stays closed.
            assert_eq!(*seen.progress.borrow(), Progress::Pending);
        }
        let rest = response.into_body().collect().await.unwrap().to_bytes().len();
        assert_eq!(first + rest, BIG);
        assert_eq!(seen.progressed().await, Progress::Written);
        assert!(seen.connection.bytes_flushed() >= BIG as u64);
    }
}

#[tokio::test]
async fn an_answer_the_client_cancelled_is_lost_though_the_connection_lives() {
    let mut served = plain(Config::default());
    let link = dial(&served.plain(false)).await;
    let response = link.send(post("/big", "")).await.unwrap();
    let mut seen = served.next().await;
    drop(response);
    assert_eq!(seen.progressed().await, Progress::Lost);
    assert_eq!((*seen.end.borrow(), seen.connection.resets()), (End::Open, 1));
    let response = link.send(post("/echo", "hello")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    let mut again = served.next().await;
    assert_eq!(again.connection.id(), seen.connection.id());
    assert_eq!(again.progressed().await, Progress::Written);
}

#[tokio::test]
async fn a_graceful_stop_lets_what_is_in_flight_finish() {
    let mut served = with_tls();
    let link = dial(&served.target(Some(node(1).0))).await;
    let asking = tokio::spawn({
        let link = link.clone();
        async move {
            let response = link.send(post("/wait", "hello")).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        }
    });
    served.next().await;
    served.stop.cancel();
    // The listener goes first.
    while TcpStream::connect(served.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!served.task.is_finished());
    served.gate.add_permits(1);
    assert_eq!(asking.await.unwrap(), "hello");
    served.task.await.unwrap();
}

#[tokio::test]
async fn what_outlives_the_grace_is_cut_and_ends_badly() {
    let mut served = server(None, Config::default(), Duration::from_millis(50));
    let link = dial(&served.plain(false)).await;
    let asking = tokio::spawn(async move { link.send(post("/wait", "")).await.map(drop) });
    let mut seen = served.next().await;
    served.stop.cancel();
    served.task.await.unwrap();
    assert_eq!(seen.ended().await, End::Broken);
    assert!(asking.await.unwrap().is_err());
    assert_eq!(served.limits.connections(), 0);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed() {
    let tls = ServerTls::new(&pair(1, "localhost")).unwrap();
    for tls in [None, Some(tls)] {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, stop) = (listener.local_addr(), CancellationToken::new());
        let nothing = tower::service_fn(|_: Request<Body>| async { Ok(Response::new(Body::empty())) });
        let times = Times { handshake: Duration::from_millis(50), message: LONG, grace: LONG };
        let limits = Limits::new(Config::default());
        let task = tokio::spawn(serve_with(listener, tls, limits, nothing, stop.clone(), times));
        for said in [&b""[..], b"PRI * HT"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said).await.unwrap();
            let mut some = [0; 64];
            while !matches!(client.read(&mut some).await, Ok(0) | Err(_)) {}
        }
        stop.cancel();
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_place_is_held_until_the_answer_was_read() {
    let mut served = plain(Config { streams_per_address: 1, ..Config::default() });
    let link = dial(&served.plain(false)).await;
    let mut response = link.send(post("/big", "")).await.unwrap();
    served.next().await;
    poll_fn(|cx| http_body::Body::poll_frame(Pin::new(response.body_mut()), cx)).await.unwrap().unwrap();
    assert_eq!(link.send(post("/echo", "")).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    response.into_body().collect().await.unwrap();
    while link.send(post("/echo", "")).await.unwrap().status() != StatusCode::OK {}
}
