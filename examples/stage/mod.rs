//! What both examples share: three nodes, three parties, an outage, a verdict.
//!
//! Everything runs in a process of its own, and all of them are this program:
//! `serve` is a node, `party` a party, nothing at all the director, who starts
//! the others, announces the runs, kills node C in the middle of one and starts
//! it again. Knows no cryptography.

mod director;
mod party;
mod watch;

pub use director::Director;
pub use party::{Actor, Run};

use serde::{Deserialize, Serialize};
use std::{
    env,
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

/// Which messages are the first that a party sends after node C was killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outage {
    /// The kind of the run.
    pub run: String,
    /// The protocol's own number of the round.
    pub round: u16,
}

/// What a party is told on its standard input, in one line.
#[derive(Serialize, Deserialize)]
struct Part {
    node: String,
    key: String,
    party: String,
    token: String,
    outage: Outage,
}

/// What a party says on its standard output, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum Report {
    /// It is connected and listens.
    Ready,
    Standing {
        run: String,
        standing: Standing,
    },
    Done {
        run: String,
        result: String,
    },
    Failed {
        why: String,
    },
}

/// Where a party stands in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    /// Has a message to send and waits for the director's word.
    Holds { round: u16 },
    /// Its node does not have the message yet.
    Sends { round: u16 },
    /// Its messages of the round are with its node; these have not been heard.
    Waits { round: u16, whom: Vec<String> },
}

/// The program: one of its three kinds of process.
pub fn run<A: Actor>(outage: Outage, play: impl AsyncFnOnce(&mut Director) -> Result<String, String>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(cause) => return failed(&format!("no runtime: {cause}")),
    };
    match env::args().nth(1).as_deref() {
        Some("serve") => pillarbox::cli::run(env::args_os()),
        Some("party") => runtime.block_on(party::run::<A>()),
        None => match runtime.block_on(director::direct(outage, play)) {
            Ok(verdict) => {
                println!("\n{verdict}");
                ExitCode::SUCCESS
            }
            Err(why) => failed(&why),
        },
        Some(other) => failed(&format!("{other:?} is no mode of this example; start it without arguments")),
    }
}

pub fn failed(why: &str) -> ExitCode {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "\nFAILED: {why}");
    ExitCode::FAILURE
}

/// A party's name without its server.
fn short(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}

/// Bytes as results and verdicts are told.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that [`hex`] wrote.
pub fn bytes(hex: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let digits = |at: usize| hex.get(at..at + 2).ok_or("half a byte");
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(digits(at)?, 16)?)).collect()
}
