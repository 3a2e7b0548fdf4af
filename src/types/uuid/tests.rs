//! Ids are shown and read back as one text each.

use super::*;

#[test]
fn an_id_is_read_back_as_it_is_shown() {
    let id = Uuid::of_hash([0xff; 32]);
    assert_eq!(id.to_string(), "ffffffff-ffff-8fff-bfff-ffffffffffff");
    assert_eq!(id.to_string().parse::<Uuid>().unwrap(), id);
    assert_eq!(Uuid::from_slice(id.as_bytes()), Some(id));
    assert_eq!(Uuid::from_slice(b"short"), None);
}

#[test]
fn no_other_text_is_one() {
    let good = Uuid::of_hash([7; 32]).to_string();
    for bad in
        ["", "x", &good[1..], &good.to_uppercase().replace('0', "A"), &good.replace('-', "0"), &format!("{good}0")]
    {
        assert!(bad.parse::<Uuid>().is_err(), "{bad}");
    }
    assert!("é".repeat(18).parse::<Uuid>().is_err());
}
