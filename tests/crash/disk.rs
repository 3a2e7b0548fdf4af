//! Disks that run full: politely, below the floor, and to the last byte.
//!
//! The data directory is a small tmpfs. Where nothing may be mounted the
//! tests say so and pass; not where `CI=true` promises that it may.

use super::load::{Door, Load, Pair, QUICK, drained, eventually, fares, scratch};
use crate::process::{NodeProcess, log};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};
use tonic::Code;

/// The floor for new rows is a tenth of it.
pub const SIZE: u64 = 64 << 20;
/// Smaller than what the database's log may have on a large one, with the floor.
const SMALL: u64 = 24 << 20;

/// A small file system, gone when it is dropped.
pub struct Disk {
    mount: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    /// `None`, and a word about it, where mounting is not permitted.
    pub fn new() -> Option<Self> {
        Self::of(SIZE)
    }

    fn of(size: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("disk");
        std::fs::create_dir(&mount).unwrap();
        let size = format!("size={size},mode=700");
        mount_with(&["-t", "tmpfs", "-o", &size, "tmpfs"], &mount).then_some(Self { mount, _dir: dir })
    }

    pub fn data(&self) -> PathBuf {
        self.mount.clone()
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Leaves this many bytes free; 0: writes until there is no more.
    pub fn fill(&self, leave: u64) {
        let found = rustix::fs::statvfs(&self.mount).unwrap();
        let mut left = match leave {
            0 => u64::MAX,
            leave => (found.f_bavail * found.f_frsize).checked_sub(leave).expect("more was free"),
        };
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        let block = vec![0; 4096];
        while left > 0 && file.write_all(&block).is_ok() {
            left = left.saturating_sub(4096);
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
    }
}

/// Whether it was mounted. It must be where that is promised.
pub fn mount_with(arguments: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(arguments).arg(at).output();
    let why = match output {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot mount: {why}");
    println!("skipped: nothing may be mounted here: {why}");
    false
}

#[test]
fn a_node_that_filled_a_small_disk_by_itself_drains_starts_and_goes_on() {
    let Some(disk) = Disk::of(SMALL) else { return };
    let dir = scratch();
    let mut pair = Pair::start(&disk.data(), &dir.path().join("b"));
    pair.a.ok(&["queue", "hold", &pair.b.server_id]);
    // The node takes the rest, and how long that takes is not what is tested.
    disk.fill(SMALL / 3);
    let mut load = Load::new();
    let at_a = Door::new(&pair.a, &pair.b);
    for writer in 1..=4 {
        load.write(writer, &at_a);
    }
    load.refused(0, Code::ResourceExhausted);
    assert!(load.acknowledged(0) > 0 && fares(&pair.a, &pair.b)["queued"].as_u64() > Some(0));
    pair.a.ok(&["queue", "release", &pair.b.server_id]);
    // Over and over: it drains, goes on, and is refused again.
    for _ in 0..2 {
        load.progress(0, 50);
        load.progress(3, 50);
        pair.a.kill();
        pair.a = NodeProcess::start(&disk.data(), QUICK);
    }
    pair.a.ok(&["queue", "hold", &pair.b.server_id]);
    load.refused(0, Code::ResourceExhausted);
    let ledgers = load.end();
    // A stop in good order and a start, as full as it is.
    pair.a.stop();
    pair.a = NodeProcess::start(&disk.data(), QUICK);
    pair.a.ok(&["queue", "release", &pair.b.server_id]);
    pair.finish(&ledgers, &[]);
    assert!(!log(&disk.data()).contains("disk full"), "{}", log(&disk.data()));
}

#[test]
fn below_the_floor_new_rows_are_refused_and_queues_still_drain() {
    let Some(disk) = Disk::new() else { return };
    let dir = scratch();
    let mut pair = Pair::start(&disk.data(), &dir.path().join("b"));
    let (at_a, at_b) = (Door::new(&pair.a, &pair.b), Door::new(&pair.b, &pair.a));
    let mut load = Load::new();
    load.write(1, &at_a);
    load.write(2, &at_b);
    load.progress(0, 50);
    load.progress(1, 50);
    pair.a.ok(&["queue", "hold", &pair.b.server_id]);
    load.progress(0, 200);
    disk.fill(SIZE / 20);

    load.refused(0, Code::ResourceExhausted);
    // What A held goes out, though it takes nothing in.
    assert!(fares(&pair.a, &pair.b)["queued"].as_u64() >= Some(200));
    pair.a.ok(&["queue", "release", &pair.b.server_id]);
    drained(&pair.a, &pair.b);
    // B keeps what A cannot take, and goes on taking from its own.
    load.progress(1, 50);
    assert!(fares(&pair.b, &pair.a)["queued"].as_u64() > Some(0));
    load.refused(0, Code::ResourceExhausted);
    assert!(pair.a.is_up());

    disk.free();
    load.progress(0, 50);
    let ledgers = load.end();
    pair.finish(&ledgers[..1], &ledgers[1..]);
}

#[test]
fn a_disk_full_to_the_last_byte_loses_nothing_and_the_node_goes_on_when_there_is_room() {
    let (Some(disk_a), Some(disk_b)) = (Disk::new(), Disk::new()) else { return };
    let mut pair = Pair::start(&disk_a.data(), &disk_b.data());
    let (at_a, at_b) = (Door::new(&pair.a, &pair.b), Door::new(&pair.b, &pair.a));
    let mut load = Load::new();
    load.write(1, &at_a);
    load.write(2, &at_b);
    load.progress(0, 50);
    load.progress(1, 50);

    // The receiver: it takes nothing, the sender keeps all.
    disk_b.fill(0);
    load.refused(1, Code::ResourceExhausted);
    load.progress(0, 50);
    eventually("A keeps what B cannot take", || (fares(&pair.a, &pair.b)["queued"].as_u64() > Some(50)).then_some(()));
    assert!(pair.b.is_up());
    disk_b.free();
    load.progress(1, 50);
    eventually("B takes it now", || (fares(&pair.a, &pair.b)["state"] == "live").then_some(()));

    // The sender, with a WAL as small as a start leaves it: whatever it has to
    // record needs room that is not there.
    pair.b.kill();
    load.progress(0, 200);
    let settled = pair.a.json(&["peer", "show", &pair.b.server_id])["settled"].as_u64().unwrap();
    let (a, b) = (disk_a.data(), disk_b.data());
    pair.a.stop();
    disk_a.fill(1 << 20);
    pair.a = NodeProcess::start(&a, QUICK);
    disk_a.fill(0);
    load.refused(0, Code::ResourceExhausted);
    pair.b = NodeProcess::start(&b, QUICK);
    eventually("the queue goes out of a node that can write nothing", || {
        let show = |node: &NodeProcess, peer: &NodeProcess, field: &str| {
            node.json(&["peer", "show", &peer.server_id])[field].as_u64().unwrap()
        };
        let at_a = show(&pair.a, &pair.b, "settled");
        let at_b = show(&pair.b, &pair.a, "inbound_mark");
        (at_a == at_b && at_a >= settled + 200).then_some(())
    });
    eventually("SQLite itself says so", || log(&a).contains("disk full").then_some(()));
    load.progress(1, 50);
    assert!(pair.a.is_up() && pair.b.is_up());
    // A start needs some room, after a crash and after a stop in good order.
    pair.a.kill();
    let refuses_to_start = || {
        let said = NodeProcess::spawn(&a, QUICK).ready().err().expect("no room to start in");
        assert!(said.contains("exit status: 1") && said.contains("disk full"), "{said}");
    };
    // After the crash the log may have room left where what did not fit was begun: then it starts.
    match NodeProcess::spawn(&a, QUICK).ready() {
        Ok(mut node) => node.kill(),
        Err(said) => assert!(said.contains("exit status: 1") && said.contains("disk full"), "{said}"),
    }
    disk_a.free();
    NodeProcess::start(&a, QUICK).stop();
    disk_a.fill(0);
    refuses_to_start();

    disk_a.free();
    pair.a = NodeProcess::start(&a, QUICK);
    load.progress(0, 50);
    let ledgers = load.end();
    pair.finish(&ledgers[..1], &ledgers[1..]);
}
