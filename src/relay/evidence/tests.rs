//! Tests of `relay/evidence`. The vectors were made by another implementation
//! (Python, `cryptography`) from the words of `docs/evidence.md`.

use super::*;
use ed25519_dalek::{Signer, SigningKey};

const SLOT: &str = "000000077369676e696e670000000200000006636f6d6d697400000014616c69636540612e6578616d706c653a37343433\
                    000000203030303030303030303030303030303130303030303030303030303030303032012cf24dba5fb0a30e26e83b2a\
                    c5b9e29e1b161e5c1fa7425e73043362938b9824";
const FIRST_LINK: &str = "af7d61807c165ffdfa2d65cc0472334c2395ea044fee8e4f9f9df6257ccfb010";
const SECOND_LINK: &str = "ebf2d2d8e216a08488551472aa4e5a0a37c5c1cf176ef4fa33f08e56068bd441";
const SIGNATURE: &str = "ac0e54089eea2af2746b81dc9d67787c8760546014109cdb68c1c1e46d19d5b4\
                         457c030088633c66afb9f6ed062cc10f01c2f8c4c07979292e7fee402d17df01";
const HEAD_SIGNATURE: &str = "72dcdeb7c8a9bd4aaf382c775a946e3281048fc3309a916ac4fa54e202774fd5\
                              b27d67bd31a753a3b8cb58c25eba0dba1e09e82245325d98035d5e4e5b95f40e";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn commit() -> Slot {
    Slot {
        session: "signing".into(),
        round: 2,
        kind: "commit".into(),
        sender: "alice@a.example:7443".into(),
        message_id: "00000000000000010000000000000002".into(),
        broadcast: true,
        digest: digest(b"hello"),
    }
}

fn share() -> Slot {
    let (kind, sender, message_id) = (String::new(), "bob".into(), "x".into());
    Slot { session: "signing".into(), round: -1, kind, sender, message_id, broadcast: false, digest: digest(b"") }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().as_bytes()).unwrap()
}

fn signed(slot: Slot) -> (Slot, Vec<u8>) {
    let signature = key().sign(&signed_bytes(BROADCAST, &slot.bytes())).to_bytes().to_vec();
    (slot, signature)
}

#[test]
fn the_bytes_are_those_that_were_written_down() {
    assert_eq!(hex(&commit().bytes()), SLOT);
    let first = commit().link(&chain::START);
    assert_eq!(hex(&first), FIRST_LINK);
    let second = share().link(&first);
    assert_eq!(hex(&second), SECOND_LINK);
    assert_eq!(hex(&signed(commit()).1), SIGNATURE);
    let head = key().sign(&signed_bytes(TRANSCRIPT, &head_bytes("signing", 2, &second))).to_bytes();
    assert_eq!(hex(&head), HEAD_SIGNATURE);
    assert!(is_head_signed("signing", 2, &second, &public(&key()), &head));
    assert!(!is_head_signed("signing", 3, &second, &public(&key()), &head));
    assert!(!is_head_signed("signin", 2, &second, &public(&key()), &head));
}

#[test]
fn an_entry_is_read_back_and_nothing_else_is_one() {
    for slot in [commit(), share()] {
        let entry = slot.entry();
        assert_eq!(Slot::read("signing", &entry, slot.digest), Some(slot.clone()));
        for cut in 0..entry.len() {
            assert_eq!(Slot::read("signing", &entry[..cut], slot.digest), None, "cut at {cut}");
        }
        assert_eq!(Slot::read("signing", &[&entry[..], b"\0"].concat(), slot.digest), None);
    }
    let mut entry = share().entry();
    *entry.last_mut().unwrap() = 2;
    assert_eq!(Slot::read("signing", &entry, [0; 32]), None);
    assert_eq!(Slot::read("signing", &[0xff; 40], [0; 32]), None);
}

#[test]
fn a_signature_holds_for_every_field_and_one_key() {
    let (slot, signature) = signed(commit());
    assert!(is_signed(&slot, &public(&key()), &signature));
    assert!(!is_signed(&slot, &public(&SigningKey::from_bytes(&[8; 32])), &signature));
    let changed = [
        Slot { session: "other".into(), ..commit() },
        Slot { round: 3, ..commit() },
        Slot { kind: "reveal".into(), ..commit() },
        Slot { sender: "alice@b.example:7443".into(), ..commit() },
        Slot { message_id: "y".into(), ..commit() },
        Slot { broadcast: false, ..commit() },
        Slot { digest: digest(b"hallo"), ..commit() },
    ];
    assert!(changed.iter().all(|slot| !is_signed(slot, &public(&key()), &signature)));
    assert!(!is_signed(&slot, &public(&key()), &signature[..63]));
    assert!(!is_signed(&share(), &public(&key()), &signed(share()).1), "only a broadcast is evidence");
}

#[test]
fn two_payloads_for_one_round_type_and_sender_contradict_each_other() {
    let other = Slot { message_id: "y".into(), digest: digest(b"hallo"), ..commit() };
    assert!(commit().contradicts(&other) && other.contradicts(&commit()));
    assert_eq!(commit().claim(), other.claim());
    // The same payload under another id: sent twice, no more.
    assert!(!commit().contradicts(&Slot { message_id: "y".into(), ..commit() }));
    let elsewhere = [
        Slot { session: "t".into(), ..other.clone() },
        Slot { round: 3, ..other.clone() },
        Slot { kind: "reveal".into(), ..other.clone() },
        Slot { sender: "bob@a.example:7443".into(), ..other.clone() },
        Slot { broadcast: false, ..other.clone() },
    ];
    assert!(elsewhere.iter().all(|slot| !commit().contradicts(slot) && !slot.contradicts(&commit())));
    // Nothing is claimed by what has neither round nor type.
    let bare = |payload| Slot { round: 0, kind: String::new(), digest: digest(payload), ..commit() };
    assert!(!bare(b"a").contradicts(&bare(b"b")));
    assert_eq!(bare(b"a").claim(), None);
    assert!(Slot { round: 1, ..bare(b"a") }.contradicts(&Slot { round: 1, ..bare(b"b") }));
    assert!(Slot { kind: "k".into(), ..bare(b"a") }.contradicts(&Slot { kind: "k".into(), ..bare(b"b") }));
}

#[test]
fn only_what_verifies_proves_an_equivocation() {
    let other = Slot { message_id: "y".into(), digest: digest(b"hallo"), ..commit() };
    let records = vec![signed(commit()), signed(other.clone()), signed(Slot { round: 3, ..commit() })];
    let (bad, twice) = judge(&records, &public(&key()));
    assert_eq!((bad, twice), (vec![], vec![(&commit(), &other)]));
    let forged = vec![signed(commit()), (other, vec![0; 64])];
    assert_eq!(judge(&forged, &public(&key())), (vec![1], vec![]));
    assert_eq!(judge(&[], &public(&key())), (vec![], vec![]));
}

#[test]
fn a_proof_is_its_key_and_signature() {
    let proof = Proof { key: [1; 32], signature: [2; 64] };
    assert_eq!(Proof::of_bytes(&proof.to_bytes()), proof);
    assert_eq!(proof.to_bytes()[31..33], [1, 2]);
}
