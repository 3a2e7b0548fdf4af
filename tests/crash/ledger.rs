//! What was acknowledged, and whether the stores agree.

use crate::process::log;
use pillarbox::{proto::protocol::sync::v1::Event, proto::protocol::sync::v1::event::Kind, store::Store};
use prost::Message;
use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
};

/// One writer's events are `user-added` with its number as the guild and
/// 0, 1, 2 … as the user.
pub fn event(writer: u64, serial: u64) -> Vec<u8> {
    use pillarbox::proto::protocol::sync::v1::event::UserAddedToGuild;
    let added = UserAddedToGuild { user_id: serial, guild_id: writer };
    Event { kind: Some(Kind::UserAddedToGuild(added)) }.encode_to_vec()
}

/// What one writer was told.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub writer: u64,
    /// Serials that were acknowledged, in that order.
    pub acknowledged: Vec<u64>,
    /// Serials that were tried.
    pub tried: u64,
    /// Codes of the refusals.
    pub refusals: HashSet<tonic::Code>,
}

/// What a node's store holds in the end; the node has been stopped.
pub struct Held {
    /// (writer, serial) of every applied event, in the order of the local log.
    pub applied: Vec<(u64, u64)>,
    /// The same events as rows of the guild list.
    listed: u64,
    waiting: u64,
    dead: usize,
    settled: Vec<u64>,
    marks: Vec<u64>,
}

impl Held {
    pub fn read(dir: &Path) -> Self {
        tokio::runtime::Runtime::new().unwrap().block_on(Self::read_all(dir)).unwrap()
    }

    async fn read_all(dir: &Path) -> Result<Self, pillarbox::error::Error> {
        let store = Store::open(dir).await?;
        let mut applied = vec![];
        let mut cursor = 0;
        loop {
            let page = store.inbound_page(cursor, 1024, 1 << 20).await?;
            let Some(last) = page.last() else { break };
            cursor = last.cursor;
            for row in page {
                match Event::decode(row.body).unwrap().kind {
                    Some(Kind::UserAddedToGuild(added)) => applied.push((added.guild_id, added.user_id)),
                    other => panic!("nobody sent {other:?}"),
                }
            }
        }
        let users: BTreeSet<u64> = applied.iter().map(|(_, user)| *user).collect();
        let mut listed = 0;
        for user in users {
            listed += store.guilds(user).await?.len() as u64;
        }
        let held = Self {
            applied,
            listed,
            waiting: store.outbox_totals().await?.iter().map(|total| total.rows).sum(),
            dead: store.dead_page(None, None, 10).await?.len(),
            settled: store.streams_out().await?.iter().map(|(_, stream)| stream.settled).collect(),
            marks: store.streams_in().await?.iter().map(|(_, mark)| mark.number).collect(),
        };
        store.close().await;
        Ok(held)
    }

    /// Every acknowledged event of the writer stands here once, in order; one
    /// whose acknowledgement was lost once or not at all.
    fn check(&self, ledger: &Ledger, found: &mut Vec<String>) {
        let mine: Vec<u64> =
            self.applied.iter().filter(|(writer, _)| *writer == ledger.writer).map(|it| it.1).collect();
        let set: HashSet<u64> = mine.iter().copied().collect();
        let lost: Vec<_> = ledger.acknowledged.iter().filter(|serial| !set.contains(serial)).collect();
        let backwards: Vec<_> = mine.windows(2).filter(|pair| pair[1] < pair[0]).collect();
        let strangers: Vec<_> = mine.iter().filter(|serial| **serial >= ledger.tried).collect();
        let mut tell = |what: &str, count: usize, first: String| {
            if count > 0 {
                found.push(format!("writer {}: {count} {what}, first: {first}", ledger.writer));
            }
        };
        tell("acknowledged and lost", lost.len(), format!("{:?}", lost.first()));
        tell("repeated", mine.len() - set.len(), format!("of {}", mine.len()));
        tell("out of order", backwards.len(), format!("{:?}", backwards.first()));
        tell("never sent", strangers.len(), format!("{:?}", strangers.first()));
    }
}

/// Both nodes are stopped and had nothing left to do; `to_b` was written at A.
pub fn verdict(a: &Path, b: &Path, to_b: &[Ledger], to_a: &[Ledger]) {
    let mut found = vec![];
    let (held_a, held_b) = (Held::read(a), Held::read(b));
    for (held, ledgers) in [(&held_b, to_b), (&held_a, to_a)] {
        ledgers.iter().for_each(|ledger| held.check(ledger, &mut found));
        let known: HashSet<u64> = ledgers.iter().map(|ledger| ledger.writer).collect();
        if held.applied.iter().any(|(writer, _)| !known.contains(writer)) {
            found.push("an event of a writer that never wrote".into());
        }
        if held.listed != held.applied.len() as u64 {
            found.push(format!("{} events applied, {} in the list of guilds", held.applied.len(), held.listed));
        }
    }
    for (name, held, other) in [("a", &held_a, &held_b), ("b", &held_b, &held_a)] {
        if held.waiting > 0 || held.dead > 0 {
            found.push(format!("{name}: {} rows wait, {} dead letters", held.waiting, held.dead));
        }
        // A side that never sent has no stream to speak of.
        if held.settled.iter().any(|number| *number > 0) && held.settled != other.marks {
            found.push(format!("{name} settled {:?}, the other one applied {:?}", held.settled, other.marks));
        }
    }
    assert!(found.is_empty(), "{}\n--- log of a\n{}\n--- log of b\n{}", found.join("\n"), log(a), log(b));
}
