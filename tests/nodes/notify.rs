//! Parties that are away are told that something waits: each test is named as
//! the rule it shows. The mail server and the webhook are made here.

use crate::{
    common::{TestNode, federate},
    eventually,
    party::{Party, announcement},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use pillarbox::{
    config::Config,
    net::{certificate::PemPair, tls::ServerTls},
    proto::mpc::router::v1::{GetRegisteredPartiesRequest, NotificationChannel, RegisterPartyRequest},
};
use ring::hmac;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};

const KEY: &[u8] = b"a key of no less than 24 bytes";
const PAYLOAD: &[u8] = b"the payload that stays at home";

/// What one connection brought: the lines before the body, and the body.
#[derive(Debug, Clone)]
struct Got {
    head: Vec<String>,
    body: String,
}

#[derive(Clone, Copy)]
enum Speaks {
    Http,
    Smtp,
}

/// A server on a port of its own that notes what it gets.
struct Fake {
    address: SocketAddr,
    notes: Arc<Notes>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Notes {
    got: Mutex<Vec<Got>>,
    /// How the next ones are answered; after them all is well.
    script: Mutex<VecDeque<&'static str>>,
}

impl Fake {
    async fn start(speaks: Speaks, script: &[&'static str]) -> Self {
        Self::start_on(speaks, script, None).await
    }

    async fn start_on(speaks: Speaks, script: &[&'static str], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::new(Notes { got: Mutex::default(), script: Mutex::new(script.iter().copied().collect()) });
        let (mut tasks, noting) = (JoinSet::new(), notes.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (notes, tls) = (noting.clone(), tls.clone());
                connections.spawn(async move {
                    // The other side may hang up.
                    let _ = match tls {
                        None => speaks.serve(stream, &notes).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => speaks.serve(stream, &notes).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { address, notes, _tasks: tasks }
    }

    fn got(&self) -> Vec<Got> {
        self.notes.got.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.notes.got.lock().unwrap().len()
    }
}

impl Speaks {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin, notes: &Notes) -> io::Result<()> {
        match self {
            Self::Http => http(stream, notes).await,
            Self::Smtp => smtp(stream, notes).await,
        }
    }
}

impl Notes {
    fn take(&self, head: Vec<String>, body: String) -> Option<&'static str> {
        self.got.lock().unwrap().push(Got { head, body });
        self.script.lock().unwrap().pop_front()
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, notes: &Notes) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = vec![];
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = header(&head, "content-length").parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let answer = notes.take(head, String::from_utf8(body).unwrap()).unwrap_or("204 No Content\r\n");
    if answer == "silence" {
        return std::future::pending().await;
    }
    stream.write_all(format!("HTTP/1.1 {answer}\r\n").as_bytes()).await?;
    stream.shutdown().await
}

async fn smtp(stream: impl AsyncRead + AsyncWrite + Unpin, notes: &Notes) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 fake\r\n").await?;
    let (mut head, mut line) = (vec![], String::new());
    while stream.read_line(&mut line).await? > 0 {
        let command = std::mem::take(&mut line).trim_end().to_owned();
        let answer = match &*command {
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut body = String::new();
                while stream.read_line(&mut body).await? > 0 && !body.ends_with("\r\n.\r\n") {}
                notes.take(std::mem::take(&mut head), body).unwrap_or("250 taken")
            }
            "QUIT" => "221 bye",
            _ if command.starts_with("EHLO") => "250 fake",
            _ => "250 fine",
        };
        head.push(command);
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// The value of a header that is there once.
fn header<'a>(head: &'a [String], name: &str) -> &'a str {
    let mut values = head.iter().filter_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    let value = values.next().unwrap_or_else(|| panic!("no {name} in {head:?}"));
    assert_eq!(values.next(), None);
    value
}

/// A node without any online time but that of subscriptions.
async fn node(mail: Option<&Fake>, hook: Option<&Fake>) -> TestNode {
    TestNode::start_with(|config| edit(config, mail, hook)).await
}

/// A party is online for so long after each sign of life.
async fn node_with(online_after: Duration, mail: Option<&Fake>, hook: Option<&Fake>) -> TestNode {
    TestNode::start_with(|config| {
        edit(config, mail, hook);
        config.relay.online_after = online_after;
    })
    .await
}

fn edit(config: &mut Config, mail: Option<&Fake>, hook: Option<&Fake>) {
    config.relay.online_after = Duration::ZERO;
    config.federation.pull_interval = Duration::from_millis(200);
    let notify = &mut config.relay.notify;
    if let Some(mail) = mail {
        notify.smtp_url = format!("smtp://{}", mail.address).into();
        notify.smtp_from = "Pillarbox <box@a.example>".into();
    }
    if let Some(hook) = hook {
        notify.webhook_url = format!("http://{}/hook?a=b", hook.address).into();
        notify.webhook_secret = format!("whsec_{}", STANDARD.encode(KEY)).into();
    }
}

async fn register(party: &Party, email: &str, phone: &str, push_token: &str) {
    try_register(party, email, phone, push_token).await.unwrap();
}

/// What the answer says.
async fn try_register(party: &Party, email: &str, phone: &str, push_token: &str) -> Result<String, Status> {
    let notification = NotificationChannel { email: email.into(), phone: phone.into(), push_token: push_token.into() };
    let register = RegisterPartyRequest {
        party_id: party.name.clone(),
        party_role: "persistent".into(),
        version: String::new(),
        notification: Some(notification),
    };
    Ok(party.client.clone().register_party(party.request(register)).await?.into_inner().message)
}

/// Who is online.
async fn online(asks: &Party) -> Vec<String> {
    let request = GetRegisteredPartiesRequest { role_filter: String::new(), only_online: true };
    let answer = asks.client.clone().get_registered_parties(asks.request(request)).await.unwrap().into_inner();
    answer.parties.into_iter().map(|party| party.party_id).collect()
}

/// A post whose signature is good: its id and its body.
fn verified(post: &Got) -> (String, Value) {
    assert_eq!(post.head[0], "POST /hook?a=b HTTP/1.1");
    assert_eq!(header(&post.head, "content-type"), "application/json");
    let (id, at) = (header(&post.head, "webhook-id"), header(&post.head, "webhook-timestamp"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(at.parse().unwrap()) < 60);
    let signature = header(&post.head, "webhook-signature").strip_prefix("v1,").unwrap();
    let signed = format!("{id}.{at}.{}", post.body);
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY);
    hmac::verify(&key, signed.as_bytes(), &STANDARD.decode(signature).unwrap()).unwrap();
    (id.to_owned(), serde_json::from_str(&post.body).unwrap())
}

/// How often each party was told of each session.
fn sessions(hook: &Fake) -> BTreeMap<(String, String), usize> {
    let mut count = BTreeMap::new();
    for post in hook.got() {
        let data = &verified(&post).1["data"];
        let text = |key: &str| data[key].as_str().unwrap().to_owned();
        *count.entry((text("party_id"), text("session_id"))).or_default() += 1;
    }
    count
}

fn once(subjects: &[(&str, &str)]) -> BTreeMap<(String, String), usize> {
    subjects.iter().map(|(party, session)| ((party.to_string(), session.to_string()), 1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_party_that_is_away_is_told_once_a_session_over_each_of_its_ways() {
    let (mail, hook) = (Fake::start(Speaks::Smtp, &[]).await, Fake::start(Speaks::Http, &[]).await);
    let mut node = node(Some(&mail), Some(&hook)).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    register(&bob, "bob@mail.example", "+49 1", "").await;
    for _ in 0..20 {
        alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    }
    eventually!(mail.count() >= 1 && hook.count() >= 1);
    // Between bursts, and with all of them long sent.
    for _ in 0..20 {
        alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    }
    alice.route("t", &["bob"], PAYLOAD).await.unwrap();
    eventually!(mail.count() >= 2 && hook.count() >= 2);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s"), ("bob", "t")]));

    let mails = mail.got();
    assert_eq!(mails.len(), 2);
    let first = mails.iter().find(|mail| mail.body.contains("Session: s\r\n")).unwrap();
    assert_eq!(first.head[1..], ["MAIL FROM:<box@a.example>", "RCPT TO:<bob@mail.example>"]);
    assert!(first.body.contains(&format!("\r\n\r\nSession: s\r\nNode: {}\r\n", node.id)), "{}", first.body);
    let (_, post) = verified(&hook.got()[0]);
    assert_eq!(post["type"], "mpc.message_waiting");
    assert!(post["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(post["data"], json!({"party_id": "bob", "session_id": "s", "phone": "+49 1"}));
    let payload = String::from_utf8(PAYLOAD.to_vec()).unwrap();
    for got in mails.into_iter().chain(hook.got()) {
        let text = format!("{:?}", got);
        assert!(!text.contains(&payload) && !text.contains(&STANDARD.encode(PAYLOAD)), "{text}");
        assert!(!text.contains(&STANDARD.encode(KEY)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_online_or_gave_no_channel_is_not_told() {
    let (mail, hook) = (Fake::start(Speaks::Smtp, &[]).await, Fake::start(Speaks::Http, &[]).await);
    let mut node = node(Some(&mail), Some(&hook)).await;
    let (alice, bob, carol, dave) = (
        Party::of(&node, "alice").await,
        Party::of(&node, "bob").await,
        Party::of(&node, "carol").await,
        Party::of(&node, "dave").await,
    );
    register(&bob, "", "+1", "").await;
    register(&carol, "carol@mail.example", "+2", "token of a phone").await;
    register(&dave, "", "", "").await;
    let mut messages = carol.subscribe("").await.unwrap();
    alice.route("s", &["bob", "carol", "dave", "nobody"], PAYLOAD).await.unwrap();
    assert_eq!(messages.payload().await, PAYLOAD);
    eventually!(hook.count() >= 1);
    // She leaves; the next message finds her away. It may come before her stream's end is seen.
    drop(messages);
    eventually!({
        alice.route("s", &["carol"], PAYLOAD).await.unwrap();
        hook.count() >= 2 && mail.count() >= 1
    });
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s"), ("carol", "s")]));
    assert_eq!(mail.count(), 1);
    let (_, post) = verified(&hook.got()[1]);
    assert_eq!(post["data"]["push_token"], "token of a phone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_party_is_not_told_until_its_last_sign_of_life_is_old() {
    let hook = Fake::start(Speaks::Http, &[]).await;
    let mut node = TestNode::start_with(|config| {
        edit(config, None, Some(&hook));
        config.relay.online_after = Duration::from_secs(3_600);
    })
    .await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    register(&bob, "", "+1", "").await;
    for session in 0..20 {
        alice.route(&session.to_string(), &["bob"], PAYLOAD).await.unwrap();
        bob.heartbeat().await.unwrap();
    }
    assert_eq!(hook.count(), 0);
    node.stop().await;
    node.config.relay.online_after = Duration::ZERO;
    node.start_again().await;
    let alice = Party::of(&node, "alice").await;
    alice.route("old", &["bob"], PAYLOAD).await.unwrap();
    eventually!(hook.count() >= 1);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "old")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_silent_after_something_came_is_told_when_it_is_offline() {
    let (mail, hook) = (Fake::start(Speaks::Smtp, &[]).await, Fake::start(Speaks::Http, &[]).await);
    let online_after = Duration::from_secs(1);
    let mut node = node_with(online_after, Some(&mail), Some(&hook)).await;
    let service = Party::service(&node).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let begun = Instant::now();
    register(&bob, "bob@mail.example", "+1", "").await;
    // One message, one event, and not a sign of anybody any more.
    alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    service.publish(announcement("t", &["bob"])).await.unwrap();
    eventually!(hook.count() >= 1 || mail.count() >= 1);
    assert!(begun.elapsed() >= online_after);
    eventually!(hook.count() >= 2 && mail.count() >= 2);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s"), ("bob", "t")]));
    assert_eq!(mail.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_heard_of_or_acknowledges_in_time_is_not_told() {
    let hook = Fake::start(Speaks::Http, &[]).await;
    let mut node = node_with(Duration::from_secs(2), None, Some(&hook)).await;
    let (alice, bob, carol, dave) = (
        Party::of(&node, "alice").await,
        Party::of(&node, "bob").await,
        Party::of(&node, "carol").await,
        Party::of(&node, "dave").await,
    );
    for party in [&bob, &carol, &dave] {
        register(party, "", "+1", "").await;
    }
    let id = alice.route("s", &["bob", "carol"], PAYLOAD).await.unwrap();
    carol.acknowledge(&id, true, "").await.unwrap();
    alice.route("s", &["dave"], PAYLOAD).await.unwrap();
    // Bob is heard of until after the others were looked at; he does not read.
    eventually!({
        bob.heartbeat().await.unwrap();
        hook.count() >= 1
    });
    assert_eq!(sessions(&hook), once(&[("dave", "s")]));
    eventually!(hook.count() >= 2);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s"), ("dave", "s")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_last_stream_ends_is_told_of_what_it_left() {
    let hook = Fake::start(Speaks::Http, &[]).await;
    let mut node = node(None, Some(&hook)).await;
    let service = Party::service(&node).await;
    let (alice, bob, carol, dave) = (
        Party::of(&node, "alice").await,
        Party::of(&node, "bob").await,
        Party::of(&node, "carol").await,
        Party::of(&node, "dave").await,
    );
    for party in [&bob, &carol, &dave] {
        register(party, "", "+1", "").await;
    }
    let (mut bobs, mut carols) = (bob.subscribe("").await.unwrap(), carol.subscribe("s").await.unwrap());
    let (second, mut heard) = (carol.subscribe("t").await.unwrap(), dave.events(&[]).await.unwrap());
    for session in ["s", "t"] {
        alice.route(session, &["bob", "carol"], PAYLOAD).await.unwrap();
    }
    // Dave gets the event by his stream, bob, who has none for events, does not.
    service.publish(announcement("u", &["bob", "dave"])).await.unwrap();
    assert_eq!(heard.next().await.session_id, "u");
    let done = bobs.next().await.unwrap();
    bob.acknowledge(&done.message_id, true, "").await.unwrap();
    assert_eq!((done.session_id.as_str(), bobs.payload().await), ("s", PAYLOAD.to_vec()));
    assert_eq!(carols.payload().await, PAYLOAD);
    // One of carol's two ends, and dave's, while all three are live.
    drop((carols, heard));
    eventually!(online(&alice).await == ["bob", "carol"]);
    assert_eq!(hook.count(), 0);
    drop(bobs);
    eventually!(hook.count() >= 2);
    assert_eq!(sessions(&hook), once(&[("bob", "t"), ("bob", "u")]));
    drop(second);
    eventually!(hook.count() >= 4);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "t"), ("bob", "u"), ("carol", "s"), ("carol", "t")]));
    let of_events = hook.got().iter().map(verified).filter(|(_, post)| post["type"] == "mpc.session_event").count();
    assert_eq!(of_events, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_alone_makes_a_party_online_and_its_messages_wait_untold() {
    let hook = Fake::start(Speaks::Http, &[]).await;
    let mut node = node(None, Some(&hook)).await;
    let (alice, bob, carol) =
        (Party::of(&node, "alice").await, Party::of(&node, "bob").await, Party::of(&node, "carol").await);
    for party in [&bob, &carol] {
        register(party, "", "+1", "").await;
    }
    assert_eq!(online(&alice).await, [""; 0]);
    let (first, second) = (bob.events(&[]).await.unwrap(), bob.events(&["other"]).await.unwrap());
    assert_eq!(online(&alice).await, ["bob"]);
    alice.route("s", &["bob", "carol"], PAYLOAD).await.unwrap();
    eventually!(hook.count() >= 1);
    drop(first);
    // Of a stream's end nothing is seen while another lives: a second message finds carol told.
    alice.route("t", &["bob", "carol"], PAYLOAD).await.unwrap();
    eventually!(hook.count() >= 2);
    assert_eq!(online(&alice).await, ["bob"]);
    assert_eq!(sessions(&hook), once(&[("carol", "s"), ("carol", "t")]));
    drop(second);
    eventually!(hook.count() >= 4);
    assert_eq!(online(&alice).await, [""; 0]);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s"), ("bob", "t"), ("carol", "s"), ("carol", "t")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_registers_while_something_waits_and_stays_silent_is_told() {
    let hook = Fake::start(Speaks::Http, &[]).await;
    let mut node = node(None, Some(&hook)).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    register(&bob, "", "", "").await;
    register(&bob, "", "+1", "").await;
    eventually!(hook.count() >= 1);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_that_cannot_be_sent_to_are_refused_by_their_field() {
    let mail = Fake::start(Speaks::Smtp, &[]).await;
    let mut node = node(Some(&mail), None).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    let long = "1".repeat(2_000);
    for (email, phone, push_token, field) in [
        ("not an email\r\nX: y", "", "", "notification.email"),
        ("bob@mail.example\r\nBcc: carol@mail.example", "", "", "notification.email"),
        ("bob@mail.example> NOTIFY=NEVER", "", "", "notification.email"),
        (&long, "", "", "notification.email"),
        ("bob@mail.example", "+1\r\nX: y", "", "notification.phone"),
        ("", &long, "", "notification.phone"),
        ("", "+1", "a\0b", "notification.push_token"),
        ("", "", &long, "notification.push_token"),
    ] {
        let refused = try_register(&bob, email, phone, push_token).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().starts_with(&format!("{field}: ")), "{refused:?}");
        assert!(!refused.message().contains("carol"), "it quotes an address: {refused:?}");
    }
    assert_eq!(bob.heartbeat().await.unwrap_err().code(), Code::NotFound, "nothing was registered");
    // Who cannot be told here is not promised it.
    let promised = "registered; offline mode: notified when something waits";
    assert_ne!(try_register(&alice, "", "+1", "").await.unwrap(), promised);
    assert_eq!(try_register(&bob, "bob@mail.example", "", "").await.unwrap(), promised);
    alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    eventually!(mail.count() >= 1);
    node.stop().await;
    assert_eq!(mail.got()[0].head[2], "RCPT TO:<bob@mail.example>");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_event_tells_the_parties_it_names_that_do_not_listen() {
    let (mail, hook) = (Fake::start(Speaks::Smtp, &[]).await, Fake::start(Speaks::Http, &[]).await);
    let mut node = node(Some(&mail), Some(&hook)).await;
    let service = Party::service(&node).await;
    let (bob, carol, dave) =
        (Party::of(&node, "bob").await, Party::of(&node, "carol").await, Party::of(&node, "dave").await);
    for party in [&bob, &carol, &dave] {
        register(party, &format!("{}@mail.example", party.name), "", "t").await;
    }
    let mut listening = carol.events(&[]).await.unwrap();
    service.publish(announcement("s", &["bob", "carol"])).await.unwrap();
    assert_eq!(listening.next().await.session_id, "s");
    // One for everybody names nobody.
    service.publish(announcement("for-all", &[])).await.unwrap();
    service.publish(announcement("t", &["bob"])).await.unwrap();
    eventually!(hook.count() >= 2 && mail.count() >= 2);
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s"), ("bob", "t")]));
    assert_eq!(mail.count(), 2);
    for post in hook.got() {
        assert_eq!(verified(&post).1["type"], "mpc.session_event");
    }
    for got in mail.got().into_iter().chain(hook.got()) {
        let text = format!("{got:?}");
        assert!(!text.contains("token of"), "a join token: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_server_tells_its_party_on_its_own_node() {
    let (here, there) = (Fake::start(Speaks::Http, &[]).await, Fake::start(Speaks::Http, &[]).await);
    let (a, mut b) = (node(None, Some(&here)).await, node(None, Some(&there)).await);
    federate(&a, &b).await;
    let (alice, bob) = (Party::of(&a, "alice").await, Party::of(&b, "bob").await);
    register(&bob, "", "+1", "").await;
    // A namesake is another party.
    register(&Party::of(&a, "bob").await, "", "+2", "").await;
    let at_b = format!("bob@{}", b.id);
    for _ in 0..5 {
        alice.route("s", &[&at_b], PAYLOAD).await.unwrap();
    }
    let service = Party::service(&a).await;
    service.publish(announcement("t", &["alice", &at_b])).await.unwrap();
    eventually!(there.count() >= 2);
    eventually!(bob.pending("s", 0).await.unwrap().len() == 5);
    b.stop().await;
    assert_eq!(sessions(&there), once(&[("bob", "s"), ("bob", "t")]));
    assert_eq!(here.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_may_pass_is_tried_again_as_the_same_notification() {
    let hook = Fake::start(
        Speaks::Http,
        &["500 Oops\r\nContent-Length: 0\r\n", "429 Slow\r\nRetry-After: 0\r\nContent-Length: 0\r\n"],
    )
    .await;
    let mail = Fake::start(Speaks::Smtp, &["451 later"]).await;
    let mut node = node(Some(&mail), Some(&hook)).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    register(&bob, "bob@mail.example", "+1", "").await;
    alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    eventually!(hook.count() >= 3 && mail.count() >= 2);
    alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    alice.route("t", &["bob"], PAYLOAD).await.unwrap();
    eventually!(hook.count() >= 4 && mail.count() >= 3);
    node.stop().await;
    let posts: Vec<_> = hook.got().iter().map(verified).collect();
    assert_eq!(posts.len(), 4);
    assert!(posts[1] == posts[0] && posts[2] == posts[0], "{posts:?}");
    assert_ne!(posts[3].0, posts[0].0);
    let ids: Vec<_> = mail.got().iter().map(|mail| id(mail).to_owned()).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
}

/// The `Message-ID` of a mail.
fn id(mail: &Got) -> &str {
    mail.body.lines().find(|line| line.starts_with("Message-ID:")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_final_and_counts() {
    let refusals = ["400 No\r\nContent-Length: 0\r\n", "302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n"];
    let hook = Fake::start(Speaks::Http, &refusals).await;
    let mail = Fake::start(Speaks::Smtp, &["550 no such user", "554 no"]).await;
    let mut node = node(Some(&mail), Some(&hook)).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    register(&bob, "bob@mail.example", "+1", "").await;
    for (told, session) in [(1, "s"), (2, "t"), (3, "u")] {
        alice.route(session, &["bob"], PAYLOAD).await.unwrap();
        eventually!(hook.count() >= told && mail.count() >= told);
        // Between the attempt and its end, and long after it.
        for _ in 0..20 {
            alice.route(session, &["bob"], PAYLOAD).await.unwrap();
        }
    }
    node.stop().await;
    assert_eq!(sessions(&hook), once(&[("bob", "s"), ("bob", "t"), ("bob", "u")]));
    assert_eq!(mail.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_does_not_answer_holds_up_neither_mails_nor_the_stop() {
    let (mail, hook) = (Fake::start(Speaks::Smtp, &[]).await, Fake::start(Speaks::Http, &["silence"; 8]).await);
    let mut node = node(Some(&mail), Some(&hook)).await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    register(&bob, "bob@mail.example", "+1", "").await;
    for session in 0..8 {
        alice.route(&session.to_string(), &["bob"], PAYLOAD).await.unwrap();
    }
    eventually!(mail.count() == 8 && hook.count() == 4);
    let begun = tokio::time::Instant::now();
    node.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "an attempt may take 10 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_both_are_known_by_the_authorities_of_the_file() {
    // Any certificate for localhost will do; a node has made one.
    let other = TestNode::start().await;
    let dir = other.config.data_dir.join("tls");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let pems = PemPair { cert: read("cert.pem"), key: read("key.pem") };
    let tls = TlsAcceptor::from(ServerTls::new(&pems).unwrap().config());
    let mail = Fake::start_on(Speaks::Smtp, &[], Some(tls.clone())).await;
    let hook = Fake::start_on(Speaks::Http, &[], Some(tls)).await;
    let node = TestNode::start_with(|config| {
        edit(config, Some(&mail), Some(&hook));
        config.federation.ca_file = dir.join("cert.pem");
        config.relay.notify.smtp_url = format!("smtps://localhost:{}", mail.address.port()).into();
        config.relay.notify.webhook_url = format!("https://localhost:{}/hook?a=b", hook.address.port()).into();
    })
    .await;
    let (alice, bob) = (Party::of(&node, "alice").await, Party::of(&node, "bob").await);
    register(&bob, "bob@mail.example", "+1", "").await;
    alice.route("s", &["bob"], PAYLOAD).await.unwrap();
    eventually!(hook.count() == 1 && mail.count() == 1);
    assert_eq!(sessions(&hook), once(&[("bob", "s")]));
    assert_eq!(header(&hook.got()[0].head, "host"), format!("localhost:{}", hook.address.port()));
}
