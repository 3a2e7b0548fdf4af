//! Who watches which session.
//!
//! Owns the open streams: whom to wake, the view they share, and each one's part
//! of how many there may be. Never reads a row.

use super::Caller;
use crate::{error::Error, identity::principal::Principal, proto::pillarbox::relay::v1 as wire};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{sync::Notify, time::Instant};

/// Open streams of all callers together, of all parties, and of one party. The
/// operator is not counted: nobody keeps it from looking.
const STREAMS: usize = 4_096;
const OF_PARTIES: usize = STREAMS / 4 * 3;
const OF_A_PARTY: usize = 32;

#[derive(Debug, Default)]
pub struct Watchers {
    /// So that a message costs nothing when nobody watches.
    count: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_session: HashMap<String, Arc<Watched>>,
    counted: Counted,
}

/// A session that somebody watches.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// One for each stream.
    wakes: Mutex<BTreeMap<u64, Arc<Notify>>>,
    /// Messages in its view that parties elsewhere have not done with; `None`
    /// while it is made.
    afar: Mutex<Option<HashSet<u64>>>,
    /// The last view, and when it was begun; made once for all streams.
    pub view: tokio::sync::Mutex<Option<(Instant, Arc<wire::View>)>>,
}

impl Watched {
    fn wakes(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn afar(&self) -> MutexGuard<'_, Option<HashSet<u64>>> {
        self.afar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_afar(&self, messages: Option<HashSet<u64>>) {
        *self.afar() = messages;
    }

    fn wake(&self) {
        self.wakes().values().for_each(|wake| wake.notify_one());
    }
}

/// How many streams there are, but for the operator's.
#[derive(Debug, Default)]
struct Counted {
    all: usize,
    of_parties: usize,
    by_party: HashMap<String, usize>,
}

impl Counted {
    fn add(&mut self, caller: &Caller) -> Result<(), Error> {
        let Caller::Principal(principal) = caller else { return Ok(()) };
        let full = |most: usize, whose: &str| {
            Err(Error::exhausted(format!("{most} streams of {whose} watch sessions already; end one of them")))
        };
        if self.all >= STREAMS {
            return full(STREAMS, "all callers");
        }
        if let Principal::Party(party) = principal {
            if self.of_parties >= OF_PARTIES {
                return full(OF_PARTIES, "all parties");
            }
            let own = self.by_party.entry(party.clone()).or_default();
            if *own >= OF_A_PARTY {
                return full(OF_A_PARTY, &principal.to_string());
            }
            *own += 1;
            self.of_parties += 1;
        }
        self.all += 1;
        Ok(())
    }

    fn remove(&mut self, caller: &Caller) {
        let Caller::Principal(principal) = caller else { return };
        self.all -= 1;
        if let Principal::Party(party) = principal
            && let Some(own) = self.by_party.get_mut(party)
        {
            *own -= 1;
            self.of_parties -= 1;
            if *own == 0 {
                self.by_party.remove(party);
            }
        }
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened in a session.
    pub fn changed(&self, session: &str) {
        if !self.is_idle()
            && let Some(watched) = self.lock().by_session.get(session)
        {
            watched.wake();
        }
    }

    /// Another server told of these messages.
    pub fn told(&self, messages: &[u64]) {
        if self.is_idle() {
            return;
        }
        for watched in self.lock().by_session.values() {
            let concerned = {
                let afar = watched.afar();
                afar.as_ref().is_none_or(|afar| messages.iter().any(|number| afar.contains(number)))
            };
            if concerned {
                watched.wake();
            }
        }
    }

    pub fn is_idle(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// Another stream, and what wakes it. Each one that was added is removed
    /// once, by the same caller.
    pub(super) fn add(&self, session: &str, caller: &Caller) -> Result<(u64, Arc<Watched>, Arc<Notify>), Error> {
        let mut open = self.lock();
        open.counted.add(caller)?;
        self.count.fetch_add(1, Relaxed);
        open.next += 1;
        let (id, wake) = (open.next, Arc::new(Notify::new()));
        let watched = open.by_session.entry(session.to_owned()).or_default().clone();
        watched.wakes().insert(id, wake.clone());
        Ok((id, watched, wake))
    }

    pub(super) fn remove(&self, session: &str, caller: &Caller, id: u64) {
        let mut open = self.lock();
        let Some(watched) = open.by_session.get(session).cloned() else { return };
        let mut wakes = watched.wakes();
        if wakes.remove(&id).is_none() {
            return;
        }
        self.count.fetch_sub(1, Relaxed);
        open.counted.remove(caller);
        if wakes.is_empty() {
            open.by_session.remove(session);
        }
    }
}

#[cfg(test)]
mod tests;
