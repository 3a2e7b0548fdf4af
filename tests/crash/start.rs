//! What a node finds when it starts, and the signals that end it.

use super::load::{DEADLINE, Door, Load, Pair, QUICK, eventually, fares, pause, scratch};
use crate::process::{NodeProcess, Starting, log};
use rustix::process::Signal;
use std::{
    fs::Permissions,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    time::Duration,
};

/// Starts a node that must refuse; what it said, with its exit status before.
fn refusal(starting: Starting) -> String {
    starting.ready().err().expect("the node must not start")
}

fn assert_says(said: &str, words: &[&str]) {
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} is not all in:\n{said}");
}

#[test]
fn a_second_process_on_a_data_directory_exits_1_and_says_why() {
    let dir = scratch();
    let mut node = NodeProcess::start(&dir.path().join("n"), QUICK);
    let said = refusal(NodeProcess::spawn(node.dir(), QUICK));
    assert_says(&said, &["exit status: 1)", "another pillarbox runs on", "--data-dir"]);
    // The first one never noticed: its socket still answers.
    assert!(node.is_up());
    node.ok(&["peer", "list"]);
}

#[test]
fn another_id_exits_64_and_names_server_rename() {
    let dir = scratch();
    let data = dir.path().join("n");
    NodeProcess::start(&data, &[("SERVER_ID", "a.example:7443")]).stop();
    let said = refusal(NodeProcess::spawn(&data, &[("SERVER_ID", "b.example:7443")]));
    assert_says(&said, &["exit status: 64", "server rename b.example:7443", "a.example:7443"]);
    NodeProcess::start(&data, &[("SERVER_ID", "a.example:7443")]).stop();
}

#[test]
fn a_taken_port_exits_1_and_names_it() {
    let dir = scratch();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refusal(NodeProcess::spawn(&dir.path().join("n"), &[("LISTEN", &address)]));
    assert_says(&said, &["exit status: 1)", "cannot listen on", &address]);
}

#[test]
fn port_0_takes_the_port_of_the_last_run_again() {
    let dir = scratch();
    let data = dir.path().join("n");
    let mut node = NodeProcess::start(&data, QUICK);
    let (listen, id, key) = (node.listen.clone(), node.server_id.clone(), node.key.clone());
    for _ in 0..3 {
        node.stop();
        node = NodeProcess::start(&data, QUICK);
        assert_eq!((&node.listen, &node.server_id, &node.key), (&listen, &id, &key));
        node.kill();
        node = NodeProcess::start(&data, QUICK);
        assert_eq!((&node.listen, &node.server_id, &node.key), (&listen, &id, &key));
    }
    // If somebody else has it, the id that follows from the port would be another one.
    node.stop();
    let _taken = TcpListener::bind(&listen).unwrap();
    let said = refusal(NodeProcess::spawn(&data, QUICK));
    assert_says(&said, &["exit status: 64", "server rename", &id]);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = scratch();
    let data = dir.path().join("n");
    NodeProcess::start(&data, QUICK).stop();
    let key = data.join("node.key");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&data)), (0o600, 0o700));
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let said = refusal(NodeProcess::spawn(&data, QUICK));
    assert_says(&said, &["exit status: 1)", "can be read by others", "chmod 600"]);
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    NodeProcess::start(&data, QUICK).stop();
}

#[test]
fn a_node_whose_key_is_missing_does_not_start_with_another() {
    let dir = scratch();
    let data = dir.path().join("n");
    NodeProcess::start(&data, QUICK).stop();
    let (key, away) = (data.join("node.key"), data.join("away"));
    std::fs::rename(&key, &away).unwrap();
    let said = refusal(NodeProcess::spawn(&data, QUICK));
    assert_says(&said, &["exit status: 1)", "node.key is missing", "restore the file", "--data-dir"]);
    assert!(!key.exists());
    std::fs::rename(&away, &key).unwrap();
    NodeProcess::start(&data, QUICK).stop();
}

#[test]
fn a_directory_too_deep_for_a_socket_is_refused_by_the_limit() {
    let dir = scratch();
    let said = refusal(NodeProcess::spawn(&dir.path().join("d".repeat(100)), QUICK));
    assert_says(&said, &["exit status: 1)", "at most 107", "--data-dir"]);
}

#[test]
fn only_the_owner_can_reach_the_operators_socket() {
    let dir = scratch();
    let node = NodeProcess::start(&dir.path().join("n"), QUICK);
    let mode = std::fs::metadata(node.dir().join("admin.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn sigkill_while_starting_is_harmless() {
    let dir = scratch();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let mut key = None;
    for at in 0..40 {
        // The first start of a directory, and later ones, cut at every 4 ms.
        let starting = NodeProcess::spawn(&a, QUICK);
        pause(Duration::from_millis(at % 20 * 4));
        starting.kill();
        // The key is never half there, and never another one.
        let found = std::fs::read(a.join("node.key")).ok();
        assert!(key.is_none() || key == found, "the key changed");
        key = found;
    }
    let pair = Pair::start(&a, &b);
    assert!(key.is_none_or(|key| std::fs::read(a.join("node.key")).is_ok_and(|now| now == key)));
    let mut load = Load::new();
    load.write(1, &Door::new(&pair.a, &pair.b));
    load.progress(0, 20);
    let ledgers = load.end();
    pair.finish(&ledgers, &[]);
}

#[test]
fn sigterm_under_load_ends_in_good_order_and_loses_nothing() {
    let dir = scratch();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let mut pair = Pair::start(&a, &b);
    let (at_a, at_b) = (Door::new(&pair.a, &pair.b), Door::new(&pair.b, &pair.a));
    let mut load = Load::new();
    load.write(1, &at_a);
    load.write(2, &at_a);
    load.write(3, &at_b);
    for _ in 0..4 {
        load.progress(0, 50);
        load.progress(2, 50);
        pair.a.stop();
        pair.a = NodeProcess::start(&a, QUICK);
        load.progress(0, 50);
        load.progress(2, 50);
        pair.b.stop();
        pair.b = NodeProcess::start(&b, QUICK);
    }
    // Also while the peer is away and rows wait for it.
    pair.b.kill();
    load.progress(0, 100);
    pair.a.stop();
    pair.a = NodeProcess::start(&a, QUICK);
    assert!(fares(&pair.a, &pair.b)["queued"].as_u64() >= Some(100));
    pair.b = NodeProcess::start(&b, QUICK);
    load.progress(2, 50);
    let ledgers = load.end();
    pair.finish(&ledgers[..2], &ledgers[2..]);
    // Both answered all the time, so nothing had to be cut off.
    for dir in [&a, &b] {
        assert!(!log(dir).contains("with a call in flight"), "{}", log(dir));
    }
}

#[test]
fn a_second_sigint_ends_the_process_at_once() {
    let dir = scratch();
    let data = dir.path().join("n");
    // A request that never ends holds up the first one's good order for a
    // while. Should the machine sleep through that while, it is tried again.
    for _ in 0..5 {
        let mut node = NodeProcess::start(&data, &[("TLS__MODE", "off")]);
        let mut request = TcpStream::connect_timeout(&node.listen.parse().unwrap(), DEADLINE).unwrap();
        let head = "POST /protocol.auth.v1.AuthService/Key HTTP/1.1\r\nhost: localhost\r\n\
                    content-type: application/hrpc\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
        request.write_all(head.as_bytes()).unwrap();
        // The node asks for the body: the request is under way.
        request.set_read_timeout(Some(DEADLINE)).unwrap();
        request.read_exact(&mut [0; 12]).unwrap();
        let stops = || log(&data).matches("a second signal ends the process at once").count();
        let before = stops();
        node.signal(Signal::INT);
        eventually("the first one is heard", || (stops() > before).then_some(()));
        node.signal(Signal::INT);
        let status = node.wait();
        if !status.success() {
            assert_eq!((status.code(), status.signal()), (Some(130), None), "{}", log(&data));
            return;
        }
    }
    panic!("the first signal always ended it before the second came\n{}", log(&data));
}
