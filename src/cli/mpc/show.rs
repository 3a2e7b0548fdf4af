//! `pillarbox mpc show`: a session round by round, once or as it goes on.

use super::view;
use crate::{
    cli::{
        Failure,
        connect::{next, next_live},
        output::{Out, Table, ago, moment, pairs, plain},
    },
    proto::pillarbox::relay::v1::{Part, Party, Round, View},
};
use std::collections::BTreeMap;
use tonic::Streaming;

/// All that was told of a session.
#[derive(Default)]
struct Known {
    parties: BTreeMap<String, Party>,
    rounds: BTreeMap<i32, Round>,
}

pub async fn run(mut views: Streaming<View>, watch: bool, out: &mut Out) -> Result<(), Failure> {
    let ended = || Failure::Failed("the node ended the stream before it said anything".into());
    let mut known = Known::default();
    let first = next(&mut views).await?.ok_or_else(ended)?;
    print(&first, &mut known, out)?;
    if !watch {
        return Ok(());
    }
    while let Some(view) = next_live(&mut views).await? {
        print(&view, &mut known, out)?;
    }
    Err(Failure::Failed("the node ended the stream; watch again".into()))
}

fn print(view: &View, known: &mut Known, out: &mut Out) -> Result<(), Failure> {
    if out.json() {
        return out.object(&view::View::from(view));
    }
    if view.whole {
        *known = Known::default();
    }
    known.parties.extend(view.parties.iter().map(|party| (party.party.clone(), party.clone())));
    known.rounds.extend(view.rounds.iter().map(|round| (round.round, round.clone())));
    match view.whole {
        true => introduce(view, out)?,
        false => out.line(&format!("\n{}", moment(view.now)))?,
    }
    let rows: Vec<_> = view.rounds.iter().flat_map(|round| round.parties.iter().map(|part| row(round, part))).collect();
    if !rows.is_empty() {
        let header = ["ROUND", "PARTY", "SENT", "ADDRESSED", "FETCHED", "ACKNOWLEDGED", "FAILED"];
        Table::whole(out, &header, rows)?;
    }
    for line in waits(known, view.now) {
        out.line(&line)?;
    }
    for twice in &view.equivocations {
        out.line(&format!(
            "EQUIVOCATION: {} broadcast different payloads in round {}, type {:?}",
            plain(&twice.sender),
            twice.round_number,
            plain(&twice.message_type)
        ))?;
    }
    let unnamed = (view.equivocation_count as usize).saturating_sub(view.equivocations.len());
    if unnamed > 0 {
        out.line(&format!("and {unnamed} more equivocations; `pillarbox mpc transcript` marks them"))?;
    }
    Ok(())
}

fn introduce(view: &View, out: &mut Out) -> Result<(), Failure> {
    let owner = if view.owner.is_empty() { "nobody: it is open".into() } else { plain(&view.owner) };
    let cut = if view.cut { ", the older ones are left out below" } else { "" };
    pairs(
        out,
        &[
            ("session", plain(&view.session_id).into_owned()),
            ("announced by", owner.into_owned()),
            ("messages", format!("{}{cut}", view.messages)),
            ("forgotten", ago(view.expires_at, view.now)),
        ],
    )?;
    let rows = view.parties.iter().map(|party| {
        vec![
            plain(&party.party).into_owned(),
            if party.member { "party" } else { "recipient" }.to_owned(),
            if party.online { "subscribes".to_owned() } else { ago(party.last_seen_at, view.now) },
        ]
    });
    Table::whole(out, &["PARTY", "ROLE", "LAST SEEN"], rows.collect())
}

fn row(round: &Round, part: &Part) -> Vec<String> {
    let counts = [part.sent, part.addressed, part.delivered, part.acknowledged, part.failed];
    let names = [round.round.to_string(), plain(&part.party).into_owned()];
    names.into_iter().chain(counts.map(|count| count.to_string())).collect()
}

/// A line for each who is waited for.
fn waits(known: &Known, now: i64) -> Vec<String> {
    let line = |round: &Round, part: &Part| {
        let what = match part.waiting_for.as_str() {
            "" => return None,
            "fetch" => "to fetch what lies here",
            "acknowledgement" => "to acknowledge",
            "message" => "to send",
            other => other,
        };
        let seen = match known.parties.get(&part.party) {
            Some(party) if party.online => "subscribes now".to_owned(),
            Some(party) if party.last_seen_at > 0 => format!("last seen {}", ago(party.last_seen_at, now)),
            _ => "never seen".to_owned(),
        };
        let since = ago(part.waiting_since, now);
        Some(format!(
            "waiting for {} in round {}, {seen} ({what}, for {})",
            plain(&part.party),
            round.round,
            since.trim_end_matches(" ago")
        ))
    };
    known.rounds.values().flat_map(|round| round.parties.iter().filter_map(move |part| line(round, part))).collect()
}
