//! Tests of `notify/channels`, by table.

use super::*;

#[test]
fn an_address_alone_is_an_e_mail_address() {
    for good in
        ["bob@mail.example", "b.o+b@mail.example", "\"a.b\"@mail.example", "bob@[127.0.0.1]", "böb@mail.example"]
    {
        assert_eq!(check_email(good), Ok(()), "{good:?}");
    }
    let bad = [
        "",
        "bob",
        "bob@",
        "@mail.example",
        "not an email\r\nX: y",
        "bob@mail.example\r\nBcc: carol@mail.example",
        "bob@mail.example\n",
        "bob@mail.example\0",
        "\"a\r\nRCPT TO:<carol@mail.example>\"@mail.example",
        "\"a b\"@mail.example",
        "bob@mail.example, carol@mail.example",
        "bob@mail.example>",
        "bob@mail.example> NOTIFY=NEVER",
        "Bob <bob@mail.example>",
        "bob@mail.example\u{2028}",
    ];
    for bad in bad {
        assert!(check_email(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn phones_and_push_tokens_are_printable() {
    for good in ["+49 1", "tel:+49-1", "{\"endpoint\":\"https://push.example/ä\"}"] {
        assert_eq!((check_phone(good), check_push_token(good)), (Ok(()), Ok(())), "{good:?}");
    }
    for bad in ["", " ", "+1\n", "+1\r\nX: y", "a\0", "a\u{7f}", "a\u{85}", "a\u{2028}"] {
        assert!(check_phone(bad).is_err() && check_push_token(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn each_is_bounded() {
    let email = |bytes: usize| format!("bob@{}", "a.".repeat(bytes / 2 - 3) + &"a".repeat(2 + bytes % 2));
    assert_eq!((email(254).len(), email(255).len()), (254, 255));
    assert!(check_email(&email(254)).is_ok() && check_email(&email(255)).is_err());
    assert!(check_phone(&"1".repeat(256)).is_ok() && check_phone(&"1".repeat(257)).is_err());
    assert!(check_push_token(&"1".repeat(1_024)).is_ok() && check_push_token(&"1".repeat(1_025)).is_err());
}
