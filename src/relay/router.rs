//! Sessions, their parties and what they may store: who gets a message, or why
//! it is refused.
//!
//! Pure: no I/O, no clock. It stands behind one lock; what it decided goes to the
//! writer in the order of the decisions. They are in memory at once; `undo` and
//! `undo_announce` take back what the store refused. It knows sizes, no bodies.
//!
//! A session is *settled* once an event named its parties: only they send in it
//! and are sent to. Any other session is *open*: who sends in it or subscribes to
//! it becomes a party, and anybody may be sent to. An event that names nobody
//! makes its server the session's owner and leaves the parties as they are: an
//! open session stays open, a settled one stays settled.

mod names;
mod quota;
mod view;

pub use names::{check_id, check_party, check_session};
pub use quota::Limits;
pub use view::Members;

use crate::{
    error::Error,
    types::{Millis, PartyRef, PeerId},
};
use quota::Senders;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// Why not, by what the caller can do. Each text names the field or the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The same request will never do.
    #[error("{0}")]
    Invalid(String),
    /// This caller may not.
    #[error("{0}")]
    Denied(String),
    /// Something else has to happen first.
    #[error("{0}")]
    Precondition(String),
    /// A quota or limit is reached.
    #[error("{0}")]
    Exhausted(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(message) => Self::Invalid(message),
            Refusal::Denied(message) => Self::Denied(message),
            Refusal::Precondition(message) => Self::Precondition(message),
            Refusal::Exhausted(message) => Self::exhausted(message),
        }
    }
}

/// A session as its rows say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub session: String,
    /// Who announced it first; [`PeerId::SELF`]: this node. `None`: nobody yet.
    pub owner: Option<PeerId>,
    /// An event named the parties; else they came by themselves.
    pub settled: bool,
    pub parties: Vec<PartyRef>,
    pub until: Millis,
}

/// A message that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// In the order given, each once; of a broadcast: sorted.
    pub recipients: Vec<PartyRef>,
    /// The sender became a party: its row and the session's are due in the same
    /// transaction, if they are not there, and `saved` once that is on disk.
    pub joined: bool,
    /// The session is kept until then. A message is kept for the retention.
    pub until: Millis,
}

/// An event that may be written, with the session's row.
#[derive(Debug)]
#[must_use = "the rows are due; if they are not written, undo_announce wants this"]
pub struct Announced {
    /// The session is kept until then.
    pub until: Millis,
    /// The event named parties: they replace the rows of the session's parties.
    pub settles: bool,
    turn: u64,
    before: Membership,
}

#[derive(Debug, Clone, Default)]
struct Membership {
    owner: Option<PeerId>,
    settled: bool,
    parties: BTreeSet<PartyRef>,
    /// Parties whose rows are not known to be on disk.
    unsaved: BTreeSet<PartyRef>,
}

#[derive(Debug, Default)]
struct Session {
    members: Membership,
    until: Millis,
    /// `until` rose since it was handed out; the name is in `Router::touched`.
    touched: bool,
    bytes: u64,
    /// The number of its last announcement.
    turn: u64,
}

/// All sessions of this node.
#[derive(Debug)]
pub struct Router {
    limits: Limits,
    retention: Duration,
    sessions: HashMap<String, Session>,
    senders: Senders,
    touched: Vec<String>,
    turns: u64,
}

impl Router {
    /// From the rows. `saved`: every session's, also of those whose time is over;
    /// `stored`: session, sender and bytes of what is kept, summed up or not.
    pub fn new(
        limits: Limits,
        retention: Duration,
        saved: Vec<Saved>,
        stored: impl IntoIterator<Item = (String, PartyRef, u64)>,
    ) -> Self {
        let session = |saved: Saved| {
            let parties = saved.parties.into_iter().collect();
            let members = Membership { owner: saved.owner, settled: saved.settled, parties, ..Membership::default() };
            (saved.session, Session { members, until: saved.until, ..Session::default() })
        };
        let mut router = Self {
            limits,
            retention,
            sessions: saved.into_iter().map(session).collect(),
            senders: Senders::default(),
            touched: vec![],
            turns: 0,
        };
        for (session, from, bytes) in stored {
            router.sessions.entry(session).or_default().bytes += bytes;
            router.senders.add(&from, bytes);
        }
        router
    }

    /// Who gets a message of a local sender; takes its room in the quotas.
    ///
    /// `to`: empty is a broadcast, to the session's parties except the sender; a
    /// broadcast that would reach nobody is refused ([`Refusal::Precondition`]),
    /// for it would be lost without a word. `bytes`: what the message counts, once
    /// for all recipients; the same number is given back later.
    pub fn route(
        &mut self,
        now: Millis,
        session: &str,
        from: &PartyRef,
        to: &[PartyRef],
        bytes: u64,
    ) -> Result<Routed, Refusal> {
        check_session(session)?;
        check_party("from_party", &from.name)?;
        let known = self.sessions.get(session);
        let settled = known.filter(|known| known.members.settled).map(|known| &known.members.parties);
        if settled.is_some_and(|parties| !parties.contains(from)) {
            return Err(Refusal::Denied(format!("from_party: {} is not a party of this session", from.name)));
        }
        let recipients = match to.is_empty() {
            true => everyone_else(&self.limits, known, from)?,
            false => named(&self.limits, settled, from, to)?,
        };
        self.check_place(session, from)?;
        let taken = known.map_or(0, |known| known.bytes);
        self.limits.check_bytes(taken, self.senders.taken(from), from, bytes)?;

        // Nothing is refused from here on.
        self.senders.add(from, bytes);
        let until = now.plus(self.retention);
        let known = self.enter(session, until);
        known.bytes = known.bytes.saturating_add(bytes);
        let joined = known.members.join(from);
        Ok(Routed { recipients, joined, until: known.until })
    }

    /// The same for a message that came from another server, which resolved the
    /// recipients: all are of this node, and there is at least one. In an open
    /// session the sender becomes a party here too, so that a broadcast answers it.
    pub fn route_inbound(
        &mut self,
        now: Millis,
        session: &str,
        from: &PartyRef,
        to: &[String],
        bytes: u64,
    ) -> Result<Routed, Refusal> {
        if to.is_empty() {
            return Err(Refusal::Invalid("to_parties: a message between servers names its recipients".into()));
        }
        let to: Vec<_> = to.iter().map(|name| PartyRef { peer: PeerId::SELF, name: name.clone() }).collect();
        self.route(now, session, from, &to, bytes)
    }

    /// The message was not stored: its room is given back. Its sender stays a
    /// party, whose row is still due.
    pub fn undo(&mut self, session: &str, from: &PartyRef, bytes: u64) {
        self.freed(session, from, bytes);
    }

    /// Bodies were freed, of this sender in this session.
    pub fn freed(&mut self, session: &str, from: &PartyRef, bytes: u64) {
        self.senders.take(from, bytes);
        if let Some(known) = self.sessions.get_mut(session) {
            debug_assert!(known.bytes >= bytes, "more was freed than stored");
            known.bytes = known.bytes.saturating_sub(bytes);
        }
    }

    /// A party subscribes to the session; of an open one it becomes a party. Then
    /// its row and the session's (kept until the answer) are due, and `saved` once
    /// they are on disk. In a settled session nobody joins; who is no party there
    /// may listen and hears only what was sent to it.
    pub fn join(&mut self, now: Millis, session: &str, party: &PartyRef) -> Result<Option<Millis>, Refusal> {
        check_session(session)?;
        check_party("party_id", &party.name)?;
        if let Some(known) = self.sessions.get(session)
            && known.members.settled
            && !known.members.parties.contains(party)
        {
            return Ok(None);
        }
        self.check_place(session, party)?;
        let until = now.plus(self.retention);
        let known = self.enter(session, until);
        Ok(known.members.join(party).then_some(known.until))
    }

    /// The row of a party that joined is on disk. Until this is said the row is due
    /// at each of its activities.
    pub fn saved(&mut self, session: &str, party: &PartyRef) {
        if let Some(known) = self.sessions.get_mut(session) {
            known.members.unsaved.remove(party);
        }
    }

    /// An event of `owner` about the session; the parties it names are the
    /// session's from now on. Refused ([`Refusal::Denied`]) when another server
    /// announced the session first. `until`: of the event; the session is kept at
    /// least for the retention.
    pub fn announce(
        &mut self,
        now: Millis,
        session: &str,
        owner: PeerId,
        parties: &[PartyRef],
        until: Millis,
    ) -> Result<Announced, Refusal> {
        check_session(session)?;
        for (at, party) in parties.iter().enumerate() {
            check_party(format_args!("selected_parties[{at}]"), &party.name)?;
        }
        let parties: BTreeSet<_> = parties.iter().cloned().collect();
        self.limits.check_selected(parties.len())?;
        match self.sessions.get(session).map(|known| known.members.owner) {
            Some(Some(first)) if first != owner => {
                let message = "session_id: another server announced this session first";
                return Err(Refusal::Denied(message.into()));
            }
            Some(_) => {}
            None => self.limits.check_sessions(self.sessions.len(), owner)?,
        }
        self.turns += 1;
        let turn = self.turns;
        let until = until.max(now.plus(self.retention));
        let known = self.enter(session, until);
        let before = known.members.clone();
        known.turn = turn;
        known.members.owner = Some(owner);
        let settles = !parties.is_empty();
        if settles {
            known.members = Membership { owner: Some(owner), settled: true, parties, ..Membership::default() };
        }
        Ok(Announced { until: known.until, settles, turn, before })
    }

    /// The event was not stored: it changed nothing, unless a later one came.
    pub fn undo_announce(&mut self, session: &str, announced: Announced) {
        if let Some(known) = self.sessions.get_mut(session)
            && known.turn == announced.turn
        {
            known.members = announced.before;
        }
    }

    /// Forgets and returns the sessions whose time is over and that hold nothing;
    /// one that is `in_use` (somebody subscribes to it) begins a new time instead.
    /// Their rows are to be deleted only where `until <= now` still holds: a session
    /// may begin again before they are.
    pub fn expire(&mut self, now: Millis, in_use: impl Fn(&str) -> bool) -> Vec<String> {
        let over = |known: &Session| known.until <= now && known.bytes == 0;
        let mut names: Vec<_> =
            self.sessions.iter().filter(|(_, known)| over(known)).map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        let until = now.plus(self.retention);
        names.retain(|name| {
            let used = in_use(name);
            if used {
                self.enter(name, until);
            } else {
                self.sessions.remove(name);
            }
            !used
        });
        names
    }

    /// Sessions whose `until` rose since this was last asked, to be written in
    /// passing. What is lost of it makes a session end earlier after a restart.
    pub fn touched(&mut self) -> Vec<(String, Millis)> {
        let names = std::mem::take(&mut self.touched);
        let until = |name: String| {
            let known = self.sessions.get_mut(&name)?;
            // Forgotten and begun again, it may stand here twice.
            std::mem::take(&mut known.touched).then_some((name, known.until))
        };
        names.into_iter().filter_map(until).collect()
    }

    /// There is room for the session, and for the party in it if it is open.
    fn check_place(&self, session: &str, party: &PartyRef) -> Result<(), Refusal> {
        let Some(known) = self.sessions.get(session) else {
            self.limits.check_sessions(self.sessions.len(), party.peer)?;
            return self.limits.check_parties(0, party.peer);
        };
        match known.members.settled || known.members.parties.contains(party) {
            true => Ok(()),
            false => self.limits.check_parties(known.members.parties.len(), party.peer),
        }
    }

    /// The session, made if it was not, kept at least `until`.
    fn enter(&mut self, session: &str, until: Millis) -> &mut Session {
        if !self.sessions.contains_key(session) {
            self.sessions.insert(session.to_owned(), Session::default());
        }
        let known = self.sessions.get_mut(session).expect("it was there, or was just put there");
        if until > known.until {
            known.until = until;
            if !known.touched {
                known.touched = true;
                self.touched.push(session.to_owned());
            }
        }
        known
    }
}

impl Membership {
    /// True: the party's row is due.
    fn join(&mut self, party: &PartyRef) -> bool {
        if self.settled {
            return false;
        }
        if self.parties.contains(party) {
            return self.unsaved.contains(party);
        }
        self.parties.insert(party.clone());
        self.unsaved.insert(party.clone())
    }
}

/// Who a broadcast of `from` reaches, sorted.
fn everyone_else(limits: &Limits, known: Option<&Session>, from: &PartyRef) -> Result<Vec<PartyRef>, Refusal> {
    let parties = known.into_iter().flat_map(|known| &known.members.parties);
    let others: Vec<_> = parties.filter(|party| *party != from).cloned().collect();
    if others.is_empty() {
        let message = "to_parties: a broadcast, and the session has no other party yet; \
                       name the recipients, or wait until they subscribe";
        return Err(Refusal::Precondition(message.into()));
    }
    limits.check_recipients(others.len())?;
    Ok(others)
}

/// The recipients by name, each once.
fn named(
    limits: &Limits,
    settled: Option<&BTreeSet<PartyRef>>,
    from: &PartyRef,
    to: &[PartyRef],
) -> Result<Vec<PartyRef>, Refusal> {
    let mut seen = BTreeSet::new();
    let mut recipients = Vec::with_capacity(to.len().min(limits.recipients));
    for (at, party) in to.iter().enumerate() {
        let field = format_args!("to_parties[{at}]");
        check_party(field, &party.name)?;
        if party == from {
            return Err(Refusal::Invalid(format!("{field}: the sender itself; a message goes to others")));
        }
        if settled.is_some_and(|parties| !parties.contains(party)) {
            return Err(Refusal::Invalid(format!("{field}: {} is not a party of this session", party.name)));
        }
        if seen.insert(party) {
            limits.check_recipients(seen.len())?;
            recipients.push(party.clone());
        }
    }
    Ok(recipients)
}

#[cfg(test)]
mod tests;
