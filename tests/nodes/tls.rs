//! Whose server it is: pinned keys and certificates of an authority.

use crate::{
    common::{TestNode, faulty::Faulty, federate},
    eventually,
};
use pillarbox::{federation::AddPeer, net::Mode, store::KeyOrigin};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::Path;

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
