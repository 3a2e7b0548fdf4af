//! Session events as a stream: each once, in order, over any number of
//! connections.
//!
//! Resumes after the event it read last, as long as the node keeps it; else
//! from the start of what is kept, leaving out what it has seen.

use super::{Shared, error::Error, live::Live, seen::Seen};
use crate::proto::mpc::router::v1::{SessionEvent, SubscribeSessionEventsRequest};
use futures_util::stream;
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio_stream::Stream;
use tonic::metadata::{Ascii, MetadataValue};

/// A stream of session events; made by [`Client::events`](super::Client::events).
///
/// After an error it ends.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Events(Pin<Box<dyn Stream<Item = Result<SessionEvent, Error>> + Send>>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Stream for Events {
    type Item = Result<SessionEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

struct Reader {
    live: Live<SessionEvent>,
    shared: Arc<Shared>,
    types: Vec<String>,
    /// The event read last.
    after: Option<MetadataValue<Ascii>>,
    seen: Seen,
}

impl Events {
    pub(super) fn new(shared: Arc<Shared>, types: Vec<String>) -> Self {
        let live = Live::new(shared.connection.clone());
        let reader = Reader { live, shared, types, after: None, seen: Seen::default() };
        Self(Box::pin(stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(event) => Some((Ok(event), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }
}

impl Reader {
    async fn next(&mut self) -> Result<SessionEvent, Error> {
        let connection = self.shared.connection.clone();
        loop {
            let request = SubscribeSessionEventsRequest {
                party_id: connection.party().to_owned(),
                event_types: self.types.clone(),
            };
            let after = self.after.clone();
            let subscribe = |mut api: super::connection::Api| {
                let mut request = connection.request(request.clone());
                if let Some(after) = &after {
                    request.metadata_mut().insert("after-event-id", after.clone());
                }
                async move { api.subscribe_session_events(request).await }
            };
            let event = self.live.next(subscribe).await?;
            // An id that no header can say: the node begins anew, and what is seen is left out.
            self.after = event.event_id.parse().ok().or(self.after.take());
            let key = (event.session_id.clone(), event.event_id.clone());
            if self.seen.note(key.clone()) {
                self.seen.settle(key);
                return Ok(event);
            }
        }
    }
}
