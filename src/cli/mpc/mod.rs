//! `pillarbox mpc`: the sessions of MPC parties, and evidence of what they said.

mod show;
mod verify;
mod view;

pub use verify::{VerifyArgs, verify};

use super::{
    Failure,
    connect::{Sessions, call, connect_sessions},
    output::{Out, Table, ago, base64, moment, plain},
};
use crate::{
    proto::pillarbox::relay::v1::{EvidenceRequest, ListRequest, TranscriptRequest, WatchRequest},
    types::Millis,
};
use std::{
    io::{self, Write},
    path::Path,
};

pub const EXAMPLES: &str = "Examples:
  pillarbox mpc list
  pillarbox mpc show signing-7
  pillarbox mpc show signing-7 --watch
  pillarbox mpc evidence signing-7 --round 1 --type commit --sender alice@a.example:7443 --json > a.json
  pillarbox mpc verify a.json --key 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// Rows asked for in one call.
const PAGE: u32 = 1_000;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the sessions this node knows
    #[command(after_help = "Examples:
  pillarbox mpc list
  pillarbox mpc list --json | jq -r 'select(.equivocations > 0) | .session_id'")]
    List,
    /// Show who has sent, fetched and acknowledged in each round, and who is waited for
    #[command(after_help = "Examples:
  pillarbox mpc show signing-7
  pillarbox mpc show signing-7 --watch
  pillarbox mpc show signing-7 --json | jq '.rounds[].parties[] | select(.waiting_for != \"\")'

A party is waited for to fetch what lies here for it, to acknowledge it, or, in a session whose
parties were announced, to send. What other nodes' parties say to one another is not seen here.")]
    Show {
        #[arg(value_name = "SESSION_ID")]
        session: String,
        /// Go on, and print what changes
        #[arg(long)]
        watch: bool,
    },
    /// Print what this node accepted in a session, as a hash chain
    #[command(after_help = "Examples:
  pillarbox mpc transcript signing-7
  pillarbox mpc transcript signing-7 --json | jq -r 'select(.broadcast) | [.round_number, .sender, .payload_sha256] | @tsv'

The last line is the head, signed by this node. Heads differ from node to node; compare slots.")]
    Transcript {
        #[arg(value_name = "SESSION_ID")]
        session: String,
        /// Only slots after this position
        #[arg(long, value_name = "POSITION", default_value_t = 0, hide_default_value = true)]
        after: u64,
    },
    /// Print the signed digests of what a party broadcast under one round and type
    #[command(after_help = "Examples:
  pillarbox mpc evidence signing-7 --round 1 --type commit --sender alice
  pillarbox mpc evidence signing-7 --round 1 --type commit --sender alice@a.example:7443 --json > ours.json")]
    Evidence {
        #[arg(value_name = "SESSION_ID")]
        session: String,
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        round: i32,
        /// The message type; left out: the empty one
        #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
        kind: String,
        /// NAME, or NAME@domain:port
        #[arg(long, value_name = "PARTY")]
        sender: String,
    },
    /// Check evidence and whether it proves an equivocation; needs no node
    #[command(after_help = "Examples:
  pillarbox mpc verify ours.json theirs.json --key 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
  pillarbox mpc verify - --key \"$KEY\" < ours.json

A file has what `mpc evidence --json` prints, one record a line. The key is that of the sender's
node, known from elsewhere: the one in a record proves nothing. Done (exit 0) means that every
record was signed by that key; the verdict says whether two of them contradict each other.")]
    Verify(VerifyArgs),
}

pub async fn run(command: Command, data_dir: &Path, out: &mut Out) -> Result<(), Failure> {
    if let Command::Verify(args) = &command {
        return verify(args, out);
    }
    let mut node = connect_sessions(data_dir).await?;
    match command {
        Command::List => list(&mut node, out).await,
        Command::Show { session, watch } => {
            let views = call(node.watch(WatchRequest { session_id: session })).await?;
            show::run(views, watch, out).await
        }
        Command::Transcript { session, after } => transcript(&mut node, session, after, out).await,
        Command::Evidence { session, round, kind, sender } => {
            let request = EvidenceRequest { session_id: session, round_number: round, message_type: kind, sender };
            evidence(&mut node, request, out).await
        }
        // Done above.
        Command::Verify(_) => Ok(()),
    }
}

async fn list(node: &mut Sessions, out: &mut Out) -> Result<(), Failure> {
    let (mut after, mut sessions) = (String::new(), vec![]);
    loop {
        let page = call(node.list(ListRequest { after, limit: PAGE })).await?.sessions;
        let Some(last) = page.last() else { break };
        after = last.session_id.clone();
        sessions.extend(page);
    }
    if out.json() {
        return sessions.iter().try_for_each(|session| out.object(&view::Session::from(session)));
    }
    let now = Millis::now().0;
    let rows = sessions.iter().map(|session| {
        let twice = match session.equivocations {
            0 => "-".to_owned(),
            count => format!("{count} !"),
        };
        vec![
            plain(&session.session_id).into_owned(),
            if session.settled { "announced" } else { "open" }.to_owned(),
            session.parties.to_string(),
            session.messages.to_string(),
            if session.active_at == 0 { "-".to_owned() } else { session.round.to_string() },
            ago(session.active_at, now),
            twice,
        ]
    });
    let header = ["SESSION", "KIND", "PARTIES", "MESSAGES", "ROUND", "ACTIVE", "EQUIVOCATIONS"];
    Table::whole(out, &header, rows.collect())
}

async fn transcript(node: &mut Sessions, session: String, after: u64, out: &mut Out) -> Result<(), Failure> {
    let columns =
        [("POSITION", 8), ("ACCEPTED", 24), ("ROUND", 6), ("SENDER", 28), ("TYPE", 12), ("PAYLOAD SHA-256", 44)];
    let columns = [&columns[..], &[("", 0)]].concat();
    let table = if out.json() { None } else { Some(Table::streaming(out, &columns)?) };
    let mut after = after;
    loop {
        let request = TranscriptRequest { session_id: session.clone(), after, limit: PAGE };
        let answer = call(node.transcript(request)).await?;
        for slot in &answer.slots {
            after = slot.position;
            let Some(table) = &table else {
                out.object(&view::Slot::from(slot))?;
                continue;
            };
            let marks = [
                (slot.broadcast, "broadcast"),
                (slot.broadcast && slot.signature.is_empty(), "unsigned"),
                (slot.repeated, "repeated"),
                (slot.equivocation, "EQUIVOCATION"),
            ];
            let marks: Vec<_> = marks.into_iter().filter_map(|(holds, mark)| holds.then_some(mark)).collect();
            let cells = [
                slot.position.to_string(),
                moment(slot.accepted_at),
                slot.round_number.to_string(),
                plain(&slot.sender).into_owned(),
                plain(&slot.message_type).into_owned(),
                base64(&slot.payload_sha256),
                marks.join(" "),
            ];
            table.row(out, &cells)?;
        }
        if answer.slots.is_empty() {
            let Some(head) = answer.head else { return Ok(()) };
            let text =
                format!("head: {} links, {}, signed by {}", head.position, base64(&head.link), plain(&head.server_id));
            return out.either(&view::Head::from(&head), &text);
        }
    }
}

async fn evidence(node: &mut Sessions, request: EvidenceRequest, out: &mut Out) -> Result<(), Failure> {
    let session = request.session_id.clone();
    let answer = call(node.evidence(request)).await?;
    if answer.records.is_empty() {
        // Stdout stays what a script reads: no record is no line.
        let _ = writeln!(
            io::stderr(),
            "nothing was broadcast under this round, type and sender, or it is no longer kept; \
             `pillarbox mpc transcript {}` lists what is",
            plain(&session)
        );
    }
    if out.json() {
        return answer.records.iter().try_for_each(|record| out.object(&view::Record::from(record)));
    }
    let rows = answer.records.iter().map(|record| {
        let signed = if record.signature.is_empty() { "no: an older server" } else { "yes" };
        vec![plain(&record.message_id).into_owned(), base64(&record.payload_sha256), signed.to_owned()]
    });
    Table::whole(out, &["MESSAGE", "PAYLOAD SHA-256", "SIGNED"], rows.collect())?;
    match answer.equivocation {
        true => out.line("EQUIVOCATION: different payloads were broadcast under this round, type and sender"),
        false => Ok(()),
    }
}
