//! From the backend into the hub, for as long as the gateway runs.
//!
//! Its one task takes each event when the one before is handed on. Never waits
//! for a client. Ends only when told, or when the backend refuses for good.

use super::{cursor::Cursor, event::Event, hub::Hub, saved::Mark};
use crate::{
    client::{Error, Fed, Push},
    proto::galaxy::backend::push::v1::{PushEvent, push_event::Kind},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
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
        let mut handed_on = self.saved.filter(|mark| mark.start < mark.cursor).map(|mark| mark.cursor.to_string());
        let mut feed = self.push.feed(&start);
        let mut away = false;
        loop {
            let fed = match stop.run_until_cancelled(timeout(REPEATS, feed.next())).await {
                None => return Ok(()),
                Some(Ok(fed)) => fed.map_err(|error| self.refused(&error))?,
                Some(Err(_)) => {
                    if self.hub.standing().subscribed && self.hub.is_catching_up() {
                        self.hub.caught_up();
                    }
                    continue;
                }
            };
            match fed {
                Fed::Subscribed { gapless: true } => {
                    tracing::info!(gateway = self.push.gateway(), "subscribed; nothing was missed");
                    self.hub.set_subscribed(true);
                    away = false;
                }
                Fed::Subscribed { gapless: false } => {
                    // The backend kept less than we did; what we handed on it may still know.
                    if let Some(cursor) = handed_on.take() {
                        feed.restart(&cursor);
                        continue;
                    }
                    self.hub.begin_anew();
                    tracing::warn!(
                        gateway = self.push.gateway(),
                        "subscribed from now on: what came before is not known; all clients are validated anew"
                    );
                    self.hub.set_subscribed(true);
                    away = false;
                }
                Fed::Event(event) => {
                    handed_on = None;
                    self.take(event)?;
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
