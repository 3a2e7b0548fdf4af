//! `pillarbox serve` and `pillarbox check-config`: the process of a node.
//!
//! Owns the runtime, the log, the ready line and the signals. SIGINT and
//! SIGTERM end the node within [`GRACE`]; a second one ends the process at
//! once. SIGHUP reads certificate files again. Never looks into the node.
//! `pillarbox gateway` is a process of the same kind and uses the same.

use super::{Failure, output::Out};
use crate::{
    config::{Config, Flag, LogFormat, Sources},
    node::{Node, Ready, StartError},
};
use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::Value;
use std::{
    env,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// A node that is told to stop has this long; below what supervisors wait.
pub(super) const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  A node of one's own on this machine, with no configuration at all:
    pillarbox serve
  A second one beside it:
    pillarbox serve --data-dir ./second --listen 127.0.0.1:0
  As a server:
    pillarbox serve --config /etc/pillarbox.toml --server-id a.example:7443

When ready, one line of JSON is printed on stdout: {\"ready\":true,\"server_id\":…,\"listen\":…,\"key\":…,\"tls\":…}
Every key of the configuration is also a variable: PILLARBOX_LISTEN, PILLARBOX_FEDERATION__PULL_INTERVAL.")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pillarbox check-config --config /etc/pillarbox.toml
  PILLARBOX_FEDERATION__PULL_INTERVAL=30s pillarbox check-config --json

What is printed is itself a configuration file (with --json: one object).")]
pub struct CheckArgs {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// Configuration file (TOML); config.example.toml has every key
    #[arg(long, value_name = "FILE", env = "PILLARBOX_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:7443]; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// The name of this node among servers [default: localhost and the port]
    #[arg(long, value_name = "DOMAIN:PORT")]
    server_id: Option<String>,
    /// A certificate of our own making, or no TLS at all (loopback only)
    #[arg(long, value_name = "MODE")]
    tls: Option<TlsFlag>,
    /// How the log on stderr is written
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFlag>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TlsFlag {
    SelfSigned,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFlag {
    Text,
    Json,
}

impl Settings {
    fn load(self, data_dir: Option<PathBuf>) -> Result<Config, Failure> {
        let utf8 = |dir: PathBuf| {
            dir.into_os_string().into_string().map_err(|_| Failure::Usage("--data-dir: the path is not UTF-8".into()))
        };
        let tls = self.tls.map(|mode| match mode {
            TlsFlag::SelfSigned => "self-signed",
            TlsFlag::Off => "off",
        });
        let log_format = self.log_format.map(|format| match format {
            LogFlag::Text => "text",
            LogFlag::Json => "json",
        });
        let flags = [
            ("--data-dir", "data_dir", data_dir.map(utf8).transpose()?),
            ("--listen", "listen", self.listen),
            ("--server-id", "server_id", self.server_id),
            ("--tls", "tls.mode", tls.map(str::to_owned)),
            ("--log-format", "log_format", log_format.map(str::to_owned)),
        ];
        let flags =
            flags.into_iter().filter_map(|(name, key, value)| Some(Flag { name, key, value: value? })).collect();
        Ok(Config::load(&Sources { file: self.config, environment: env::vars_os().collect(), flags })?)
    }
}

/// Runs a node until it is told to stop.
pub fn run(args: Args, data_dir: Option<PathBuf>) -> Result<(), Failure> {
    let config = args.settings.load(data_dir)?;
    start_log(config.log_format)?;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(serve(config));
    // What the node did not end by itself must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// Each connection is a file, and many systems begin with a bound of 1,024.
/// Returns how many files there may be; `None`: any number.
pub(super) fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the bound of open files stays as it is; it also bounds the connections");
    }
    getrlimit(Resource::Nofile).current
}

/// Prints what is in effect, as TOML or with `--json` as an object.
pub fn check(args: CheckArgs, data_dir: Option<PathBuf>, out: &mut Out) -> Result<(), Failure> {
    let config = args.settings.load(data_dir)?;
    if out.json() {
        return out.object(&config);
    }
    let value = serde_json::to_value(&config).map_err(|error| Failure::Failed(format!("cannot print: {error}")))?;
    out.line(&toml(&value, ""))
}

/// Tables of tables of plain values. A JSON value that is no object is a TOML
/// value of the same text.
fn toml(value: &Value, path: &str) -> String {
    let Value::Object(root) = value else { return value.to_string() };
    let (sections, keys): (Vec<_>, Vec<_>) = root.iter().partition(|(_, value)| value.is_object());
    let mut lines: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    for (name, section) in sections {
        let path = format!("{path}{name}");
        lines.push(format!("\n[{path}]\n{}", toml(section, &format!("{path}."))));
    }
    lines.join("\n")
}

pub(super) fn start_log(format: LogFormat) -> Result<(), Failure> {
    let filter = match env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .map_err(|error| Failure::Usage(format!("environment variable RUST_LOG: {error}; try RUST_LOG=info")))?,
        _ => EnvFilter::new("info"),
    };
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    started.map_err(|error| Failure::Failed(format!("cannot start the log: {error}")))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let mut signals = Signals::install().map_err(|error| Failure::Failed(format!("cannot watch signals: {error}")))?;
    let node = tokio::select! {
        started = Node::start(config) => started.map_err(|error| match error {
            StartError::BadConfig(text) => Failure::Usage(text),
            StartError::Failed(text) => Failure::Failed(text),
        })?,
        number = signals.stop() => return Err(Failure::Signalled(number)),
    };
    announce(node.ready());
    let number = loop {
        match signals.next().await {
            Told::Stop(number) => break number,
            Told::Reload => match node.reload().await {
                Ok(()) => tracing::info!("certificates read again"),
                Err(error) => tracing::error!(%error, "certificates not read again; the old ones stay in use"),
            },
        }
    };
    tracing::info!(signal = number, "stopping; a second signal ends the process at once");
    tokio::select! {
        stopped = timeout(GRACE, node.shutdown()) => match stopped {
            Ok(()) => {
                tracing::info!("stopped");
                Ok(())
            }
            Err(_) => Err(Failure::Failed(format!("the node did not stop within {} s", GRACE.as_secs()))),
        },
        number = signals.stop() => Err(Failure::Signalled(number)),
    }
}

/// The one line on stdout that a supervisor or a test waits for.
fn announce(ready: &Ready) {
    #[derive(Serialize)]
    struct Line {
        ready: bool,
        server_id: String,
        listen: String,
        key: String,
        tls: crate::net::Mode,
    }
    let line = Line {
        ready: true,
        server_id: ready.server_id.to_string(),
        listen: ready.listen.to_string(),
        key: ready.key.to_string(),
        tls: ready.tls,
    };
    let text = serde_json::to_string(&line).expect("a struct of plain values always becomes JSON");
    // One write. A node whose starter does not read on still serves.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(format!("{text}\n").as_bytes()).and_then(|()| stdout.flush());
}

pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::Stop(2),
            _ = self.terminate.recv() => Told::Stop(15),
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// The number of the next signal that tells to stop.
    pub(super) async fn stop(&mut self) -> u8 {
        loop {
            if let Told::Stop(number) = self.next().await {
                return number;
            }
        }
    }
}

pub(super) enum Told {
    /// By the signal of this number.
    Stop(u8),
    Reload,
}
