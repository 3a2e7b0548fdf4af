//! Layers, errors that name key and source, and the example file.

use super::*;
use serde_json::Value;
use std::time::Duration;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("node.toml");
    fs::write(&path, text).expect("a file in it");
    (dir, path)
}

fn load(text: &str, variables: &[(&str, &str)], flags: Vec<Flag>) -> Result<Config, String> {
    let (_dir, path) = file(text);
    let sources = Sources { file: Some(path), environment: environment(variables), flags };
    Config::load(&sources).map_err(|error| error.to_string())
}

/// "federation.allow" and the like, of all leaves.
fn keys(value: &Value, prefix: &str, found: &mut Vec<String>) {
    let Value::Object(map) = value else { return found.push(prefix.to_owned()) };
    for (name, value) in map {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        keys(value, &path, found);
    }
}

#[test]
fn without_sources_there_are_the_defaults() {
    assert_eq!(Config::load(&Sources::default()), Ok(Config::default()));
}

#[test]
fn the_example_file_is_the_defaults() {
    let sources = Sources { file: Some(EXAMPLE.into()), ..Sources::default() };
    assert_eq!(Config::load(&sources), Ok(Config::default()));
}

#[test]
fn the_example_file_has_every_key() {
    let text = fs::read_to_string(EXAMPLE).expect("the example file");
    let raw = ::config::Config::builder().add_source(File::from_str(&text, FileFormat::Toml)).build().expect("TOML");
    let (mut written, mut known) = (Vec::new(), Vec::new());
    keys(&raw.try_deserialize().expect("tables"), "", &mut written);
    keys(&serde_json::to_value(Config::default()).expect("plain values"), "", &mut known);
    written.sort();
    known.sort();
    assert_eq!(written, known);
}

#[test]
fn every_list_can_come_from_the_environment() {
    let Value::Object(sections) = serde_json::to_value(Config::default()).expect("plain values") else {
        unreachable!()
    };
    let mut lists = Vec::new();
    for (section, value) in &sections {
        for (key, value) in value.as_object().into_iter().flatten() {
            if value.is_array() {
                lists.push(format!("{section}.{key}"));
            }
        }
    }
    assert_eq!(lists, LISTS);
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let flags = || vec![Flag { name: "--listen", key: "listen", value: "127.0.0.1:3".into() }];
    let text = "listen = '127.0.0.1:1'\n[federation]\npull_interval = '10s'\nretry_max = '9s'\n";
    let variables = [("PILLARBOX_LISTEN", "127.0.0.1:2"), ("PILLARBOX_FEDERATION__PULL_INTERVAL", "20s")];

    let all = load(text, &variables, flags()).expect("good");
    assert_eq!(all.listen.port(), 3);
    assert_eq!(all.federation.pull_interval, Duration::from_secs(20));
    assert_eq!(all.federation.retry_max, Duration::from_secs(9));
    assert_eq!(all.federation.push_retries, 5);
    assert_eq!(load(text, &variables, vec![]).expect("good").listen.port(), 2);
    assert_eq!(load(text, &[], vec![]).expect("good").listen.port(), 1);
}

#[test]
fn the_environment_sets_values_of_every_type() {
    let variables = [
        ("PILLARBOX_SERVER_ID", "A.example:7443"),
        ("PILLARBOX_LOG_FORMAT", "json"),
        ("PILLARBOX_TLS__MODE", "off"),
        ("PILLARBOX_TLS__BEHIND_PROXY", "true"),
        ("PILLARBOX_LIMITS__BYTES_PER_SECOND", "2MiB"),
        ("PILLARBOX_FEDERATION__PUSH_RETRIES", "7"),
        ("PILLARBOX_FEDERATION__ALLOW", "*.a.example, b.example:7443"),
        ("PILLARBOX_FEDERATION__DENY", ""),
        ("PILLARBOX_METRICS__LISTEN", "127.0.0.1:9464"),
        ("PILLARBOX_TOKEN", "not a key"),
        ("PILLARBOX_CONFIG", "not a key"),
        ("OTHER", "ignored"),
    ];
    let config = load("", &variables, vec![]).expect("good");
    assert_eq!(config.server_id.as_ref().map(ServerId::as_str), Some("a.example:7443"));
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.tls, net::Config { mode: net::Mode::Off, behind_proxy: true, ..Default::default() });
    assert_eq!(config.limits.bytes_per_second.as_u64(), 2 << 20);
    assert_eq!(config.federation.push_retries, 7);
    let allow: Vec<_> = config.federation.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["*.a.example", "b.example:7443"]);
    assert!(config.federation.deny.is_empty());
    assert_eq!(config.metrics.listen.map(|address| address.port()), Some(9464));
}

#[test]
fn an_error_names_the_key_and_the_source() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let table: [Case<'_>; 14] = [
        ("colour = 'red'", &[], &["node.toml", "colour"]),
        ("[federation]\ncolour = 'red'", &[], &["node.toml", "colour"]),
        ("[federation]\npull_interval = 'soon'", &[], &["node.toml", "pull_interval"]),
        ("[federation]\nallow = ['a b']", &[], &["node.toml", "allow"]),
        ("[limits]\nconnections = -1", &[], &["node.toml", "limits.connections"]),
        ("[federation]\nretry_base = '5s'", &[], &["node.toml", "federation.retry_max"]),
        ("listen =", &[], &["node.toml", "line 1"]),
        ("", &[("PILLARBOX_FOO", "1")], &["PILLARBOX_FOO", "foo"]),
        ("", &[("PILLARBOX_FEDERATION__FOO", "1")], &["PILLARBOX_FEDERATION__FOO", "foo"]),
        ("", &[("PILLARBOX_FEDERATION", "1")], &["PILLARBOX_FEDERATION", "federation"]),
        ("", &[("PILLARBOX_A[0]", "1")], &["PILLARBOX_A[0]", "no such key"]),
        ("", &[("PILLARBOX_LISTEN", "here")], &["PILLARBOX_LISTEN", "listen"]),
        (
            "",
            &[("PILLARBOX_FEDERATION__RETRY_BASE", "0s")],
            &["PILLARBOX_FEDERATION__RETRY_BASE", "federation.retry_base"],
        ),
        (
            "",
            &[("PILLARBOX_FEDERATION__RETRY_BASE", "5s")],
            &["PILLARBOX_FEDERATION__RETRY_BASE", "federation.retry_max"],
        ),
    ];
    for (text, variables, parts) in table {
        let error = load(text, variables, vec![]).expect_err(text);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

#[test]
fn a_later_source_may_mend_what_an_earlier_one_broke() {
    let text = "[federation]\nretry_base = '5s'";
    assert!(load(text, &[("PILLARBOX_FEDERATION__RETRY_MAX", "5s")], vec![]).is_ok());
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let sources = Sources { file: Some("/nowhere/node.toml".into()), ..Sources::default() };
    let error = Config::load(&sources).expect_err("missing").to_string();
    assert!(error.contains("/nowhere/node.toml") && error.contains("no such file"), "{error}");
}

#[test]
fn a_file_is_read_under_its_exact_name_only() {
    let (_dir, path) = file("");
    let sources = Sources { file: Some(path.with_extension("")), ..Sources::default() };
    assert!(Config::load(&sources).is_err());
}

#[test]
fn tls_off_is_refused_beyond_loopback() {
    for (listen, proxy, good) in
        [("127.0.0.1:1", false, true), ("[::1]:1", false, true), ("0.0.0.0:1", false, false), ("0.0.0.0:1", true, true)]
    {
        let text = format!("listen = '{listen}'\n[tls]\nmode = 'off'\nbehind_proxy = {proxy}");
        assert_eq!(load(&text, &[], vec![]).is_ok(), good, "{text}");
    }
}

#[test]
fn certificate_files_and_their_mode_go_together() {
    for (text, good) in [
        ("mode = 'files'", false),
        ("mode = 'files'\ncert = 'c.pem'", false),
        ("mode = 'files'\ncert = 'c.pem'\nkey = 'k.pem'", true),
        ("cert = 'c.pem'\nkey = 'k.pem'", false),
    ] {
        assert_eq!(load(&format!("[tls]\n{text}"), &[], vec![]).is_ok(), good, "{text}");
    }
}

#[test]
fn the_server_id_follows_the_bound_address_unless_it_is_set() {
    let id = |config: &Config, bound: &str| config.server_id(bound.parse().expect("an address")).to_string();
    let unset = Config::default();
    for (bound, expected) in [
        ("127.0.0.1:7443", "localhost:7443"),
        ("[::1]:40000", "localhost:40000"),
        ("0.0.0.0:7443", "localhost:7443"),
        ("[::]:7443", "localhost:7443"),
        ("192.0.2.7:7443", "192.0.2.7:7443"),
        ("[2001:db8::7]:7443", "[2001:db8::7]:7443"),
    ] {
        assert_eq!(id(&unset, bound), expected);
    }
    let set = Config { server_id: "a.example:443".parse().ok(), ..Config::default() };
    assert_eq!(id(&set, "127.0.0.1:7443"), "a.example:443");
}

#[test]
fn a_configuration_prints_as_it_reads() {
    let text = "[federation]\nallow = ['*.a.example']\nqueue_max_bytes = '1000000001B'\nretry_max = '4s 1ms'";
    let config = load(text, &[], vec![]).expect("good");
    let printed = serde_json::to_value(&config).expect("plain values");
    assert_eq!(serde_json::from_value::<Config>(printed).expect("what was printed"), config);
}
