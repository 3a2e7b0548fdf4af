//! A node as its own process, for tests that kill it.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

const BINARY: &str = env!("CARGO_BIN_EXE_pillarbox");

/// The binary without settings of whoever runs the test.
pub fn pillarbox() -> Command {
    bare(Command::new(BINARY))
}

fn bare(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PILLARBOX_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG");
    command
}

/// A node that was started and may not be ready yet; killed when it is dropped.
pub struct Starting {
    child: Option<Child>,
    dir: PathBuf,
}

impl Starting {
    /// SIGKILL, wherever it is.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits for the ready line; the error is what the node said instead.
    pub fn ready(mut self) -> Result<NodeProcess, String> {
        let mut child = self.child.take().expect("taken here or at the end");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let _ = child.kill();
            let status = child.wait().unwrap();
            return Err(format!("the node did not start ({status}): {line}\n{}", log(&self.dir)));
        };
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let (server_id, key, listen) = (text("server_id"), text("key"), text("listen"));
        Ok(NodeProcess { child, dir: self.dir.clone(), server_id, key, listen })
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.end();
    }
}

/// The log of the node on `dir`, of all its runs. It lies beside the directory:
/// what befalls that one must not befall the log.
pub fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.with_extension("log")).unwrap_or_default()
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
        Self::spawn(dir, settings).ready().unwrap_or_else(|said| panic!("{said}"))
    }

    /// The same without waiting.
    ///
    /// The process ignores SIGXFSZ, so that a limit on the size of its files
    /// fails its writes instead of ending it.
    pub fn spawn(dir: &Path, settings: &[(&str, &str)]) -> Starting {
        Self::spawn_by(&[], dir, settings)
    }

    /// The same by a program that is replaced by what follows its arguments.
    pub fn spawn_by(by: &[&str], dir: &Path, settings: &[(&str, &str)]) -> Starting {
        std::fs::create_dir_all(dir).unwrap();
        let log = File::options().create(true).append(true).open(dir.with_extension("log")).unwrap();
        let mut command = bare(Command::new("sh"));
        command.args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"]).args(by).args([BINARY, "serve", "--data-dir"]);
        command.arg(dir).env("PILLARBOX_LISTEN", "127.0.0.1:0").env("RUST_LOG", "info,pillarbox::federation=debug");
        for (key, value) in settings {
            command.env(format!("PILLARBOX_{key}"), value);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        Starting { child: Some(child), dir: dir.to_owned() }
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

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// SIGTERM, which must end it in good order.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "SIGTERM ended it with {status}\n{}", log(&self.dir));
    }

    /// It has not ended.
    pub fn is_up(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Runs a command against this node.
    pub fn run(&self, arguments: &[&str]) -> Output {
        pillarbox().arg("--data-dir").arg(&self.dir).args(arguments).output().unwrap()
    }

    /// Runs a command that must go well; its output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same with `--json`; its one object.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Makes the other one a peer of this one, its key pinned.
    pub fn add_peer(&self, other: &NodeProcess) {
        self.ok(&["peer", "add", &other.server_id, "--key", &other.key]);
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.dir.display(), log(&self.dir));
        }
    }
}
