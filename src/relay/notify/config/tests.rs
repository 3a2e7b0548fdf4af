//! What is refused, by which key, and that no secret is shown.

use super::*;

const SECRET: &str = "whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0";

fn config(smtp_url: &str, smtp_from: &str, webhook_url: &str, webhook_secret: &str) -> Config {
    let hidden = |text: &str| Hidden::from(text.to_owned());
    Config {
        smtp_url: hidden(smtp_url),
        smtp_from: smtp_from.into(),
        webhook_url: hidden(webhook_url),
        webhook_secret: hidden(webhook_secret),
    }
}

#[test]
fn a_way_that_is_off_needs_nothing() {
    for good in [
        Config::default(),
        config("", "a@a.example", "", "short"),
        config("smtps://u:p@mail.example", "A <a@a.example>", "", ""),
        config("", "", "https://hooks.example/x", SECRET),
    ] {
        good.check().expect("good");
    }
}

#[test]
fn what_cannot_work_is_refused_by_its_key_and_not_quoted() {
    let short = "whsec_c2VjcmV0";
    for (key, bad) in [
        ("smtp_url", config("mail-secret.example", "a@a.example", "", "")),
        ("smtp_url", config("http://mail-secret.example", "a@a.example", "", "")),
        ("smtp_url", config("smtp://u-secret@mail.example", "a@a.example", "", "")),
        ("smtp_from", config("smtps://mail.example", "", "", "")),
        ("smtp_from", config("smtps://mail.example", "nobody", "", "")),
        ("webhook_url", config("", "", "http://hooks-secret.example", SECRET)),
        ("webhook_secret", config("", "", "https://hooks.example", "")),
        ("webhook_secret", config("", "", "https://hooks.example", short)),
        ("webhook_secret", config("", "", "https://hooks.example", &SECRET[6..])),
        ("webhook_secret", config("", "", "https://hooks.example", "whsec_secret secret")),
    ] {
        let error = bad.check().expect_err(key).to_string();
        assert!(error.starts_with(&format!("relay.notify.{key}: ")), "{error}");
        assert!(!error.contains("secret.example") && !error.contains("u-secret") && !error.contains("c2V"), "{error}");
    }
}

#[test]
fn a_printed_configuration_has_no_secret() {
    let config = config("smtps://u:p@mail.example", "a@a.example", "https://hooks.example/x", SECRET);
    let printed = format!("{config:?} {}", serde_json::to_string(&config).expect("plain values"));
    assert!(printed.contains("(hidden)") && printed.contains("a@a.example"));
    for secret in ["mail.example", "hooks.example", "whsec_"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
