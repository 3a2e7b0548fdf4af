//! `pillarbox gateway`: what it is told, the line when it is ready, its end.
//!
//! The token comes from the environment or a file, never from an argument,
//! which everybody on the machine could read.

use super::{
    Failure,
    output::Out,
    serve::{GRACE, LogFlag, Signals, Told, raise_open_files, start_log},
};
use crate::{
    client::Options,
    config::LogFormat,
    gateway::{Config, Gateway, Limits, StartError, check_origin},
    net::{self, Mode},
    types::PublicKey,
};
use bytesize::ByteSize;
use serde::Serialize;
use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;

/// Open files besides those of clients: the node, the log, the cursor, the listener.
const OTHER_FILES: u64 = 40;

pub const ABOUT: &str = "Hand a node's events on to browsers

Subscribes to a node's push channel (galaxy.backend.push.v1) as the principal
gateway:ID, signs each event with a key of its own, and serves it to the clients
of its user by Server-Sent Events (GET /events) and WebSocket (GET /ws). A client
shows a user's token, which the node validates; when the node ends that session,
the client is cut off. At / is a page that shows the events.

The token of the gateway comes from PILLARBOX_TOKEN or --token-file.";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  On the machine of the node:
    export PILLARBOX_TOKEN=$(pillarbox token new gateway:web)
    pillarbox gateway --id web --backend https://localhost:7443 \\
      --ca-file pillarbox-data/tls/cert.pem
  As a server, in front of a node elsewhere whose key is known:
    pillarbox gateway --id web --backend https://a.example:7443 --pin 8Rb…= \\
      --token-file /etc/web.token --data-dir /var/lib/web \\
      --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem
  For scripts, one line when it is ready:
    pillarbox gateway --backend http://127.0.0.1:7443 --listen 127.0.0.1:0 --json | jq -r .url")]
pub struct Args {
    /// Where its key and its cursor are kept [default: ./pillarbox-gateway]
    // In the place of the one that all commands have, which is a node's.
    #[arg(long, value_name = "DIR", env = "PILLARBOX_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The node: https://host:port, or http://127.0.0.1:port for one without TLS on this machine
    #[arg(long, value_name = "URL")]
    backend: String,
    /// The gateway's id: its token is gateway:ID's
    #[arg(long, value_name = "ID", default_value = "gateway")]
    id: String,
    /// Where clients come; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// A file with the gateway's token, instead of the variable PILLARBOX_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM certificates that vouch for the node, besides the public ones
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The node's own key (`pillarbox key show`): vouches for its self-signed certificate
    #[arg(long, value_name = "KEY")]
    pin: Option<PublicKey>,
    /// PEM certificate for clients; without it only a loopback address is listened on
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A proxy before the gateway ends TLS: any address may be listened on without it
    #[arg(long, conflicts_with = "tls_cert")]
    behind_proxy: bool,
    /// A page of this origin may use the gateway (https://app.example); may be given several times
    #[arg(long, value_name = "ORIGIN", value_parser = check_origin)]
    allow_origin: Vec<String>,
    /// Where it keeps how far it came [default: DATA_DIR/ID.cursor]
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// Its own Ed25519 key, made when there is none [default: DATA_DIR/ID.key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Streams of clients at most
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_clients: u32,
    /// Streams of one user at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_clients_per_user: u32,
    /// Events kept for clients that come back
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    keep_events: u32,
    /// Memory for them
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    keep_bytes: ByteSize,
    /// How the log on stderr is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFlag,
}

/// Runs a gateway until it is told to stop, or cannot go on.
pub fn run(args: Args, out: &mut Out) -> Result<(), Failure> {
    let format = match args.log_format {
        LogFlag::Text => LogFormat::Text,
        LogFlag::Json => LogFormat::Json,
    };
    let mut config = config(args)?;
    start_log(format)?;
    bound_by_files(&mut config.limits, raise_open_files());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(serve(config, out));
    // What did not end by itself must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// Each client is an open file, and a gateway that has no more of them reaches
/// its node no longer.
fn bound_by_files(limits: &mut Limits, files: Option<u64>) {
    let Some(files) = files else { return };
    let room = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).max(1);
    if room < limits.clients {
        tracing::warn!(
            open_files = files,
            clients = room,
            "fewer files may be open than --max-clients needs, and more clients are not let in; raise ulimit -n"
        );
    }
    limits.connections = limits.connections.min(room);
}

fn config(args: Args) -> Result<Config, Failure> {
    let data_dir = args.data_dir.unwrap_or_else(|| PathBuf::from("pillarbox-gateway"));
    let token = token(args.token_file.as_deref())?;
    let usage = |error: crate::client::Error| Failure::Usage(error.to_string().replacen("node", "--backend", 1));
    let mut options = Options::new(&args.backend, &args.id, &token).map_err(usage)?;
    if let Some(file) = args.ca_file {
        options = options.ca_file(file);
    }
    if let Some(key) = args.pin {
        options = options.pinned(key);
    }
    if args.tls_cert.is_none() && !args.behind_proxy && !args.listen.ip().to_canonical().is_loopback() {
        return Err(Failure::Usage(format!(
            "--listen {}: only a loopback address may go without TLS; give --tls-cert and --tls-key, \
             or --behind-proxy if a proxy ends TLS before the gateway",
            args.listen
        )));
    }
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let limits = Limits {
        // Room to tell clients that there is none.
        connections: count(args.max_clients) + 1_024,
        clients: count(args.max_clients),
        clients_per_user: count(args.max_clients_per_user),
        ring_events: count(args.keep_events),
        ring_bytes: usize::try_from(args.keep_bytes.as_u64()).unwrap_or(usize::MAX),
        ..Limits::default()
    };
    let mode = if args.tls_cert.is_some() { Mode::Files } else { Mode::Off };
    let (cert, key) = (args.tls_cert.unwrap_or_default(), args.tls_key.unwrap_or_default());
    Ok(Config {
        options,
        listen: args.listen,
        tls: net::Config { mode, cert, key, behind_proxy: args.behind_proxy },
        cursor_file: args.cursor_file.unwrap_or_else(|| data_dir.join(format!("{}.cursor", args.id))),
        key_file: args.key_file.unwrap_or_else(|| data_dir.join(format!("{}.key", args.id))),
        id: args.id,
        backend: args.backend,
        allow_origins: args.allow_origin,
        limits,
        keep_alive: Duration::from_secs(15),
    })
}

fn token(file: Option<&Path>) -> Result<String, Failure> {
    let token = match file {
        Some(path) => fs::read_to_string(path)
            .map_err(|cause| Failure::Usage(format!("--token-file {}: {cause}", path.display())))?,
        None => env::var("PILLARBOX_TOKEN").unwrap_or_default(),
    };
    match token.trim() {
        "" => Err(Failure::Usage(
            "the gateway's token is missing: give it as PILLARBOX_TOKEN or --token-file; \
             the node makes one: pillarbox token new gateway:ID"
                .into(),
        )),
        token => Ok(token.to_owned()),
    }
}

async fn serve(config: Config, out: &mut Out) -> Result<(), Failure> {
    let mut signals = Signals::install().map_err(|error| Failure::Failed(format!("cannot watch signals: {error}")))?;
    let (id, backend, tls) = (config.id.clone(), config.backend.clone(), config.tls.mode);
    let mut gateway = Gateway::start(config).await.map_err(|error| match error {
        StartError::BadConfig(text) => Failure::Usage(text),
        StartError::Failed(text) => Failure::Failed(text),
    })?;
    let scheme = if tls == Mode::Off { "http" } else { "https" };
    announce(&gateway, id, backend, scheme, out)?;
    let failed = loop {
        tokio::select! {
            why = gateway.failed() => break Some(why),
            told = signals.next() => match told {
                Told::Stop(number) => {
                    tracing::info!(signal = number, "stopping; a second signal ends the process at once");
                    break None;
                }
                Told::Reload => match gateway.reload().await {
                    Ok(()) => tracing::info!("certificates read again"),
                    Err(error) => tracing::error!(%error, "certificates not read again; the old ones stay in use"),
                },
            },
        }
    };
    let stopped = tokio::select! {
        stopped = timeout(GRACE, gateway.shutdown()) => stopped,
        number = signals.stop() => return Err(Failure::Signalled(number)),
    };
    match (failed, stopped) {
        (Some(why), _) => Err(Failure::Failed(why)),
        (None, Ok(())) => {
            tracing::info!("stopped");
            Ok(())
        }
        (None, Err(_)) => Err(Failure::Failed(format!("the gateway did not stop within {} s", GRACE.as_secs()))),
    }
}

/// The one line on stdout that a supervisor or a test waits for.
fn announce(gateway: &Gateway, id: String, backend: String, scheme: &str, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line {
        ready: bool,
        gateway: String,
        backend: String,
        listen: String,
        url: String,
        key: String,
    }
    let (listen, key) = (gateway.listen().to_string(), gateway.key().to_string());
    let url = format!("{scheme}://{listen}/");
    let text = format!("gateway:{id} serves {url} for {backend}; its key is {key}");
    let line = Line { ready: true, gateway: id, backend, listen, url, key };
    // A gateway whose starter does not read on still serves.
    match out.either(&line, &text) {
        Err(Failure::ReaderGone) => Ok(()),
        other => other,
    }
}
