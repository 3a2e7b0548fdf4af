//! `pillarbox gateway` as a process of its own, for tests that kill it.

use super::process::pillarbox;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

/// Killed when it is dropped. The directory stays.
pub struct GatewayProcess {
    child: Child,
    dir: PathBuf,
    pub ready: Value,
    pub address: SocketAddr,
}

/// All that gateways on this directory said on stderr.
pub fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.with_extension("log")).unwrap_or_default()
}

impl GatewayProcess {
    /// Waits until it listens, on a free port. `arguments` come last.
    pub fn start(dir: &Path, token: &str, arguments: &[&str]) -> Self {
        Self::start_by(pillarbox(), dir, token, arguments)
    }

    /// The same by a command that ends in the program.
    pub fn start_by(mut command: Command, dir: &Path, token: &str, arguments: &[&str]) -> Self {
        let log = File::options().create(true).append(true).open(dir.with_extension("log")).unwrap();
        command.arg("--data-dir").arg(dir).args(["gateway", "--id", "web", "--listen", "127.0.0.1:0", "--json"]);
        command.args(arguments).env("PILLARBOX_TOKEN", token).env("RUST_LOG", "trace");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}\n{}", self::log(dir)));
        let address = ready["listen"].as_str().unwrap().parse().unwrap();
        Self { child, dir: dir.to_owned(), ready, address }
    }

    /// SIGKILL, and nothing of the process is left.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = log(&self.dir);
            let ours: Vec<_> = log.lines().filter(|line| line.contains("pillarbox")).collect();
            eprintln!("--- log of {}\n{}", self.dir.display(), ours.join("\n"));
        }
    }
}
