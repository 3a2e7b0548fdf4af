//! What is opened of batches, and what is not.

use super::*;
use crate::types::{Millis, PeerId};
use proptest::prelude::*;

const NONCE: Nonce = [3; 16];

fn key() -> NodeKey {
    let dir = tempfile::tempdir().unwrap();
    NodeKey::load_or_make(&dir.path().join("key")).unwrap()
}

fn destination() -> ServerId {
    "b.example:7443".parse().unwrap()
}

fn is_ours(id: &str) -> bool {
    id == destination().as_str()
}

fn after() -> Mark {
    Mark { epoch: 9, number: 4, id: 40 }
}

fn rows(numbers: &[u64]) -> Vec<OutRow> {
    let row = |&number: &u64| OutRow {
        number,
        peer: PeerId(1),
        id: number.wrapping_mul(10),
        stored_at: Millis(0),
        body: Bytes::copy_from_slice(&number.to_be_bytes()),
    };
    numbers.iter().map(row).collect()
}

#[test]
fn a_batch_comes_out_as_it_was_sealed_each_row_after_the_one_before_it() {
    let key = key();
    let batch = seal(&key, &destination(), &NONCE, after(), rows(&[5, 9]));
    let cargo = open(batch, &key.public(), &NONCE, is_ours).unwrap();
    assert_eq!(cargo.after, after());
    let positions: Vec<_> = cargo.rows.iter().map(|row| row.position.unwrap()).collect();
    assert_eq!(positions[0], Position { epoch: 9, number: 5, id: 50, after: 4 });
    assert_eq!(positions[1], Position { epoch: 9, number: 9, id: 90, after: 5 });
    assert_eq!(cargo.rows[1].body[..], 9_u64.to_be_bytes());
}

#[test]
fn a_batch_of_another_key_stream_or_destination_is_not_opened() {
    let (key, other) = (key(), key());
    let batch = seal(&key, &destination(), &NONCE, after(), rows(&[5]));
    assert!(open(batch.clone(), &other.public(), &NONCE, is_ours).is_err());
    assert!(open(batch.clone(), &key.public(), &[4; 16], is_ours).is_err());
    assert!(open(batch.clone(), &key.public(), &NONCE, |_| false).is_err());
    assert!(open(batch, &key.public(), &NONCE, is_ours).is_ok());
}

#[test]
fn a_batch_has_512_rows_at_most_in_growing_order() {
    let key = key();
    let opened = |numbers: &[u64]| {
        open(seal(&key, &destination(), &NONCE, after(), rows(numbers)), &key.public(), &NONCE, is_ours)
    };
    let many: Vec<u64> = (5..).take(513).collect();
    assert!(opened(&many[..512]).is_ok());
    for wrong in [&many[..], &[], &[4], &[6, 5], &[5, 5], &[u64::MAX]] {
        assert!(opened(wrong).is_err(), "{} rows", wrong.len());
    }
}

proptest! {
    #[test]
    fn a_batch_with_any_byte_changed_is_not_opened(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let key = key();
        let mut batch = seal(&key, &destination(), &NONCE, after(), rows(&[5, 9]));
        let mut load = batch.load.to_vec();
        let at = at.index(load.len());
        load[at] ^= 1_u8 << bit;
        batch.load = load.into();
        prop_assert!(open(batch, &key.public(), &NONCE, is_ours).is_err());
    }

    #[test]
    fn what_is_signed_and_no_load_is_refused(load in prop::collection::vec(any::<u8>(), 0..200)) {
        let key = key();
        let signature = Bytes::copy_from_slice(&key.sign(PURPOSE, &Sha256::digest(&load)));
        let batch = Batch { load: load.into(), signature };
        prop_assert!(open(batch, &key.public(), &NONCE, is_ours).is_err());
    }
}
