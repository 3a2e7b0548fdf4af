//! What a node tells of its sessions: who is waited for, what was accepted, and
//! who broadcast two payloads where there should be one.

use crate::{
    common::{LONG, TestNode, federate, quick},
    eventually,
    party::{Party, announcement, at},
};
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey, pkcs8::DecodePrivateKey};
use futures_util::StreamExt;
use pillarbox::{
    config::Config,
    net::link::Link,
    proto::{
        mpc::router::v1::RouteMessageRequest,
        pillarbox::relay::v1::{
            BroadcastSignature, EvidenceRequest, EvidenceResponse, Head, Letter, ListRequest, Message, Part, Session,
            Slot, TranscriptRequest, TranscriptResponse, View, WatchRequest, letter::Kind,
            sessions_client::SessionsClient,
        },
    },
    store::Op,
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

/// Two nodes that federate and count.
async fn two() -> (TestNode, TestNode) {
    let measured = |config: &mut Config| {
        quick(config);
        config.metrics.listen = Some(([127, 0, 0, 1], 0).into());
    };
    let (a, b) = (TestNode::start_with(measured).await, TestNode::start_with(measured).await);
    federate(&a, &b).await;
    (a, b)
}

/// Who looks at sessions.
struct Observer {
    client: SessionsClient<Link>,
    bearer: MetadataValue<Ascii>,
}

impl Observer {
    async fn of(node: &TestNode, principal: &str) -> Self {
        let link = node.dial(false).await;
        let origin = link.origin();
        Self { client: SessionsClient::with_origin(link, origin), bearer: node.bearer(principal).await }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    async fn list(&self, after: &str, limit: u32) -> Result<Vec<Session>, Status> {
        let request = self.request(ListRequest { after: after.into(), limit });
        Ok(self.client.clone().list(request).await?.into_inner().sessions)
    }

    async fn names(&self) -> Vec<String> {
        self.list("", 0).await.unwrap().into_iter().map(|session| session.session_id).collect()
    }

    async fn watch(&self, session: &str) -> Result<Watched, Status> {
        let request = self.request(WatchRequest { session_id: session.into() });
        let views = self.client.clone().watch(request).await?.into_inner();
        Ok(Watched { views, parts: BTreeMap::new(), last: View::default() })
    }

    async fn transcript(&self, session: &str) -> Result<TranscriptResponse, Status> {
        self.page(session, 0, 0).await
    }

    async fn page(&self, session: &str, after: u64, limit: u32) -> Result<TranscriptResponse, Status> {
        let request = self.request(TranscriptRequest { session_id: session.into(), after, limit });
        self.client.clone().transcript(request).await.map(tonic::Response::into_inner)
    }

    async fn evidence(&self, round: i32, kind: &str, sender: &str) -> Result<EvidenceResponse, Status> {
        let (session_id, message_type) = ("s".into(), kind.into());
        let request = EvidenceRequest { session_id, round_number: round, message_type, sender: sender.into() };
        self.client.clone().evidence(self.request(request)).await.map(tonic::Response::into_inner)
    }
}

/// A view put together from what changed.
struct Watched {
    views: Streaming<View>,
    parts: BTreeMap<(i32, String), Part>,
    last: View,
}

impl Watched {
    async fn next(&mut self) -> Result<(), Status> {
        let view = timeout(LONG, self.views.message()).await.expect("no view came")?.expect("the stream ended");
        if view.whole {
            self.parts.clear();
        }
        for round in &view.rounds {
            self.parts.retain(|(of, _), _| *of != round.round);
            self.parts.extend(round.parties.iter().map(|part| ((round.round, part.party.clone()), part.clone())));
        }
        self.last = view;
        Ok(())
    }

    async fn first(mut self) -> View {
        self.next().await.unwrap();
        self.last
    }

    /// Who is waited for, in which round, for what.
    fn waits(&self) -> Vec<(i32, &str, &str)> {
        let waiting = self.parts.iter().filter(|(_, part)| !part.waiting_for.is_empty());
        waiting.map(|((round, party), part)| (*round, party.as_str(), part.waiting_for.as_str())).collect()
    }

    async fn until(&mut self, expected: &[(i32, &str, &str)]) {
        while self.waits() != expected {
            let seen = format!("{:?}", self.waits());
            timeout(LONG, self.next()).await.unwrap_or_else(|_| panic!("not {expected:?} but {seen}")).unwrap();
        }
    }
}

async fn say(party: &Party, round: i32, kind: &str, to: &[&str], payload: &[u8]) -> String {
    let message =
        RouteMessageRequest { round_number: round, message_type: kind.into(), ..party.message("s", to, payload) };
    party.client.clone().route_message(party.request(message)).await.unwrap().into_inner().message_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_says_who_is_waited_for_in_which_round() {
    let (a, b) = two().await;
    let (bob_there, service) = (at("bob", &b), Party::service(&a).await);
    service.publish(announcement("s", &["alice", &bob_there])).await.unwrap();
    let (alice, bob) = (Party::of(&a, "alice").await, Party::of(&b, "bob").await);
    eventually!(Observer::of(&b, "service:x").await.names().await == ["s"]);
    let (at_a, at_b) = (Observer::of(&a, "party:alice").await, Observer::of(&b, "party:bob").await);
    let (mut here, mut there) = (at_a.watch("s").await.unwrap(), at_b.watch("s").await.unwrap());
    here.next().await.unwrap();
    assert!(here.last.whole && here.last.settled && here.waits().is_empty());
    assert_eq!(here.last.owner, a.id.as_str());
    assert!(here.last.parties.iter().all(|party| party.member && !party.online && party.last_seen_at == 0));

    let id = say(&alice, 1, "commit", &[], b"x").await;
    here.until(&[(1, &bob_there, "fetch")]).await;
    there.until(&[(1, "bob", "fetch")]).await;
    let mut messages = bob.subscribe("s").await.unwrap();
    messages.next().await.unwrap();
    there.until(&[(1, "bob", "acknowledgement")]).await;
    here.until(&[(1, &bob_there, "acknowledgement")]).await;
    bob.acknowledge(&id, true, "").await.unwrap();
    // It has done with what it got, and sent nothing yet.
    here.until(&[(1, &bob_there, "message")]).await;
    let seen = |watched: &Watched, name: &str| {
        let found = watched.last.parties.iter().find(|party| party.party == name).map(|party| party.last_seen_at);
        found.is_none_or(|at| at > 0)
    };
    assert!(seen(&here, "alice") && seen(&here, &bob_there));
    there.until(&[(1, "bob", "message")]).await;
    say(&bob, 1, "commit", &[], b"y").await;
    here.until(&[(1, "alice", "fetch")]).await;
    let mut messages = alice.subscribe("s").await.unwrap();
    let answer = messages.next().await.unwrap();
    alice.acknowledge(&answer.message_id, true, "").await.unwrap();
    here.until(&[]).await;
    there.until(&[]).await;
    // In the next round it is bob again, first of all to fetch.
    say(&alice, 2, "reveal", &[], b"z").await;
    here.until(&[(2, &bob_there, "acknowledgement")]).await;
    assert!(!here.last.whole && here.last.rounds.iter().all(|round| round.round == 2), "only what changed");
    assert_eq!(here.last.messages, 3);
    // Many changes are few views.
    let (since, mut views) = (Instant::now(), 0);
    for round in 3..63 {
        say(&bob, round, "more", &[], b"m").await;
    }
    while there.last.messages < 63 {
        there.next().await.unwrap();
        views += 1;
    }
    let most = since.elapsed().as_millis() / 250 + 2;
    assert!(views <= most, "{views} views, {most} at most");
    eventually!(at_a.list("", 0).await.unwrap()[0].messages == 63);
    let listed = at_a.list("", 0).await.unwrap().remove(0);
    assert_eq!((listed.messages, listed.round, listed.parties, listed.settled), (63, 62, 2, true));
    assert!(listed.active_at > 0 && listed.expires_at > listed.active_at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_who_are_trusted_and_the_parties_see_a_session() {
    let a = TestNode::start_with(quick).await;
    Party::service(&a).await.publish(announcement("s", &["alice", "bob"])).await.unwrap();
    let alice = Party::of(&a, "alice").await;
    alice.route("open", &["carol"], b"x").await.unwrap();
    for (principal, names) in [
        ("service:x", vec!["open", "s"]),
        ("admin:x", vec!["open", "s"]),
        ("party:alice", vec!["open", "s"]),
        ("party:bob", vec!["s"]),
        ("party:mallory", vec![]),
    ] {
        let observer = Observer::of(&a, principal).await;
        assert_eq!(observer.names().await, names, "{principal}");
        let code = |allowed: bool| if allowed { Code::Ok } else { Code::PermissionDenied };
        let of = |result: Result<(), Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
        let allowed = names.contains(&"s");
        assert_eq!(of(observer.watch("s").await.map(drop)), code(allowed), "{principal}");
        assert_eq!(of(observer.transcript("s").await.map(drop)), code(allowed), "{principal}");
        assert_eq!(of(observer.evidence(1, "test", "alice").await.map(drop)), code(allowed), "{principal}");
    }
    for principal in ["user:alice", "gateway:x"] {
        let observer = Observer::of(&a, principal).await;
        assert_eq!(observer.list("", 0).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(observer.watch("s").await.map(drop).unwrap_err().code(), Code::PermissionDenied);
    }
    let service = Observer::of(&a, "service:x").await;
    assert_eq!(service.watch("none").await.map(drop).unwrap_err().code(), Code::NotFound);
    let paged: Vec<_> = service.list("open", 1).await.unwrap().into_iter().map(|session| session.session_id).collect();
    assert_eq!(paged, ["s"]);
    assert_eq!(service.list("", 1).await.unwrap()[0].session_id, "open");
    // A stream ends with its caller's token, and when its party is no party any more.
    let mut watched = service.watch("s").await.unwrap();
    let (mut bobs, bob) = (Observer::of(&a, "party:bob").await.watch("s").await.unwrap(), "party:bob");
    watched.next().await.unwrap();
    bobs.next().await.unwrap();
    a.revoke("service:x").await;
    assert_eq!(watched.next().await.unwrap_err().code(), Code::Unauthenticated);
    Party::service(&a).await.publish(announcement("s", &["alice", "carol"])).await.unwrap();
    assert_eq!(bobs.next().await.unwrap_err().code(), Code::PermissionDenied, "{bob}");
    let unknown = SessionsClient::with_origin(a.dial(false).await, a.dial(false).await.origin());
    let refused = unknown.clone().list(Request::new(ListRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

// ----- as docs/evidence.md has it, without the node's own code

fn text(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn slot_bytes(session: &str, slot: &Slot) -> Vec<u8> {
    [
        text(session),
        slot.round_number.to_be_bytes().to_vec(),
        text(&slot.message_type),
        text(&slot.sender),
        text(&slot.message_id),
        vec![u8::from(slot.broadcast)],
        slot.payload_sha256.to_vec(),
    ]
    .concat()
}

fn framed(purpose: &str, bytes: &[u8]) -> Vec<u8> {
    [b"\0pillarbox", purpose.as_bytes(), b"\0", bytes].concat()
}

fn verifies(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = VerifyingKey::from_bytes(key.try_into().unwrap()).unwrap();
    Signature::from_slice(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
}

/// The links are right from the first slot to the head, which the node signed.
fn check_chain(node: &TestNode, session: &str, slots: &[Slot], head: &Head) {
    let mut link = slots.first().map_or(vec![0; 32], |slot| slot.before.to_vec());
    for (slot, next) in slots.iter().zip(slots.iter().skip(1).map(Some).chain([None])) {
        assert_eq!(slot.before[..], link[..]);
        link = Sha256::digest([&link[..], &slot_bytes(session, slot)].concat()).to_vec();
        assert_eq!(slot.link[..], link[..]);
        assert!(next.is_none_or(|next| next.position == slot.position + 1));
        if !slot.signature.is_empty() {
            assert!(verifies(&slot.key, &framed("broadcast", &slot_bytes(session, slot)), &slot.signature));
        }
    }
    assert_eq!(head.link[..], link[..]);
    assert_eq!((head.position, &*head.server_id), (slots.last().map_or(0, |slot| slot.position), node.id.as_str()));
    let signed = [text(session), head.position.to_be_bytes().to_vec(), link].concat();
    assert!(verifies(node.key.as_bytes(), &framed("transcript", &signed), &head.signature));
}

/// What is compared: everything but where it stands.
fn comparable(slots: &[Slot]) -> Vec<(i32, String, String, String, Vec<u8>)> {
    let slot = |slot: &Slot| {
        let Slot { round_number, message_type, sender, message_id, payload_sha256, .. } = slot.clone();
        (round_number, message_type, sender, message_id, payload_sha256.to_vec())
    };
    let mut slots: Vec<_> = slots.iter().filter(|slot| slot.broadcast).map(slot).collect();
    slots.sort();
    slots
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transcripts_of_two_nodes_have_the_same_broadcasts_and_survive_a_restart() {
    let (mut a, b) = two().await;
    let bob_there = at("bob", &b);
    Party::service(&a).await.publish(announcement("s", &["alice", "carol", &bob_there])).await.unwrap();
    let (alice, bob) = (Party::of(&a, "alice").await, Party::of(&b, "bob").await);
    let (observer, other) = (Observer::of(&a, "party:alice").await, Observer::of(&b, "service:x").await);
    eventually!(other.names().await == ["s"]);
    say(&alice, 1, "commit", &[], b"one").await;
    say(&alice, 1, "share", &["carol"], b"for carol alone").await;
    say(&bob, 1, "commit", &[], b"two").await;
    eventually!(other.transcript("s").await.unwrap().slots.len() == 2);
    eventually!(observer.transcript("s").await.unwrap().slots.len() == 3);
    let (ours, theirs) = (observer.transcript("s").await.unwrap(), other.transcript("s").await.unwrap());
    check_chain(&a, "s", &ours.slots, ours.head.as_ref().unwrap());
    check_chain(&b, "s", &theirs.slots, theirs.head.as_ref().unwrap());
    assert_eq!(comparable(&ours.slots), comparable(&theirs.slots));
    assert_eq!(comparable(&ours.slots).len(), 2);
    let commit = ours.slots.iter().find(|slot| slot.sender == at("alice", &a) && slot.broadcast).unwrap();
    assert_eq!(commit.payload_sha256[..], Sha256::digest(b"one")[..]);
    assert_eq!((commit.position, commit.before[..].to_vec()), (1, vec![0; 32]));
    assert!(ours.slots.iter().all(|slot| slot.broadcast != slot.signature.is_empty() && !slot.equivocation));
    // Each is signed by its sender's node, whoever tells it.
    let signer = |slot: &Slot| slot.broadcast.then(|| if slot.sender == bob_there { b.key } else { a.key });
    for slot in ours.slots.iter().chain(&theirs.slots) {
        assert_eq!(signer(slot).map(|key| key.as_bytes().to_vec()).unwrap_or_default(), slot.key);
    }
    let page = observer.page("s", 1, 1).await.unwrap();
    assert_eq!(page.slots, ours.slots[1..2]);

    drop((alice, observer));
    a.stop().await;
    a.start_again().await;
    let (alice, observer) = (Party::of(&a, "alice").await, Observer::of(&a, "party:alice").await);
    say(&alice, 2, "reveal", &[], b"three").await;
    let after = observer.transcript("s").await.unwrap();
    assert_eq!(after.slots[..3], ours.slots[..]);
    check_chain(&a, "s", &after.slots, after.head.as_ref().unwrap());
    assert_eq!(after.slots.len(), 4);
}

// ----- equivocation

async fn post(a: &TestNode, b: &TestNode, message: Message) {
    let peer = a.federation().parcel_peer(&b.id).await.unwrap();
    let letter = Letter { kind: Some(Kind::Message(message)) };
    a.federation().post(Op::new(), vec![(peer, 1, letter)]).await.unwrap();
}

/// A broadcast of alice as a node may write it that is not ours, signed with `key`.
fn broadcast(a: &TestNode, to: &str, id: &str, payload: &[u8], key: &SigningKey) -> Message {
    let slot = Slot {
        round_number: 1,
        message_type: "commit".into(),
        sender: at("alice", a),
        message_id: id.into(),
        broadcast: true,
        payload_sha256: Sha256::digest(payload).to_vec().into(),
        ..Slot::default()
    };
    let signature = key.sign(&framed("broadcast", &slot_bytes("s", &slot))).to_bytes().to_vec().into();
    Message {
        message_id: id.into(),
        session_id: "s".into(),
        from_party: "alice".into(),
        to_parties: vec![to.into()],
        is_broadcast: true,
        round_number: 1,
        message_type: "commit".into(),
        payload: payload.to_vec().into(),
        expires_at: i64::MAX,
        signature: Some(BroadcastSignature { server: a.id.to_string(), signature }),
    }
}

fn node_key(node: &TestNode) -> SigningKey {
    SigningKey::from_pkcs8_pem(&std::fs::read_to_string(node.config.data_dir.join("node.key")).unwrap()).unwrap()
}

/// Evidence as `mpc evidence --json` prints it.
fn printed(evidence: &EvidenceResponse) -> String {
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let line = |record: &pillarbox::proto::pillarbox::relay::v1::Record| {
        serde_json::json!({
            "session_id": record.session_id,
            "round_number": record.round_number,
            "message_type": record.message_type,
            "sender": record.sender,
            "message_id": record.message_id,
            "payload_sha256": base64(&record.payload_sha256),
            "key": base64(&record.key),
            "signature": base64(&record.signature),
        })
    };
    evidence.records.iter().map(|record| format!("{}\n", line(record))).collect()
}

/// What a command prints of a running node.
async fn command(node: &TestNode, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    command.arg("--data-dir").arg(&node.config.data_dir).args(arguments);
    let output = timeout(LONG, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_sees_the_same_by_commands() {
    let a = TestNode::start_with(quick).await;
    Party::service(&a).await.publish(announcement("s", &["alice", "bob", "carol"])).await.unwrap();
    let alice = Party::of(&a, "alice").await;
    for payload in [b"one", b"two"] {
        say(&alice, 1, "commit", &[], payload).await;
    }
    let bob = Party::of(&a, "bob").await;
    let mut messages = bob.subscribe("s").await.unwrap();
    for _ in 0..2 {
        let message = messages.next().await.unwrap();
        bob.acknowledge(&message.message_id, true, "").await.unwrap();
    }
    drop(messages);
    let service = Observer::of(&a, "service:x").await;
    eventually!(service.watch("s").await.unwrap().first().await.parties.iter().all(|party| !party.online));
    let shown = command(&a, &["mpc", "show", "s"]).await;
    for part in [
        &format!("announced by  {}", a.id)[..],
        "waiting for bob in round 1, last seen ",
        "waiting for carol in round 1, never seen (to fetch what lies here, for ",
        "EQUIVOCATION: ",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    assert!(!shown.contains("waiting for alice"), "{shown}");
    let listed = command(&a, &["--json", "mpc", "list"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (&listed["session_id"], &listed["messages"], &listed["equivocations"]),
        (&"s".into(), &2.into(), &1.into())
    );
    assert!(command(&a, &["mpc", "list"]).await.contains("announced"));
    let transcript = command(&a, &["mpc", "transcript", "s"]).await;
    assert!(transcript.contains("broadcast EQUIVOCATION") && transcript.contains("head: 2 links"), "{transcript}");
    // From the command that prints evidence to the one that needs no node.
    let evidence = ["mpc", "evidence", "s", "--round", "1", "--type", "commit", "--sender", "alice"];
    assert!(command(&a, &evidence).await.contains("EQUIVOCATION"));
    let records = command(&a, &[&["--json"], &evidence[..]].concat()).await;
    let (code, verdict) = verify(&[records], &a.key.to_string());
    assert_eq!((code, &verdict["equivocation"]), (0, &true.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_prints_nothing_says_why_and_one_that_nobody_reads_ends() {
    let a = TestNode::start_with(quick).await;
    say(&Party::of(&a, "alice").await, 1, "commit", &["bob"], b"x").await;
    let run = |args: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pillarbox"));
        command.arg("--data-dir").arg(&a.config.data_dir).args(args).kill_on_drop(true);
        command
    };
    let none = ["--json", "mpc", "evidence", "s", "--round", "1", "--type", "commit", "--sender", "alice"];
    let output = timeout(LONG, run(&none).output()).await.unwrap().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("pillarbox mpc transcript s"));
    // As `| head` does: the pipe is closed while there is nothing to print.
    let mut watching = run(&["mpc", "show", "s", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    while !timeout(LONG, lines.next_line()).await.unwrap().unwrap().unwrap().starts_with("waiting for bob") {}
    drop(lines);
    assert!(timeout(LONG, watching.wait()).await.unwrap().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_a_session_goes_with_it() {
    let short = |config: &mut Config| config.relay.retention = Duration::from_secs(1);
    let a = TestNode::start_with(short).await;
    Party::service(&a).await.publish(announcement("s", &["alice", "bob"])).await.unwrap();
    let (alice, observer) = (Party::of(&a, "alice").await, Observer::of(&a, "service:x").await);
    for payload in [b"one", b"two"] {
        say(&alice, 1, "commit", &[], payload).await;
    }
    let mut watched = observer.watch("s").await.unwrap();
    eventually!(observer.names().await.is_empty());
    let gone = loop {
        if let Err(status) = watched.next().await {
            break status;
        }
    };
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(observer.transcript("s").await.unwrap_err().code(), Code::NotFound);
    // Under its name another one begins, with a chain of its own.
    Party::service(&a).await.publish(announcement("s", &["alice", "bob"])).await.unwrap();
    eventually!({
        let fresh = observer.transcript("s").await;
        fresh.is_ok_and(|fresh| fresh.slots.is_empty() && fresh.head.unwrap().position == 0)
    });
    say(&alice, 1, "commit", &[], b"three").await;
    let fresh = observer.transcript("s").await.unwrap();
    check_chain(&a, "s", &fresh.slots, fresh.head.as_ref().unwrap());
    assert_eq!((fresh.slots.len(), fresh.slots[0].position, fresh.slots[0].equivocation), (1, 1, false));
}

/// What `mpc verify` says, without any node: exit code and verdict.
fn verify(files: &[String], key: &str) -> (i32, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    command.current_dir(dir.path()).args(["--json", "mpc", "verify", "--key", key]);
    for (at, text) in files.iter().enumerate() {
        let path = dir.path().join(format!("{at}.json"));
        std::fs::write(&path, text).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_broadcasts_two_payloads_is_flagged_and_both_are_delivered() {
    let (a, b) = two().await;
    let bob_there = at("bob", &b);
    Party::service(&a).await.publish(announcement("s", &["alice", "carol", &bob_there])).await.unwrap();
    let (alice, bob) = (Party::of(&a, "alice").await, Party::of(&b, "bob").await);
    let (at_a, at_b) = (Observer::of(&a, "party:carol").await, Observer::of(&b, "party:bob").await);
    eventually!(at_b.names().await == ["s"]);
    let mut watched = at_b.watch("s").await.unwrap();
    say(&alice, 1, "commit", &[], b"one").await;
    // Twice the same is no contradiction, nor is what has neither round nor type.
    say(&alice, 1, "commit", &[], b"one").await;
    say(&alice, 0, "", &[], b"this").await;
    say(&alice, 0, "", &[], b"that").await;
    eventually!(at_b.transcript("s").await.unwrap().slots.len() == 4);
    for observer in [&at_a, &at_b] {
        let evidence = observer.evidence(1, "commit", &at("alice", &a)).await.unwrap();
        assert_eq!((evidence.records.len(), evidence.equivocation), (2, false));
    }
    say(&alice, 1, "commit", &[], b"another").await;
    eventually!(at_b.evidence(1, "commit", &at("alice", &a)).await.unwrap().equivocation);
    // Both are delivered.
    let mut messages = bob.subscribe("s").await.unwrap();
    for payload in [&b"one"[..], b"one", b"this", b"that", b"another"] {
        assert_eq!(messages.payload().await, payload);
    }
    while watched.last.equivocations.is_empty() {
        watched.next().await.unwrap();
    }
    let flagged = &watched.last.equivocations[0];
    assert_eq!((flagged.round_number, &*flagged.message_type, &*flagged.sender), (1, "commit", &*at("alice", &a)));
    for (node, observer) in [(&a, &at_a), (&b, &at_b)] {
        eventually!(node.metric("pillarbox_relay_equivocations_total").await == "1");
        let slots = observer.transcript("s").await.unwrap().slots;
        let flags: Vec<_> = slots.iter().map(|slot| slot.equivocation).collect();
        assert_eq!(flags, [true, true, false, false, true]);
        assert_eq!(observer.list("", 0).await.unwrap()[0].equivocations, 1);
        // A third party needs the records and the key, nothing else.
        let evidence = observer.evidence(1, "commit", &at("alice", &a)).await.unwrap();
        let (code, verdict) = verify(&[printed(&evidence)], &a.key.to_string());
        assert_eq!((code, &verdict["valid"], &verdict["equivocation"]), (0, &3.into(), &true.into()));
        assert_eq!(verdict["equivocations"][0]["sender"], at("alice", &a));
        assert_eq!(verify(&[printed(&evidence)], &b.key.to_string()).0, 1, "another node's key");
    }
    assert_eq!(at_a.evidence(1, "commit", "alice").await.unwrap().records.len(), 3, "by its short name too");
    assert_eq!(at_a.evidence(2, "commit", "alice").await.unwrap(), EvidenceResponse::default());
    assert_eq!(at_a.evidence(0, "", "alice").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_equivocation_hides_behind_a_thousand_others() {
    const OTHERS: i32 = 1_001;
    let a = TestNode::start_with(quick).await;
    Party::service(&a).await.publish(announcement("s", &["alice", "mallory", "bob"])).await.unwrap();
    let (alice, mallory) = (Party::of(&a, "alice").await, Party::of(&a, "mallory").await);
    for payload in [&b"one"[..], b"other"] {
        let mut rounds = futures_util::stream::iter(1..=OTHERS)
            .map(|round| say(&mallory, round, "commit", &[], payload))
            .buffer_unordered(64);
        while rounds.next().await.is_some() {}
    }
    for payload in [&b"one"[..], b"other"] {
        say(&alice, 1, "commit", &[], payload).await;
    }
    let observer = Observer::of(&a, "party:bob").await;
    let last = observer.page("s", 2 * u64::try_from(OTHERS).unwrap(), 0).await.unwrap().slots;
    assert_eq!(last.iter().map(|slot| slot.equivocation).collect::<Vec<_>>(), [true, true]);
    assert_eq!(observer.list("", 0).await.unwrap()[0].equivocations, 1_002);
    let mut watched = observer.watch("s").await.unwrap();
    watched.next().await.unwrap();
    assert_eq!((watched.last.equivocations.len(), watched.last.equivocation_count), (1_000, 1_002));
    // One more is news, although no list grows.
    for payload in [&b"one"[..], b"other"] {
        say(&alice, 2, "commit", &[], payload).await;
    }
    while watched.last.equivocation_count < 1_003 {
        watched.next().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_gets_the_newest_then() {
    let a = TestNode::start_with(quick).await;
    let (alice, observer) = (Party::of(&a, "alice").await, Observer::of(&a, "service:x").await);
    say(&alice, 1, "commit", &["bob"], b"x").await;
    let mut watched = observer.watch("s").await.unwrap();
    watched.next().await.unwrap();
    for round in 2..=200 {
        say(&alice, round, "commit", &["bob"], b"x").await;
    }
    while watched.last.messages < 200 {
        watched.next().await.unwrap();
    }
    // One party takes 32 streams and no more.
    let own = Observer::of(&a, "party:alice").await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(own.watch("s").await.unwrap());
    }
    let refused = own.watch("s").await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    observer.watch("s").await.unwrap();
    open.pop();
    eventually!(own.watch("s").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_signs_two_payloads_is_proven_guilty_by_comparing() {
    let (a, b) = two().await;
    let c = TestNode::start_with(quick).await;
    federate(&a, &c).await;
    let (bob_there, carol_there) = (at("bob", &b), at("carol", &c));
    Party::service(&a).await.publish(announcement("s", &["alice", &bob_there, &carol_there])).await.unwrap();
    let (at_b, at_c) = (Observer::of(&b, "party:bob").await, Observer::of(&c, "party:carol").await);
    eventually!(at_b.names().await == ["s"] && at_c.names().await == ["s"]);
    let key = node_key(&a);
    post(&a, &b, broadcast(&a, "bob", "0001", b"to bob", &key)).await;
    post(&a, &c, broadcast(&a, "carol", "0001", b"to carol", &key)).await;
    let sender = at("alice", &a);
    eventually!(at_b.evidence(1, "commit", &sender).await.unwrap().records.len() == 1);
    eventually!(at_c.evidence(1, "commit", &sender).await.unwrap().records.len() == 1);
    let (ours, theirs) =
        (at_b.evidence(1, "commit", &sender).await.unwrap(), at_c.evidence(1, "commit", &sender).await.unwrap());
    assert!(!ours.equivocation && !theirs.equivocation, "neither can know alone");
    // The tool, and by hand.
    let files = [printed(&ours), printed(&theirs)];
    let (code, verdict) = verify(&files, &a.key.to_string());
    assert_eq!((code, &verdict["valid"], &verdict["equivocation"]), (0, &2.into(), &true.into()));
    assert_eq!(verify(&files[..1], &a.key.to_string()).1["equivocation"], false);
    let (one, other) = (&ours.records[0], &theirs.records[0]);
    for record in [one, other] {
        let slot = Slot {
            round_number: record.round_number,
            message_type: record.message_type.clone(),
            sender: record.sender.clone(),
            message_id: record.message_id.clone(),
            broadcast: true,
            payload_sha256: record.payload_sha256.clone(),
            ..Slot::default()
        };
        let bytes = framed("broadcast", &slot_bytes(&record.session_id, &slot));
        assert!(verifies(a.key.as_bytes(), &bytes, &record.signature));
    }
    assert_ne!(one.payload_sha256, other.payload_sha256);
    // What was forged proves nothing.
    let lie = files[1].replace("\"message_id\":\"0001\"", "\"message_id\":\"0002\"");
    let (code, verdict) = verify(&[files[0].clone(), lie], &a.key.to_string());
    assert_eq!((code, &verdict["valid"], &verdict["equivocation"]), (1, &1.into(), &false.into()));
    assert_eq!(verify(&["nonsense".into()], &a.key.to_string()).0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_signature_is_refused_and_a_missing_one_said() {
    let (a, b) = two().await;
    let bob = Party::of(&b, "bob").await;
    let mut messages = bob.subscribe("s").await.unwrap();
    let (key, mallory) = (node_key(&a), SigningKey::from_bytes(&[3; 32]));
    let honest = |id: &str, payload: &[u8]| broadcast(&a, "bob", id, payload, &key);
    let changed = |change: fn(&mut BroadcastSignature)| {
        let mut message = honest("0001", b"forged");
        change(message.signature.as_mut().unwrap());
        message
    };
    let refused = [
        broadcast(&a, "bob", "0001", b"forged", &mallory),
        Message { payload: b"other".to_vec().into(), ..honest("0001", b"forged") },
        Message { round_number: 2, ..honest("0001", b"forged") },
        Message { from_party: "dave".into(), ..honest("0001", b"forged") },
        changed(|signature| signature.signature = vec![].into()),
        changed(|signature| signature.server = "c.example:7443".into()),
        changed(|signature| signature.server = "nonsense".into()),
    ];
    let count = refused.len();
    for message in refused {
        post(&a, &b, message).await;
    }
    // What an older server sends, and what is right, arrives.
    post(&a, &b, Message { signature: None, ..honest("0002", b"unsigned") }).await;
    post(&a, &b, honest("0003", b"signed")).await;
    assert_eq!(messages.payload().await, b"unsigned");
    assert_eq!(messages.payload().await, b"signed");
    assert_eq!(b.metric("pillarbox_parcels_refused_total").await, count.to_string());
    let slots = Observer::of(&b, "party:bob").await.transcript("s").await.unwrap().slots;
    let signed: Vec<_> = slots.iter().map(|slot| (slot.broadcast, !slot.signature.is_empty())).collect();
    assert_eq!(signed, [(true, false), (true, true)]);
    let evidence = Observer::of(&b, "party:bob").await.evidence(1, "commit", &at("alice", &a)).await.unwrap();
    let unsigned: Vec<_> = evidence.records.iter().filter(|record| record.signature.is_empty()).collect();
    assert_eq!((evidence.records.len(), unsigned.len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_payload_under_a_known_id_is_not_delivered_and_is_evidence() {
    let (a, b) = two().await;
    let bob = Party::of(&b, "bob").await;
    let (mut messages, key) = (bob.subscribe("s").await.unwrap(), node_key(&a));
    for (id, payload) in [("0001", "first"), ("0001", "second"), ("0001", "first"), ("0002", "last")] {
        post(&a, &b, broadcast(&a, "bob", id, payload.as_bytes(), &key)).await;
    }
    assert_eq!(messages.payload().await, b"first");
    assert_eq!(messages.payload().await, b"last");
    let observer = Observer::of(&b, "party:bob").await;
    let transcript = observer.transcript("s").await.unwrap();
    check_chain(&b, "s", &transcript.slots, transcript.head.as_ref().unwrap());
    assert_eq!(transcript.slots.iter().map(|slot| slot.repeated).collect::<Vec<_>>(), [false, true, true, false]);
    let evidence = observer.evidence(1, "commit", &at("alice", &a)).await.unwrap();
    assert!(evidence.equivocation);
    assert_eq!(verify(&[printed(&evidence)], &a.key.to_string()).1["equivocation"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_signed_under_a_former_name_is_taken() {
    let (a, mut b) = two().await;
    let bob_there = at("bob", &b);
    Party::service(&a).await.publish(announcement("s", &["alice", &bob_there])).await.unwrap();
    eventually!(Observer::of(&b, "service:x").await.names().await == ["s"]);
    b.stop().await;
    let (alice, before) = (Party::of(&a, "alice").await, at("alice", &a));
    say(&alice, 1, "commit", &[], b"signed before").await;
    let now = a.id.as_str().replace("localhost", "127.0.0.1");
    a.federation().rename(now.parse().unwrap()).await.unwrap();
    // Another payload, but not in the slot of the former name.
    say(&alice, 1, "commit", &[], b"signed after").await;
    b.start_again().await;
    let mut messages = Party::of(&b, "bob").await.subscribe("s").await.unwrap();
    for (payload, sender) in
        [(&b"signed before"[..], format!("alice@{now}")), (b"signed after", format!("alice@{now}"))]
    {
        let message = messages.next().await.unwrap();
        assert_eq!((&message.payload[..], message.from_party), (payload, sender));
    }
    let observer = Observer::of(&b, "party:bob").await;
    let senders: Vec<_> =
        observer.transcript("s").await.unwrap().slots.into_iter().map(|slot| (slot.sender, slot.key)).collect();
    let key = a.key.as_bytes().to_vec();
    assert_eq!(senders, [(before.clone(), key.clone().into()), (format!("alice@{now}"), key.into())]);
    for name in [before, format!("alice@{now}")] {
        let evidence = observer.evidence(1, "commit", &name).await.unwrap();
        assert_eq!((evidence.records.len(), evidence.equivocation), (2, false), "{name}");
    }
}
