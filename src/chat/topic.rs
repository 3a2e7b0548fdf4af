//! One chat's log: how its home numbers what is said, how replicas follow, and
//! how all find together again after a loss.
//!
//! Pure: no I/O, no clock, no randomness. What the rows say comes in with the
//! question; what to send to whom comes out of [`Topic::due`]. Nothing is sent
//! on trust that it arrives: whatever is lost is found out by comparing heads,
//! and asked for. The store is changed by the driver first, then this.

mod home;
mod ids;
mod replica;
mod telling;

pub use ids::{Founding, PURPOSE, Said, chained, found, members_key, message_id, server_of};
pub use telling::{Growth, Tellings, cut_to, goes_on};

use crate::{
    store::chat::{Entry, LinkRow, Message, Told},
    types::{Millis, PeerId, uuid::Uuid},
};
use home::Home;
use replica::{Replica, Waiting};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Posts under way to their home together.
pub const FLIGHT_MAX: usize = 256;

/// Where a log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Changes so far.
    pub revision: u64,
    /// Messages so far.
    pub seq: u64,
    pub chain: u64,
}

impl Head {
    pub fn mark(self) -> Mark {
        Mark { revision: self.revision, chain: self.chain }
    }
}

/// A place in a log, and what all before it hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Mark {
    pub revision: u64,
    pub chain: u64,
}

/// Something to send to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Where the log stands here; `introduce`: who its users are, too.
    Head { introduce: bool },
    /// Places of our log, for a replica that holds what we do not know.
    Outline { asked: Mark },
    /// Changes after this revision.
    Changes { after: u64 },
    /// The oldest of the posts that wait here.
    Posts,
}

/// What is to be done with changes that home sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All behind the first so many.
    Take { skip: usize },
    /// They are here already.
    Old,
    /// They do not follow what is here: ask home.
    Ask,
}

/// What the rows say about ids: those in the log, where posts wait, and which of
/// these were told before. Also what was told first behind some revisions, and which
/// were said after this run of home began.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub logged: HashSet<Uuid>,
    pub waiting: HashMap<Uuid, i64>,
    pub told: HashMap<Uuid, Told>,
    pub behind: HashMap<u64, u64>,
    pub fresh: HashSet<Uuid>,
}

/// One peer that has a part in the chat.
#[derive(Debug, Clone)]
struct Link {
    introduced: bool,
    /// At home: the last revision sent to it.
    told: u64,
    head_due: bool,
    outline_due: Option<Mark>,
    /// At home: words of others stand behind this revision that what comes from it
    /// may have been told before.
    behind: Option<u64>,
    /// At a replica: what home asked with last.
    asked: u64,
}

#[derive(Debug, Clone)]
enum Role {
    Home(Home),
    Replica(Replica),
}

/// What is kept of a topic, read back.
#[derive(Debug, Clone)]
pub struct Saved {
    pub head: Head,
    /// `None`: it is here.
    pub home: Option<PeerId>,
    /// The peers to talk to.
    pub links: Vec<LinkRow>,
    /// Posts that wait: how many, the first place and the one behind the last.
    pub waiting: (usize, i64, i64),
    pub lost: bool,
    pub told: Tellings,
}

#[derive(Debug, Clone)]
pub struct Topic {
    head: Head,
    told: Tellings,
    role: Role,
    links: BTreeMap<PeerId, Link>,
    /// Spreads retries.
    seed: u64,
}

impl Topic {
    /// `run`: another number each time the node starts, not 0.
    pub fn new(saved: Saved, seed: u64, run: u64) -> Self {
        let Saved { head, home, links, waiting: (count, first, next), lost, told } = saved;
        let role = match home {
            None => Role::Home(Home::new(run, links.iter().map(|link| link.peer))),
            Some(home) => Role::Replica(Replica::new(home, Waiting { count, first, next }, lost)),
        };
        // What was sent before is not known any more: heads are compared after every start.
        let link = |LinkRow { peer, introduced, behind }| {
            (peer, Link { introduced, told: head.revision, head_due: false, outline_due: None, behind, asked: 0 })
        };
        Self { head, told, role, links: links.into_iter().map(link).collect(), seed }
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// `None`: it is here.
    pub fn home(&self) -> Option<PeerId> {
        match &self.role {
            Role::Home(_) => None,
            Role::Replica(replica) => Some(replica.home),
        }
    }

    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.links.keys().copied()
    }

    pub fn has_link(&self, peer: PeerId) -> bool {
        self.links.contains_key(&peer)
    }

    /// Posts that wait for their number.
    pub fn waiting(&self) -> usize {
        self.replica().map_or(0, |replica| replica.waiting.count)
    }

    /// Home was silent for so long that posts were given up.
    pub fn is_lost(&self) -> bool {
        self.replica().is_some_and(|replica| replica.lost)
    }

    fn replica(&self) -> Option<&Replica> {
        match &self.role {
            Role::Home(_) => None,
            Role::Replica(replica) => Some(replica),
        }
    }

    fn replica_mut(&mut self) -> Option<&mut Replica> {
        match &mut self.role {
            Role::Home(_) => None,
            Role::Replica(replica) => Some(replica),
        }
    }

    // ----- at home

    /// Numbers posts behind the head, those that are new. `from`: whose they are, if
    /// not this node's.
    pub fn number(&self, from: Option<PeerId>, posts: impl IntoIterator<Item = Message>, known: &Known) -> Vec<Entry> {
        let (mut head, mut told, mut seen) = (self.head, self.told, HashSet::new());
        let mut entries = Vec::new();
        for message in posts {
            let Some(id) = message.id else { continue };
            if known.logged.contains(&id) || !seen.insert(id) {
                continue;
            }
            let from = from.filter(|_| !known.fresh.contains(&id));
            let since = self.seen_to(from, &message, head.revision + 1);
            let mut entry = follow(&mut head, Message { since, ..message });
            // Home tells in the order of its log.
            let first = since.map(|since| since + 1).filter(|first| *first < entry.revision);
            entry.told = told.next(entry.revision, first);
            entries.push(entry);
        }
        entries
    }

    /// A peer told where it stands. `mine`: the chain here at its revision.
    pub fn heard(&mut self, peer: PeerId, theirs: Mark, mine: Option<u64>, now: Millis) {
        let head = self.head;
        let known = theirs.revision <= head.revision && mine == Some(theirs.chain);
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.introduced = true;
        match &mut self.role {
            Role::Home(_) if known => {
                link.told = theirs.revision;
                // Who asks hears that there is nothing, and that home is there.
                link.head_due |= theirs.revision == head.revision;
            }
            Role::Home(_) => link.outline_due = Some(theirs),
            Role::Replica(replica) if replica.home == peer => {
                replica.home_at = theirs.revision;
                replica.lost = false;
                if theirs != head.mark() {
                    replica.ask(now, self.seed);
                }
            }
            Role::Replica(_) => {}
        }
    }

    /// Whether posts that a replica at this place sends may be numbered: they
    /// would overtake those that home has forgotten.
    pub fn may_post(&mut self, peer: PeerId, theirs: Mark, mine: Option<u64>) -> bool {
        let known = theirs.revision <= self.head.revision && mine == Some(theirs.chain);
        if let Some(link) = self.links.get_mut(&peer)
            && !known
        {
            link.outline_due = Some(theirs);
        }
        known
    }

    /// The places of the log that an outline shows: close together at its end.
    pub fn outline(&self) -> Vec<u64> {
        let end = self.head.revision;
        let mut places: Vec<u64> = (0..64).map(|power| end.saturating_sub(1 << power)).collect();
        places.insert(0, end);
        places.dedup();
        places
    }

    // ----- at a replica

    /// Judges changes with these ids that are said to follow `after`.
    pub fn judge(&self, after: Mark, ids: &[Option<Uuid>]) -> Step {
        let head = self.head;
        let Some(skip) = head.revision.checked_sub(after.revision).and_then(|skip| usize::try_from(skip).ok()) else {
            return Step::Ask;
        };
        if skip > ids.len() {
            return Step::Old;
        }
        let chain = ids[..skip].iter().fold(after.chain, |chain, id| chained(chain, *id));
        match chain == head.chain {
            false => Step::Ask,
            true if skip == ids.len() => Step::Old,
            true => Step::Take { skip },
        }
    }

    /// The changes as they follow the head. One that is refused keeps its place,
    /// empty. Also the places of posts that waited for this.
    pub fn follow(&self, changes: Vec<(Message, bool)>, known: &Known) -> (Vec<Entry>, Vec<i64>) {
        let (mut head, mut told, mut seen) = (self.head, self.told, HashSet::new());
        let (mut entries, mut cleared) = (Vec::new(), Vec::new());
        for (message, genuine) in changes {
            let fresh = message.id.is_some_and(|id| !known.logged.contains(&id) && seen.insert(id));
            if genuine && fresh {
                cleared.extend(message.id.and_then(|id| known.waiting.get(&id)));
                let before = message.id.and_then(|id| known.told.get(&id)).copied();
                let mut entry = follow(&mut head, message);
                let first = entry.message.since.and_then(|since| self.told_behind(since, &entries, known));
                entry.told = before.unwrap_or_else(|| told.next(entry.revision, first));
                entries.push(entry);
            } else {
                // The chain is home's: what is refused here has its place there.
                entries.push(Entry { message: Message::refused(), ..follow(&mut head, message) });
            }
        }
        (entries, cleared)
    }

    /// Changes of home do not follow what is here, or may be missing.
    pub fn ask(&mut self, now: Millis) {
        let seed = self.seed;
        if let Some(replica) = self.replica_mut() {
            replica.ask(now, seed);
        }
    }

    /// Home answered that it does not know the place that was `asked` about: how
    /// much of the log is common. `None`: the answer is out of date. `mine`: the
    /// chain here at a revision.
    pub fn common(&self, asked: Mark, outline: &[Mark], mine: &HashMap<u64, u64>) -> Option<u64> {
        if asked != self.head.mark() || self.replica().is_none() {
            return None;
        }
        let agreed = |mark: &&Mark| mark.revision == 0 || mine.get(&mark.revision) == Some(&mark.chain);
        outline.iter().filter(agreed).map(|mark| mark.revision).max()
    }

    /// Where the first of `count` posts goes that come before all that wait.
    pub fn place_before(&self, count: usize) -> i64 {
        let first = self.replica().map_or(0, |replica| replica.waiting.first);
        first - i64::try_from(count).unwrap_or(0)
    }

    /// Where a post goes that comes behind all that wait.
    pub fn place_behind(&self) -> i64 {
        self.replica().map_or(0, |replica| replica.waiting.next)
    }

    // ----- after the rows were changed

    /// The log has grown; `cleared`: places of posts that are in it now.
    pub fn grown(&mut self, growth: Growth, cleared: &[i64]) {
        let Growth { head, told } = growth;
        self.told.last = self.told.last.max(told);
        self.head = head;
        let Some(replica) = self.replica_mut() else { return };
        replica.lost = false;
        replica.home_at = replica.home_at.max(head.revision);
        replica.clear(cleared);
        if replica.home_at <= head.revision {
            (replica.ask_at, replica.asked) = (None, None);
        }
        self.nothing_is_away();
    }

    fn nothing_is_away(&mut self) {
        if self.waiting() == 0 {
            self.told.away = None;
        }
    }

    /// So many posts wait behind the others.
    pub fn posted(&mut self, count: usize) {
        if let Some(replica) = self.replica_mut() {
            replica.waiting.count += count;
            replica.waiting.next += i64::try_from(count).unwrap_or(0);
        }
    }

    /// The log was cut back to `head`, and `moved` of what was behind it waits
    /// from place `first` on, before all other posts; `told`: their first telling.
    pub fn cut(&mut self, head: Head, first: i64, moved: usize, told: Option<u64>, now: Millis) {
        self.head = head;
        self.told.away = [self.told.away, told].into_iter().flatten().min();
        let seed = self.seed;
        let Some(replica) = self.replica_mut() else { return };
        replica.waiting.count += moved;
        replica.waiting.first = first;
        (replica.flight, replica.misses) = (None, 0);
        replica.home_at = 0;
        replica.asked = None;
        replica.ask(now, seed);
    }

    /// Posts at these places were given up: home was silent for too long. It is
    /// asked once more; what it answers says that it is there.
    pub fn gave_up(&mut self, places: &[i64], now: Millis) {
        let seed = self.seed;
        if let Some(replica) = self.replica_mut() {
            replica.clear(places);
            replica.lost |= !places.is_empty();
            replica.ask(now, seed);
        }
        self.nothing_is_away();
    }

    // ----- what is to be sent

    /// What is to be sent to a peer now, in this order.
    pub fn due(&self, peer: PeerId, now: Millis) -> Vec<Due> {
        let Some(link) = self.links.get(&peer) else { return vec![] };
        if !link.introduced {
            return vec![Due::Head { introduce: true }];
        }
        let mut due = Vec::new();
        if let Some(asked) = link.outline_due {
            due.push(Due::Outline { asked });
        }
        match &self.role {
            Role::Home(_) => {
                if link.head_due {
                    due.push(Due::Head { introduce: false });
                }
                if link.told < self.head.revision {
                    due.push(Due::Changes { after: link.told });
                }
            }
            Role::Replica(replica) => {
                let again = replica.flight.as_ref().is_some_and(|flight| flight.again_at <= now);
                if link.head_due || again || replica.ask_at.is_some_and(|at| at <= now) {
                    due.push(Due::Head { introduce: false });
                }
                if replica.waiting.count > 0 && (replica.flight.is_none() || again) {
                    due.push(Due::Posts);
                }
            }
        }
        due
    }

    /// When something becomes due that is not yet.
    pub fn next_due(&self) -> Option<Millis> {
        let replica = self.replica()?;
        [replica.ask_at, replica.flight.as_ref().map(|flight| flight.again_at)].into_iter().flatten().min()
    }

    /// A head, introduced or not, or an outline is on its way.
    pub fn sent(&mut self, peer: PeerId, due: &Due, now: Millis) {
        let seed = self.seed;
        let Some(link) = self.links.get_mut(&peer) else { return };
        match due {
            Due::Head { introduce } => {
                link.introduced |= *introduce;
                link.head_due = false;
                if let Role::Replica(replica) = &mut self.role {
                    replica.has_asked(now, self.head.revision, seed);
                }
            }
            Due::Outline { asked } => {
                if link.outline_due == Some(*asked) {
                    link.outline_due = None;
                }
            }
            Due::Changes { .. } | Due::Posts => {}
        }
    }

    /// Changes after `after`, through `through`, are on their way.
    pub fn sent_changes(&mut self, peer: PeerId, after: u64, through: u64) {
        // Unless the peer asked for others meanwhile.
        if let Some(link) = self.links.get_mut(&peer)
            && link.told == after
        {
            link.told = through;
        }
    }

    /// The oldest `count` posts, through this place, are on their way.
    pub fn sent_posts(&mut self, count: usize, through: i64, now: Millis) {
        let seed = self.seed;
        let Some(replica) = self.replica_mut() else { return };
        replica.fly(count, through, now, seed);
    }

    /// The peer does not know the chat.
    pub fn is_unknown_to(&mut self, peer: PeerId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.introduced = false;
        }
    }

    /// The peer has shown that it knows the chat.
    pub fn is_known_to(&mut self, peer: PeerId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.introduced = true;
        }
    }

    /// Something sent to the peer may not have arrived: heads are compared.
    pub fn compare(&mut self, peer: PeerId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.head_due = true;
        }
    }
}

/// One more message in the log.
fn follow(head: &mut Head, message: Message) -> Entry {
    head.revision += 1;
    head.seq += u64::from(message.id.is_some());
    head.chain = chained(head.chain, message.id);
    Entry { revision: head.revision, seq: head.seq, chain: head.chain, told: Told::at(head.revision), message }
}

#[cfg(test)]
mod tests;
