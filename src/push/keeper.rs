//! What time does to the log: rows leave the window, and it is closed when no
//! gateway was there for long.
//!
//! Works in small ops, so that nobody waits long behind it.

use super::{Push, window};
use crate::{error::Error, store::push::Change as Row, types::Millis};
use std::time::Duration;
use tokio::time::{Instant, interval_at, sleep};

/// Between two looks for what has left the window, while the log grows.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is old is looked for so often at least.
const LOOK_AT_LEAST: Duration = Duration::from_secs(60);

impl Push {
    /// Until the node stops.
    pub(super) async fn keep(self) {
        let age = self.0.config.window_age;
        let every = window::note_every(age).min(LOOK_AT_LEAST);
        let (mut head, mut ticks) = (self.0.store.push_head(), interval_at(Instant::now() + every, every));
        loop {
            let grown = tokio::select! {
                Ok(()) = head.changed() => true,
                _ = ticks.tick() => false,
                () = self.0.stop.cancelled() => return,
            };
            if grown && self.0.stop.run_until_cancelled(sleep(LOOK_EVERY.min(age / 8))).await.is_none() {
                return;
            }
            head.borrow_and_update();
            if let Err(error) = self.note_or_close(Millis::now()).await {
                tracing::warn!(%error, "that gateways are there could not be noted; trying again");
            }
            if let Some(Err(error)) = self.0.stop.run_until_cancelled(self.trim()).await {
                tracing::warn!(%error, "old events for gateways could not be cleared away; trying again");
            }
        }
    }

    /// That a gateway is there is noted; that none was for a window closes the log.
    async fn note_or_close(&self, now: Millis) -> Result<(), Error> {
        if !self.0.gateways.is_empty() {
            return self.note_gateway(now).await;
        }
        // Who subscribes meanwhile waits for it, and opens the log again.
        let seen = self.0.seen.lock().await;
        let (seen_before, quiet) = ((!seen.here).then_some(seen.at), seen.since.elapsed());
        let is_over = || window::is_over(seen_before, now, quiet, self.0.config.window_age);
        if !self.wanted() || !self.0.gateways.is_empty() || !is_over() {
            return Ok(());
        }
        // The cursor that it takes is the floor.
        let done = self.0.store.submit(Row::Close).await?;
        self.raise_floor(done.pushed.start);
        tracing::info!("no gateway was here for push.window_age; events are kept again once one subscribes");
        Ok(())
    }

    /// What has left the window goes.
    pub(super) async fn trim(&self) -> Result<(), Error> {
        let config = &self.0.config;
        // One does it, and the others find it done.
        let _turn = self.0.trimming.lock().await;
        loop {
            let before = Millis::now().minus(config.window_age);
            let Some(through) = self.0.store.push_excess(before, config.window_events).await? else { return Ok(()) };
            self.raise_floor(through);
            self.0.store.submit(Row::Trim { through }).await?;
        }
    }
}
