//! The gateway before a real node, in one process with the test or in one of
//! its own that is killed: each test is named as the rule it shows.

use crate::{
    common::{
        LONG, TestNode,
        backend::{Backend, TOKEN},
        browser::{Answer, Event, Socket, ask},
        forwarder::Forwarder,
        gateway::{GatewayProcess, log},
    },
    eventually,
};
use http::Request;
use http_body_util::BodyExt;
use pillarbox::{
    net::dial::{DialConfig, Dialer, Target},
    proto::pillarbox::{
        admin::v1::NewTokenRequest,
        push::v1::{PublishRequest, publisher_client::PublisherClient},
    },
};
use std::{os::unix::fs::PermissionsExt, path::Path};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::{
    Code,
    body::Body,
    metadata::{Ascii, MetadataValue},
};

/// The token itself, and its id.
async fn token(node: &TestNode, principal: &str) -> (String, String) {
    let request = NewTokenRequest { principal: principal.into(), ..NewTokenRequest::default() };
    let made = node.operator().await.new_token(request).await.unwrap().into_inner();
    (made.token, made.id)
}

/// A node, and how a gateway reaches it.
struct Stage {
    node: TestNode,
    service: MetadataValue<Ascii>,
    gateway_token: String,
    dir: TempDir,
}

impl Stage {
    async fn set() -> Self {
        let node = TestNode::start().await;
        let service = node.bearer("service:shop").await;
        let (gateway_token, _) = token(&node, "gateway:web").await;
        Self { node, service, gateway_token, dir: tempfile::tempdir().unwrap() }
    }

    /// A gateway process before the node.
    async fn gateway(&self, dir: &Path) -> GatewayProcess {
        let (backend, key) = (format!("https://{}", self.node.id), self.node.key.to_string());
        let arguments = ["--backend", &backend, "--pin", &key];
        let gateway = GatewayProcess::start(dir, &self.gateway_token, &arguments);
        ready(&gateway).await;
        gateway
    }

    /// Tells a user a number; returns once it is on disk.
    async fn publish(&self, user: &str, number: u32) {
        let link = self.node.dial(false).await;
        let mut request = tonic::Request::new(PublishRequest {
            user_id: user.into(),
            kind: "test.number".into(),
            payload: number.to_string().into(),
            event_id: format!("{user}-{number}"),
            ..PublishRequest::default()
        });
        request.metadata_mut().insert("authorization", self.service.clone());
        PublisherClient::with_origin(link.clone(), link.origin()).publish(request).await.unwrap();
    }
}

async fn ready(gateway: &GatewayProcess) {
    eventually!(ask(gateway.address, "GET", "/health", &[]).await.status == 200);
}

/// After its `ready`; the error is the status of a refusal.
async fn stream(gateway: &GatewayProcess, token: &str, last: Option<&str>) -> Result<Answer, u16> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(last.map(|last| ("last-event-id", last)));
    let mut answer = ask(gateway.address, "GET", "/events", &headers).await;
    if answer.status != 200 {
        return Err(answer.status.as_u16());
    }
    assert_eq!(answer.event().await.name, "ready");
    Ok(answer)
}

fn number(event: &Event) -> u32 {
    assert_eq!(event.name, "", "{event:?}");
    event.data["payload"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_kills_of_the_gateway_a_client_that_resumes_misses_nothing_and_sees_nothing_twice() {
    const ALL: u32 = 240;
    let stage = Stage::set().await;
    let (alice, _) = token(&stage.node, "user:alice").await;
    let dir = stage.dir.path().join("web");
    let mut gateway = stage.gateway(&dir).await;
    let mut client = stream(&gateway, &alice, None).await.unwrap();
    let (mut seen, mut last) = (vec![], None::<String>);
    let publishing = async {
        for number in 1..=ALL {
            stage.publish("alice", number).await;
            stage.publish("bob", number).await;
        }
    };
    let reading = async {
        eventually!(dir.join("web.cursor").exists());
        // Some are seen before each kill, and what is on the way then is not.
        for kill_after in [40, 41, 120, 170] {
            while seen.len() < kill_after {
                let event = client.event().await;
                last = Some(event.id.clone());
                seen.push(number(&event));
            }
            gateway.kill();
            gateway = stage.gateway(&dir).await;
            client = stream(&gateway, &alice, last.as_deref()).await.unwrap();
        }
        while seen.len() < usize::try_from(ALL).unwrap() {
            seen.push(number(&client.event().await));
        }
    };
    timeout(LONG * 2, async { tokio::join!(publishing, reading) }).await.unwrap();
    assert_eq!(seen, (1..=ALL).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_the_gateway_is_down_is_not_served_when_it_is_back() {
    let stage = Stage::set().await;
    let ((gone, _), (stays, _)) = (token(&stage.node, "user:alice").await, token(&stage.node, "user:bob").await);
    let dir = stage.dir.path().join("web");
    let mut gateway = stage.gateway(&dir).await;
    let mut client = stream(&gateway, &gone, None).await.unwrap();
    stage.publish("alice", 1).await;
    let last = client.event().await.id;
    // Killed before it ever saved a cursor, it would begin anew.
    eventually!(dir.join("web.cursor").exists());
    gateway.kill();
    stage.node.revoke("user:alice").await;
    stage.publish("bob", 2).await;
    let gateway = stage.gateway(&dir).await;
    assert_eq!(stream(&gateway, &gone, Some(&last)).await.err(), Some(401));
    let mut bob = stream(&gateway, &stays, Some(&last)).await.unwrap();
    assert_eq!(number(&bob.event().await), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_the_node_is_not_reached_is_cut_off_when_it_is() {
    let stage = Stage::set().await;
    let ((gone, _), (stays, _)) = (token(&stage.node, "user:alice").await, token(&stage.node, "user:bob").await);
    let way = Forwarder::to(stage.node.address).await;
    // Under the node's name, at the forwarder's port.
    let (backend, key) = (format!("https://localhost:{}", way.address.port()), stage.node.key.to_string());
    let dir = stage.dir.path().join("web");
    let gateway = GatewayProcess::start(&dir, &stage.gateway_token, &["--backend", &backend, "--pin", &key]);
    ready(&gateway).await;
    let (mut one, mut other) =
        (stream(&gateway, &gone, None).await.unwrap(), stream(&gateway, &stays, None).await.unwrap());
    let path = format!("/ws?token={gone}");
    let mut socket = Socket::open(gateway.address, &path, &[]).await.unwrap();
    assert_eq!(socket.message().await["user_id"], "alice");
    for user in ["alice", "bob"] {
        stage.publish(user, 1).await;
    }
    assert_eq!((number(&one.event().await), number(&other.event().await)), (1, 1));
    way.close();
    eventually!(ask(gateway.address, "GET", "/health", &[]).await.status == 503);
    stage.node.revoke("user:alice").await;
    stage.publish("bob", 2).await;
    way.open();
    assert_eq!(one.closed().await, "revoked");
    assert_eq!(socket.message().await["type"], "event");
    assert_eq!(socket.closed().await.0, 4001);
    assert_eq!(number(&other.event().await), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_gateways_with_one_id_the_older_ends_with_exit_1() {
    let stage = Stage::set().await;
    let (alice, _) = token(&stage.node, "user:alice").await;
    let mut older = stage.gateway(&stage.dir.path().join("older")).await;
    let mut client = stream(&older, &alice, None).await.unwrap();
    let newer = stage.gateway(&stage.dir.path().join("newer")).await;
    assert_eq!(client.closed().await, "stopping");
    eventually!(older.ended().is_some());
    assert_eq!(older.ended().and_then(|status| status.code()), Some(1));
    assert!(log(&stage.dir.path().join("older")).contains("another gateway subscribed as gateway:web"));
    let mut client = stream(&newer, &alice, None).await.unwrap();
    stage.publish("alice", 1).await;
    assert_eq!(number(&client.event().await), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_too_slow_says_so_and_does_not_blame_the_backend() {
    let backend = Backend::start().await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("web");
    let gateway = GatewayProcess::start(&dir, TOKEN, &["--backend", &backend.url()]);
    ready(&gateway).await;
    backend.publish("alice", "1");
    eventually!(dir.join("web.cursor").exists());
    backend.forget();
    backend.kill(Code::OutOfRange);
    eventually!(log(&dir).contains("subscribed from now on: what came since"));
    let log = log(&dir);
    assert!(log.contains("too slow and fell out of the backend's window"), "{log}");
    assert!(!log.contains("the backend is away"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_short_of_files_turns_clients_away_and_still_reaches_its_backend() {
    let mut backend = Backend::start().await;
    backend.signed_in("a1", "alice", "s1", 0);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("web");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"ulimit -n 100; exec "$@""#, "sh", env!("CARGO_BIN_EXE_pillarbox")]).env_remove("RUST_LOG");
    let url = backend.url();
    let arguments = ["--backend", &url, "--behind-proxy", "--max-clients-per-user", "1000"];
    let gateway = GatewayProcess::start_by(command, &dir, TOKEN, &arguments);
    ready(&gateway).await;
    assert!(log(&dir).contains("raise ulimit -n"), "{}", log(&dir));
    let (mut clients, mut away) = (vec![], 0);
    for _ in 0..150 {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        // One that is turned away may be gone already.
        let _ = client.write_all(b"GET /events?token=a1 HTTP/1.1\r\nhost: gateway\r\n\r\n").await;
        match timeout(LONG, client.read(&mut [0; 64])).await.expect("neither let in nor turned away") {
            Ok(1..) => clients.push(client),
            _ => away += 1,
        }
    }
    assert!(clients.len() >= 50 && away >= 50, "{} {away}", clients.len());
    backend.stop().await;
    backend.start_again();
    eventually!(backend.asked().len() == 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_stops_in_good_order_keeps_its_key_and_logs_no_token() {
    let backend = Backend::start().await;
    backend.signed_in("pbt_in-the-query", "alice", "s1", 0);
    backend.signed_in("pbt_in-the-header", "alice", "s2", 0);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("web");
    let url = backend.url();
    let mut keys = vec![];
    for _ in 0..2 {
        let mut gateway = GatewayProcess::start(&dir, TOKEN, &["--backend", &url]);
        ready(&gateway).await;
        let mut client = ask(gateway.address, "GET", "/events?token=pbt_in-the-query", &[]).await;
        assert_eq!(client.event().await.name, "ready");
        let mut other = stream(&gateway, "pbt_in-the-header", None).await.unwrap();
        let mut socket = Socket::open(gateway.address, "/ws?token=pbt_in-the-query", &[]).await.unwrap();
        assert_eq!(ask(gateway.address, "GET", "/events?token=pbt_refused", &[]).await.status, 401);
        socket.message().await;
        backend.publish("alice", "1");
        assert_eq!((client.event().await.text(), other.event().await.text()), ("1".into(), "1".into()));
        gateway.terminate();
        assert_eq!((client.closed().await, other.closed().await), ("stopping".into(), "stopping".into()));
        socket.message().await;
        assert_eq!(socket.closed().await, (1001, "stopping".into()));
        eventually!(gateway.ended().is_some());
        assert_eq!(gateway.ended().and_then(|status| status.code()), Some(0));
        keys.push(gateway.ready["key"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys[0], keys[1]);
    let mode = std::fs::metadata(dir.join("web.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = log(&dir);
    assert!(log.contains("TRACE"), "all there is was logged");
    for secret in ["in-the-query", "in-the-header", "pbt_refused", TOKEN] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_a_certificate_serves_https() {
    let backend = Backend::start().await;
    backend.signed_in("a1", "alice", "s1", 0);
    let (node, dir) = (TestNode::start().await, tempfile::tempdir().unwrap());
    let tls = node.config.data_dir.join("tls");
    let (cert, key) = (tls.join("cert.pem"), tls.join("key.pem"));
    let arguments =
        ["--backend", &backend.url(), "--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let gateway = GatewayProcess::start(&dir.path().join("web"), TOKEN, &arguments);
    assert!(gateway.ready["url"].as_str().unwrap().starts_with("https://"));
    let dialer = Dialer::new(&DialConfig { ca_file: Some(cert), ..DialConfig::default() }).unwrap();
    for http1 in [false, true] {
        let target = Target {
            id: format!("localhost:{}", gateway.address.port()).parse().unwrap(),
            address: None,
            plaintext: false,
            http1,
            pinned: None,
            trusted: true,
        };
        let link = dialer.dial(&target, Instant::now() + LONG).await.unwrap();
        assert_eq!(link.is_h2(), !http1);
        let get = |path: &str| {
            let request = Request::get(path).header("authorization", "Bearer a1");
            let origin = format!("https://localhost:{}", gateway.address.port());
            request.header("origin", origin).body(Body::empty()).unwrap()
        };
        eventually!(link.send(get("/health")).await.unwrap().status() == 200);
        let mut events = link.send(get("/events")).await.unwrap();
        assert_eq!(events.status(), 200, "its own origin, whatever the protocol");
        let first = timeout(LONG, events.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"retry: "), "{first:?}");
    }
    let mut socket = Socket::open_tls(gateway.address, "/ws?token=a1", &node.certificate()).await.unwrap();
    assert_eq!(socket.message().await["type"], "ready");
    backend.publish("alice", "1");
    assert_eq!(socket.message().await["envelope"]["event_id"], "event-1");
    gateway.terminate();
    assert_eq!(socket.closed().await.0, 1001);
}
