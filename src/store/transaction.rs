//! One transaction, from BEGIN to COMMIT: the rows of many ops together, or one
//! op with rare changes.
//!
//! Leaves one that failed as it is, and answers nobody: that is the writer's.
//! What is known moves only after the commit, by what [`Written`] says.

use super::{
    batch::{Batch, Counters},
    chat,
    flush::{commit, flush},
    node,
    op::{Done, Op},
    peers, rare,
    relay::{
        self,
        arrivals::{Arrivals, Given},
    },
    rows::{Script, Uncommitted},
};
use crate::{
    error::Error,
    types::{Mark, PeerId},
};
use sqlx::SqliteConnection;
use std::collections::{BTreeMap, HashMap};

const BEGIN: &str = "BEGIN IMMEDIATE";

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Failure {
    /// A guard of the op: nobody else's concern.
    Refused(Error),
    Sql(sqlx::Error),
    /// At the COMMIT: whether it is on disk may be unknown.
    Commit(sqlx::Error),
}

impl From<Uncommitted> for Failure {
    fn from(ended: Uncommitted) -> Self {
        match ended {
            Uncommitted::Before(cause) => Self::Sql(cause),
            Uncommitted::Commit(cause) => Self::Commit(cause),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(cause: sqlx::Error) -> Self {
        Self::Sql(cause)
    }
}

/// What the file says, as of the last commit; so that guards are checked and
/// numbers given without asking it.
pub(super) struct Known {
    pub(super) counters: Counters,
    streams_in: HashMap<PeerId, Mark>,
    arrivals: Arrivals,
}

impl Known {
    pub(super) async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let counters = node::counters(connection).await?;
        let streams_in = peers::marks(connection).await?;
        let heads = relay::slots::heads(connection).await?;
        Ok(Self { counters, streams_in, arrivals: Arrivals::new(counters.created, heads) })
    }

    /// Learns what a transaction did, after its commit.
    pub(super) fn learn(&mut self, written: &Written) {
        self.counters = written.counters;
        self.streams_in.extend(&written.marked);
        self.arrivals.advance(&written.given);
    }
}

/// What a transaction did.
pub(super) struct Written {
    pub(super) results: Vec<Result<Done, Error>>,
    pub(super) counters: Counters,
    marked: BTreeMap<PeerId, Mark>,
    pub(super) given: Given,
}

/// The rows of all ops, kind by kind. A refused op adds nothing.
pub(super) async fn grouped(
    connection: &mut SqliteConnection,
    ops: &[&Op],
    known: &Known,
    full: Option<&Error>,
) -> Result<Written, Failure> {
    let said = chat::said(connection, ops.iter().flat_map(|op| &op.changes)).await?;
    let mut batch = Batch::new(known.counters, &known.streams_in, &known.arrivals, &said);
    let admit = |(at, op): (usize, &&Op)| match full {
        Some(refusal) if op.grows() => Err(refusal.clone()),
        _ => batch.admit(&op.changes, at),
    };
    let mut results: Vec<Result<Done, Error>> = ops.iter().enumerate().map(admit).collect();
    let mut script = Script::default();
    script.add(BEGIN);
    let flushed = commit(connection, script, &batch).await?;
    for (peer, settled) in &batch.settled {
        if let (Ok(done), Some(gone)) = (&mut results[settled.done], flushed.gone.get(peer)) {
            done.gone[settled.gone] = *gone;
        }
    }
    for done in results.iter_mut().flatten() {
        done.push_repeats = flushed.repeats && !done.pushed.is_empty();
    }
    Ok(Written { results, counters: batch.counters, marked: batch.marked, given: batch.relay.given })
}

/// One op with rare changes: each of them alone, those between them together.
pub(super) async fn alone(
    connection: &mut SqliteConnection,
    op: &Op,
    known: &Known,
    full: Option<&Error>,
) -> Result<Written, Failure> {
    run(connection, BEGIN).await?;
    let (mut counters, mut marked, mut given) = (known.counters, BTreeMap::new(), Given::default());
    if let Some(refusal) = full.filter(|_| op.grows()) {
        return Err(Failure::Refused(refusal.clone()));
    }
    let mut done = Done {
        numbers: counters.number..counters.number,
        cursors: counters.cursor..counters.cursor,
        pushed: counters.push.next..counters.push.next,
        ..Done::default()
    };
    for changes in op.changes.chunk_by(|one, next| one.is_grouped() && next.is_grouped()) {
        if let [rare] = changes
            && !rare.is_grouped()
        {
            rare::apply(connection, rare, &mut counters, &mut done).await?;
            continue;
        }
        let said = chat::said(connection, changes).await?;
        let mut batch = Batch { marked, ..Batch::new(counters, &known.streams_in, &known.arrivals, &said) };
        batch.relay.given = given;
        let mut admitted = batch.admit(changes, 0).map_err(Failure::Refused)?;
        let flushed = flush(connection, &batch).await?;
        for (peer, settled) in &batch.settled {
            admitted.gone[settled.gone] = flushed.gone.get(peer).copied().unwrap_or_default();
        }
        done.push_repeats |= flushed.repeats;
        done.gone.append(&mut admitted.gone);
        (counters, marked, given) = (batch.counters, batch.marked, batch.relay.given);
    }
    run(connection, "COMMIT").await.map_err(Failure::Commit)?;
    given.dropped.clone_from(&done.dropped);
    done.numbers.end = counters.number;
    done.cursors.end = counters.cursor;
    done.pushed.end = counters.push.next;
    Ok(Written { results: vec![Ok(done)], counters, marked, given })
}

pub(super) async fn run(connection: &mut SqliteConnection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(|_| ())
}
