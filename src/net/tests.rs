//! Tests of `net`.

use super::*;

fn config(text: &str) -> Config {
    serde_json::from_str(text).unwrap()
}

#[test]
fn tls_off_is_refused_on_what_others_can_reach() {
    let off = config(r#"{"mode":"off"}"#);
    for (listen, allowed) in [
        ("127.0.0.1:1", true),
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("192.168.1.2:1", false),
        ("93.184.216.34:1", false),
    ] {
        assert_eq!(off.check(listen.parse().unwrap()).is_ok(), allowed, "{listen}");
        let behind = config(r#"{"mode":"off","behind_proxy":true}"#);
        assert!(behind.check(listen.parse().unwrap()).is_ok(), "{listen} behind a proxy");
        assert!(Config::default().check(listen.parse().unwrap()).is_ok(), "{listen} with TLS");
    }
}

#[test]
fn files_need_both_paths_and_paths_need_files() {
    let listen = "0.0.0.0:1".parse().unwrap();
    for (text, named) in [
        (r#"{"mode":"files"}"#, "tls.cert"),
        (r#"{"mode":"files","cert":"a"}"#, "tls.key"),
        (r#"{"mode":"files","key":"a"}"#, "tls.cert"),
        (r#"{"cert":"a"}"#, "tls.cert"),
        (r#"{"key":"a"}"#, "tls.key"),
    ] {
        let error = config(text).check(listen).unwrap_err().to_string();
        assert!(error.starts_with(named), "{text}: {error}");
    }
    assert!(config(r#"{"mode":"files","cert":"a","key":"b"}"#).check(listen).is_ok());
}

#[test]
fn unknown_keys_and_modes_are_errors() {
    assert!(serde_json::from_str::<Config>(r#"{"mod":"off"}"#).is_err());
    assert!(serde_json::from_str::<Config>(r#"{"mode":"none"}"#).is_err());
}
