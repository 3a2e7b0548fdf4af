//! Ids and names of users read as they are written, or are refused.

use super::*;

#[test]
fn an_id_is_shown_with_its_lowest_byte_first() {
    for (value, text) in [
        (1, "usrAQAAAAAAAAA"),
        (0x0807_0605_0403_0201, "usrAQIDBAUGBwg"),
        (u64::MAX, "usr__________8"),
        (i64::MAX.unsigned_abs(), "usr_________38"),
    ] {
        let id = UserId::new(value).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse::<UserId>().unwrap(), id);
        assert_eq!(id.get(), value);
    }
}

#[test]
fn an_id_that_is_none_is_refused() {
    for text in [
        "",
        "usr",
        "usr!!!",
        "usrAAAAAAAAAAA",
        "AQAAAAAAAAA",
        "grpAQAAAAAAAAA",
        "USRAQAAAAAAAAA",
        "usrAQAAAAAAAA",
        "usrAQAAAAAAAAAA",
        "usrAQAAAAAAAAA=",
        "usrAQAAAAAAAAB",
        "usr//////////8",
        " usrAQAAAAAAAAA",
    ] {
        let refused = text.parse::<UserId>().unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{text:?}");
        assert!(refused.to_string().contains(&format!("{text:?}")), "{refused}");
    }
}

#[test]
fn a_new_id_is_positive_and_not_0() {
    for (bits, id) in [(u64::MAX, Some(i64::MAX.unsigned_abs())), (2, Some(1)), (1, None), (0, None)] {
        assert_eq!(UserId::of_random(bits).map(UserId::get), id);
    }
}

#[test]
fn a_name_has_1_to_64_letters_digits_dots_and_dashes() {
    for name in ["a", "Alice", "a.b_c-d", "-", "...", "0", &"x".repeat(64)] {
        check_user_name("user_id", name).unwrap();
    }
    for name in ["", "a b", "a@b", "zoë", "a\n", "a/b", "a:b", &"x".repeat(65)] {
        let refused = check_user_name("user_id", name).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{name:?}");
        assert!(refused.to_string().starts_with("user_id: "), "{refused}");
    }
    assert!(check_user_name("f", &"x".repeat(65)).unwrap_err().to_string().contains("1 to 64"));
    for name in ["", "../web"] {
        let refused = check_name("--id", "a gateway's id", name).unwrap_err().to_string();
        assert!(refused.contains("; a gateway's id has") && !refused.contains("user"), "{refused}");
    }
}
