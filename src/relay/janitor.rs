//! What time does to the relay's rows, and what is written in passing.
//!
//! Works in small ops, so that nobody waits long behind it.

use super::Relay;
use crate::{
    error::Error,
    store::{
        Change, ROWS_AN_OP,
        relay::{BodyBytes, Change as Row},
    },
    types::{Millis, PartyRef, PeerId},
};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What was handed to subscribers is written so often.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Bodies of which nobody waits any more go together. Senders at their quota wait for it.
const GATHER: Duration = Duration::from_millis(20);
/// Between two tries while the file cannot be written.
const AGAIN: Duration = Duration::from_secs(1);
/// Rows of what is over are looked for so often, and more often where they are kept for less.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Rows of one op written in passing.
const CHUNK: usize = 1_024;

impl Relay {
    /// Writes in passing, until the node stops; then a last time.
    pub(super) async fn write(self) {
        loop {
            let pause = async {
                self.0.writing.notified().await;
                let _ = timeout(WRITE_EVERY, self.0.full.notified()).await;
            };
            let stopping = self.0.stop.run_until_cancelled(pause).await.is_none();
            if let Err(error) = self.write_passing().await {
                // The pause before each try is the back-off.
                tracing::debug!(%error, "what was delivered could not be written; trying again");
                self.0.writing.notify_one();
            }
            if stopping {
                return;
            }
        }
    }

    async fn write_passing(&self) -> Result<(), Error> {
        let sent: Vec<_> = self.passing().iter().map(|(seq, sent)| (*seq, *sent)).collect();
        for chunk in sent.chunks(CHUNK) {
            let rows = chunk.iter().map(|(seq, sent)| Row::Sent { seq: *seq, at: sent.at, retries: sent.retries });
            self.0.store.submit(rows.map(Change::Relay).collect::<Vec<_>>()).await?;
            let mut passing = self.passing();
            for (seq, sent) in chunk {
                // Unless it was sent again meanwhile.
                if passing.get(seq).is_some_and(|now| now.retries == sent.retries) {
                    passing.remove(seq);
                }
            }
        }
        if !sent.is_empty() {
            self.0.reporting.notify_one();
        }
        Ok(())
    }

    /// Frees the bodies of messages that all recipients are done with.
    pub(super) async fn free(self) {
        loop {
            let pause = async {
                self.0.freeing.notified().await;
                sleep(GATHER).await;
            };
            if self.0.stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            if let Err(error) = self.free_bodies().await {
                tracing::debug!(%error, "payloads could not be freed; trying again");
                self.0.freeing.notify_one();
                self.0.stop.run_until_cancelled(sleep(AGAIN)).await;
            }
        }
    }

    async fn free_bodies(&self) -> Result<(), Error> {
        loop {
            let done = self.0.store.submit(Change::Relay(Row::FreeBodies { limit: ROWS_AN_OP })).await?;
            if done.freed.is_empty() {
                return Ok(());
            }
            self.note_freed(done.freed);
        }
    }

    /// The room of payloads that are gone may be taken again.
    fn note_freed(&self, freed: Vec<BodyBytes>) {
        let mut router = self.router();
        for freed in freed {
            let sender = PartyRef { peer: freed.origin, name: freed.sender };
            router.freed(&freed.session, &sender, freed.bytes);
        }
    }

    /// Ends what is over, until the node stops.
    pub(super) async fn sweep(self) {
        let every = SWEEP_EVERY.min(self.0.config.retention / 4);
        loop {
            let stopping = self.0.stop.run_until_cancelled(sleep(every)).await.is_none();
            let swept = match stopping {
                true => self.write_touched().await,
                false => self.sweep_once().await,
            };
            if let Err(error) = swept {
                tracing::warn!(%error, "what is over could not be cleared away; trying again");
            }
            if stopping {
                return;
            }
        }
    }

    async fn sweep_once(&self) -> Result<(), Error> {
        self.write_touched().await?;
        let now = Millis::now();
        let failed = self.fail_expired(now).await?;
        if failed > 0 {
            tracing::info!(deliveries = failed, "messages expired before they were acknowledged");
            self.0.metrics.deliveries_expired.inc_by(failed);
            self.0.reporting.notify_one();
            self.0.freeing.notify_one();
        }
        // What became of a message can be asked for as long again.
        let before = now.minus(self.0.config.retention);
        self.repeat(|limit| Row::TrimMessages { expired_before: before, limit }).await?;
        self.repeat(|limit| Row::TrimEvents { expired_before: now, limit }).await?;
        let over = {
            let streams = self.streams();
            self.router().expire(now, |session| streams.subscriptions.in_use(session))
        };
        over.iter().for_each(|session| self.0.watchers.changed(session));
        for chunk in over.chunks(CHUNK) {
            self.repeat(|_| Row::DropSessions { sessions: chunk.to_vec(), until: now }).await?;
        }
        Ok(())
    }

    async fn fail_expired(&self, now: Millis) -> Result<u64, Error> {
        let mut total = 0;
        loop {
            let change = Row::FailExpired { now, limit: ROWS_AN_OP };
            let expired = self.0.store.submit(Change::Relay(change)).await?.expired;
            if expired.is_empty() {
                return Ok(total);
            }
            total += expired.len() as u64;
            for delivery in expired.into_iter().filter(|delivery| delivery.party.peer == PeerId::SELF) {
                self.finished(&delivery.party.name, &delivery.session, delivery.seq, delivery.origin);
            }
        }
    }

    /// Repeats a change until it finds nothing more.
    async fn repeat(&self, change: impl Fn(usize) -> Row) -> Result<(), Error> {
        loop {
            let done = self.0.store.submit(Change::Relay(change(ROWS_AN_OP))).await?;
            self.note_freed(done.freed);
            if done.gone.iter().all(|gone| gone.rows == 0) {
                return Ok(());
            }
        }
    }

    async fn write_touched(&self) -> Result<(), Error> {
        let sessions = self.router().touched();
        for chunk in sessions.chunks(CHUNK) {
            self.0.store.submit(Change::Relay(Row::TouchSessions(chunk.to_vec()))).await?;
        }
        let parties = self.presence().take_seen();
        for chunk in parties.chunks(CHUNK) {
            self.0.store.submit(Change::Relay(Row::TouchParties(chunk.to_vec()))).await?;
        }
        Ok(())
    }
}
