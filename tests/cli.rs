//! The binary as its users meet it: help, configuration, exit codes; and what
//! its commands print, where a script reads it.

#[path = "common/process.rs"]
mod process;

use process::NodeProcess;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// The binary in a directory of its own, without our variables.
fn pillarbox(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    let ours =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PILLARBOX_"));
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command.env_remove("RUST_LOG").current_dir(dir).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = pillarbox(dir.path());
    command.args(arguments).envs(variables.iter().copied()).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Every command by its words, the program itself first.
fn commands() -> Vec<Vec<String>> {
    fn walk(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        found.push(path.to_vec());
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            walk(sub, &[path, &[sub.get_name().to_owned()]].concat(), found);
        }
    }
    let mut found = Vec::new();
    walk(&pillarbox::cli::command(), &[], &mut found);
    found
}

#[test]
fn the_commands_are_those_that_are_promised() {
    let found: Vec<_> = commands().iter().map(|path| path.join(" ")).collect();
    let promised = [
        "serve",
        "check-config",
        "demo",
        "bench postbox",
        "bench router",
        "bench chat",
        "bench push",
        "key show",
        "server rename",
        "peer add",
        "peer list",
        "peer show",
        "peer retry",
        "peer remove",
        "queue list",
        "queue show",
        "queue drop",
        "queue hold",
        "queue release",
        "dead list",
        "dead show",
        "dead resend",
        "event send user-added",
        "event send user-removed",
        "event send user-invited",
        "event send user-rejected",
        "event tail",
        "mpc list",
        "mpc show",
        "mpc transcript",
        "mpc evidence",
        "mpc verify",
        "token new",
        "token list",
        "token revoke",
        "user add",
        "user list",
        "user disable",
        "user enable",
        "user delete",
        "session list",
        "session revoke",
    ];
    for command in promised {
        assert!(found.iter().any(|path| path == command), "{command} is missing");
    }
}

#[test]
fn the_help_of_every_command_has_an_example() {
    for path in commands() {
        let mut arguments: Vec<_> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let output = run(&arguments, &[]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{path:?}");
        let examples = text.split_once("Examples:").map_or("", |(_, examples)| examples);
        let of_this = format!("pillarbox {}", path.first().map_or("", String::as_str));
        assert!(examples.contains(of_this.trim_end()), "{path:?}: {text}");
    }
}

#[test]
fn wrong_usage_is_64_and_on_stderr() {
    for arguments in [
        &["fly"][..],
        &["serve", "--wings"],
        &["serve", "--tls", "files"],
        &["serve", "--listen", "here"],
        &["peer", "add"],
        &["peer", "add", "no-port"],
        &["peer", "add", "b.example:7443", "--key", "short"],
        &["queue", "drop", "b.example:7443"],
        &["queue", "drop", "b.example:7443", "3", "--all"],
        &["event", "send", "user-added", "--user", "1", "--guild", "2"],
        &["event", "send", "--to", "b.example:7443", "user-added", "--user", "-1", "--guild", "2"],
        &["token", "new", "user:alice", "--ttl", "0s"],
        &["token", "new", "user:alice", "--ttl", "soon"],
        &["user", "add"],
        &["user", "add", "alice smith"],
        &["user", "delete", "alice@a.example:7443"],
        &["session", "list"],
        &["session", "revoke"],
        &["session", "revoke", "alice", ""],
        &["bench"],
        &["bench", "postbox", "--peers", "0"],
        &["bench", "postbox", "--peers", "33"],
        &["bench", "postbox", "--duration", "0s"],
        &["bench", "postbox", "--duration", "1s", "--msgs", "1"],
        &["bench", "router", "--size", "10"],
        &["bench", "chat", "--in-flight", "5000"],
        &["bench", "chat", "--dir", "nowhere"],
        &["bench", "router", "--node", "localhost:1"],
        &["bench", "push", "--node", "localhost:1", "--token", "t"],
        &["bench", "postbox", "--node", "localhost:1", "--token", "t"],
        &["bench", "router", "--node", "localhost:1", "--token", "t", "--ca", "nowhere.pem"],
        &[],
    ] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_unknown_key_is_64_and_named_with_its_source() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("node.toml"), "[federation]\ncolour = 'red'\n").expect("a file");
    for command in ["serve", "check-config"] {
        let output = pillarbox(dir.path()).args([command, "--config", "node.toml"]).output().expect("the binary runs");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains("colour") && text.contains("node.toml") && text.contains("federation"), "{text}");

        let output = run(&[command], &[("PILLARBOX_FEDERATION__COLOUR", "red")]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains("PILLARBOX_FEDERATION__COLOUR") && text.contains("federation.colour"), "{text}");
    }
}

#[test]
fn notifications_that_cannot_work_are_64_and_no_secret_is_printed() {
    let url = ("PILLARBOX_RELAY__NOTIFY__WEBHOOK_URL", "https://hooks.example/hush");
    let mail = ("PILLARBOX_RELAY__NOTIFY__SMTP_URL", "smtps://box:hush@mail.example");
    let secret = ("PILLARBOX_RELAY__NOTIFY__WEBHOOK_SECRET", "whsec_aHVzaCBodXNoIGh1c2ggaHVzaCBodXNo");
    let from = ("PILLARBOX_RELAY__NOTIFY__SMTP_FROM", "box@a.example");
    for command in ["serve", "check-config"] {
        for (given, missing) in [(url, "relay.notify.webhook_secret"), (mail, "relay.notify.smtp_from")] {
            let output = run(&[command], &[given]);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(64), "{text}");
            assert!(text.contains(missing) && !text.contains("hush"), "{text}");
        }
    }
    for arguments in [&["check-config"][..], &["check-config", "--json"]] {
        let output = run(arguments, &[url, mail, secret, from]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(text.contains("box@a.example") && text.contains("(hidden)"), "{text}");
        assert!(!text.contains("hush") && !text.contains("whsec_"), "{text}");
    }
}

#[test]
fn a_named_file_that_is_missing_is_64() {
    for (arguments, variables) in
        [(&["--config", "gone.toml"][..], &[][..]), (&[], &[("PILLARBOX_CONFIG", "gone.toml")])]
    {
        for command in ["serve", "check-config"] {
            let output = run(&[&[command], arguments].concat(), variables);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(64), "{text}");
            assert!(text.contains("gone.toml") && text.contains("no such file"), "{text}");
        }
    }
}

#[test]
fn check_config_prints_what_is_in_effect() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file =
        "listen = '127.0.0.1:1'\nserver_id = 'a.example:1'\n[federation]\npull_interval = '10s'\nretry_max = '9s'\n";
    std::fs::write(dir.path().join("node.toml"), file).expect("a file");
    let output = pillarbox(dir.path())
        .args(["check-config", "--json", "--config", "node.toml", "--server-id", "c.example:1", "--tls", "off"])
        .env("PILLARBOX_FEDERATION__PULL_INTERVAL", "20s")
        .env("PILLARBOX_FEDERATION__ALLOW", "*.a.example,b.example:7443")
        .env("PILLARBOX_SERVER_ID", "b.example:1")
        .env("PILLARBOX_DATA_DIR", "elsewhere")
        .env("PILLARBOX_TOKEN", "is no key")
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let value: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("one object");
    assert_eq!(value["listen"], "127.0.0.1:1");
    assert_eq!(value["server_id"], "c.example:1");
    assert_eq!(value["data_dir"], "elsewhere");
    assert_eq!(value["tls"]["mode"], "off");
    assert_eq!(value["federation"]["retry_max"], "9s");
    assert_eq!(value["federation"]["pull_interval"], "20s");
    assert_eq!(value["federation"]["allow"], serde_json::json!(["*.a.example", "b.example:7443"]));
}

#[test]
fn what_check_config_prints_is_a_configuration_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let check = |arguments: &[&str]| {
        let output = pillarbox(dir.path()).arg("check-config").args(arguments).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let printed = check(&["--listen", "127.0.0.1:0", "--data-dir", "with \"quotes\" and \\"]);
    std::fs::write(dir.path().join("printed.toml"), &printed).expect("a file");
    assert_eq!(check(&["--config", "printed.toml"]), printed);
}

#[test]
fn without_a_node_every_command_says_how_to_start_one() {
    let id = "b.example:7443";
    for arguments in [
        &["key", "show"][..],
        &["peer", "add", id],
        &["peer", "list"],
        &["peer", "show", id],
        &["peer", "retry", id],
        &["peer", "remove", id],
        &["queue", "list"],
        &["queue", "show", "1"],
        &["queue", "drop", id, "1"],
        &["queue", "hold", id],
        &["queue", "release", id],
        &["mpc", "list"],
        &["mpc", "show", "s"],
        &["mpc", "transcript", "s"],
        &["mpc", "evidence", "s", "--round", "1", "--sender", "alice"],
        &["dead", "list"],
        &["dead", "show", "1"],
        &["dead", "resend", "1"],
        &["event", "send", "--to", id, "user-added", "--user", "1", "--guild", "2"],
        &["event", "tail"],
        &["token", "new", "user:alice", "--ttl", "30d"],
        &["token", "list"],
        &["token", "revoke", "1"],
        &["user", "add", "alice"],
        &["user", "list"],
        &["user", "disable", "alice"],
        &["user", "enable", "alice"],
        &["user", "delete", "alice"],
        &["session", "list", "alice"],
        &["session", "revoke", "alice", "1"],
    ] {
        let output = run(&[arguments, &["--data-dir", "nobody"]].concat(), &[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains("no node is running on nobody"), "{arguments:?}: {text}");
        assert!(text.contains("pillarbox serve --data-dir nobody"), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_data_dir_may_stand_anywhere() {
    for arguments in [
        &["--data-dir", "here", "peer", "list"][..],
        &["peer", "--data-dir", "here", "list"],
        &["peer", "list", "--data-dir", "here"],
    ] {
        let text = stderr(&run(arguments, &[]));
        assert!(text.contains("no node is running on here"), "{arguments:?}: {text}");
    }
    let text = stderr(&run(&["peer", "list"], &[("PILLARBOX_DATA_DIR", "there")]));
    assert!(text.contains("no node is running on there"), "{text}");
}

#[test]
fn a_client_takes_the_data_dir_of_the_file_that_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("node.toml"), "data_dir = 'of-the-file'").expect("a file");
    let mut command = pillarbox(dir.path());
    let output = command.args(["peer", "list"]).env("PILLARBOX_CONFIG", "node.toml").output().expect("the binary runs");
    assert!(stderr(&output).contains("no node is running on of-the-file"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output =
        pillarbox(dir.path()).args(["check-config", "--json"]).stdout(writer).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn a_malformed_log_filter_is_64() {
    let output = run(&["serve", "--listen", "127.0.0.1:0"], &[("RUST_LOG", "pillarbox=loud")]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("RUST_LOG"), "{}", stderr(&output));
}

#[test]
fn users_and_their_sessions_are_managed_by_commands() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = NodeProcess::start(&dir.path().join("node"), &[]);
    let added = node.json(&["user", "add", "alice"]);
    assert!(added["id"].as_str().is_some_and(|id| id.len() == 14 && id.starts_with("usr")), "{added}");
    assert_eq!((&added["name"], &added["state"]), (&"alice".into(), &"active".into()));
    let one = node.json(&["token", "new", "user:alice", "--ttl", "1d"]);
    let two = node.json(&["token", "new", "user:alice"]);
    let listed = node.ok(&["session", "list", "alice", "--json"]);
    let ids: Vec<serde_json::Value> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|session| session["id"] == one["id"] || session["id"] == two["id"]), "{listed}");
    let shown = node.ok(&["session", "list", "alice"]);
    assert!(shown.contains("USER AGENT") && shown.contains("never"), "{shown}");

    let id = one["id"].as_str().expect("an id");
    assert_eq!(node.ok(&["session", "revoke", "alice", id]), format!("session {id} of alice is revoked\n"));
    let gone = node.run(&["session", "revoke", "alice", id]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).contains("pillarbox session list alice"), "{}", stderr(&gone));
    assert_eq!(node.json(&["session", "revoke", "alice"])["revoked"], 1);

    assert!(node.ok(&["user", "disable", "alice"]).contains("alice"));
    assert_eq!(node.json(&["user", "list"])["state"], "disabled");
    let refused = node.run(&["token", "new", "user:alice"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("pillarbox user enable alice"), "{}", stderr(&refused));
    node.ok(&["user", "enable", "alice"]);
    node.ok(&["token", "new", "user:alice"]);
    assert_eq!(node.json(&["user", "delete", "alice"])["sessions"], 1);
    assert_eq!(node.ok(&["user", "list", "--json"]), "");
    assert_eq!(node.json(&["user", "list", "--deleted"])["id"], added["id"]);
    assert!(node.ok(&["user", "list", "--deleted"]).contains("deleted"));
    let taken = node.run(&["user", "add", "alice"]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(stderr(&taken).contains("choose another"), "{}", stderr(&taken));
}

#[test]
fn a_gateway_that_is_told_nonsense_is_64_and_says_what_to_do() {
    let token = ("PILLARBOX_TOKEN", "pbt_of-a-gateway");
    let backend = ["--backend", "http://127.0.0.1:1"];
    for (arguments, variables, expected) in [
        (&[][..], &[token][..], "--backend"),
        (&backend, &[], "PILLARBOX_TOKEN or --token-file"),
        (&["--backend", "http://127.0.0.1:1", "--token-file", "gone"], &[], "--token-file gone"),
        (&["--backend", "ftp://a.example:1"], &[token], "--backend"),
        (&["--backend", "a.example"], &[token], "--backend"),
        (&["--backend", "http://127.0.0.1:1", "--listen", "0.0.0.0:0"], &[token], "--tls-cert and --tls-key"),
        (&["--backend", "http://127.0.0.1:1", "--tls-cert", "cert.pem"], &[token], "--tls-key"),
        (
            &["--backend", "http://127.0.0.1:1", "--tls-cert", "c", "--tls-key", "k", "--behind-proxy"],
            &[token],
            "--behind-proxy",
        ),
        (&["--backend", "http://127.0.0.1:1", "--allow-origin", "*"], &[token], "https://app.example"),
        (&["--backend", "http://127.0.0.1:1", "--pin", "short"], &[token], "--pin"),
        (&["--backend", "http://127.0.0.1:1", "--id", "../web"], &[token], "--id: \"../web\"; a gateway's id"),
        (&["--backend", "http://127.0.0.1:1", "--ca-file", "gone.pem"], &[token], "gone.pem"),
        (&["--backend", "http://127.0.0.1:1", "--max-clients", "0"], &[token], "--max-clients"),
    ] {
        let output = run(&[&["gateway"], arguments].concat(), variables);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {text}");
        assert!(text.contains(expected) && !text.contains("pbt_"), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_help_of_a_gateway_shows_its_own_directory_and_takes_it_on_either_side() {
    for arguments in [&["gateway", "--help"][..], &["gateway", "-h"]] {
        let text = stdout(&run(arguments, &[])).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("--data-dir <DIR>") && text.contains("[default: ./pillarbox-gateway]"), "{text}");
        assert!(!text.contains("pillarbox-data]"), "{text}");
    }
    assert!(stdout(&run(&["token", "--help"], &[])).contains("[default: ./pillarbox-data]"));
    // It fails once its directory is there.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("it listens").to_string();
    let gateway = ["gateway", "--backend", "http://127.0.0.1:1", "--listen", &listen];
    let temp = tempfile::tempdir().expect("a temporary directory");
    for (before, behind, variable, expected) in [
        (&["--data-dir", "before"][..], &[][..], None, "before/gateway.key"),
        (&[], &["--data-dir", "behind"], None, "behind/gateway.key"),
        (&[], &[], Some("by-variable"), "by-variable/gateway.key"),
        (&[], &[], None, "pillarbox-gateway/gateway.key"),
        (&[], &["--key-file", "own.key"], None, "own.key"),
    ] {
        let mut command = pillarbox(temp.path());
        command.args(before).args(gateway).args(behind).env("PILLARBOX_TOKEN", "pbt_of-a-gateway");
        command.envs(variable.map(|dir| ("PILLARBOX_DATA_DIR", dir)));
        let text = stderr(&command.output().expect("the binary runs"));
        assert!(text.contains(&listen) && !text.contains("key"), "{text}");
        assert!(temp.path().join(expected).exists(), "{expected}");
    }
}

/// What `bench … --json` printed.
fn benched(temp: &Path, arguments: &[&str]) -> serde_json::Value {
    let mut command = pillarbox(temp);
    let output = command.arg("bench").args(arguments).arg("--json").env("TMPDIR", temp).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("one object on stdout")
}

/// Each figure counts these messages, in some time, and its percentiles are in order.
fn assert_plausible(report: &serde_json::Value, messages: u64) {
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or_else(|| panic!("no number: {report}"));
    let figures = report["figures"].as_array().expect("figures");
    assert_eq!(figures.len(), 2, "{report}");
    for figure in figures {
        assert_eq!(figure["messages"], messages, "{report}");
        let rate = number(&figure["messages"]) / number(&figure["seconds"]);
        assert!((rate / number(&figure["messages_per_second"]) - 1.0).abs() < 1e-6, "{report}");
        let Some(times) = figure["latency_us"].as_object() else { continue };
        let times: Vec<f64> = ["min", "p50", "p90", "p99", "p99.9", "max"].map(|name| number(&times[name])).into();
        assert!(times[0] > 0.0 && times.is_sorted(), "{report}");
    }
    assert_eq!(report["refused"], 0, "{report}");
}

#[test]
fn a_bench_of_its_own_nodes_counts_what_it_sent_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let arguments = ["postbox", "--peers", "2", "--msgs", "400", "--batch", "4", "--no-baselines", "--in-flight", "8"];
    let report = benched(temp.path(), &arguments);
    assert_plausible(&report, 400);
    assert!(report["figures"][1]["latency_us"]["p50"].as_f64() > Some(0.0), "{report}");
    assert_eq!((&report["baselines"], report["ratios"].as_array().map(Vec::len)), (&serde_json::Value::Null, Some(0)));
    let report = benched(temp.path(), &["push", "--peers", "3", "--msgs", "50", "--no-baselines"]);
    assert_eq!((&report["figures"][0]["messages"], &report["figures"][1]["messages"]), (&50.into(), &150.into()));
    assert!(report["figures"][1]["latency_us"]["p50"].as_f64() > Some(0.0), "{report}");
    let report = benched(temp.path(), &["chat", "--duration", "200ms", "--peers", "3"]);
    assert_plausible(&report, report["figures"][0]["messages"].as_u64().expect("a count"));
    for baseline in report["baselines"].as_object().expect("baselines").values() {
        assert!(baseline.as_f64() > Some(0.0), "{report}");
    }
    for ratio in report["ratios"].as_array().expect("ratios") {
        assert!(ratio["ratio"].as_f64() > Some(0.0), "{report}");
    }
    assert_eq!(std::fs::read_dir(temp.path()).expect("the directory").count(), 0, "the nodes' data is gone");
}

#[test]
fn a_bench_of_a_running_node_measures_that_one() {
    let (temp, dirs) = (tempfile::tempdir().expect("a directory"), [(); 2].map(|()| tempfile::tempdir().expect("one")));
    let [a, b] = dirs.each_ref().map(|dir| NodeProcess::start(&dir.path().join("data"), &[]));
    a.add_peer(&b);
    b.add_peer(&a);
    let token = a.ok(&["token", "new", "service:bench"]);
    let node = ["--node", &a.server_id, "--key", &a.key, "--token", token.trim(), "--no-baselines", "--msgs", "100"];
    let report = benched(temp.path(), &[&["router", "--peers", "2"], &node[..]].concat());
    assert_plausible(&report, 100);
    assert_eq!(report["started"], false);
    let report = benched(temp.path(), &[&["postbox", "--to", &b.server_id], &node[..]].concat());
    assert_plausible(&report, 100);
    // Numbers are given to messages of the router, too.
    assert!(b.json(&["peer", "show", &a.server_id])["inbound_mark"].as_u64() >= Some(100));
    let web = a.ok(&["token", "new", "gateway:web"]);
    let gateway = ["push", "--gateway", "web", "--gateway-token", web.trim()];
    assert_plausible(&benched(temp.path(), &[&gateway[..], &node[..]].concat()), 100);
    assert_eq!(a.json(&["peer", "show", &b.server_id])["lane"], "courier");
    assert!(
        a.ok(&["peer", "show", &b.server_id]).lines().any(|line| line.starts_with("lane") && line.ends_with("courier"))
    );
    // A wrong token fails, and says why.
    let wrong = ["bench", "router", "--node", &a.server_id, "--key", &a.key, "--token", "nonsense", "--no-baselines"];
    let output = pillarbox(temp.path()).args(wrong).env("TMPDIR", temp.path()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("Unauthenticated"), "{}", stderr(&output));
}
