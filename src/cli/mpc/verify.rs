//! `pillarbox mpc verify`: evidence checked without a node.

use super::view::{Record, Twice, Verdict};
use crate::{
    cli::{
        Failure,
        output::{Out, base64, plain},
    },
    relay::evidence::{Slot, judge},
    types::PublicKey,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Of one file: far more records than a node prints.
const FILE_MAX: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// What `mpc evidence --json` printed; "-": stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The public key of the sender's node
    #[arg(long, value_name = "BASE64")]
    key: PublicKey,
}

pub fn verify(args: &VerifyArgs, out: &mut Out) -> Result<(), Failure> {
    let (mut places, mut records) = (vec![], vec![]);
    for file in &args.files {
        for (at, line) in text(file)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("{} line {}", file.display(), at + 1);
            records.push(record(line).map_err(|why| Failure::Failed(format!("{place}: {why}")))?);
            places.push(place);
        }
    }
    let (bad, twice) = judge(&records, &args.key);
    let verdict = Verdict {
        records: records.len(),
        valid: records.len() - bad.len(),
        equivocation: !twice.is_empty(),
        equivocations: twice.iter().map(|(one, other)| shown(one, other)).collect(),
    };
    if out.json() {
        out.object(&verdict)?;
    } else {
        out.line(&format!("{} of {} records were signed by this key", verdict.valid, verdict.records))?;
        for twice in &verdict.equivocations {
            out.line(&format!(
                "EQUIVOCATION: {} broadcast two payloads in session {}, round {}, type {:?}: {} and {}",
                plain(twice.sender),
                plain(twice.session_id),
                twice.round_number,
                plain(twice.message_type),
                twice.payloads_sha256[0],
                twice.payloads_sha256[1],
            ))?;
        }
        if twice.is_empty() {
            out.line("they prove no equivocation")?;
        }
    }
    match bad.first() {
        Some(first) => Err(Failure::Failed(format!("{}: the signature does not verify with this key", places[*first]))),
        None if records.is_empty() => Err(Failure::Failed("there is no record in these files".into())),
        None => Ok(()),
    }
}

fn shown<'a>(one: &'a Slot, other: &'a Slot) -> Twice<'a> {
    Twice {
        session_id: &one.session,
        round_number: one.round,
        message_type: &one.kind,
        sender: &one.sender,
        message_ids: [&one.message_id, &other.message_id],
        payloads_sha256: [base64(&one.digest), base64(&other.digest)],
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(FILE_MAX).read_to_string(&mut text),
        false => File::open(path).map_err(failed)?.take(FILE_MAX).read_to_string(&mut text),
    };
    match read.map_err(failed)? as u64 {
        FILE_MAX => Err(Failure::Failed(format!("{}: more than {FILE_MAX} bytes", path.display()))),
        _ => Ok(text),
    }
}

fn record(line: &str) -> Result<(Slot, Vec<u8>), String> {
    let record: Record = serde_json::from_str(line).map_err(|error| format!("not a record: {error}"))?;
    let bytes = |field: &str, text: &str| STANDARD.decode(text).map_err(|_| format!("{field}: not base64"));
    let digest = bytes("payload_sha256", &record.payload_sha256)?;
    let slot = Slot {
        session: record.session_id,
        round: record.round_number,
        kind: record.message_type,
        sender: record.sender,
        message_id: record.message_id,
        broadcast: true,
        digest: digest.try_into().map_err(|_| "payload_sha256: a SHA-256 has 32 bytes".to_owned())?,
    };
    Ok((slot, bytes("signature", &record.signature)?))
}
