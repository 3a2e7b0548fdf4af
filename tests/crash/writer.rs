//! A database that cannot be written while the node runs.
//!
//! Two ways, one after the other as on a machine whose disk fails: writes fail
//! (a limit on the size of the process's files; nobody has to be root for it),
//! and the files can only be opened for reading (a read-only mount over the
//! data directory).

use super::{
    disk::mount_with,
    load::{Door, Load, Pair, eventually, fares, scratch},
};
use crate::process::{NodeProcess, log};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::{path::Path, process::Command};
use tonic::Code;

/// Every write to a file fails from now on (EFBIG), or goes well again.
fn fail_writes(node: &NodeProcess, fail: bool) {
    let pid = Pid::from_raw(node.pid().try_into().unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: fail.then_some(0), maximum: None }).unwrap();
}

/// A read-only view of the directory, laid over it.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn over(dir: &'a Path) -> Option<Self> {
        let path = dir.to_str().unwrap();
        if !mount_with(&["--bind", path], dir) {
            return None;
        }
        let laid = Self(dir);
        mount_with(&["-o", "remount,bind,ro"], dir).then_some(laid)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        // The node may hold files below it open.
        let status = Command::new("umount").arg("--lazy").arg(self.0).status().unwrap();
        assert!(status.success() || std::thread::panicking(), "umount: {status}");
    }
}

#[test]
fn while_a_sender_cannot_write_it_says_unavailable_and_stays_up() {
    let dir = scratch();
    let mut pair = Pair::start(&dir.path().join("a"), &dir.path().join("b"));
    let (at_a, at_b) = (Door::new(&pair.a, &pair.b), Door::new(&pair.b, &pair.a));
    let mut load = Load::new();
    load.write(1, &at_a);
    load.write(2, &at_b);
    load.progress(0, 50);
    load.progress(1, 50);

    fail_writes(&pair.a, true);
    load.refused(0, Code::Unavailable);
    load.progress(1, 50);
    assert!(pair.a.is_up());
    fail_writes(&pair.a, false);
    load.progress(0, 50);

    let ledgers = load.end();
    pair.finish(&ledgers[..1], &ledgers[1..]);
}

#[test]
fn a_read_only_database_is_taken_up_again_when_it_can_be_written() {
    let dir = scratch();
    let a = dir.path().join("a");
    let mut pair = Pair::start(&a, &dir.path().join("b"));
    let (at_a, at_b) = (Door::new(&pair.a, &pair.b), Door::new(&pair.b, &pair.a));
    let mut load = Load::new();
    load.write(1, &at_a);
    load.write(2, &at_b);
    load.progress(0, 50);
    load.progress(1, 50);

    let Some(read_only) = ReadOnly::over(&a) else { return };
    // What is open stays writable: one failure has it opened anew.
    fail_writes(&pair.a, true);
    load.refused(0, Code::Unavailable);
    fail_writes(&pair.a, false);
    eventually("SQLite itself says so", || log(&a).contains("the database is read-only").then_some(()));
    load.refused(0, Code::Unavailable);
    load.progress(1, 50);
    assert!(pair.a.is_up());
    drop(read_only);
    load.progress(0, 50);

    let ledgers = load.end();
    pair.finish(&ledgers[..1], &ledgers[1..]);
}

#[test]
fn a_receiver_that_cannot_write_answers_so_and_pulls_nothing_and_gets_all_once() {
    let dir = scratch();
    let mut pair = Pair::start(&dir.path().join("a"), &dir.path().join("b"));
    let at_a = Door::new(&pair.a, &pair.b);
    let mut load = Load::new();
    load.write(1, &at_a);
    load.progress(0, 50);

    fail_writes(&pair.b, true);
    eventually("A gives up pushing", || (fares(&pair.a, &pair.b)["state"] == "queued").then_some(()));
    let calls = || fares(&pair.a, &pair.b)["inbound_ok_at"].as_i64().unwrap();
    let due = || pair.b.json(&["peer", "show", &pair.a.server_id])["next_pull_at"].as_i64().unwrap();
    // A Pull that was on its way may still have come; from the next one that
    // is due on there is none.
    let pull_is_passed_over = || {
        let before = due();
        eventually("B would pull", || {
            let now = due();
            (now != 0 && now > before + 200).then_some(())
        });
    };
    pull_is_passed_over();
    let last = calls();
    pull_is_passed_over();
    pull_is_passed_over();
    assert_eq!(calls(), last, "B pulled though it could not keep what it got\n{}", log(pair.b.dir()));
    load.progress(0, 50);
    assert!(pair.b.is_up());

    fail_writes(&pair.b, false);
    load.progress(0, 50);
    let ledgers = load.end();
    pair.finish(&ledgers, &[]);
}
