//! Dialling real sockets.

use super::*;
use crate::net::{
    certificate::{PemPair, self_signed, self_signed_within},
    fixture::{LONG, Served, later, node, pair, post, server},
    limits,
    tls::ServerTls,
};
use http_body_util::BodyExt;
use std::{
    fs,
    time::{Duration, SystemTime},
};
use tokio::net::TcpListener;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn tls_server(pair: &PemPair) -> Served {
    server(Some(ServerTls::new(pair).unwrap()), limits::Config::default(), LONG)
}

fn dialer() -> Dialer {
    Dialer::new(&DialConfig::default()).unwrap()
}

async fn echo(link: &Link) -> String {
    let response = link.send(post("/echo", "hello")).await.unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_pinned_node_key_is_enough_whatever_the_names() {
    let served = tls_server(&pair(1, "elsewhere.example"));
    let link = dialer().dial(&served.target(Some(node(1).0)), later()).await.unwrap();
    assert_eq!((link.verified(), link.is_h2(), link.remote()), (Verified::Pinned, true, served.address));
    assert_eq!(link.origin().to_string(), format!("https://localhost:{}/", served.address.port()));
    assert_eq!(echo(&link).await, "hello");
    drop(link);
    served.end().await;
}

#[tokio::test]
async fn another_key_or_none_is_refused() {
    let served = tls_server(&pair(1, "localhost"));
    for (pinned, why) in [(Some(node(2).0), "another node key"), (None, "UnknownIssuer")] {
        match dialer().dial(&served.target(pinned), later()).await {
            Err(DialError::Untrusted { cause, .. }) => assert!(cause.contains(why), "{cause}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_root_of_the_ca_file_counts_as_webpki_and_goes_before_the_pin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let pems = pair(1, "localhost");
    fs::write(&path, &pems.cert).unwrap();
    let served = tls_server(&pems);
    let dialer = Dialer::new(&DialConfig { ca_file: Some(path), ..DialConfig::default() }).unwrap();
    for pinned in [None, Some(node(1).0), Some(node(2).0)] {
        let link = dialer.dial(&served.target(pinned), later()).await.unwrap();
        assert_eq!(link.verified(), Verified::WebPki);
    }
    let other = Target { id: "other.example:1".parse().unwrap(), ..served.target(None) };
    assert!(matches!(dialer.dial(&other, later()).await, Err(DialError::Untrusted { .. })), "the name counts");
}

#[tokio::test]
async fn a_pinned_key_in_a_certificate_out_of_its_time_is_refused() {
    let (public, sign) = node(1);
    let (now, names) = (SystemTime::now(), ["localhost".to_owned()]);
    for (from, to, why) in [(now - 2 * DAY, now - DAY, "expired"), (now + DAY, now + 2 * DAY, "not valid yet")] {
        let served = tls_server(&self_signed_within(&names, &public, &sign, from, to).unwrap());
        match dialer().dial(&served.target(Some(public)), later()).await {
            Err(DialError::Untrusted { cause, .. }) => assert!(cause.contains(why), "{cause}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_pinned_key_that_did_not_sign_is_refused() {
    let served = tls_server(&self_signed(&["localhost".to_owned()], &node(1).0, &node(2).1).unwrap());
    match dialer().dial(&served.target(Some(node(1).0)), later()).await {
        Err(DialError::Untrusted { cause, .. }) => assert!(cause.contains("signature"), "{cause}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn plaintext_speaks_both_versions_of_http() {
    let served = server(None, limits::Config::default(), LONG);
    for http1 in [false, true] {
        let link = dialer().dial(&served.plain(http1), later()).await.unwrap();
        assert_eq!((link.verified(), link.is_h2()), (Verified::Plaintext, !http1));
        assert_eq!(link.origin().scheme_str(), Some("http"));
        assert_eq!(echo(&link).await, "hello");
        assert_eq!(echo(&link).await, "hello");
    }
}

#[tokio::test]
async fn http1_over_tls_takes_one_request_after_the_other() {
    let served = tls_server(&pair(1, "localhost"));
    let target = Target { http1: true, ..served.target(Some(node(1).0)) };
    let link = dialer().dial(&target, later()).await.unwrap();
    assert!(!link.is_h2());
    let all = tokio::join!(echo(&link), echo(&link), echo(&link));
    assert_eq!(all, ("hello".into(), "hello".into(), "hello".into()));
    assert!(!link.is_closed());
}

#[tokio::test]
async fn plaintext_goes_to_loopback_only() {
    let target = Target {
        id: "a.example:1".parse().unwrap(),
        address: Some(("192.0.2.1".to_owned(), 1)),
        plaintext: true,
        http1: false,
        pinned: None,
        trusted: true,
    };
    match dialer().dial(&target, later()).await {
        Err(DialError::Refused { cause, .. }) => assert!(cause.contains("plaintext"), "{cause}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn loopback_is_for_targets_of_the_operator() {
    let mut served = tls_server(&pair(1, "localhost"));
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let foreign = Target {
            trusted: false,
            address: Some((host.to_owned(), served.address.port())),
            ..served.target(Some(node(1).0))
        };
        match dialer().dial(&foreign, later()).await {
            Err(DialError::Refused { cause, .. }) => assert!(cause.contains("loopback"), "{cause}"),
            other => panic!("{host}: {other:?}"),
        }
    }
    assert!(served.seen.try_recv().is_err());
    let allowing = Dialer::new(&DialConfig { allow_private_addresses: true, ..DialConfig::default() }).unwrap();
    let foreign = Target { trusted: false, ..served.target(Some(node(1).0)) };
    assert!(allowing.dial(&foreign, later()).await.is_ok());
    assert!(dialer().dial(&served.target(Some(node(1).0)), later()).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_accepts_and_stays_silent_meets_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let target = Target {
        id: format!("localhost:{port}").parse().unwrap(),
        address: Some(("127.0.0.1".to_owned(), port)),
        plaintext: false,
        http1: false,
        pinned: None,
        trusted: true,
    };
    let soon = Instant::now() + Duration::from_millis(200);
    match dialer().dial(&target, soon).await {
        Err(error @ DialError::Timeout { .. }) => assert!(error.to_string().contains("TLS"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_closed_port_is_a_connect_error_that_names_the_address() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let target = Target {
        id: format!("localhost:{port}").parse().unwrap(),
        address: Some(("127.0.0.1".to_owned(), port)),
        plaintext: false,
        http1: false,
        pinned: None,
        trusted: true,
    };
    match dialer().dial(&target, later()).await {
        Err(error @ DialError::Connect { .. }) => assert!(error.to_string().contains(&format!(":{port}")), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_link_whose_server_went_away_is_closed() {
    let served = tls_server(&pair(1, "localhost"));
    let link = dialer().dial(&served.target(Some(node(1).0)), later()).await.unwrap();
    assert_eq!(echo(&link).await, "hello");
    served.end().await;
    let error = loop {
        match link.send(post("/echo", "")).await {
            Ok(_) => panic!("answered by a server that has ended"),
            Err(error) if error.never_sent() => break error,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert!(link.is_closed() && error.to_string().contains("localhost"), "{error}");
}

#[tokio::test]
async fn shutdown_cuts_links_and_returns_when_their_tasks_ended() {
    let mut served = tls_server(&pair(1, "localhost"));
    let dialer = dialer();
    let link = dialer.dial(&served.target(Some(node(1).0)), later()).await.unwrap();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.send(post("/wait", "")).await.map(drop) }
    });
    served.next().await;
    dialer.shutdown().await;
    assert!(waiting.await.unwrap().is_err());
    assert!(link.is_closed());
}

#[tokio::test]
async fn a_generated_client_works_over_a_link() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("here", tonic_health::ServingStatus::Serving).await;
    let routes = tonic::service::Routes::new(health);
    let listener = crate::net::listen::Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr();
    let stop = CancellationToken::new();
    let tls = ServerTls::new(&pair(1, "localhost")).unwrap();
    let limits = limits::Limits::new(limits::Config::default());
    let service = routes.into_axum_router().into_service();
    let service =
        tower::ServiceExt::<http::Request<tonic::body::Body>>::map_response(service, |response: http::Response<_>| {
            response.map(tonic::body::Body::new)
        });
    let task = tokio::spawn(crate::net::listen::serve(listener, Some(tls), limits, service, stop.clone(), LONG));
    let target = Target {
        id: format!("localhost:{}", address.port()).parse().unwrap(),
        address: Some(("127.0.0.1".to_owned(), address.port())),
        plaintext: false,
        http1: false,
        pinned: Some(node(1).0),
        trusted: true,
    };
    let link = dialer().dial(&target, later()).await.unwrap();
    let mut client = HealthClient::with_origin(link.clone(), link.origin());
    let status = client.check(HealthCheckRequest { service: "here".into() }).await.unwrap();
    assert_eq!(status.into_inner().status, 1);
    let missing = client.check(HealthCheckRequest { service: "gone".into() }).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    drop((client, link));
    stop.cancel();
    task.await.unwrap();
}
