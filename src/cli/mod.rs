//! The command line (floor 9): the process, and the operator's commands.
//!
//! Owns arguments, exit codes and what is printed. `serve` runs a node, `demo`
//! three, `bench` as many as it is told, `gateway` what stands before one; every
//! other command but `check-config` and `mpc verify` talks to the running one over
//! `DATA_DIR/admin.sock` and holds no state of its own.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1
//! failed, 64 wrong usage or configuration.

mod bench;
mod connect;
#[cfg(test)]
mod contract;
mod dead;
mod demo;
mod event;
mod gateway;
mod key;
mod mpc;
mod output;
mod peer;
mod queue;
mod serve;
mod server;
mod session;
mod token;
mod user;
mod view;

use crate::config::{BadConfig, Config, Sources};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use output::Out;
use std::{
    env,
    ffi::OsString,
    future::Future,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

/// A node that federates homeservers by signed delivery and loses nothing of it.
#[derive(Debug, Parser)]
#[command(
    name = "pillarbox",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  pillarbox demo
  pillarbox serve
  pillarbox peer add b.example:7443
  pillarbox event send --to b.example:7443 user-added --user 1 --guild 2
  pillarbox --data-dir /var/lib/pillarbox peer list --json

Exit codes: 0 done, 1 failed, 64 wrong usage or configuration."
)]
struct Cli {
    /// The directory of the node that is meant [default: ./pillarbox-data]
    #[arg(long, global = true, value_name = "DIR", env = "PILLARBOX_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON, one object a line, with the field names of the contracts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGINT or SIGTERM
    Serve(serve::Args),
    /// Check the configuration and print what is in effect
    CheckConfig(serve::CheckArgs),
    /// See three nodes lose nothing while one of them is killed
    Demo(demo::Args),
    /// Hand a node's events on to browsers
    #[command(long_about = gateway::ABOUT)]
    Gateway(Box<gateway::Args>),
    /// See how much a node takes, and how long it takes for it
    #[command(subcommand, after_help = bench::EXAMPLES)]
    Bench(Box<bench::Command>),
    /// The node's id
    #[command(subcommand, after_help = server::EXAMPLES)]
    Server(server::Command),
    /// The node's own key
    #[command(subcommand, after_help = key::EXAMPLES)]
    Key(key::Command),
    /// The servers this node federates with
    #[command(subcommand, after_help = peer::EXAMPLES)]
    Peer(peer::Command),
    /// Events that wait for a peer
    #[command(subcommand, after_help = queue::EXAMPLES)]
    Queue(queue::Command),
    /// What could not be delivered or applied
    #[command(subcommand, after_help = dead::EXAMPLES)]
    Dead(dead::Command),
    /// Send an event, or watch what arrives
    #[command(subcommand, after_help = event::EXAMPLES)]
    Event(event::Command),
    /// The sessions of MPC parties: who is waited for, and what was said
    #[command(subcommand, after_help = mpc::EXAMPLES)]
    Mpc(mpc::Command),
    /// Tokens of those who may call this node
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::Command),
    /// The users of this node
    #[command(subcommand, after_help = user::EXAMPLES)]
    User(user::Command),
    /// The devices a user is signed in on: its tokens
    #[command(subcommand, after_help = session::EXAMPLES)]
    Session(session::Command),
}

/// Why a command did not do what it was told.
#[derive(Debug)]
enum Failure {
    /// Wrong arguments or configuration: exit 64.
    Usage(String),
    /// Anything else: exit 1.
    Failed(String),
    /// Whoever read our stdout has gone. Not an error: `pillarbox … | head`.
    ReaderGone,
    /// Cut short by a signal; the process ends with 128 and its number.
    Signalled(u8),
}

impl From<io::Error> for Failure {
    /// Of writing to stdout: no other I/O error is passed on without words.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(format!("cannot write to stdout: {error}")),
        }
    }
}

impl From<BadConfig> for Failure {
    fn from(error: BadConfig) -> Self {
        Self::Usage(error.to_string())
    }
}

const USAGE: u8 = 64;

/// The whole program: parses `arguments` (the program's name first), runs the
/// command, prints, and says how the process ends.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    match cli.map(dispatch) {
        Ok(Ok(()) | Err(Failure::ReaderGone)) => ExitCode::SUCCESS,
        Ok(Err(Failure::Usage(text))) => complain(&text, USAGE),
        Ok(Err(Failure::Failed(text))) => complain(&text, 1),
        Ok(Err(Failure::Signalled(number))) => ExitCode::from(number.saturating_add(128)),
        // --help and --version come as errors too. If nobody reads them, so be it.
        Err(error) => {
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            ExitCode::from(if asked { 0 } else { USAGE })
        }
    }
}

/// The command tree, for those who want to walk it.
pub fn command() -> clap::Command {
    Cli::command()
}

fn complain(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {text}");
    ExitCode::from(code)
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let mut out = Out::new(cli.json);
    let Cli { data_dir, command, .. } = cli;
    match command {
        Command::Serve(args) => serve::run(args, data_dir),
        Command::CheckConfig(args) => serve::check(args, data_dir, &mut out),
        Command::Demo(args) => demo::run(&args, &mut out),
        Command::Gateway(args) => gateway::run(*args, &mut out),
        Command::Bench(command) => bench::run(*command, &mut out),
        Command::Server(command) => client(server::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Key(command) => client(key::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Peer(command) => client(peer::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Queue(command) => client(queue::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Dead(command) => client(dead::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Event(command) => client(event::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Mpc(mpc::Command::Verify(args)) => mpc::verify(&args, &mut out),
        Command::Mpc(command) => client(mpc::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Token(command) => client(token::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::User(command) => client(user::run(command, &data_dir_of_node(data_dir)?, &mut out)),
        Command::Session(command) => client(session::run(command, &data_dir_of_node(data_dir)?, &mut out)),
    }
}

/// Which node a client command means: `--data-dir` or its variable, else the
/// file that PILLARBOX_CONFIG names, else the default.
fn data_dir_of_node(flag: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match (flag, env::var_os("PILLARBOX_CONFIG")) {
        (Some(dir), _) => Ok(dir),
        (None, Some(file)) => Ok(Config::load(&Sources { file: Some(file.into()), ..Sources::default() })?.data_dir),
        (None, None) => Ok(Config::default().data_dir),
    }
}

/// A client needs one thread and ends with its command.
fn client(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?
        .block_on(command)
}
