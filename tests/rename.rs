//! A node that changes its id: peers follow it, those that were away too, and
//! nobody else can take its place.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "common/process.rs"]
mod process;

use process::NodeProcess;
use serde_json::Value;
use std::time::{Duration, Instant};

const QUICK: &[(&str, &str)] =
    &[("FEDERATION__PULL_INTERVAL", "1s"), ("FEDERATION__RETRY_BASE", "20ms"), ("FEDERATION__RETRY_MAX", "200ms")];

/// Polls until the answer is there; every question is a process of its own.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
    }
}

fn json(node: &NodeProcess, arguments: &[&str]) -> Option<Value> {
    let output = node.run(&[arguments, &["--json"]].concat());
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn users(node: &NodeProcess, count: usize) -> Vec<(String, u64)> {
    use std::io::{BufRead, BufReader};
    let mut tail = std::process::Command::new(env!("CARGO_BIN_EXE_pillarbox"))
        .arg("--data-dir")
        .arg(node.dir())
        .args(["event", "tail", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let found = lines
        .take(count)
        .map(|line| {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let user = event["event"]["user_added_to_guild"]["user_id"].as_u64().unwrap();
            (event["sender"].as_str().unwrap().to_owned(), user)
        })
        .collect();
    tail.kill().unwrap();
    tail.wait().unwrap();
    found
}

fn send(node: &NodeProcess, to: &str, user: u64) {
    node.ok(&["event", "send", "--to", to, "user-added", "--user", &user.to_string(), "--guild", "1"]);
}

/// `localhost` and `127.0.0.1` lead to the same node.
fn other_name(node: &NodeProcess) -> String {
    node.server_id.replace("localhost", "127.0.0.1")
}

#[test]
fn peers_follow_a_renamed_server_and_nothing_is_lost() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let a = NodeProcess::start(dirs[0].path(), QUICK);
    let b = NodeProcess::start(dirs[1].path(), QUICK);
    let mut away = NodeProcess::start(dirs[2].path(), QUICK);
    for peer in [&b, &away] {
        a.add_peer(peer);
        peer.add_peer(&a);
    }
    send(&a, &b.server_id, 1);
    send(&a, &away.server_id, 1);
    send(&b, &a.server_id, 1);
    eventually("the first events arrived", || {
        (users(&b, 1).len() == 1 && users(&away, 1).len() == 1 && users(&a, 1).len() == 1).then_some(())
    });
    away.kill();

    let (old, new) = (a.server_id.clone(), other_name(&a));
    a.ok(&["server", "rename", &new]);
    assert_eq!(json(&a, &["key", "show"]).unwrap()["server_id"], *new);
    send(&a, &b.server_id, 2);
    send(&a, &away.server_id, 2);
    let peer = eventually("B follows", || json(&b, &["peer", "show", &new]));
    assert_eq!(peer["former_ids"], serde_json::json!([old]));
    // The former name still means the same peer.
    send(&b, &old, 2);
    send(&b, &new, 3);
    assert_eq!(users(&b, 2), [(new.clone(), 1), (new.clone(), 2)]);
    assert_eq!(users(&a, 3).iter().map(|(_, user)| *user).collect::<Vec<_>>(), [1, 2, 3]);

    // Who was away hears of it when it is back.
    assert_eq!(json(&a, &["peer", "show", &away.server_id]).unwrap()["known_as"], *old);
    let away = NodeProcess::start(dirs[2].path(), QUICK);
    assert_eq!(users(&away, 2).last().unwrap(), &(new.clone(), 2));
    eventually("everybody was told", || {
        let shown = json(&a, &["peer", "show", &away.server_id])?;
        (shown["known_as"] == "").then_some(())
    });

    // Without a configured id the node starts under the new one.
    drop(a);
    let a = NodeProcess::start(dirs[0].path(), QUICK);
    assert_eq!(a.server_id, new);
    send(&a, &b.server_id, 3);
    assert_eq!(users(&b, 3).last().unwrap(), &(new, 3));
}

#[test]
fn a_name_that_leads_to_another_key_is_not_taken_over() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [a, b, stranger] = [0, 1, 2].map(|n| NodeProcess::start(dirs[n].path(), QUICK));
    a.add_peer(&b);
    b.add_peer(&a);
    send(&a, &b.server_id, 1);
    users(&b, 1);
    a.ok(&["server", "rename", &stranger.server_id]);
    let error = eventually("B refuses", || {
        let shown = json(&a, &["peer", "show", &b.server_id])?;
        let error = shown["peer"]["outbound_error"].as_str()?.to_owned();
        (!error.is_empty()).then_some(error)
    });
    assert!(!error.is_empty());
    let shown = json(&b, &["peer", "show", &a.server_id]).unwrap();
    assert_eq!(shown["former_ids"], serde_json::json!([]));
    assert_eq!(shown["next_id"], "");
    assert!(json(&b, &["peer", "show", &stranger.server_id]).is_none());
}

#[test]
fn the_id_of_a_peer_or_of_oneself_is_refused() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [a, b] = [0, 1].map(|n| NodeProcess::start(dirs[n].path(), QUICK));
    a.add_peer(&b);
    let same = a.ok(&["server", "rename", &a.server_id]);
    assert_eq!(same, format!("this server is {} now; peers still to be told: 0\n", a.server_id));
    let refused = a.run(&["server", "rename", &b.server_id]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is a peer"));
}
