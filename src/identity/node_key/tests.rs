//! The key is made once, kept to oneself, and signs for one purpose only.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn the_key_is_made_once_and_kept_to_oneself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    let made = NodeKey::load_or_make(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let loaded = NodeKey::load_or_make(&path).unwrap();
    assert_eq!(made.public(), loaded.public());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    NodeKey::load_or_make(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = NodeKey::load_or_make(&path).err().unwrap().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn a_file_that_is_no_key_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    fs::write(&path, "not a key").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(NodeKey::load_or_make(&path).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
}

#[test]
fn a_signature_counts_for_its_purpose_only() {
    let dir = tempfile::tempdir().unwrap();
    let key = NodeKey::load_or_make(&dir.path().join("node.key")).unwrap();
    let signature = key.sign("tls", b"bytes");
    assert!(key.public().verify(&signed_bytes("tls", b"bytes"), &signature));
    assert!(!key.public().verify(&signed_bytes("tl", b"sbytes"), &signature));
    assert!(!key.public().verify(b"bytes", &signature));
}
