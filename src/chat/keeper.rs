//! What time does to chats: after a start heads are compared and words wait for
//! that, and what waited for too long is given up.

use super::{
    Chat,
    room::{Job, Room},
    talk::stops,
};
use crate::{
    error::Error,
    types::{Millis, uuid::Uuid},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// Posts that are too old are looked for so often, and more often where they
/// are kept for less.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(5);
const PAGE: usize = 1_000;
/// From a start on, so long words wait for other nodes that were not heard of.
const SURE_AFTER: Duration = Duration::from_secs(5);

impl Chat {
    /// Shortly after a start words wait until the chat's other nodes told whether
    /// they hold what is forgotten here; one that is silent is not waited for long.
    pub(super) async fn be_sure(&self, room: &Arc<Room>) -> Result<(), Error> {
        let deadline = self.0.opened_at + SURE_AFTER;
        loop {
            let changed = room.is_sure.notified();
            if room.topic().is_sure() {
                return Ok(());
            }
            tokio::select! {
                () = changed => {}
                () = self.0.stop.cancelled() => return Err(stops()),
                () = sleep_until(deadline) => {
                    room.topic().trust();
                    return Ok(());
                }
            }
        }
    }

    /// Until the node stops.
    pub(super) async fn keep(self) {
        while let Err(error) = self.resume().await {
            tracing::warn!(%error, "the chats of other servers could not be read; trying again");
            if self.0.stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                return;
            }
        }
        let every = LOOK_EVERY.min(self.0.max_age / 4).max(Duration::from_millis(50));
        while self.0.stop.run_until_cancelled(sleep(every)).await.is_some() {
            if let Err(error) = self.give_up_overdue().await {
                tracing::warn!(%error, "messages that waited for too long could not be given up; trying again");
            }
        }
    }

    /// What was due when the node stopped, and a comparison of all chats that
    /// others have a part in: this node, or they, may come from a backup.
    async fn resume(&self) -> Result<(), Error> {
        for peer in self.0.store.chat_peers().await? {
            self.compare_from(peer, Instant::now());
        }
        let mut after = 0;
        loop {
            let due = self.0.store.chats_due(after, PAGE).await?;
            let Some((last, _)) = due.last() else { return Ok(()) };
            after = *last;
            for (_, chat) in due {
                if let Some(room) = self.room(chat).await? {
                    self.attend(&room);
                }
            }
        }
    }

    async fn give_up_overdue(&self) -> Result<(), Error> {
        let before = Millis::now().minus(self.0.max_age);
        let overdue = self.0.store.overdue_posts(before, PAGE).await?;
        let mut chats: BTreeMap<Uuid, Vec<i64>> = BTreeMap::new();
        for (chat, place) in overdue {
            chats.entry(chat).or_default().push(place);
        }
        for (chat, places) in chats {
            if let Some(room) = self.room(chat).await? {
                self.add(&room, Job::GiveUp(places))?;
            }
        }
        Ok(())
    }
}
