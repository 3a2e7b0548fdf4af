//! `pillarbox demo` from end to end: it plays, judges and leaves nothing behind.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

fn demo(temp: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    command.arg("demo").args(arguments).env("TMPDIR", temp).env_remove("RUST_LOG").stdin(Stdio::null());
    // Variables of the caller are meant for no node of the demo.
    command.env("PILLARBOX_FEDERATION__DENY", "*").env("PILLARBOX_LISTEN", "nowhere");
    command
}

#[test]
fn a_killed_node_loses_nothing_and_the_other_one_never_notices() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let output = demo(temp.path(), &["--events", "300", "--json"]).output().expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one object on stdout");
    assert_eq!(report["ok"], true, "{report}");
    for (at, name) in ["B", "C"].into_iter().enumerate() {
        let peer = &report["peers"][at];
        assert_eq!(peer["name"], name, "{report}");
        for (field, count) in
            [("acknowledged", 300), ("applied", 300), ("lost", 0), ("repeated", 0), ("out_of_order", 0), ("unknown", 0)]
        {
            assert_eq!(peer[field], count, "{name} {field}: {report}");
        }
    }
    // The outage was one: B was killed in the middle, its queue grew, C went on meanwhile.
    assert!(report["peers"][0]["deepest_queue"].as_u64().expect("a count") >= 60, "{report}");
    let during = &report["outage"]["c_during"];
    for field in ["sent", "applied"] {
        assert!(during[field].as_u64().expect("a count") >= 60, "{field}: {report}");
    }
    for part in ["B is killed (SIGKILL)", "DOWN retrying", "A keeps the queue of B", "A pushes to B again"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains('\x1b'), "no terminal, no control characters: {told}");
    let left = std::fs::read_dir(temp.path()).expect("the directory is there").count();
    assert_eq!(left, 0, "the data directories are gone");
}

/// Processes whose command line mentions `what`.
#[cfg(target_os = "linux")]
fn processes(what: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("a list of processes");
    let lines = entries.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(what)).count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_demo_that_is_interrupted_leaves_no_node_and_no_file() {
    use rustix::process::{Pid, Signal, kill_process};

    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut child = demo(temp.path(), &[]).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let sending = lines.any(|line| line.expect("UTF-8").contains("events a second"));
    assert!(sending, "it begins to send");
    let ours = temp.path().to_str().expect("UTF-8").to_owned();
    assert_eq!(processes(&ours), 3);
    let pid = Pid::from_raw(child.id().try_into().expect("a pid")).expect("not 0");
    kill_process(pid, Signal::INT).expect("the signal is sent");
    lines.for_each(drop);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(processes(&ours), 0);
    assert_eq!(std::fs::read_dir(temp.path()).expect("the directory is there").count(), 0);
}

#[test]
fn two_nodes_whose_link_was_cut_end_with_one_history() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let output = demo(temp.path(), &["chat", "--json"]).output().expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one object on stdout");
    assert_eq!((&report["ok"], &report["messages"]), (&true.into(), &17.into()), "{report}");
    // The link was cut: one of them had not what the other had.
    let apart: Vec<u64> = report["apart"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
    assert!(apart[0] != apart[1] && apart.iter().all(|count| *count < 17), "{report}");
    for part in ["the link is cut", "the link is back", "both nodes have everything"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let left = std::fs::read_dir(temp.path()).expect("the directory is there").count();
    assert_eq!(left, 0, "the data directories are gone");
}
