//! Nodes as processes of their own, in a directory of their own; the demo's, and
//! those that `bench` starts.
//!
//! Owns both: no node outlives [`Nodes`], and the directory goes unless it is
//! kept. Knows nothing of what the nodes do.

use crate::types::{PublicKey, ServerId};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// From the start of a process to its ready line.
const START: Duration = Duration::from_secs(30);
/// A node gives itself 10 s to stop.
const STOP: Duration = Duration::from_secs(15);

/// Who plays, by a letter. In the demo A sends, B has the outage, C must not notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(u16);

impl Name {
    pub const A: Self = Self(0);
    pub const B: Self = Self(1);
    pub const C: Self = Self(2);
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    /// The one so many after A.
    pub fn nth(at: u16) -> Self {
        Self(at)
    }

    fn dir(self) -> String {
        self.to_string().to_lowercase()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = char::from(b'A' + (self.0 % 26) as u8);
        match self.0 / 26 {
            0 => write!(f, "{letter}"),
            round => write!(f, "{letter}{round}"),
        }
    }
}

/// What a node says of itself when it is ready.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    pub server_id: ServerId,
    #[serde(deserialize_with = "key")]
    pub key: PublicKey,
}

fn key<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The running nodes and their directory.
#[derive(Debug)]
pub struct Nodes {
    program: PathBuf,
    home: PathBuf,
    keep: bool,
    running: BTreeMap<Name, Child>,
}

impl Nodes {
    /// Makes a directory for them below `parent`, which says what they are for.
    pub fn new(parent: &Path, purpose: &str) -> Result<Self, String> {
        let program = env::current_exe().map_err(|cause| format!("cannot find this program's own file: {cause}"))?;
        let unique = getrandom::u32().map_err(|cause| format!("no randomness: {cause}"))?;
        let home = parent.join(format!("pillarbox-{purpose}-{unique:08x}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&home)
            .map_err(|cause| format!("cannot make {}: {cause}", home.display()))?;
        Ok(Self { program, home, keep: false, running: BTreeMap::new() })
    }

    /// The data directories and logs stay when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn dir(&self, name: Name) -> PathBuf {
        self.home.join(name.dir())
    }

    /// This very program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a node and waits until it is ready. `port` 0: any free one.
    pub async fn start(&mut self, name: Name, port: u16) -> Result<Ready, String> {
        self.start_with(name, port, &[]).await
    }

    /// The same with settings, as in the environment and without the prefix:
    /// ("FEDERATION__PULL_INTERVAL", "1s").
    pub async fn start_with(&mut self, name: Name, port: u16, settings: &[(&str, &str)]) -> Result<Ready, String> {
        let path = self.home.join(format!("{}.log", name.dir()));
        let failed = |what: &str| format!("node {name} {what}; its log: {}", path.display());
        let log = File::options().create(true).append(true).open(&path).map_err(|cause| failed(&cause.to_string()))?;
        let mut command = Command::new(&self.program);
        // Only what is said here: the variables of the caller are meant for a node of theirs.
        for (variable, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PILLARBOX_")) {
            command.env_remove(variable);
        }
        command.arg("serve").arg("--data-dir").arg(self.dir(name)).args(["--listen", &format!("127.0.0.1:{port}")]);
        for (key, value) in settings {
            command.env(format!("PILLARBOX_{key}"), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        // Ctrl-c is for this program, which then ends its nodes.
        command.process_group(0);
        let mut child = command.spawn().map_err(|cause| failed(&format!("cannot be started: {cause}")))?;
        let stdout = child.stdout.take();
        self.running.insert(name, child);
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let mut lines = BufReader::new(stdout);
            match timeout(START, lines.read_line(&mut line)).await {
                Ok(read) => read.map_err(|cause| failed(&format!("cannot be read: {cause}")))?,
                Err(_) => return Err(failed(&format!("was not ready within {} s", START.as_secs()))),
            };
        }
        serde_json::from_str(&line).map_err(|_| failed("did not start"))
    }

    /// None: it does not run.
    pub fn pid(&self, name: Name) -> Option<u32> {
        self.running.get(&name)?.id()
    }

    /// The end of a node that nobody asked to end.
    pub fn check(&mut self) -> Result<(), String> {
        for (name, child) in &mut self.running {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("node {name} ended by itself ({status})"));
            }
        }
        Ok(())
    }

    /// SIGKILL; returns when nothing is left of the process.
    pub async fn kill(&mut self, name: Name) -> Result<(), String> {
        match self.running.remove(&name) {
            Some(mut child) => child.kill().await.map_err(|cause| format!("cannot kill node {name}: {cause}")),
            None => Ok(()),
        }
    }

    /// SIGTERM to all; returns when all have ended in good order.
    pub async fn stop(&mut self) -> Result<(), String> {
        for (name, child) in &self.running {
            let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
            let pid = pid.ok_or_else(|| format!("node {name} ended by itself"))?;
            kill_process(pid, Signal::TERM).map_err(|cause| format!("cannot stop node {name}: {cause}"))?;
        }
        while let Some((name, mut child)) = self.running.pop_first() {
            match timeout(STOP, child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => return Err(format!("node {name} did not stop in good order ({status})")),
                Ok(Err(cause)) => return Err(format!("cannot wait for node {name}: {cause}")),
                Err(_) => return Err(format!("node {name} did not stop within {} s", STOP.as_secs())),
            }
        }
        Ok(())
    }

    /// Whatever still runs is killed, so that the directory can go.
    pub async fn end(&mut self) {
        while let Some((_, mut child)) = self.running.pop_first() {
            // One that cannot be killed has ended.
            let _ = child.kill().await;
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // Each is killed with its handle.
        self.running.clear();
        if !self.keep {
            // What cannot be removed is in the directory for temporary things.
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}
