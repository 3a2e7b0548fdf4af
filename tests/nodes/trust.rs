//! Who is let in, and what a token is good for.

use crate::{
    common::{
        TestNode, event,
        faulty::{Faulty, NOTIFY, PULL, PUSH, call, call_with, pull_body, push_body},
    },
    eventually,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use pillarbox::{
    config::Config,
    proto::{
        pillarbox::federation::v1::Position,
        protocol::sync::v1::{NotifyNewIdRequest, PushRequest},
    },
    store::KeyOrigin,
};
use prost::Message;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

async fn pair() -> (TestNode, Faulty) {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    (node, faulty)
}

fn refused(outcome: Result<Bytes, Status>, code: Code, text: &str) {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(text), "{status:?} does not say {text:?}");
}

#[tokio::test]
async fn without_a_token_that_proves_a_peer_nothing_is_taken() {
    let (node, faulty) = pair().await;
    let imposter = Faulty::start().await;
    let link = node.dial(false).await;
    let mut forged = STANDARD.decode(faulty.plain()).unwrap();
    forged[5] ^= 1;
    let mut short = faulty.plain();
    short.truncate(40);
    let by_another_key = {
        let data = pillarbox::proto::protocol::sync::v1::AuthData {
            server_id: faulty.id.to_string(),
            time: pillarbox::types::unix_seconds(),
            binding: None,
        };
        STANDARD.encode(imposter.sign(&data))
    };
    let cases = [
        (None, "no authorization header"),
        (Some(String::new()), "neither base64 nor hex"),
        (Some("Bearer pbt_x".to_owned()), "neither base64 nor hex"),
        (Some(short), "neither base64 nor hex"),
        (Some("A".repeat(5000)), "4096"),
        (Some(STANDARD.encode(&forged)), "signature"),
        (Some(by_another_key), "signature"),
    ];
    for (authorization, text) in cases {
        for (path, body) in [(PUSH, push_body(event(1))), (PULL, pull_body())] {
            refused(call(&link, path, authorization.as_deref(), body).await, Code::Unauthenticated, text);
        }
    }
    faulty.push(&node, event(2)).await.unwrap();
    assert_eq!(node.log(2).await, [2]);
}

#[tokio::test]
async fn a_token_counts_for_a_minute_around_its_time_and_the_refusal_says_how_far_the_clocks_are_apart() {
    let (node, faulty) = pair().await;
    let link = node.dial(false).await;
    for (ahead, text) in [(70, "s ahead of this server's clock"), (-61, "s behind this server's clock")] {
        let outcome = call(&link, PUSH, Some(&faulty.plain_at(ahead)), push_body(event(1))).await;
        refused(outcome, Code::Unauthenticated, text);
    }
    for ahead in [55, -50] {
        call(&link, PUSH, Some(&faulty.plain_at(ahead)), push_body(event(2))).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_not_let_in_costs_no_connection_and_no_row() {
    let (node, _faulty) = pair().await;
    let stranger = Faulty::start().await;
    let link = node.dial(false).await;
    for (path, body) in [(PUSH, push_body(event(1))), (PULL, pull_body())] {
        refused(call(&link, path, Some(&stranger.plain()), body).await, Code::PermissionDenied, "is not a peer");
    }
    assert_eq!((stranger.connections(), node.federation().peers().len()), (0, 1));
}

fn open_to(faulty: &Faulty, dir: &std::path::Path) -> impl FnOnce(&mut Config) + use<> {
    let ca_file = dir.join("ca.pem");
    std::fs::write(&ca_file, &faulty.certificate).unwrap();
    move |config| {
        config.federation.allow = vec!["*".parse().unwrap()];
        config.federation.ca_file = ca_file;
        config.federation.allow_private_addresses = true;
    }
}

#[tokio::test]
async fn a_server_that_allow_lets_in_becomes_a_peer_with_the_key_it_shows_over_a_verified_channel() {
    let (faulty, dir) = (Faulty::start().await, tempfile::tempdir().unwrap());
    let node = TestNode::start_with(open_to(&faulty, dir.path())).await;
    faulty.push(&node, event(1)).await.unwrap();
    faulty.push(&node, event(2)).await.unwrap();
    assert_eq!(node.log(2).await, [1, 2]);
    let known = node.peer(&faulty.id).row().key.unwrap();
    assert_eq!((known.key, known.origin), (faulty.key, KeyOrigin::Learnt));
    node.send(&faulty.id, 5..6).await;
    eventually!(faulty.applied() == [5]);
}

#[tokio::test]
async fn a_key_is_not_believed_over_a_channel_that_proves_nothing_and_no_row_is_made() {
    let (faulty, other, dir) = (Faulty::start().await, Faulty::start().await, tempfile::tempdir().unwrap());
    // It trusts another certificate than the one the server shows.
    let node = TestNode::start_with(open_to(&other, dir.path())).await;
    let status = faulty.push(&node, event(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!((faulty.keys(), node.federation().peers().len()), (0, 0));
}

#[tokio::test]
async fn a_strangers_id_that_leads_to_a_private_address_is_not_dialled() {
    let (faulty, dir) = (Faulty::start().await, tempfile::tempdir().unwrap());
    let open = open_to(&faulty, dir.path());
    let node = TestNode::start_with(|config| {
        open(config);
        config.federation.allow_private_addresses = false;
    })
    .await;
    let status = faulty.push(&node, event(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("allow_private_addresses"), "{status:?}");
    assert_eq!((faulty.connections(), node.federation().peers().len()), (0, 0));
}

#[tokio::test]
async fn deny_wins_over_a_peer_and_over_allow() {
    let (mut node, faulty) = pair().await;
    faulty.push(&node, event(1)).await.unwrap();
    node.stop().await;
    node.config.federation.allow = vec!["*".parse().unwrap()];
    node.config.federation.deny = vec![faulty.id.as_str().parse().unwrap()];
    let before = faulty.connections();
    node.start_again().await;
    let link = node.dial(false).await;
    for (path, body) in [(PUSH, push_body(event(2))), (PULL, pull_body())] {
        refused(call(&link, path, Some(&faulty.plain()), body).await, Code::PermissionDenied, "");
    }
    let error = node.federation().send(&faulty.id, vec![event(3)]).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.to_string().contains("deny"), "{error}");
    assert_eq!(faulty.connections(), before);
}

#[tokio::test]
async fn a_token_of_one_of_our_nodes_is_worth_nothing_at_a_third_server() {
    let (a, c) = (TestNode::start().await, TestNode::start().await);
    let thief = Faulty::start().await;
    a.add(&thief.id, thief.key).await;
    c.add(&a.id, a.key).await;
    a.send(&thief.id, 1..2).await;
    eventually!(thief.applied() == [1]);
    let stolen = thief.attempts().remove(0);
    let link = c.dial(false).await;
    let outcome = call(&link, PUSH, Some(&stolen.authorization), stolen.body).await;
    refused(outcome, Code::Unauthenticated, "another destination");
    a.add(&c.id, c.key).await;
    a.send(&c.id, 2..3).await;
    assert_eq!(c.log(2).await, [2]);
}

#[tokio::test]
async fn a_bound_token_counts_for_its_own_destination_method_and_body_only() {
    let (node, faulty) = pair().await;
    let link = node.dial(false).await;
    let body = push_body(event(1));
    let elsewhere = "elsewhere.example:7443".parse().unwrap();
    let cases = [
        (faulty.bound(&node.id, PUSH, &push_body(event(2))), "request body"),
        (faulty.bound(&node.id, PULL, &body), "method"),
        (faulty.bound(&elsewhere, PUSH, &body), "destination"),
    ];
    for (token, text) in cases {
        refused(call(&link, PUSH, Some(&token), body.clone()).await, Code::Unauthenticated, text);
    }
    // What we cannot read is part of the body that is signed.
    let mut with_more = body.to_vec();
    with_more.extend([0xf8, 0xff, 0x01, 0x05]);
    let token = faulty.bound(&node.id, PUSH, &with_more);
    refused(call(&link, PUSH, Some(&token), body).await, Code::Unauthenticated, "request body");
    call(&link, PUSH, Some(&token), with_more.into()).await.unwrap();
    assert_eq!(node.log(1).await, [1]);
}

#[tokio::test]
async fn a_bound_pull_cannot_be_repeated_and_a_bound_push_is_applied_once() {
    let (node, faulty) = pair().await;
    let link = node.dial(false).await;
    let token = faulty.bound(&node.id, PULL, &pull_body());
    call(&link, PULL, Some(&token), pull_body()).await.unwrap();
    refused(call(&link, PULL, Some(&token), pull_body()).await, Code::Unauthenticated, "used before");

    for n in 1..=2 {
        let position = Position { epoch: 5, number: n, id: 100 + n, after: n - 1 };
        let body = PushRequest { event: event(n), position: Some(position) }.encode_to_vec();
        let token = faulty.bound(&node.id, PUSH, &body);
        for _ in 0..3 {
            call(&link, PUSH, Some(&token), body.clone().into()).await.unwrap();
        }
    }
    assert_eq!(node.log(2).await, [1, 2]);
}

#[tokio::test]
async fn a_token_is_read_in_every_spelling_that_servers_use() {
    let (node, faulty) = pair().await;
    let link = node.dial(false).await;
    let bytes = STANDARD.decode(faulty.plain()).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let spellings = [
        STANDARD.encode(&bytes),
        STANDARD_NO_PAD.encode(&bytes),
        URL_SAFE.encode(&bytes),
        URL_SAFE_NO_PAD.encode(&bytes),
        hex.clone(),
        hex.to_uppercase(),
        format!("Bearer {}", STANDARD.encode(&bytes)),
        format!("harmony {hex}"),
    ];
    for spelling in &spellings {
        let outcome = call(&link, PUSH, Some(spelling), push_body(event(1))).await;
        assert!(outcome.is_ok(), "{spelling}: {outcome:?}");
    }
    let mut binary = MetadataMap::new();
    binary.insert_bin("authorization-bin", MetadataValue::from_bytes(&bytes));
    call_with(&link, PUSH, binary, push_body(event(2))).await.unwrap();
    assert_eq!(node.log(2).await.len(), spellings.len() + 1);
    assert_eq!(node.peer(&faulty.id).health().bound_tokens, Some(false));
}

#[tokio::test]
async fn an_id_written_as_a_url_means_the_same_server() {
    let (node, faulty) = pair().await;
    let link = node.dial(false).await;
    for scheme in ["https", "http"] {
        let data = pillarbox::proto::protocol::sync::v1::AuthData {
            server_id: format!("{scheme}://{}", faulty.id),
            time: pillarbox::types::unix_seconds(),
            binding: None,
        };
        let token = STANDARD.encode(faulty.sign(&data));
        call(&link, PUSH, Some(&token), push_body(event(1))).await.unwrap();
    }
}

#[tokio::test]
async fn a_change_of_id_needs_a_token_too() {
    let (node, faulty) = pair().await;
    let link = node.dial(false).await;
    let body = NotifyNewIdRequest { new_server_id: "new.example:7443".into() }.encode_to_vec();
    refused(call(&link, NOTIFY, None, body.clone().into()).await, Code::Unauthenticated, "");
    let stranger = Faulty::start().await;
    refused(call(&link, NOTIFY, Some(&stranger.plain()), body.into()).await, Code::PermissionDenied, "");
    assert_eq!(node.federation().peers().len(), 1);
    drop(faulty);
}

#[tokio::test]
async fn a_new_id_leads_to_no_private_address_but_the_peers_own_and_the_answer_does_not_tell_what_is_there() {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (open, closed) = (listener.local_addr().unwrap().to_string(), "127.0.0.2:1".to_owned());
    let mut told = Vec::new();
    for there in [&open, &closed] {
        let (node, faulty) = pair().await;
        let body = NotifyNewIdRequest { new_server_id: there.clone() }.encode_to_vec();
        let status = call(&node.dial(false).await, NOTIFY, Some(&faulty.plain()), body.into()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(node.peer(&faulty.id).row().next_id, None);
        told.push(status.message().replace(there, "ID"));
    }
    assert_eq!(told[0], told[1]);
    assert!(!told[0].contains("refused") && !told[0].contains("loopback"), "{}", told[0]);
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody connected");
}

#[tokio::test]
async fn a_new_id_on_a_closed_port_of_the_peers_own_host_gets_the_same_answer() {
    let (node, faulty) = pair().await;
    let body = NotifyNewIdRequest { new_server_id: "127.0.0.1:1".into() }.encode_to_vec();
    let status = call(&node.dial(false).await, NOTIFY, Some(&faulty.plain()), body.into()).await.unwrap_err();
    assert!(status.message().contains("no key of 127.0.0.1:1 could be had"), "{status:?}");
}
