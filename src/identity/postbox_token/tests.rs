//! Tokens verify for their request alone, in every header form, and garbage does no harm.

use super::*;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

const METHOD: &str = "/protocol.sync.v1.PostboxService/Push";

fn key() -> (tempfile::TempDir, NodeKey) {
    let dir = tempfile::tempdir().unwrap();
    let key = NodeKey::load_or_make(&dir.path().join("node.key")).unwrap();
    (dir, key)
}

fn id(text: &str) -> ServerId {
    text.parse().unwrap()
}

fn minted(key: &NodeKey) -> String {
    mint(key, &id("a.example:1"), &id("b.example:2"), Request { method: METHOD, body: b"body" }, 1000).unwrap()
}

#[test]
fn a_minted_token_verifies_for_its_request_alone() {
    let (_dir, key) = key();
    let claim = Claim::from_text(&minted(&key)).unwrap();
    assert_eq!(claim.server_id, id("a.example:1"));
    assert!(claim.is_signed_by(&key.public()));
    assert_eq!(claim.nonce().unwrap().len(), 16);
    let request = Request { method: METHOD, body: b"body" };
    claim.check_binding(request, |own| own == "b.example:2").unwrap();
    for (request, own, what) in [
        (request, "c.example:3", "destination"),
        (Request { method: "/x/y", ..request }, "b.example:2", "method"),
        (Request { body: b"Body", ..request }, "b.example:2", "body"),
    ] {
        let error = claim.check_binding(request, |id| id == own).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn every_documented_header_form_is_read() {
    let (_dir, key) = key();
    let standard = minted(&key);
    let bytes = STANDARD.decode(&standard).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms = [
        STANDARD_NO_PAD.encode(&bytes),
        URL_SAFE.encode(&bytes),
        URL_SAFE_NO_PAD.encode(&bytes),
        hex.to_uppercase(),
        hex,
        standard,
    ];
    for form in forms {
        for header in [form.clone(), format!("Bearer {form}"), format!("harmony {form}"), format!(" {form} ")] {
            assert!(Claim::from_text(&header).unwrap().is_signed_by(&key.public()), "{header}");
        }
    }
    assert!(Claim::from_bytes(&bytes).unwrap().is_signed_by(&key.public()));
}

#[test]
fn the_refusal_says_how_far_the_clocks_are_apart() {
    let (_dir, key) = key();
    let claim = Claim::from_text(&minted(&key)).unwrap();
    for now in [940, 1000, 1060] {
        claim.check_time(now).unwrap();
    }
    let late = claim.check_time(1095).unwrap_err().to_string();
    assert!(late.contains("95 s behind"), "{late}");
    let early = claim.check_time(900).unwrap_err().to_string();
    assert!(early.contains("100 s ahead"), "{early}");
}

/// Captured from a running scherzo; verified with another library.
#[test]
fn a_plain_token_of_the_reference_server_verifies() {
    let token = "0a404bfa03533231d316396d8096f02a42ee709c2850daa3613e9e6cfc9c8352753ceeb86ac558ad0bede2c42bb165174707d09ec48f7ac6a1c04af4ab1e8c18820312170a0f3132372e302e302e313a313232383910f7c581d806";
    let key = decode_hex("9e9fb724df667d859647b666b047ba94a7fa429f9edf35eff02ca0f7d87e4b6b").unwrap();
    let claim = Claim::from_text(token).unwrap();
    assert_eq!(claim.server_id, id("127.0.0.1:12289"));
    assert!(claim.is_signed_by(&PublicKey::from_bytes(&key).unwrap()));
    claim.check_time(1_795_187_447).unwrap();
    assert!(!claim.is_bound());
}

#[test]
fn an_id_written_as_a_url_is_the_same_server() {
    let data = AuthData { server_id: "https://A.example:7443/".into(), time: 1, binding: None }.encode_to_vec();
    let token = Token { sig: Bytes::from_static(&[0; 64]), data: data.into() }.encode_to_vec();
    assert_eq!(Claim::from_bytes(&token).unwrap().server_id, id("a.example:7443"));
}

proptest! {
    #[test]
    fn garbage_is_refused_not_fatal(text in "\\PC{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Claim::from_text(&text);
        prop_assert!(Claim::from_bytes(&bytes).is_err() || bytes.len() > 64);
    }

    #[test]
    fn a_flipped_bit_breaks_the_signature(at in 0..1000usize) {
        let (_dir, key) = key();
        let mut bytes = STANDARD.decode(minted(&key)).unwrap();
        let at = at % (bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
        if let Ok(claim) = Claim::from_bytes(&bytes) {
            prop_assert!(!claim.is_signed_by(&key.public()));
        }
    }
}
