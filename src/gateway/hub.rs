//! The clients of a gateway: who is there, what came lately, who gets what.
//!
//! Owns the ring and the seats; decides whom an event or an ended session
//! concerns. Never waits, never writes to a client, never asks the backend.

use super::{
    event::Event,
    ring::{Kept, Resume, Ring},
    saved::Mark,
    seat::{Bounds, Seat},
    words::End,
};
use crate::{
    proto::galaxy::backend::push::v1::SessionInvalidation,
    types::{Cursor, Millis},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a gateway has room for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections; those beyond are closed without a word. Some more than
    /// clients, so that who has no room is told.
    pub connections: usize,
    /// Streams of clients.
    pub clients: usize,
    /// Streams of one user.
    pub clients_per_user: usize,
    /// Events kept for clients that come back, and their size.
    pub ring_events: usize,
    pub ring_bytes: usize,
    /// What may wait for one client, besides what it resumed with.
    pub queue: Bounds,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 11_024,
            clients: 10_000,
            clients_per_user: 20,
            ring_events: 10_000,
            ring_bytes: 64 << 20,
            queue: Bounds { events: 1_000, bytes: 4 << 20 },
        }
    }
}

/// Whose a client is, by the backend's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    pub user: String,
    pub session: String,
    /// Unix milliseconds; 0: never.
    pub expires_at: i64,
}

/// Why a client gets no stream now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too many clients.
    Full,
    /// Too many of this user.
    UserFull,
    /// Its session ended while it was looked up.
    Revoked,
    /// So much happened while it was looked up that it must be looked up again.
    Again,
}

/// A moment in the gateway's life, taken before the backend is asked about a
/// client.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

/// Ended sessions that are remembered for those being looked up.
const ENDINGS: usize = 1_024;

#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    ring: Ring<Event>,
    /// The seats of each user that has any.
    users: HashMap<String, Vec<Arc<Seat>>>,
    seats: usize,
    /// What ended lately, and how many ended in all.
    endings: VecDeque<Ending>,
    ended: u64,
    /// What a former life had handed on; until it came again, nobody is let in.
    catching_up: Option<Cursor>,
    stopping: bool,
    subscribed: bool,
    since: Millis,
}

#[derive(Debug)]
enum Ending {
    Session(SessionInvalidation),
    Everything,
}

fn concerns(ended: &SessionInvalidation, user: &str, session: &str) -> bool {
    match ended.device_session_id.as_str() {
        "" => !ended.user_id.is_empty() && ended.user_id == user,
        named => named == session && (ended.user_id.is_empty() || ended.user_id == user),
    }
}

/// How the gateway stands with its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub subscribed: bool,
    /// Since when.
    pub since: Millis,
    /// Takes clients as far as the hub is concerned.
    pub open: bool,
}

impl Hub {
    /// `saved`: what a former life had handed on.
    pub fn new(limits: Limits, saved: Option<Mark>) -> Self {
        let mut ring = Ring::new(limits.ring_events, limits.ring_bytes);
        ring.begin_after(saved.map(|mark| mark.start));
        let inner = Inner {
            ring,
            users: HashMap::new(),
            seats: 0,
            endings: VecDeque::new(),
            ended: 0,
            catching_up: Some(saved.map_or(Cursor(0), |mark| mark.cursor)),
            stopping: false,
            subscribed: false,
            since: Millis::now(),
        };
        Self { limits, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change under this lock is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribed, or not any more.
    pub fn set_subscribed(&self, subscribed: bool) {
        let mut inner = self.inner();
        if inner.subscribed != subscribed {
            (inner.subscribed, inner.since) = (subscribed, Millis::now());
        }
        if subscribed && inner.ring.newest() >= inner.catching_up {
            inner.catching_up = None;
        }
    }

    pub fn standing(&self) -> Standing {
        let inner = self.inner();
        let open = inner.catching_up.is_none() && !inner.stopping;
        Standing { subscribed: inner.subscribed, since: inner.since, open }
    }

    /// What a next life needs to know.
    pub fn mark(&self) -> Option<Mark> {
        let inner = self.inner();
        Some(Mark { start: inner.ring.floor()?, cursor: inner.ring.newest()? })
    }

    pub fn is_catching_up(&self) -> bool {
        self.inner().catching_up.is_some()
    }

    /// What was kept is not told again; what comes after this cursor is.
    pub fn begin_after(&self, cursor: Cursor) {
        let mut inner = self.inner();
        inner.ring.begin_after(Some(cursor));
        inner.catching_up = Some(cursor);
    }

    /// All that was handed on before has come again.
    pub fn caught_up(&self) {
        self.inner().catching_up = None;
    }

    /// Hands an event on. False: it came before.
    pub fn publish(&self, event: Event) -> bool {
        let mut inner = self.inner();
        let event = Arc::new(event);
        if !inner.advance(event.cursor()) {
            return false;
        }
        inner.ring.push(event.clone());
        let mine = |seat: &&Arc<Seat>| event.is_for(&seat.who.user, &seat.who.session);
        match event.user() {
            "" => inner.users.values().flatten().filter(mine).for_each(|seat| seat.push(&event)),
            user => inner.users.get(user).into_iter().flatten().filter(mine).for_each(|seat| seat.push(&event)),
        }
        true
    }

    /// Ends the streams of a session, or of a user when none is named.
    pub fn invalidate(&self, cursor: Cursor, ended: SessionInvalidation) {
        let mut inner = self.inner();
        inner.advance(cursor);
        let concerned = |seat: &&Arc<Seat>| concerns(&ended, &seat.who.user, &seat.who.session);
        let end = |seat: &Arc<Seat>| seat.end(End::Revoked(ended.reason.clone()));
        match ended.user_id.as_str() {
            "" => inner.users.values().flatten().filter(concerned).for_each(end),
            user => inner.users.get(user).into_iter().flatten().filter(concerned).for_each(end),
        }
        inner.note(Ending::Session(ended));
    }

    /// Something that concerns no client came.
    pub fn pass(&self, cursor: Cursor) {
        self.inner().advance(cursor);
    }

    /// The feed begins anew: whoever is here may have been signed out without
    /// our hearing of it, and what came since is not known.
    pub fn begin_anew(&self) {
        let mut inner = self.inner();
        inner.ring.begin_after(None);
        inner.catching_up = None;
        inner.users.values().flatten().for_each(|seat| seat.end(End::Revalidate));
        inner.note(Ending::Everything);
    }

    /// Ends all streams and takes no more.
    pub fn stop(&self) {
        let mut inner = self.inner();
        inner.stopping = true;
        inner.users.values().flatten().for_each(|seat| seat.end(End::Stopping));
    }

    /// To be taken before the backend is asked who a client is.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.inner().ended)
    }

    /// Gives a client its seat. `ticket`: from before it was looked up, so that
    /// no end of its session falls between.
    pub fn admit(self: &Arc<Self>, ticket: Ticket, who: Who, last: Option<&str>) -> Result<Admitted, Refused> {
        let mut inner = self.inner();
        if inner.stopping || inner.catching_up.is_some() {
            return Err(Refused::Again);
        }
        inner.still_valid(ticket, &who)?;
        if inner.seats >= self.limits.clients {
            return Err(Refused::Full);
        }
        if inner.users.get(&who.user).map_or(0, Vec::len) >= self.limits.clients_per_user {
            return Err(Refused::UserFull);
        }
        let resume = inner.ring.resume(last);
        let waiting: VecDeque<_> = match resume {
            Resume::After(cursor) => {
                let mine = |event: &&Arc<Event>| event.is_for(&who.user, &who.session);
                inner.ring.after(cursor).filter(mine).cloned().collect()
            }
            _ => VecDeque::new(),
        };
        let newest = inner.ring.newest();
        let ahead = if let Resume::Ahead(cursor) = resume { Some(cursor) } else { None };
        let seat = Arc::new(Seat::new(who, self.limits.queue, waiting, ahead));
        inner.users.entry(seat.who.user.clone()).or_default().push(seat.clone());
        inner.seats += 1;
        drop(inner);
        Ok(Admitted { place: Place { hub: self.clone(), seat }, resume, newest })
    }

    pub fn newest(&self) -> Option<Cursor> {
        self.inner().ring.newest()
    }

    /// Streams there are.
    pub fn clients(&self) -> usize {
        self.inner().seats
    }
}

impl Inner {
    fn advance(&mut self, cursor: Cursor) -> bool {
        let new = self.ring.advance(cursor);
        if self.catching_up.is_some_and(|until| cursor >= until) {
            self.catching_up = None;
        }
        new
    }

    fn note(&mut self, ending: Ending) {
        if self.endings.len() == ENDINGS {
            self.endings.pop_front();
        }
        self.endings.push_back(ending);
        self.ended += 1;
    }

    fn still_valid(&self, ticket: Ticket, who: &Who) -> Result<(), Refused> {
        let missed = usize::try_from(self.ended - ticket.0).unwrap_or(usize::MAX);
        if missed > self.endings.len() {
            return Err(Refused::Again);
        }
        for ending in self.endings.range(self.endings.len() - missed..) {
            match ending {
                Ending::Everything => return Err(Refused::Again),
                Ending::Session(ended) if concerns(ended, &who.user, &who.session) => return Err(Refused::Revoked),
                Ending::Session(_) => {}
            }
        }
        Ok(())
    }
}

/// A client that was let in.
#[derive(Debug)]
pub struct Admitted {
    pub place: Place,
    pub resume: Resume,
    /// The newest event then.
    pub newest: Option<Cursor>,
}

/// A client's seat; dropping it frees the seat.
#[derive(Debug)]
pub struct Place {
    hub: Arc<Hub>,
    pub seat: Arc<Seat>,
}

impl Place {
    pub fn hub(&self) -> &Hub {
        &self.hub
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        if let Some(seats) = inner.users.get_mut(&self.seat.who.user) {
            seats.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
            if seats.is_empty() {
                inner.users.remove(&self.seat.who.user);
            }
        }
        inner.seats = inner.seats.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
