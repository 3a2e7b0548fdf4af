//! Certificates: what they say, and when they are made anew.

use super::*;
use ed25519_dalek::{Signer, SigningKey};
use std::os::unix::fs::PermissionsExt;

fn node(seed: u8) -> (PublicKey, impl Fn(&[u8]) -> [u8; 64]) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = PublicKey::from_bytes(key.verifying_key().as_bytes()).unwrap();
    (public, move |bytes: &[u8]| key.sign(bytes).to_bytes())
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn der(pair: &PemPair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap().to_vec()
}

fn now() -> u64 {
    crate::types::unix_seconds()
}

#[test]
fn a_certificate_speaks_for_the_key_that_signed_it_and_no_other() {
    let (public, sign) = node(1);
    let cert = der(&self_signed(&names(&["a.example", "::1"]), &public, &sign).unwrap());
    assert_eq!(check_pinned(&cert, &public, now()), Ok(()));
    let (other, _) = node(2);
    assert!(check_pinned(&cert, &other, now()).unwrap_err().contains("another node key"));
}

#[test]
fn a_key_that_did_not_sign_is_not_believed() {
    let (public, _) = node(1);
    let (_, other_sign) = node(2);
    let cert = der(&self_signed(&names(&["a.example"]), &public, &other_sign).unwrap());
    assert!(check_pinned(&cert, &public, now()).unwrap_err().contains("signature"));
}

#[test]
fn every_changed_byte_of_the_extension_is_refused() {
    let (public, sign) = node(1);
    let cert = der(&self_signed(&names(&["a.example"]), &public, &sign).unwrap());
    let start = cert.windows(32).position(|window| window == public.as_bytes()).unwrap() - 4;
    for at in start..start + 102 {
        let mut changed = cert.clone();
        changed[at] ^= 1;
        assert!(check_pinned(&changed, &public, now()).is_err(), "byte {}", at - start);
    }
}

#[test]
fn a_plain_certificate_carries_no_node_key() {
    let (public, _) = node(1);
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    assert!(check_pinned(cert.der(), &public, now()).unwrap_err().contains("no node key"));
    assert!(check_pinned(b"not a certificate", &public, now()).is_err());
}

#[test]
fn dates_count() {
    let (public, sign) = node(1);
    let cert = der(&self_signed(&names(&["a.example"]), &public, &sign).unwrap());
    let ten_years = 3652 * 24 * 3600;
    assert!(check_pinned(&cert, &public, now() - 2 * 24 * 3600).unwrap_err().contains("not valid yet"));
    assert_eq!(check_pinned(&cert, &public, now() + ten_years - 3600), Ok(()));
    assert!(check_pinned(&cert, &public, now() + ten_years + 3600).unwrap_err().contains("expired"));
    assert!(check_pinned(&cert, &public, u64::MAX).is_err());
}

#[test]
fn the_pair_is_kept_while_it_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    let (public, sign) = node(1);
    let wanted = names(&["a.example", "localhost", "127.0.0.1", "::1"]);
    let made = load_or_make(&tls, &wanted, &public, &sign).unwrap();
    let mode = |name: &str| fs::metadata(tls.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("cert.pem"), mode("key.pem")), (0o644, 0o600));
    assert_eq!(fs::read_dir(&tls).unwrap().count(), 2, "no temporary file stays");
    assert_eq!(load_or_make(&tls, &wanted, &public, &sign).unwrap(), made);
    let fewer = names(&["A.example", "::1"]);
    assert_eq!(load_or_make(&tls, &fewer, &public, &sign).unwrap(), made);
}

#[test]
fn the_pair_is_made_anew_when_it_no_longer_fits() {
    let (public, sign) = node(1);
    let wanted = names(&["a.example", "127.0.0.1"]);
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: &[(&str, Change<'_>)] = &[
        ("cert missing", &|tls| fs::remove_file(tls.join("cert.pem")).unwrap()),
        ("key missing", &|tls| fs::remove_file(tls.join("key.pem")).unwrap()),
        ("garbage", &|tls| fs::write(tls.join("cert.pem"), [0xff, 0xfe]).unwrap()),
        ("another pair's key", &|tls| {
            let (public, sign) = node(1);
            let other = self_signed(&names(&["a.example"]), &public, &sign).unwrap();
            fs::write(tls.join("key.pem"), other.key).unwrap();
        }),
        ("ends soon", &|tls| {
            let (public, sign) = node(1);
            let now = SystemTime::now();
            let soon =
                self_signed_within(&names(&["a.example", "127.0.0.1"]), &public, &sign, now - DAY, now + DAY).unwrap();
            fs::write(tls.join("key.pem"), soon.key).unwrap();
            fs::write(tls.join("cert.pem"), soon.cert).unwrap();
        }),
    ];
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let made = load_or_make(dir.path(), &wanted, &public, &sign).unwrap();
        change(dir.path());
        let again = load_or_make(dir.path(), &wanted, &public, &sign).unwrap();
        assert_ne!(again, made, "{what}");
        assert_eq!(load_or_make(dir.path(), &wanted, &public, &sign).unwrap(), again, "{what}");
    }
    let dir = tempfile::tempdir().unwrap();
    let made = load_or_make(dir.path(), &wanted, &public, &sign).unwrap();
    let renamed = load_or_make(dir.path(), &names(&["a.example", "b.example"]), &public, &sign).unwrap();
    assert_ne!(renamed, made, "a new name");
    let (other, other_sign) = node(2);
    let rekeyed = load_or_make(dir.path(), &names(&["a.example"]), &other, &other_sign).unwrap();
    assert_ne!(rekeyed, renamed, "a new node key");
}

#[test]
fn the_private_key_is_not_shown() {
    let (public, sign) = node(1);
    let pair = self_signed(&names(&["a.example"]), &public, &sign).unwrap();
    assert!(!format!("{pair:?}").contains("PRIVATE"));
}
