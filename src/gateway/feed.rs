//! From the backend into the hub, for as long as the gateway runs.
//!
//! Its one task takes each event when the one before is handed on. Never waits
//! for a client. Ends only when told, or when the backend refuses for good.

use super::{event::Event, hub::Hub, saved::Mark};
use crate::{
    client::{Error, Fed, Push},
    proto::galaxy::backend::push::v1::{PushEvent, push_event::Kind},
    types::Cursor,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// A backend that is subscribed to and says nothing for so long repeats nothing.
const REPEATS: Duration = Duration::from_secs(10);

pub struct Feeder {
    pub push: Push,
    pub hub: Arc<Hub>,
    /// What a former life had handed on.
    pub saved: Option<Mark>,
    pub marks: watch::Sender<Option<Mark>>,
}

impl Feeder {
    /// Runs until `stop`; an error is why the gateway cannot go on.
    pub async fn run(self, stop: CancellationToken) -> Result<(), String> {
        let start = self.saved.map(|mark| mark.start.to_string()).unwrap_or_default();
        // What was handed on, if it is not where the ring starts.
        let mut handed_on = self.saved.filter(|mark| mark.start < mark.cursor).map(|mark| mark.cursor);
        let mut feed = self.push.feed(&start);
        let mut away = false;
        loop {
            let repeating = self.hub.standing().subscribed && self.hub.is_catching_up();
            let fed = tokio::select! {
                fed = feed.next() => fed.map_err(|error| self.refused(&error))?,
                () = sleep(REPEATS), if repeating => {
                    self.hub.caught_up();
                    continue;
                }
                () = stop.cancelled() => return Ok(()),
            };
            match fed {
                Fed::Subscribed { gapless } => {
                    if !gapless && let Some(cursor) = handed_on.take() {
                        // The backend kept less than we did; what was handed on it may still know.
                        self.hub.begin_after(cursor);
                        feed.restart(&cursor.to_string());
                        continue;
                    }
                    self.subscribed(gapless);
                    away = false;
                }
                Fed::Event(event) => {
                    self.take(event)?;
                    handed_on = handed_on.filter(|_| self.hub.is_catching_up());
                }
                Fed::Overrun(why) => {
                    self.hub.set_subscribed(false);
                    tracing::warn!(why, "this gateway was too slow and fell out of the backend's window");
                }
                Fed::Away(why) => {
                    self.hub.set_subscribed(false);
                    if !away {
                        tracing::warn!(why, "the backend is away; clients stay, trying again");
                    }
                    away = true;
                }
            }
        }
    }

    fn subscribed(&self, gapless: bool) {
        let gateway = self.push.gateway();
        let known = self.hub.mark().is_some();
        if !gapless {
            self.hub.begin_anew();
        }
        self.hub.set_subscribed(true);
        match (gapless, known) {
            (true, _) => tracing::info!(gateway, "subscribed; nothing was missed"),
            (false, false) => tracing::info!(gateway, "subscribed from now on"),
            (false, true) => tracing::warn!(
                gateway,
                "subscribed from now on: what came since the cursor is not known; all clients are validated anew"
            ),
        }
    }

    fn take(&self, event: PushEvent) -> Result<(), String> {
        let cursor: Cursor = event.cursor.parse().map_err(|_| {
            format!("the backend's cursor {:?} is not twenty digits, as this gateway needs it", event.cursor)
        })?;
        match event.kind {
            Some(Kind::ClientEvent(event)) => {
                if !self.hub.publish(Event::new(cursor, event)) {
                    tracing::debug!(%cursor, "an event came again");
                }
            }
            Some(Kind::SessionInvalidation(ended)) => {
                tracing::debug!(%cursor, user = ended.user_id, session = ended.device_session_id, "a session ended");
                self.hub.invalidate(cursor, ended);
            }
            // Of a contract that is newer than this program.
            None => self.hub.pass(cursor),
        }
        self.marks.send_replace(self.hub.mark());
        Ok(())
    }

    fn refused(&self, error: &Error) -> String {
        self.hub.set_subscribed(false);
        let id = self.push.gateway();
        match error.code() {
            Some(Code::Aborted) => format!(
                "another gateway subscribed as gateway:{id} and took over; \
                 each gateway needs an id of its own (--id) and a token for it"
            ),
            Some(Code::Unauthenticated) => format!(
                "the backend refuses this gateway's token; make one with: pillarbox token new gateway:{id} ({error})"
            ),
            Some(Code::PermissionDenied) => {
                format!("the token is not gateway:{id}'s; make one with: pillarbox token new gateway:{id} ({error})")
            }
            _ => error.to_string(),
        }
    }
}
