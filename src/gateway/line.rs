//! One client's stream, whatever carries it: how it begins, what comes, when
//! it is quiet, and how it ends.
//!
//! Polled by whoever writes to the client; has no task of its own.

use super::{
    event::Signer,
    hub::{Admitted, Place},
    ring::{Kept, Resume},
    words::{End, Ready, Said},
};
use crate::types::{Cursor, Millis};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How long an event is waited for that a client has seen and this gateway has
/// not: the feed repeats it right after a restart, or never.
const AHEAD: Duration = Duration::from_secs(5);
/// Clients that lost one gateway at one moment do not come back at one moment.
const RETRY_MS: std::ops::Range<u64> = 1_000..4_000;

pub struct Line {
    place: Place,
    signer: Arc<Signer>,
    begin: VecDeque<Said>,
    /// The session's end.
    expires: Option<Instant>,
    /// Until when which event is waited for.
    ahead: Option<(Instant, Cursor)>,
    quiet: Duration,
    done: bool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("seat", &self.place.seat).finish_non_exhaustive()
    }
}

impl Line {
    /// `last`: the event the client named. `quiet`: after which it is told
    /// that nothing came.
    pub fn new(admitted: Admitted, signer: Arc<Signer>, last: Option<&str>, quiet: Duration) -> Self {
        let Admitted { place, resume, newest } = admitted;
        let who = &place.seat.who;
        let ready = Ready {
            gateway: signer.gateway.clone(),
            key: signer.public().to_string(),
            user_id: who.user.clone(),
            device_session_id: who.session.clone(),
            expires_at: who.expires_at,
            resumed: matches!(resume, Resume::After(_) | Resume::Ahead(_)),
        };
        let id = match resume {
            Resume::Fresh | Resume::Gone => newest,
            Resume::After(cursor) | Resume::Ahead(cursor) => Some(cursor),
        };
        let spread = getrandom::u64().unwrap_or(0) % (RETRY_MS.end - RETRY_MS.start);
        let retry_ms = RETRY_MS.start + spread;
        let mut begin = VecDeque::from([Said::Ready { id, ready: Box::new(ready), retry_ms }]);
        if resume == Resume::Gone {
            begin.push_back(Said::Reset { id, last: last.unwrap_or_default().to_owned() });
        }
        let now = Instant::now();
        let expires = (who.expires_at > 0).then(|| {
            let left = who.expires_at.saturating_sub(Millis::now().0);
            now.checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
        });
        let ahead = if let Resume::Ahead(cursor) = resume { Some((now + AHEAD, cursor)) } else { None };
        Self { place, signer, begin, expires: expires.flatten(), ahead, quiet, done: false }
    }

    /// The next thing to tell the client; `None` after its end. May be dropped
    /// and called again.
    pub async fn next(&mut self) -> Option<Said> {
        if self.done {
            return None;
        }
        let quiet = Instant::now() + self.quiet;
        loop {
            if self.expires.is_some_and(|at| Instant::now() >= at) {
                return Some(self.close(End::Expired));
            }
            if let Some(end) = self.place.seat.ended() {
                return Some(self.close(end));
            }
            if let Some(said) = self.begin.pop_front() {
                return Some(said);
            }
            if let Some(event) = self.place.seat.next() {
                return Some(Said::Event { id: event.cursor(), envelope: event.envelope(&self.signer) });
            }
            if let Some(said) = self.given_up() {
                return Some(said);
            }
            tokio::select! {
                () = self.place.seat.changed() => {}
                () = until(self.expires) => {}
                () = until(self.ahead.map(|(at, _)| at)) => {}
                () = sleep_until(quiet) => return Some(Said::Quiet),
            }
        }
    }

    fn close(&mut self, end: End) -> Said {
        self.done = true;
        Said::Closed(end)
    }

    /// The event that was waited for did not come.
    fn given_up(&mut self) -> Option<Said> {
        let (at, cursor) = self.ahead?;
        let newest = self.place.hub().newest();
        let came = newest >= Some(cursor);
        if !came && Instant::now() < at {
            return None;
        }
        self.ahead = None;
        if came {
            return None;
        }
        self.place.seat.not_ahead();
        Some(Said::Reset { id: newest, last: cursor.to_string() })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
