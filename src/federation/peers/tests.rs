//! Nonces count once and are bounded.

use super::*;

#[test]
fn a_nonce_counts_once_until_its_time_is_over() {
    let mut nonces = Nonces::default();
    let now = Instant::now();
    nonces.insert(b"a", now).unwrap();
    nonces.insert(b"b", now).unwrap();
    assert!(matches!(nonces.insert(b"a", now + NONCE_KEPT), Err(Error::Unauthenticated(_))));
    nonces.insert(b"a", now + NONCE_KEPT + Duration::from_secs(1)).unwrap();
    assert_eq!(nonces.order.len(), 1);
}

#[test]
fn too_many_nonces_are_refused_not_forgotten() {
    let mut nonces = Nonces::default();
    let now = Instant::now();
    for n in 0..NONCES_MAX {
        nonces.insert(&n.to_be_bytes(), now).unwrap();
    }
    assert!(matches!(nonces.insert(b"one more", now), Err(Error::Exhausted { .. })));
    assert!(nonces.insert(&0usize.to_be_bytes(), now).is_err());
}
