//! A request's body, as its address may send it: not faster than its rate, no
//! more at once than there is room for, and a message that began must end.

use crate::{
    error::Error,
    net::{
        limits::{Held, Limits},
        messages::Messages,
    },
};
use bytes::Bytes;
use http::header;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::Status;

/// The longest a body is held back for its address's sake at a time.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Metered {
    body: Incoming,
    messages: Messages,
    held: Arc<Held>,
    limits: Limits,
    address: IpAddr,
    /// For the address's sake.
    pause: Option<Pin<Box<Sleep>>>,
    /// A message that began must be whole after this time, and by then.
    patience: Duration,
    due: Option<Pin<Box<Sleep>>>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Metered {
    pub(super) fn new(
        headers: &http::HeaderMap,
        body: Incoming,
        (limits, address): (Limits, IpAddr),
        held: Arc<Held>,
        patience: Duration,
    ) -> Self {
        let messages = Messages::of(headers.get(header::CONTENT_TYPE).map_or(b"", |kind| kind.as_bytes()));
        Self { body, messages, held, limits, address, pause: None, patience, due: None }
    }

    fn count(&mut self, bytes: &Bytes) -> Result<(), Status> {
        let unfinished = self.messages.feed(bytes);
        self.held.came(bytes.len() as u64, unfinished).map_err(Error::from)?;
        let pause = self.limits.charge(self.address, bytes.len()).min(LONGEST_PAUSE);
        if !pause.is_zero() {
            self.pause = Some(Box::pin(sleep(pause)));
        }
        match &mut self.due {
            due if unfinished == 0 => *due = None,
            // The time we take is not the caller's.
            Some(due) => {
                let later = due.deadline() + pause;
                due.as_mut().reset(later);
            }
            due => *due = Some(Box::pin(sleep_until(Instant::now() + self.patience + pause))),
        }
        Ok(())
    }

    fn too_late(&self) -> Status {
        let seconds = self.patience.as_secs();
        Status::deadline_exceeded(format!("request: a message was not whole {seconds} s after it began; send it again"))
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let late = self.due.as_mut().is_some_and(|due| due.as_mut().poll(cx).is_ready());
            return if late { Poll::Ready(Some(Err(self.too_late().into()))) } else { Poll::Pending };
        };
        let counted = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(Ok(()), |bytes| self.count(bytes)),
            _ => Ok(()),
        };
        Poll::Ready(match counted {
            Ok(()) => frame.map(|frame| frame.map_err(Failure::from)),
            Err(refusal) => Some(Err(refusal.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
