//! In which order a node tells its readers what is said, and where one who comes
//! back goes on.
//!
//! Pure, a part of `topic.rs`. A telling is a number that a node gives a message
//! once: that of its place in the log, until a home that came from a backup puts
//! it elsewhere. It keeps its number then, so that whoever saw it is told what
//! was not told before it. A node that has forgotten what it told cannot know
//! that: of what home may have forgotten ([`Message::since`]) it takes care that
//! nothing is missed, and tells some again.

use super::{Entry, Head, Known, Message, Role, Topic};
use crate::{store::chat::Told, types::PeerId};
use std::collections::BTreeSet;

/// How far readers were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tellings {
    pub last: u64,
    /// The first telling of what waits for its place again.
    pub away: Option<u64>,
}

impl Tellings {
    /// The next telling, of a message at this revision. `behind`: the first telling of
    /// what stands before it, or was told, and was not seen by all who saw it.
    pub(super) fn next(&mut self, revision: u64, behind: Option<u64>) -> Told {
        // What is numbered as the log is needs no row in an index.
        self.last = revision.max(self.last + 1);
        let resume = behind.map_or(self.last, |behind| self.last.min(behind.saturating_sub(1)));
        Told { at: self.last, resume }
    }

    /// Behind which telling a reader begins that has read the history: what is not
    /// in there now, and was told, comes.
    pub fn end(&self) -> u64 {
        self.away.map_or(self.last, |away| self.last.min(away.saturating_sub(1)))
    }
}

/// Behind which telling whoever saw a message last goes on, on a stream or in the
/// history. `behind`: the first telling of what does not stand in the log up to the
/// message; the history had nothing of that.
pub fn goes_on(told: Told, behind: Option<u64>) -> u64 {
    behind.map_or(told.resume, |behind| told.resume.min(behind.saturating_sub(1)))
}

/// What entries make of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    pub head: Head,
    /// The last telling of any; 0: none is told.
    pub told: u64,
}

impl Growth {
    /// `None`: of nothing.
    pub fn of(entries: &[Entry]) -> Option<Self> {
        let last = entries.last()?;
        let head = Head { revision: last.revision, seq: last.seq, chain: last.chain };
        let told = entries.iter().filter(|entry| entry.message.id.is_some()).map(|entry| entry.told.at);
        Some(Self { head, told: told.max().unwrap_or(0) })
    }
}

/// What whoever saw a message has seen of a log that is cut back to `common`.
pub fn cut_to(message: &mut Message, common: u64) {
    message.since = Some(message.since.map_or(common, |since| since.min(common)));
}

impl Topic {
    /// How far readers were told here.
    pub fn told(&self) -> Tellings {
        self.told
    }

    /// Up to where whoever saw a message of a peer before has seen the log, if it goes
    /// to this revision now. Of a peer that may have what is forgotten here nobody
    /// knows whether its words were told before those that others put behind it.
    pub(super) fn seen_to(&self, from: Option<PeerId>, message: &Message, revision: u64) -> Option<u64> {
        let Role::Home(home) = &self.role else { return None };
        let peer = from.filter(|peer| home.doubts(*peer))?;
        let behind = self.links.get(&peer).and_then(|link| link.behind);
        [message.since, behind, Some(revision - 1)].into_iter().flatten().min()
    }

    /// Of which revisions of the log it has to be known what was told first behind
    /// them, before these follow.
    pub fn looks_behind<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) -> BTreeSet<u64> {
        messages.into_iter().filter_map(|message| message.since).filter(|since| *since < self.head.revision).collect()
    }

    /// The first telling of what stands behind a revision, or waits again.
    pub(super) fn told_behind(&self, since: u64, entries: &[Entry], known: &Known) -> Option<u64> {
        let new = entries.iter().filter(|entry| entry.revision > since && entry.message.id.is_some());
        let told = new.map(|entry| entry.told.at).min();
        [told, known.behind.get(&since).copied(), self.told.away].into_iter().flatten().min()
    }

    /// The doubted peers that words of others stand before from the head on, when words
    /// of `from`, or of this node, are put there.
    pub fn overtaken_by(&self, from: Option<PeerId>) -> Vec<PeerId> {
        let Role::Home(home) = &self.role else { return vec![] };
        let overtaken = self.links.iter().filter(|(peer, link)| home.doubts(**peer) && link.behind.is_none());
        overtaken.map(|(peer, _)| *peer).filter(|peer| Some(*peer) != from).collect()
    }

    /// Words of others stand behind this revision now.
    pub fn overtook(&mut self, peers: &[PeerId], revision: u64) {
        for peer in peers {
            if let Some(link) = self.links.get_mut(peer) {
                link.behind = Some(revision);
            }
        }
    }
}
