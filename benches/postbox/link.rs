//! A long link: two network namespaces, a TUN device in each, and a forwarder that
//! holds every packet back and loses some.
//!
//! Needs root, `/dev/net/tun` and `ip`. What is lost is decided by a seed and the
//! packet's number, so that two runs lose the same ones. Owns the namespaces: they
//! go when it is dropped, which must be after whatever runs inside.

use crate::Failure;
use std::{
    fs::File,
    process::{self, Command},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use tappers::{Interface, Tun};

/// Each way.
pub const DELAY: Duration = Duration::from_millis(150);
/// Packets under way in one direction; more are lost, as by any router.
const UNDER_WAY: usize = 1 << 16;
const MTU: usize = 1500;

/// Both ends have an address.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

pub struct LongLink {
    namespaces: [String; 2],
}

/// Why there can be no such link here.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    if File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Some("there is no /dev/net/tun");
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("there is no `ip` in the PATH");
    }
    None
}

impl LongLink {
    /// `lost`: of a thousand packets.
    pub fn new(lost: u64) -> Result<Self, Failure> {
        let unique = process::id();
        let link = Self { namespaces: ["a", "b"].map(|end| format!("pillarbox-{unique}-{end}")) };
        let mut devices = Vec::new();
        for (at, namespace) in link.namespaces.iter().enumerate() {
            ip(&["netns", "add", namespace])?;
            let name = format!("pb{unique}{}", ["a", "b"][at]);
            devices.push(Arc::new(Tun::new_named(Interface::new(&name)?)?));
            ip(&["link", "set", &name, "netns", namespace])?;
            let inside = |arguments: &[&str]| ip(&[&["-n", namespace], arguments].concat());
            inside(&["address", "add", ADDRESSES[at], "peer", ADDRESSES[1 - at], "dev", &name])?;
            // The forwarder must not lose what the kernel hands over in a burst.
            inside(&["link", "set", &name, "mtu", &MTU.to_string(), "txqueuelen", "10000", "up"])?;
            inside(&["link", "set", "lo", "up"])?;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let (sender, receiver) = sync_channel(UNDER_WAY);
            let (device, seed) = (devices[from].clone(), from as u64);
            thread::spawn(move || take(&device, &sender, lost, seed));
            let device = devices[to].clone();
            thread::spawn(move || hand_over(&device, &receiver));
        }
        Ok(link)
    }

    /// What a command begins with that is to run at one end.
    pub fn at(&self, end: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.namespaces[end]]
    }
}

impl Drop for LongLink {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // With it goes its device, and with that the forwarder's threads.
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new("ip").args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into()),
    }
}

struct Packet {
    due: Instant,
    bytes: Vec<u8>,
}

fn take(device: &Tun, way: &SyncSender<Packet>, lost: u64, seed: u64) {
    let mut buffer = [0; MTU];
    for number in 0.. {
        let Ok(length) = device.recv(&mut buffer) else { return };
        if mixed(seed << 48 | number) % 1000 < lost {
            continue;
        }
        let packet = Packet { due: Instant::now() + DELAY, bytes: buffer[..length].to_vec() };
        if let Err(TrySendError::Disconnected(_)) = way.try_send(packet) {
            return;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, that has nothing else to do")]
fn hand_over(device: &Tun, way: &Receiver<Packet>) {
    while let Ok(Packet { due, bytes }) = way.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if device.send(&bytes).is_err() {
            return;
        }
    }
}

/// A number that looks random (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
