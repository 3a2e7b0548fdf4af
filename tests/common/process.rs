//! A node as its own process, for tests that kill it.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

const BINARY: &str = env!("CARGO_BIN_EXE_pillarbox");

/// The binary without settings of ours that whoever runs the tests has set.
fn binary() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PILLARBOX_")) {
        command.env_remove(name);
    }
    command
}

/// A running node; killed when it is dropped. The directory stays.
pub struct NodeProcess {
    child: Child,
    dir: PathBuf,
    pub server_id: String,
    /// Base64 of the Ed25519 public key.
    pub key: String,
    /// "ip:port"
    pub listen: String,
}

impl NodeProcess {
    /// Starts `pillarbox serve` on `dir` with port 0 (that of the last run, if
    /// it is free) and waits for its ready line. `settings`: as in the
    /// environment, without the prefix: ("FEDERATION__PULL_INTERVAL", "1s").
    pub fn start(dir: &Path, settings: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let log = File::options().create(true).append(true).open(dir.join("stderr.log")).unwrap();
        let mut command = binary();
        command.args(["serve", "--data-dir"]).arg(dir).args(["--listen", "127.0.0.1:0"]);
        for (key, value) in settings {
            command.env(format!("PILLARBOX_{key}"), value);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let log = std::fs::read_to_string(dir.join("stderr.log")).unwrap_or_default();
            panic!("the node did not start: {line}\n{log}");
        };
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let (server_id, key, listen) = (text("server_id"), text("key"), text("listen"));
        Self { child, dir: dir.to_owned(), server_id, key, listen }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and nothing of the process is left.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Runs a command against this node.
    pub fn run(&self, arguments: &[&str]) -> Output {
        binary().arg("--data-dir").arg(&self.dir).args(arguments).output().unwrap()
    }

    /// Runs a command that must go well; its output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes the other one a peer of this one, its key pinned.
    pub fn add_peer(&self, other: &NodeProcess) {
        self.ok(&["peer", "add", &other.server_id, "--key", &other.key]);
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
