//! The gateway before a backend that behaves as its script says: each test is
//! named as the rule it shows.

use crate::{
    common::{
        LONG,
        backend::{Backend, TOKEN},
        browser::{Answer, Socket, ask},
    },
    eventually,
};
use pillarbox::{
    client::Options,
    gateway::{Bounds, Config, Gateway, Limits},
    net,
    proto::galaxy::backend::push::v1::ClientEvent,
    types::{Millis, PublicKey, signed_bytes},
};
use serde_json::Value;
use std::{net::SocketAddr, path::Path, time::Duration};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tonic::Code;

/// A backend, a gateway before it, and alice signed in twice, bob once.
pub struct Stage {
    pub backend: Backend,
    pub config: Config,
    gateway: Option<Gateway>,
    pub address: SocketAddr,
    pub key: PublicKey,
    dir: TempDir,
}

fn config(dir: &Path, backend: &Backend) -> Config {
    let options = Options::new(&backend.url(), "web", TOKEN).unwrap().attempt(Duration::from_secs(2));
    Config {
        id: "web".into(),
        backend: backend.url(),
        options,
        listen: ([127, 0, 0, 1], 0).into(),
        tls: net::Config { mode: net::Mode::Off, ..net::Config::default() },
        cursor_file: dir.join("web.cursor"),
        key_file: dir.join("web.key"),
        allow_origins: vec!["https://app.example".into()],
        limits: Limits::default(),
        keep_alive: Duration::from_millis(200),
    }
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(|_| {}).await
    }

    async fn set_with(edit: impl FnOnce(&mut Config)) -> Self {
        let (dir, backend) = (tempfile::tempdir().unwrap(), Backend::start().await);
        for (token, user, session) in [("a1", "alice", "s1"), ("a2", "alice", "s2"), ("b1", "bob", "s3")] {
            backend.signed_in(token, user, session, 0);
        }
        let mut config = config(dir.path(), &backend);
        edit(&mut config);
        let gateway = Gateway::start(config.clone()).await.unwrap();
        let (address, key) = (gateway.listen(), gateway.key());
        let stage = Self { backend, config, gateway: Some(gateway), address, key, dir };
        stage.open().await;
        stage
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    async fn open(&self) {
        eventually!(self.gateway().standing().open && self.gateway().standing().subscribed);
    }

    async fn stop(&mut self) {
        timeout(LONG, self.gateway.take().unwrap().shutdown()).await.unwrap();
    }

    async fn start_again(&mut self) {
        self.gateway = Some(Gateway::start(self.config.clone()).await.unwrap());
        self.address = self.gateway().listen();
        self.open().await;
    }

    async fn get(&self, path: &str) -> Answer {
        ask(self.address, "GET", path, &[]).await
    }

    /// The event stream of a token, after its `ready`.
    async fn stream(&self, token: &str, last: Option<u64>) -> Answer {
        let bearer = format!("Bearer {token}");
        let last = last.map(|last| format!("{last:020}"));
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(last.as_deref().map(|last| ("last-event-id", last)));
        let mut answer = ask(self.address, "GET", "/events", &headers).await;
        assert_eq!(answer.status, 200);
        let ready = answer.event().await;
        assert_eq!(ready.name, "ready");
        answer
    }

    async fn refused(&self, token: &str) -> u16 {
        ask(self.address, "GET", "/events", &[("authorization", &format!("Bearer {token}"))]).await.status.as_u16()
    }

    async fn socket(&self, token: &str) -> Socket {
        let mut socket = Socket::open(self.address, &format!("/ws?token={token}"), &[]).await.unwrap();
        assert_eq!(socket.message().await["type"], "ready");
        socket
    }

    async fn health(&self) -> (u16, Value) {
        let answer = self.get("/health").await;
        (answer.status.as_u16(), answer.json().await)
    }
}

/// The bytes of docs/gateway.md, made of the JSON alone.
fn signed(envelope: &Value) -> Vec<u8> {
    let mut bytes = vec![];
    for name in
        ["gateway", "cursor", "user_id", "device_session_id", "kind", "payload", "event_id", "request_id", "trace_id"]
    {
        let text = envelope[name].as_str().unwrap();
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    signed_bytes("gateway-event", &bytes)
}

fn decoded(text: &Value) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(text.as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_reaches_its_users_clients_signed_and_nobody_elses() {
    let stage = Stage::set().await;
    let (mut one, mut other, mut bob) =
        (stage.stream("a1", None).await, stage.socket("a2").await, stage.stream("b1", None).await);
    let cursor = stage.backend.publish("alice", "grüße");
    stage.backend.publish("bob", "for bob");
    let event = one.event().await;
    assert_eq!((event.cursor(), event.text()), (cursor, "grüße".into()));
    assert!(stage.key.verify(&signed(&event.data), &decoded(&event.data["signature"])));
    let said = other.message().await;
    assert_eq!(
        (&said["type"], &said["id"], &said["envelope"]),
        (&"event".into(), &event.id.clone().into(), &event.data)
    );
    assert_eq!(bob.event().await.text(), "for bob");
    let key = stage.get("/key").await.json().await;
    assert_eq!((&key["gateway"], &key["key"]), (&"web".into(), &stage.key.to_string().into()));

    // One session of hers alone.
    let event = ClientEvent { user_id: "alice".into(), device_session_id: "s2".into(), ..ClientEvent::default() };
    stage.backend.publish_event(event);
    stage.backend.publish("alice", "both");
    assert_eq!(one.event().await.text(), "both");
    assert_eq!(other.message().await["envelope"]["device_session_id"], "s2");
    assert!(stage.backend.agents().iter().all(String::is_empty));
    let named = ask(stage.address, "GET", "/events?token=a1", &[("user-agent", "tests/1")]).await;
    assert_eq!(named.status, 200);
    assert_eq!(stage.backend.agents().pop().unwrap(), "tests/1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_valid_token_is_told_so_and_who_cannot_be_looked_up_comes_again() {
    let mut stage = Stage::set().await;
    for path in ["/events", "/events?token=", "/events?token=nobodys"] {
        let answer = stage.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (401, "Bearer"), "{path}");
        assert_eq!(answer.json().await["error"], "unauthenticated");
    }
    assert_eq!(Socket::open(stage.address, "/ws?token=nobodys", &[]).await.err(), Some(401));
    for code in [Code::Internal, Code::PermissionDenied, Code::ResourceExhausted, Code::Unavailable] {
        stage.backend.fail_checks(Some(code));
        let answer = stage.get("/events?token=a1").await;
        assert_eq!(answer.status, 503, "{code:?}");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
    }
    stage.backend.fail_checks(None);
    assert_eq!(stage.refused("a1").await, 200);
    stage.backend.stop().await;
    assert_eq!(stage.refused("a1").await, 503);
    assert_eq!(Socket::open(stage.address, "/ws?token=a1", &[]).await.err(), Some(503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_goes_on_after_the_event_it_names() {
    let stage = Stage::set().await;
    let mut first = stage.stream("a1", None).await;
    let cursors: Vec<_> = ["1", "2", "3"].iter().map(|text| stage.backend.publish("alice", text)).collect();
    stage.backend.publish("bob", "for bob");
    assert_eq!(first.event().await.cursor(), cursors[0]);
    let mut again = stage.stream("a1", Some(cursors[0])).await;
    assert_eq!((again.event().await.text(), again.event().await.text()), ("2".into(), "3".into()));
    let path = format!("/ws?token=a1&last_event_id={:020}", cursors[1]);
    let mut socket = Socket::open(stage.address, &path, &[]).await.unwrap();
    let ready = socket.message().await;
    assert_eq!((&ready["resumed"], &ready["id"]), (&true.into(), &format!("{:020}", cursors[1]).into()));
    assert_eq!(socket.message().await["id"], format!("{:020}", cursors[2]));
    stage.backend.publish("alice", "4");
    assert_eq!(again.event().await.text(), "4");
    assert_eq!(socket.message().await["envelope"]["event_id"], "event-4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_go_on_from_where_it_began_even_if_nothing_came() {
    let stage = Stage::set().await;
    stage.backend.publish("bob", "so that there is a cursor");
    eventually!(stage.config.cursor_file.exists());
    let mut answer = stage.get("/events?token=a1").await;
    let began = answer.event().await.cursor();
    drop(answer);
    stage.backend.publish("alice", "meanwhile");
    let mut again = stage.stream("a1", Some(began)).await;
    assert_eq!(again.event().await.text(), "meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_event_is_gone_is_told_so() {
    let stage = Stage::set_with(|config| config.limits.ring_events = 2).await;
    let mut live = stage.stream("a1", None).await;
    let cursors: Vec<_> = ["1", "2", "3", "4"].iter().map(|text| stage.backend.publish("alice", text)).collect();
    while live.event().await.cursor() != cursors[3] {}
    for last in [format!("{:020}", cursors[0]), "nonsense".into()] {
        let headers = [("authorization", "Bearer a1"), ("last-event-id", last.as_str())];
        let mut late = ask(stage.address, "GET", "/events", &headers).await;
        assert_eq!(late.event().await.data["resumed"], false);
        let reset = late.event().await;
        assert_eq!((reset.name.as_str(), reset.cursor()), ("reset", cursors[3]));
        assert_eq!(reset.data["last_event_id"], last);
    }
    let mut in_time = stage.stream("a1", Some(cursors[1])).await;
    assert_eq!((in_time.event().await.text(), in_time.event().await.text()), ("3".into(), "4".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_nobody_gave_is_a_reset_after_a_while() {
    let stage = Stage::set().await;
    let cursor = stage.backend.publish("alice", "1");
    eventually!(stage.config.cursor_file.exists());
    let mut client = stage.stream("a1", Some(cursor + 1000)).await;
    let reset = client.event().await;
    assert_eq!((reset.name.as_str(), reset.cursor()), ("reset", cursor));
    stage.backend.publish("alice", "2");
    assert_eq!(client.event().await.text(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_over_a_restart_of_the_gateway() {
    let mut stage = Stage::set().await;
    let mut client = stage.stream("a1", None).await;
    for n in 1..=20 {
        stage.backend.publish("alice", &n.to_string());
    }
    let mut seen = vec![];
    let mut last = 0;
    for _ in 0..12 {
        let event = client.event().await;
        (last, _) = (event.cursor(), seen.push(event.text()));
    }
    // The file of some moments ago, as a crash leaves it.
    eventually!(stage.config.cursor_file.exists());
    let old = std::fs::read(&stage.config.cursor_file).unwrap();
    stage.stop().await;
    assert_eq!(client.closed().await, "stopping");
    stage.backend.publish("alice", "21");
    for file in [None, Some(old)] {
        if let Some(file) = file {
            stage.stop().await;
            std::fs::write(&stage.config.cursor_file, file).unwrap();
        }
        stage.start_again().await;
        let mut again = stage.stream("a1", Some(last)).await;
        let mut all = seen.clone();
        while all.len() < 21 {
            all.push(again.event().await.text());
        }
        let expected: Vec<_> = (1..=21).map(|n: u32| n.to_string()).collect();
        assert_eq!(all, expected);
        stage.backend.publish("bob", "nothing more for alice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_it_was_even_if_the_backend_keeps_less_than_the_gateway() {
    let mut stage = Stage::set().await;
    let mut client = stage.stream("a1", None).await;
    let cursors: Vec<_> = ["1", "2", "3"].iter().map(|text| stage.backend.publish("alice", text)).collect();
    while client.event().await.cursor() != cursors[2] {}
    stage.stop().await;
    stage.backend.keep_after(cursors[2]);
    stage.backend.publish("alice", "4");
    stage.start_again().await;
    let mut again = stage.stream("a1", Some(cursors[2])).await;
    assert_eq!(again.event().await.text(), "4");
    let mut missed = stage.stream("a1", Some(cursors[1])).await;
    assert_eq!(missed.event().await.name, "reset", "3 is nowhere any more");
    let asked = stage.backend.asked();
    assert_eq!(asked.last().unwrap(), &format!("{:020}", cursors[2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_stay_while_the_backend_is_away() {
    let mut stage = Stage::set().await;
    let (mut client, mut socket) = (stage.stream("a1", None).await, stage.socket("a2").await);
    stage.backend.publish("alice", "before");
    assert_eq!(client.event().await.text(), "before");
    assert_eq!(stage.health().await.0, 200);
    stage.backend.stop().await;
    eventually!(stage.health().await.0 == 503);
    assert_eq!(stage.health().await.1["status"], "away");
    stage.backend.publish("alice", "meanwhile");
    stage.backend.start_again();
    assert_eq!(client.event().await.text(), "meanwhile");
    assert_eq!(socket.message().await["envelope"]["event_id"], "event-before");
    assert_eq!(socket.message().await["envelope"]["event_id"], "event-meanwhile");
    eventually!(stage.health().await == (200, stage.health().await.1));
    // Each way to break off that is not for good.
    for code in [Code::Unavailable, Code::OutOfRange, Code::Internal, Code::Unknown] {
        let before = stage.backend.asked().len();
        stage.backend.kill(code);
        eventually!(stage.backend.asked().len() > before);
        stage.backend.publish("alice", "on");
        assert_eq!(client.event().await.text(), "on", "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_cuts_off_its_session_at_once() {
    let stage = Stage::set().await;
    let (mut gone, mut socket, mut stays) =
        (stage.stream("a1", None).await, stage.socket("a1").await, stage.stream("a2", None).await);
    stage.backend.revoke("s1", "session_revoked");
    let closed = gone.event().await;
    assert_eq!((closed.name.as_str(), &closed.data["detail"]), ("closed", &"session_revoked".into()));
    assert_eq!(gone.next().await, None);
    assert_eq!(socket.closed().await, (4001, "revoked: session_revoked".into()));
    assert_eq!(stage.refused("a1").await, 401);
    stage.backend.publish("alice", "still here");
    assert_eq!(stays.event().await.text(), "still here");
    // A user as a whole.
    let mut bob = stage.stream("b1", None).await;
    stage.backend.disable("alice");
    assert_eq!(stays.closed().await, "revoked");
    stage.backend.publish("bob", "not concerned");
    assert_eq!(bob.event().await.text(), "not concerned");
    eventually!(stage.gateway().clients() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_it_is_looked_up_gets_no_stream() {
    let stage = Stage::set().await;
    let mut bob = stage.stream("b1", None).await;
    stage.backend.hold_checks(true);
    let before = stage.backend.agents().len();
    let (address, bearer) = (stage.address, [("authorization", "Bearer a1")]);
    let asking = tokio::spawn(async move { ask(address, "GET", "/events", &bearer).await.status });
    eventually!(stage.backend.agents().len() > before);
    // Valid when it was asked about, and no longer when the answer comes.
    stage.backend.revoke("s1", "session_revoked");
    stage.backend.publish("bob", "the gateway has heard of it");
    bob.event().await;
    stage.backend.hold_checks(false);
    assert_eq!(timeout(LONG, asking).await.unwrap().unwrap(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_during_an_outage_is_heard_of_afterwards() {
    let mut stage = Stage::set().await;
    let (mut gone, mut stays) = (stage.stream("a1", None).await, stage.stream("a2", None).await);
    stage.backend.publish("alice", "1");
    assert_eq!((gone.event().await.text(), stays.event().await.text()), ("1".into(), "1".into()));
    stage.backend.stop().await;
    stage.backend.revoke("s1", "session_revoked");
    stage.backend.start_again();
    assert_eq!(gone.closed().await, "revoked");
    stage.backend.publish("alice", "2");
    assert_eq!(stays.event().await.text(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_go_before_they_are_answered_do_not_cost_the_subscription() {
    let stage = Stage::set_with(|config| config.tls.behind_proxy = true).await;
    let mut stays = stage.stream("b1", None).await;
    let request = b"GET /events?token=a1 HTTP/1.1\r\nhost: gateway\r\n\r\n";
    for _ in 0..40 {
        let mut leaving = vec![];
        for _ in 0..50 {
            let mut stream = TcpStream::connect(stage.address).await.unwrap();
            stream.write_all(request).await.unwrap();
            leaving.push(stream);
        }
    }
    // Each of them was looked up, or never noticed.
    stage.backend.publish("bob", "1");
    assert_eq!(stays.event().await.text(), "1");
    assert_eq!(stage.backend.asked().len(), 1, "it subscribed once");
    eventually!(stage.gateway().clients() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cursor_reset_every_client_is_validated_anew() {
    let mut stage = Stage::set().await;
    let (mut one, mut socket) = (stage.stream("a1", None).await, stage.socket("a2").await);
    let last = stage.backend.publish("alice", "1");
    assert_eq!(one.event().await.text(), "1");
    stage.backend.stop().await;
    // The invalidation is never heard of.
    stage.backend.revoke("s1", "session_revoked");
    stage.backend.forget();
    stage.backend.start_again();
    assert_eq!(one.closed().await, "revalidate");
    assert_eq!(socket.closed().await.0, 4003);
    eventually!(stage.gateway().standing().subscribed);
    assert_eq!(stage.refused("a1").await, 401);
    let mut again = stage.stream("a2", Some(last)).await;
    assert_eq!(again.event().await.name, "reset");
    stage.backend.publish("alice", "2");
    assert_eq!(again.event().await.text(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_never_had_a_cursor_validates_its_clients_anew_after_an_outage() {
    let mut stage = Stage::set().await;
    let mut client = stage.stream("a1", None).await;
    stage.backend.stop().await;
    stage.backend.start_again();
    assert_eq!(client.closed().await, "revalidate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_place_was_taken_says_so_and_does_not_fight() {
    let mut stage = Stage::set().await;
    let asked = stage.backend.asked().len();
    stage.backend.replace();
    let why = timeout(LONG, stage.gateway.as_mut().unwrap().failed()).await.unwrap();
    assert!(why.contains("another gateway subscribed as gateway:web"), "{why}");
    assert_eq!(stage.backend.asked().len(), asked);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_backend_refuses_ends_the_gateway() {
    let (dir, backend) = (tempfile::tempdir().unwrap(), Backend::start().await);
    let options = Options::new(&backend.url(), "web", "pbt_wrong").unwrap();
    let mut gateway = Gateway::start(Config { options, ..config(dir.path(), &backend) }).await.unwrap();
    let why = timeout(LONG, gateway.failed()).await.unwrap();
    assert!(why.contains("pillarbox token new gateway:web") && !why.contains("pbt_wrong"), "{why}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_session() {
    let stage = Stage::set().await;
    let soon = Millis::now().plus(Duration::from_millis(300)).0;
    stage.backend.signed_in("short", "alice", "s4", soon);
    let mut socket = Socket::open(stage.address, "/ws?token=short", &[]).await.unwrap();
    assert_eq!(socket.message().await["expires_at"], soon);
    let mut client = stage.get("/events?token=short").await;
    assert_eq!(client.closed().await, "expired");
    assert_eq!(socket.closed().await.0, 4002);
    assert!(Millis::now().0 >= soon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_so_many_streams_and_no_more() {
    let limits = Limits { clients: 3, clients_per_user: 2, ..Limits::default() };
    let stage = Stage::set_with(|config| config.limits = limits).await;
    let (first, _second) = (stage.stream("a1", None).await, stage.socket("a2").await);
    let over = stage.get("/events?token=a1").await;
    assert_eq!((over.status.as_u16(), over.header("retry-after")), (429, "30"));
    let _third = stage.stream("b1", None).await;
    stage.backend.signed_in("c1", "carol", "s9", 0);
    assert_eq!(stage.refused("c1").await, 503);
    drop(first);
    eventually!(stage.refused("c1").await == 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_dropped_and_slows_nobody() {
    let queue = Bounds { events: 50, bytes: 64 << 20 };
    let limits = Limits { queue, ring_bytes: 1 << 30, ..Limits::default() };
    let stage = Stage::set_with(|config| config.limits = limits).await;
    let (mut quick, mut slow) = (stage.stream("a1", None).await, stage.stream("a2", None).await);
    let _silent = stage.socket("a2").await;
    let large = "x".repeat(60_000);
    // What its connection and the systems on both sides hold comes on top of the queue.
    let mut read = vec![];
    for n in 0..600 {
        read.push((stage.backend.publish("alice", &format!("{n} {large}")), n));
        let event = quick.event().await;
        assert_eq!((event.cursor(), n), read[n]);
    }
    let mut got = 0;
    let end = loop {
        match slow.next().await {
            Some(event) if event.name.is_empty() => {
                assert_eq!(event.cursor(), read[got].0, "in order up to its end");
                got += 1;
            }
            Some(event) => break Some(event.data["reason"].clone()),
            // The system gave the connection up first.
            None => break None,
        }
    };
    assert!(end.is_none_or(|reason| reason == "slow"));
    assert!(got < 600, "it was dropped");
    let mut again = stage.stream("a2", Some(read[got.saturating_sub(1)].0)).await;
    assert_eq!(again.event().await.cursor(), read[got].0, "and goes on where it was");
    drop((slow, again));
    eventually!(stage.gateway().clients() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_are_let_in_only_by_the_operator() {
    let stage = Stage::set().await;
    let own = format!("http://{}", stage.address);
    for (origin, status, allowed) in [
        ("https://app.example", 200, true),
        ("https://evil.example", 403, false),
        (own.as_str(), 200, false),
        ("null", 403, false),
    ] {
        let answer = ask(stage.address, "GET", "/events", &[("authorization", "Bearer a1"), ("origin", origin)]).await;
        assert_eq!(answer.status.as_u16(), status, "{origin}");
        let expected = if allowed { origin } else { "" };
        assert_eq!(
            (answer.header("access-control-allow-origin"), answer.header("vary")),
            (expected, if status == 200 { "origin" } else { "" })
        );
        let opened = Socket::open(stage.address, "/ws?token=a1", &[("origin", origin)]).await;
        assert_eq!(opened.err(), if status == 200 { None } else { Some(403) }, "{origin}");
        let asked = ask(stage.address, "OPTIONS", "/events", &[("origin", origin)]).await;
        assert_eq!(asked.status.as_u16(), if status == 200 { 204 } else { 403 }, "{origin}");
        assert_eq!(asked.header("access-control-allow-origin"), expected);
    }
    let asked = ask(stage.address, "OPTIONS", "/events", &[("origin", "https://app.example")]).await;
    assert!(asked.header("access-control-allow-headers").contains("authorization"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_json() {
    let stage = Stage::set().await;
    for (method, path, status, error) in [
        ("GET", "/events", 401, "unauthenticated"),
        ("POST", "/events", 405, "method_not_allowed"),
        ("DELETE", "/", 405, "method_not_allowed"),
        ("GET", "/ws?token=a1", 400, "no_web_socket"),
        ("GET", "/x", 404, "not_found"),
    ] {
        let answer = ask(stage.address, method, path, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (status, "application/json"), "{path}");
        let said = answer.json().await;
        assert!(said["error"] == error && !said["message"].as_str().unwrap().is_empty(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_keeps_to_itself() {
    let stage = Stage::set().await;
    for (path, status) in
        [("/", 200), ("/events?token=a1", 200), ("/events", 401), ("/health", 200), ("/key", 200), ("/x", 404)]
    {
        let answer = stage.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
    }
    let page = stage.get("/").await;
    assert!(page.header("content-security-policy").contains("script-src 'sha256-"));
    assert!(page.header("content-type").starts_with("text/html"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_socket_is_asked_whether_it_is_there_and_not_listened_to() {
    use crate::common::browser::Said;
    let stage = Stage::set().await;
    let mut socket = stage.socket("a1").await;
    let mut talks = stage.socket("a2").await;
    // Pings that nobody answers; whoever says anything at all is there.
    let mut pings = 0;
    while socket.next().await == Said::Ping {
        pings += 1;
        talks.say("anything").await;
    }
    assert_eq!(pings, 3);
    stage.backend.publish("alice", "1");
    assert_eq!(talks.message().await["envelope"]["event_id"], "event-1");
    let mut listener = stage.stream("a1", None).await;
    stage.backend.publish("alice", "2");
    assert_eq!(listener.event().await.text(), "2");
    drop(stage.dir);
}
