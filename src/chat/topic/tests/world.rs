//! Nodes of memory that share one chat: each a log, what waits, and the real
//! rules; between them queues that lose, and a clock that somebody else turns.

use super::{super::*, disk::Disk, readers::Reader};
use crate::{rng::Rng, worlds::Sights};
use bytes::Bytes;
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

pub const SIGHTS: &[&str] = &[
    "posted at home",
    "posted elsewhere",
    "said again",
    "lost",
    "crashed",
    "home restored",
    "home waits",
    "replica restored",
    "cut back",
    "asked",
    "forged",
    "repeated",
    "partitioned",
    "in flight again",
    "a reader stopped",
    "further back",
    "later",
    "unknown to a reader's node",
    "told again",
    "blurred",
    "reopened",
];

#[derive(Debug, Clone)]
pub enum Note {
    Introduce { head: Mark, asks: u64, waits: bool },
    Head { head: Mark, asks: u64, waits: bool },
    Outline { asked: Mark, places: Vec<Mark> },
    Changes { after: Mark, messages: Vec<Message> },
    Posts { after: Mark, messages: Vec<Message>, more: bool, asks: u64, old: usize },
}

pub struct Node {
    pub disk: Disk,
    backup: Disk,
    pub topic: Topic,
}

pub struct World {
    pub rng: Rng,
    pub now: Millis,
    pub nodes: Vec<Node>,
    pub readers: Vec<Reader>,
    pub queues: BTreeMap<(usize, usize), VecDeque<Note>>,
    pub cut: BTreeSet<(usize, usize)>,
    /// What each id says, as its author's node signed it.
    pub genuine: HashMap<Uuid, Bytes>,
    /// By author.
    pub said: Vec<Vec<Uuid>>,
    /// By author: as it was said.
    pub order: Vec<Vec<Uuid>>,
    /// Was in a log once.
    placed: BTreeSet<Uuid>,
    /// Said again by an author whose node had forgotten it.
    anew: BTreeSet<Uuid>,
    /// Of these no node knows any more what was told before them: said anew after they had
    /// been in a log, or their node came from a backup while they waited for a new place.
    pub blurred: BTreeSet<Uuid>,
    /// Home waits for others for a while only.
    pub hasty: bool,
    pub restored: Vec<bool>,
    /// All nodes run all the time; home forgets what it has in memory, at most.
    pub calm: bool,
    /// Starts of nodes.
    runs: u64,
    sights: Sights,
}

const CHAT_USERS: [&str; 4] = ["a@n0:1", "b@n1:1", "c@n2:1", "d@n3:1"];
const PAGE: usize = 4;

pub fn peer(node: usize) -> PeerId {
    PeerId(i64::try_from(node).unwrap() + 1)
}

fn node_of(peer: PeerId) -> usize {
    usize::try_from(peer.0 - 1).unwrap()
}

pub fn run(seed: u64) -> Sights {
    let mut rng = Rng::new(seed);
    let count = rng.index(3) + 2;
    let mut world = World::new(rng, count);
    let steps = world.rng.between(50, 400);
    for _ in 0..steps {
        world.step();
    }
    let held = world.held();
    let repeats = world.readers.iter().map(|reader| reader.repeats).sum();
    world.heal();
    world.read_all();
    world.check(seed, &held);
    world.check_readers(seed, repeats);
    world.sights
}

impl World {
    fn new(mut rng: Rng, count: usize) -> Self {
        let (hasty, calm) = (rng.chance(50), rng.chance(20));
        let node = |at: usize| {
            let mut disk = Disk { known: at == 0, ..Disk::default() };
            let peers = if at == 0 { 1..count } else { 0..1 };
            disk.links = peers.map(|n| (peer(n), (false, None))).collect();
            let mut topic = disk.open(at, 1);
            if calm && at > 0 {
                // Whoever speaks first has heard of it by then.
                topic.asked(peer(0), 1);
            }
            Node { topic, backup: disk.clone(), disk }
        };
        let mut nodes: Vec<_> = (0..count).map(node).collect();
        // Somebody else but home may have made it.
        let maker = nodes.len() - 1;
        nodes[maker].disk.known = true;
        Self {
            rng,
            now: Millis(0),
            nodes,
            readers: (0..2 * count).map(|n| Reader::of(n % count)).collect(),
            queues: BTreeMap::new(),
            cut: BTreeSet::new(),
            genuine: HashMap::new(),
            said: vec![vec![]; count],
            order: vec![vec![]; count],
            placed: BTreeSet::new(),
            anew: BTreeSet::new(),
            blurred: BTreeSet::new(),
            hasty,
            restored: vec![false; count],
            calm,
            runs: 1,
            sights: Sights::new(),
        }
    }

    pub fn see(&mut self, sight: &'static str) {
        *self.sights.entry(sight).or_default() += 1;
    }

    fn step(&mut self) {
        if self.rng.chance(30) {
            let reader = self.rng.index(self.readers.len());
            self.read(reader);
        }
        let (at, roll) = (self.rng.index(self.nodes.len()), self.rng.index(100));
        match roll {
            0..20 => self.post(at),
            20..50 => self.tell(at),
            50..80 => self.deliver_any(),
            80..84 => self.lose(),
            84..88 if !self.calm => self.crash(at),
            84..88 => self.reopen(),
            88..90 => self.nodes[at].backup = self.nodes[at].disk.clone(),
            90..92 if !self.calm => self.restore(at),
            92..94 => self.toggle(),
            94..95 => self.forge(),
            _ => self.now = self.now.plus(Duration::from_millis(self.rng.between(1, 30_000))),
        }
    }

    fn post(&mut self, at: usize) {
        if !self.nodes[at].disk.known {
            return;
        }
        if !self.nodes[at].topic.is_sure() {
            // Whoever speaks waits; in some worlds for a while only.
            if !self.hasty || self.rng.chance(80) {
                return self.see("home waits");
            }
            self.nodes[at].topic.trust();
        }
        let again = self.rng.chance(15) && !self.said[at].is_empty();
        let text = match again {
            true => self.rng.index(self.said[at].len()),
            false => self.said[at].len(),
        };
        let chat = found(CHAT_USERS.map(str::to_owned).to_vec()).chat;
        let id = message_id(chat, CHAT_USERS[at], &text.to_string());
        let content = Bytes::from(format!("{at}: {text}"));
        let message = message(at, id, content.clone());
        let node = &mut self.nodes[at];
        let known = node.disk.known();
        if known.logged.contains(&id) || known.waiting.contains_key(&id) {
            return self.see("said again");
        }
        if !again {
            self.said[at].push(id);
            self.genuine.insert(id, content);
        }
        if again {
            self.anew.insert(id);
        }
        // What its node forgot is said anew.
        self.order[at].retain(|said| *said != id);
        self.order[at].push(id);
        if at == 0 {
            let entries = self.nodes[0].topic.number(None, [message], &known);
            self.append(0, entries, &[], None);
            self.see("posted at home");
        } else {
            let node = &mut self.nodes[at];
            node.disk.waiting.insert(node.topic.place_behind(), (message, None));
            node.topic.posted(1);
            self.see("posted elsewhere");
        }
    }

    fn append(&mut self, at: usize, entries: Vec<Entry>, cleared: &[i64], from: Option<PeerId>) {
        let Some(growth) = Growth::of(&entries) else { return };
        let node = &mut self.nodes[at];
        let (overtaken, behind) = (node.topic.overtaken_by(from), node.topic.head().revision);
        overtaken.iter().for_each(|peer| node.disk.links.get_mut(peer).unwrap().1 = Some(behind));
        node.topic.overtook(&overtaken, behind);
        let ids: Vec<Uuid> = entries.iter().filter_map(|entry| entry.message.id).collect();
        let another = ids.iter().filter(|id| at == 0 && self.anew.contains(id) && self.placed.contains(id)).copied();
        self.blurred.extend(another);
        self.placed.extend(ids);
        assert_eq!(entries[0].revision, node.disk.log.len() as u64 + 1, "the log has no hole");
        node.disk.log.extend(entries);
        for place in cleared {
            assert!(node.disk.waiting.remove(place).is_some(), "what is cleared did wait");
        }
        node.topic.grown(growth, cleared);
    }

    /// Sends what is due to everybody.
    pub fn tell(&mut self, at: usize) {
        if !self.nodes[at].disk.known {
            return;
        }
        let peers: Vec<_> = self.nodes[at].topic.peers().collect();
        for peer in peers {
            for due in self.nodes[at].topic.due(peer, self.now) {
                let note = self.note(at, peer, &due);
                self.queues.entry((at, node_of(peer))).or_default().push_back(note);
            }
        }
    }

    fn note(&mut self, at: usize, to: PeerId, due: &Due) -> Note {
        let (now, node) = (self.now, &mut self.nodes[at]);
        node.topic.sent(to, due, now);
        let (head, asks, waits) = (node.topic.head().mark(), node.topic.asks(to), node.topic.waiting() > 0);
        match due {
            Due::Head { introduce } => {
                node.disk.links.get_mut(&to).unwrap().0 = true;
                match introduce {
                    true => Note::Introduce { head, asks, waits },
                    false => Note::Head { head, asks, waits },
                }
            }
            Due::Outline { asked } => {
                let places = node.topic.outline().into_iter().map(|place| node.disk.mark(place)).collect();
                Note::Outline { asked: *asked, places }
            }
            Due::Changes { after } => {
                let from = usize::try_from(*after).unwrap();
                let messages: Vec<_> =
                    node.disk.log[from..].iter().take(PAGE).map(|entry| entry.message.clone()).collect();
                node.topic.sent_changes(to, *after, after + messages.len() as u64);
                Note::Changes { after: node.disk.mark(*after), messages }
            }
            Due::Posts => {
                let page: Vec<_> = node.disk.waiting.iter().take(PAGE).collect();
                let (count, through) = (page.len(), page.last().map_or(0, |(place, _)| **place));
                let old = page.iter().filter(|(place, _)| **place < node.topic.fresh_from()).count();
                let messages = page.into_iter().map(|(_, (message, _))| message.clone()).collect();
                let more = node.topic.waiting() > count;
                let again = node.topic.replica().is_some_and(|replica| replica.flight.is_some());
                node.topic.sent_posts(count, through, now);
                if again {
                    self.see("in flight again");
                }
                Note::Posts { after: head, messages, more, asks, old }
            }
        }
    }

    fn deliver_any(&mut self) {
        let open: Vec<_> = self
            .queues
            .iter()
            .filter(|(link, queue)| !queue.is_empty() && !self.cut.contains(link))
            .map(|(link, _)| *link)
            .collect();
        if open.is_empty() {
            return;
        }
        let link = open[self.rng.index(open.len())];
        self.deliver(link);
    }

    pub fn deliver(&mut self, link: (usize, usize)) {
        let Some(note) = self.queues.get_mut(&link).and_then(VecDeque::pop_front) else { return };
        if self.rng.chance(5) {
            self.see("repeated");
            self.take(link.0, link.1, note.clone());
        }
        self.take(link.0, link.1, note);
    }

    fn take(&mut self, from: usize, at: usize, note: Note) {
        let (now, sender) = (self.now, peer(from));
        if !self.nodes[at].disk.known {
            match note {
                // Home tells the others.
                Note::Introduce { .. } => {
                    self.nodes[at].disk.known = true;
                    self.nodes[at].topic.is_known_to(sender);
                }
                _ => return self.nodes[from].topic.is_unknown_to(peer(at)),
            }
        }
        let node = &mut self.nodes[at];
        match note {
            Note::Introduce { head: theirs, asks, waits } | Note::Head { head: theirs, asks, waits } => {
                let mine = node.disk.chain(theirs.revision);
                node.topic.heard(sender, theirs, mine, now);
                if from == 0 {
                    node.topic.asked(sender, asks);
                } else if mine == Some(theirs.chain) && !waits {
                    node.has_all_of(sender, asks);
                }
            }
            Note::Outline { asked, places } => {
                let mine = places.iter().filter_map(|mark| Some((mark.revision, node.disk.chain(mark.revision)?)));
                let Some(common) = node.topic.common(asked, &places, &mine.collect()) else { return };
                if common < node.topic.head().revision {
                    self.cut_back(at, common);
                } else {
                    node.topic.ask(now);
                }
            }
            Note::Changes { after, messages } => {
                let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
                match node.topic.judge(after, &ids) {
                    Step::Old => {}
                    Step::Ask => {
                        node.topic.ask(now);
                        self.see("asked");
                    }
                    Step::Take { skip } => {
                        let mut known = node.disk.known();
                        let behind = node.topic.looks_behind(&messages[skip..]);
                        let first = |at: u64| Some((at, node.disk.told_behind(at)?));
                        known.behind = behind.into_iter().filter_map(first).collect();
                        let genuine = &self.genuine;
                        let judged = messages.into_iter().skip(skip).map(|message| {
                            let good = message.id.is_some_and(|id| genuine.get(&id) == Some(&message.content));
                            (message, good)
                        });
                        let (entries, cleared) = node.topic.follow(judged.collect(), &known);
                        self.append(at, entries, &cleared, Some(sender));
                    }
                }
            }
            Note::Posts { after, messages, more, asks, old } => {
                let mine = node.disk.chain(after.revision);
                if node.topic.may_post(sender, after, mine) {
                    let mut known = node.disk.known();
                    if node.topic.is_of_this_run(asks) {
                        known.fresh.extend(messages[old..].iter().filter_map(|message| message.id));
                    }
                    let entries = node.topic.number(Some(sender), messages, &known);
                    self.append(at, entries, &[], Some(sender));
                    if !more {
                        self.nodes[at].has_all_of(sender, asks);
                    }
                }
            }
        }
    }

    fn cut_back(&mut self, at: usize, common: u64) {
        let (now, node) = (self.now, &mut self.nodes[at]);
        let tail = node.disk.log.split_off(usize::try_from(common).unwrap());
        let tail: Vec<_> = tail.into_iter().filter(|entry| entry.message.id.is_some()).collect();
        let (first, moved) = (node.topic.place_before(tail.len()), tail.len());
        let told = tail.iter().map(|entry| entry.told.at).min();
        node.disk.cut_back(common, first, tail);
        node.topic.cut(node.disk.head(), first, moved, told, now);
        self.see("cut back");
    }

    fn lose(&mut self) {
        let links: Vec<_> = self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link).collect();
        if links.is_empty() {
            return;
        }
        let (from, to) = links[self.rng.index(links.len())];
        let lost = self.rng.index(self.queues[&(from, to)].len());
        self.queues.get_mut(&(from, to)).unwrap().remove(lost);
        // The postbox says so, sooner or later.
        self.nodes[from].topic.compare(peer(to));
        self.see("lost");
    }

    /// The chat was not used at home for long.
    fn reopen(&mut self) {
        let home = &mut self.nodes[0];
        home.topic = home.disk.open(0, 1);
        let peers: Vec<_> = home.topic.peers().collect();
        peers.into_iter().for_each(|peer| home.topic.compare(peer));
        self.see("reopened");
    }

    pub fn crash(&mut self, at: usize) {
        self.hang_up(at);
        let node = &mut self.nodes[at];
        self.runs += 1;
        node.topic = node.disk.open(at, self.runs);
        let peers: Vec<_> = node.topic.peers().collect();
        peers.into_iter().for_each(|peer| node.topic.compare(peer));
        self.see("crashed");
    }

    fn restore(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let forgotten = std::mem::replace(&mut node.disk, node.backup.clone()).since();
        let since = node.disk.since();
        self.blurred.extend(forgotten.difference(&since).map(|(id, _)| *id));
        self.restored[at] = true;
        self.see(if at == 0 { "home restored" } else { "replica restored" });
        self.crash(at);
    }

    fn toggle(&mut self) {
        let (from, to) = (self.rng.index(self.nodes.len()), self.rng.index(self.nodes.len()));
        if !self.cut.remove(&(from, to)) {
            self.cut.insert((from, to));
            self.see("partitioned");
        }
    }

    /// Home puts words into somebody's mouth.
    fn forge(&mut self) {
        let author = self.rng.index(self.nodes.len() - 1) + 1;
        // Never the same: forged anew after home forgot it, it would be another message.
        let id = Uuid::of_hash(std::array::from_fn(|_| u8::try_from(self.rng.index(256)).unwrap()));
        let forged = message(author, id, Bytes::from_static(b"never said"));
        let known = self.nodes[0].disk.known();
        let entries = self.nodes[0].topic.number(None, [forged], &known);
        self.append(0, entries, &[], None);
        self.see("forged");
    }
}

impl Node {
    fn has_all_of(&mut self, peer: PeerId, asks: u64) {
        if self.topic.has_all_of(peer, asks) {
            self.disk.links.get_mut(&peer).unwrap().1 = None;
        }
    }
}

fn message(author: usize, id: Uuid, content: Bytes) -> Message {
    Message { id: Some(id), author: u32::try_from(author).unwrap(), content, ..Message::refused() }
}
