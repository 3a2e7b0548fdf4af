//! Whose server it is: pinned keys and certificates of an authority.

use crate::{
    common::{LONG, TestNode, faulty::Faulty, federate},
    eventually,
};
use pillarbox::{
    federation::AddPeer,
    identity::node_key::NodeKey,
    net::{
        Mode, certificate,
        dial::{DialConfig, Dialer, Target},
    },
    store::KeyOrigin,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::Path;
use tokio::time::Instant;

#[tokio::test]
async fn a_self_signed_server_is_refused_under_another_key_than_the_pinned_one() {
    let (a, b, other) = (TestNode::start().await, TestNode::start().await, Faulty::start().await);
    b.add(&a.id, a.key).await;
    a.add(&b.id, other.key).await;
    a.send(&b.id, 0..3).await;
    eventually!(a.is_queued(&b.id).await);
    let why = a.peer(&b.id).health().outbound_error;
    assert!(why.contains("another node key than the one pinned"), "{why}");
    assert!(b.peer(&a.id).health().inbound_ok_at.is_none());
    // The right one mends it.
    a.add(&b.id, b.key).await;
    assert_eq!(b.log(2).await, [0, 1, 2]);
    eventually!(a.is_drained(&b.id).await);
}

#[tokio::test]
async fn a_self_signed_server_without_a_pinned_key_is_refused() {
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    b.add(&a.id, a.key).await;
    let add = AddPeer { server_id: b.id.clone(), key: None, address: None, plaintext: false };
    a.federation().add_peer(add).await.unwrap();
    a.send(&b.id, 0..1).await;
    eventually!(a.is_queued(&b.id).await);
    assert!(a.peer(&b.id).key().is_none());
    assert!(b.peer(&a.id).health().inbound_ok_at.is_none());
}

/// A certificate for `localhost` by this authority, as files.
fn certify(dir: &Path, issuer: &CertifiedIssuer<'_, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn nodes_with_certificates_of_a_common_authority_learn_each_others_keys() {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("ca.pem"), issuer.pem()).unwrap();
    certify(files.path(), &issuer);
    let dir = files.path().to_owned();
    let edit = |config: &mut pillarbox::config::Config| {
        config.tls.mode = Mode::Files;
        config.tls.cert = dir.join("cert.pem");
        config.tls.key = dir.join("key.pem");
        config.federation.ca_file = dir.join("ca.pem");
    };
    let (a, b) = (TestNode::start_with(edit).await, TestNode::start_with(edit).await);
    for (node, other) in [(&a, &b), (&b, &a)] {
        let add = AddPeer { server_id: other.id.clone(), key: None, address: None, plaintext: false };
        node.federation().add_peer(add).await.unwrap();
    }
    a.send(&b.id, 0..3).await;
    b.send(&a.id, 0..3).await;
    assert_eq!(b.log(2).await, [0, 1, 2]);
    assert_eq!(a.log(2).await, [0, 1, 2]);
    let known = a.peer(&b.id).row().key.unwrap();
    assert_eq!((known.key, known.origin), (b.key, KeyOrigin::Learnt));
}

#[tokio::test]
async fn a_restart_keeps_certificate_and_key() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    let before = a.certificate();
    a.stop().await;
    a.start_again().await;
    assert_eq!(a.certificate(), before);
    a.send(&b.id, 0..1).await;
    assert_eq!(b.log(0).await, [0]);
}

#[tokio::test]
async fn nodes_without_tls_federate_over_loopback() {
    let off = |config: &mut pillarbox::config::Config| config.tls.mode = Mode::Off;
    let (a, b) = (TestNode::start_with(off).await, TestNode::start_with(off).await);
    for (node, other) in [(&a, &b), (&b, &a)] {
        let add = AddPeer { server_id: other.id.clone(), key: None, address: None, plaintext: true };
        node.federation().add_peer(add).await.unwrap();
    }
    a.send(&b.id, 0..3).await;
    b.send(&a.id, 0..3).await;
    assert_eq!(b.log(2).await, [0, 1, 2]);
    assert_eq!(a.log(2).await, [0, 1, 2]);
    let elsewhere = AddPeer { server_id: "a.example:7443".parse().unwrap(), key: None, address: None, plaintext: true };
    let error = a.federation().add_peer(elsewhere).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
}

/// What the operator's files say now: a certificate that speaks for this key.
fn speak_for(dir: &Path, key: &NodeKey) {
    let sign = |framed: &[u8]| key.sign_framed(framed);
    let pems = certificate::self_signed(&["localhost".into()], &key.public(), &sign).unwrap();
    std::fs::write(dir.join("cert.pem"), pems.cert).unwrap();
    std::fs::write(dir.join("key.pem"), pems.key).unwrap();
}

#[tokio::test]
async fn changed_certificate_files_are_served_after_a_reload_and_broken_ones_never() {
    let files = tempfile::tempdir().unwrap();
    let keys = ["one.key", "two.key"].map(|name| NodeKey::load_or_make(&files.path().join(name)).unwrap());
    speak_for(files.path(), &keys[0]);
    let node = TestNode::start_with(|config| {
        config.tls.mode = Mode::Files;
        config.tls.cert = files.path().join("cert.pem");
        config.tls.key = files.path().join("key.pem");
    })
    .await;
    let dialer = Dialer::new(&DialConfig::default()).unwrap();
    let speaks_for = async |key: &NodeKey| {
        let target = Target {
            id: node.id.clone(),
            address: Some((node.address.ip().to_string(), node.address.port())),
            plaintext: false,
            http1: false,
            pinned: Some(key.public()),
            trusted: true,
        };
        dialer.dial(&target, Instant::now() + LONG).await.is_ok()
    };
    assert!(speaks_for(&keys[0]).await && !speaks_for(&keys[1]).await);
    speak_for(files.path(), &keys[1]);
    node.node().reload().await.unwrap();
    assert!(!speaks_for(&keys[0]).await && speaks_for(&keys[1]).await);
    std::fs::write(files.path().join("cert.pem"), "not a certificate").unwrap();
    assert!(node.node().reload().await.is_err());
    assert!(speaks_for(&keys[1]).await);
}
