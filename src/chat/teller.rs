//! What this node tells others about chats: one task, which asks each chat what
//! is due and posts it.
//!
//! What finds no room in a queue stays due. What is said of many chats to one
//! peer travels together.

use super::{
    Chat,
    letters::NOTES_MAX,
    room::Room,
    topic::{Due, FLIGHT_MAX, Head, Mark},
};
use crate::{
    error::Error,
    proto::pillarbox::chat::v1::{Changes, Letter, Message as Said, Note, Outline, Place, Posts, Unknown, note::Kind},
    store::{
        Op,
        chat::{Change as Row, HeadRow, Message},
    },
    types::{Millis, PeerId, uuid::Uuid},
};
use prost::Message as _;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// Messages and bytes of one note.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 512 << 10;
/// A letter is posted when it has so many bytes; a note more may come to it.
const LETTER_BYTES: usize = 512 << 10;
/// Heads that are compared by one letter.
const HEADS: usize = 512;
/// Chats that one peer does not know; further ones are told when they are spoken of again.
const UNKNOWN_MAX: usize = 1_024;
/// A letter that came back is followed by a comparison, but not at once.
const COMPARE_AFTER: Duration = Duration::from_secs(20);
/// A queue that had no room is tried again after this, at first.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(120);

/// What is to be told to one peer.
#[derive(Default)]
pub struct Duties {
    rooms: BTreeMap<Uuid, Arc<Room>>,
    /// Chats that it speaks of and that are not here.
    unknown: BTreeSet<Uuid>,
    /// From when on the heads of all chats are compared, behind this number.
    compare: Option<(Instant, u64)>,
    /// When something that is not due yet will be.
    timers: BTreeMap<Uuid, (Millis, Arc<Room>)>,
    /// Nothing is posted before.
    not_before: Option<Instant>,
    misses: u32,
}

/// A letter that is being made.
#[derive(Default)]
struct Draft {
    notes: Vec<Note>,
    op: Op,
    bytes: usize,
    /// What is told by it.
    told: Vec<(Arc<Room>, Told)>,
}

enum Told {
    Due(Due),
    Changes { after: u64, through: u64 },
    Posts { count: usize, through: i64 },
}

impl Chat {
    fn duties(&self) -> MutexGuard<'_, BTreeMap<PeerId, Duties>> {
        self.0.duties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is due in a chat.
    pub(super) fn attend(&self, room: &Arc<Room>) {
        let now = Millis::now();
        let mut wake = false;
        // What is due is looked up under the duties' lock: nobody who looked
        // earlier comes later with a timer that is out of date.
        let mut duties = self.duties();
        let (due, later): (Vec<(PeerId, bool)>, Option<Millis>) = {
            let topic = room.topic();
            (topic.peers().map(|peer| (peer, !topic.due(peer, now).is_empty())).collect(), topic.next_due())
        };
        for (peer, is_due) in due {
            let duty = duties.entry(peer).or_default();
            if is_due {
                wake = true;
                duty.rooms.insert(room.chat, room.clone());
            }
            match later {
                Some(at) => {
                    wake |= duty.timers.insert(room.chat, (at, room.clone())).is_none_or(|(before, _)| at < before);
                }
                None => _ = duty.timers.remove(&room.chat),
            }
        }
        drop(duties);
        if wake {
            self.0.telling.notify_one();
        }
    }

    /// The peer speaks of a chat that is not here.
    pub(super) fn is_unknown(&self, peer: PeerId, chat: Uuid) {
        let mut duties = self.duties();
        let unknown = &mut duties.entry(peer).or_default().unknown;
        if unknown.len() < UNKNOWN_MAX {
            unknown.insert(chat);
        }
        drop(duties);
        self.0.telling.notify_one();
    }

    /// Something sent to the peer was lost.
    pub(super) fn compare_later(&self, peer: PeerId) {
        self.compare_from(peer, Instant::now() + COMPARE_AFTER);
    }

    /// Compares the heads of all chats with a peer.
    pub(super) fn compare_from(&self, peer: PeerId, at: Instant) {
        let mut duties = self.duties();
        let compare = &mut duties.entry(peer).or_default().compare;
        // One that is under way begins anew.
        *compare = Some((compare.map_or(at, |(before, _)| before.min(at)), 0));
        drop(duties);
        self.0.telling.notify_one();
    }

    /// Tells others what is due, until the node stops.
    pub(super) async fn tell(self) {
        loop {
            let (ready, next) = self.ready();
            for peer in &ready {
                if self.0.stop.is_cancelled() {
                    return;
                }
                if let Err(error) = self.tell_peer(*peer).await {
                    self.later(*peer, &error);
                }
            }
            if !ready.is_empty() {
                continue;
            }
            let pause = async {
                tokio::select! {
                    () = self.0.telling.notified() => {}
                    () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                }
            };
            if self.0.stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// The peers that something is to be told now, and when there may be more.
    fn ready(&self) -> (Vec<PeerId>, Option<Instant>) {
        let (now, clock) = (Instant::now(), Millis::now());
        let (mut ready, mut next) = (Vec::new(), None::<Instant>);
        let mut soonest = |at: Instant| next = Some(next.map_or(at, |before: Instant| before.min(at)));
        for (peer, duties) in &mut *self.duties() {
            let over: Vec<Uuid> =
                duties.timers.iter().filter(|(_, (at, _))| *at <= clock).map(|(chat, _)| *chat).collect();
            for chat in over {
                if let Some((_, room)) = duties.timers.remove(&chat) {
                    duties.rooms.insert(chat, room);
                }
            }
            if let Some((at, _)) = duties.timers.values().min_by_key(|(at, _)| *at) {
                let left = u64::try_from(at.0.saturating_sub(clock.0)).unwrap_or(0);
                soonest(now + Duration::from_millis(left.max(1)));
            }
            let compare = duties.compare.is_some_and(|(at, _)| at <= now);
            if let Some((at, _)) = duties.compare.filter(|_| !compare) {
                soonest(at);
            }
            if duties.rooms.is_empty() && duties.unknown.is_empty() && !compare {
                continue;
            }
            match duties.not_before.filter(|at| *at > now) {
                Some(at) => soonest(at),
                None => ready.push(*peer),
            }
        }
        (ready, next)
    }

    /// The peer could not be told: later again.
    fn later(&self, peer: PeerId, error: &Error) {
        tracing::debug!(peer = peer.0, %error, "a server could not be told of chats; trying again");
        let mut duties = self.duties();
        let duties = duties.entry(peer).or_default();
        let pause = AGAIN.saturating_mul(1 << duties.misses.min(10)).min(AGAIN_MAX);
        let spread = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
        duties.misses += 1;
        duties.not_before = Some(Instant::now() + pause.mul_f64(0.5 + spread / 2.0));
    }

    async fn tell_peer(&self, peer: PeerId) -> Result<(), Error> {
        let (rooms, unknown, compare) = {
            let mut duties = self.duties();
            let Some(duties) = duties.get_mut(&peer) else { return Ok(()) };
            // Taken out: whoever has something for the peer from now on puts it in again.
            let rooms: Vec<_> =
                (0..NOTES_MAX / 4).map_while(|_| duties.rooms.pop_first()).map(|(_, room)| room).collect();
            let unknown: Vec<_> = duties.unknown.iter().take(NOTES_MAX / 4).copied().collect();
            (rooms, unknown, duties.compare.filter(|(at, _)| *at <= Instant::now()).map(|(_, after)| after))
        };
        let told = self.tell_of(peer, &rooms, &unknown, compare).await;
        if let Some(duties) = self.duties().get_mut(&peer) {
            match &told {
                Ok(_) => (duties.misses, duties.not_before) = (0, None),
                Err(_) => duties.rooms.extend(rooms.into_iter().map(|room| (room.chat, room))),
            }
        }
        // Where nothing was found, the next change says what is due.
        told?.iter().for_each(|room| self.attend(room));
        Ok(())
    }

    /// Returns the chats that it told of.
    async fn tell_of(
        &self,
        peer: PeerId,
        rooms: &[Arc<Room>],
        unknown: &[Uuid],
        compare: Option<u64>,
    ) -> Result<Vec<Arc<Room>>, Error> {
        for chat in unknown {
            let note = note(*chat, Kind::Unknown(Unknown {}));
            self.post(peer, Draft { notes: vec![note], ..Draft::default() }).await?;
            if let Some(duties) = self.duties().get_mut(&peer) {
                duties.unknown.remove(chat);
            }
        }
        if let Some(after) = compare {
            self.compare_some(peer, after).await?;
        }
        let (mut draft, mut written) = (Draft::default(), Vec::with_capacity(rooms.len()));
        for room in rooms {
            let before = draft.told.len();
            self.draft(peer, room, &mut draft).await?;
            if draft.told.len() > before {
                written.push(room.clone());
            }
            if draft.bytes >= LETTER_BYTES || draft.notes.len() >= NOTES_MAX - 8 {
                self.post(peer, std::mem::take(&mut draft)).await?;
            }
        }
        if !draft.notes.is_empty() {
            self.post(peer, draft).await?;
        }
        Ok(written)
    }

    /// Posts a letter, and notes that it was.
    async fn post(&self, peer: PeerId, draft: Draft) -> Result<(), Error> {
        let Draft { notes, op, told, .. } = draft;
        let id = getrandom::u64().map_err(Error::internal)?;
        self.federation()?.post(op, vec![(peer, id, Letter { notes })]).await?;
        let now = Millis::now();
        for (room, told) in told {
            let mut topic = room.topic();
            match told {
                Told::Due(due) => topic.sent(peer, &due, now),
                Told::Changes { after, through } => topic.sent_changes(peer, after, through),
                Told::Posts { count, through } => topic.sent_posts(count, through, now),
            }
        }
        Ok(())
    }

    /// A page of heads.
    async fn compare_some(&self, peer: PeerId, after: u64) -> Result<(), Error> {
        let heads = self.0.store.chat_heads(peer, after, HEADS).await?;
        let last = heads.last().map(|head| head.topic);
        if !heads.is_empty() {
            let head = |head: HeadRow| {
                let HeadRow { chat, revision, chain, waits, .. } = head;
                note(chat, Kind::Head(Place { revision, chain, asks: self.0.run, waits }))
            };
            let notes = heads.into_iter().map(head).collect();
            self.post(peer, Draft { notes, ..Draft::default() }).await?;
        }
        if let Some(duties) = self.duties().get_mut(&peer)
            && let Some((_, at)) = &mut duties.compare
            && *at == after
        {
            match last {
                Some(last) => *at = last,
                None => duties.compare = None,
            }
        }
        Ok(())
    }

    /// Writes what is due in one chat.
    async fn draft(&self, peer: PeerId, room: &Arc<Room>, draft: &mut Draft) -> Result<(), Error> {
        let (due, head, (asks, waits)) = {
            let topic = room.topic();
            (topic.due(peer, Millis::now()), topic.head(), (topic.asks(peer), topic.waiting() > 0))
        };
        for due in due {
            let (written, told) = match &due {
                Due::Head { introduce } => {
                    let mut written = note(room.chat, Kind::Head(Place { asks, waits, ..place(head.mark()) }));
                    if *introduce {
                        written.users = room.members.iter().map(|member| member.qualified.clone()).collect();
                        let row = Row::Introduced { topic: room.number, peer, introduced: true };
                        draft.op.push(row.into());
                    }
                    (written, Told::Due(due.clone()))
                }
                Due::Outline { asked } => (self.outline(room, *asked).await?, Told::Due(due.clone())),
                Due::Changes { after } => match self.changes_after(room, *after, head).await? {
                    Some((written, through)) => (written, Told::Changes { after: *after, through }),
                    None => continue,
                },
                Due::Posts => match self.waiting(room, head, asks).await? {
                    Some((written, count, through)) => (written, Told::Posts { count, through }),
                    None => continue,
                },
            };
            draft.bytes += written.encoded_len();
            draft.notes.push(written);
            draft.told.push((room.clone(), told));
        }
        Ok(())
    }

    async fn outline(&self, room: &Room, asked: Mark) -> Result<Note, Error> {
        let revisions = room.topic().outline();
        let chains: HashMap<u64, u64> = self.0.store.chat_chains(room.number, &revisions).await?;
        let known = |revision: &u64| Some(place(Mark { revision: *revision, chain: *chains.get(revision)? }));
        let mut places: Vec<Place> = revisions.iter().filter_map(known).collect();
        places.push(Place::default());
        Ok(note(room.chat, Kind::Outline(Outline { asked: Some(place(asked)), places })))
    }

    async fn changes_after(&self, room: &Room, after: u64, head: Head) -> Result<Option<(Note, u64)>, Error> {
        let entries = self.0.store.chat_entries(room.number, after, PAGE, PAGE_BYTES).await?;
        let Some(through) = entries.last().map(|entry| entry.revision) else { return Ok(None) };
        let chain = match after {
            0 => Some(0),
            after => self.0.store.chat_chains(room.number, &[after]).await?.remove(&after),
        };
        let Some(chain) = chain else { return Ok(None) };
        let messages = entries.iter().map(|entry| self.said(room, &entry.message)).collect();
        let after = Some(place(Mark { revision: after, chain }));
        let revision = head.revision.max(through);
        Ok(Some((note(room.chat, Kind::Changes(Changes { after, messages, revision })), through)))
    }

    async fn waiting(&self, room: &Room, head: Head, asks: u64) -> Result<Option<(Note, usize, i64)>, Error> {
        let posts = self.0.store.chat_posts(room.number, FLIGHT_MAX, PAGE_BYTES).await?;
        let Some(through) = posts.last().map(|post| post.place) else { return Ok(None) };
        let messages = posts.iter().map(|post| self.said(room, &post.message)).collect();
        let more = room.topic().waiting() > posts.len();
        let fresh_from = room.topic().fresh_from();
        let old = posts.iter().filter(|post| post.place < fresh_from).count();
        let old = u32::try_from(old).unwrap_or(u32::MAX);
        let posts_note = Posts { after: Some(place(head.mark())), messages, more, asks, old };
        Ok(Some((note(room.chat, Kind::Posts(posts_note)), posts.len(), through)))
    }

    fn said(&self, room: &Room, message: &Message) -> Said {
        Said {
            id: message.id.map(|id| bytes::Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            author: message.author,
            sent_at: message.sent_at.0,
            client_id: message.client_id.clone(),
            head: message.head.clone(),
            content: message.content.clone(),
            signature: self.signature(room, message),
            since: message.since,
        }
    }
}

fn place(mark: Mark) -> Place {
    Place { revision: mark.revision, chain: mark.chain, ..Place::default() }
}

fn note(chat: Uuid, kind: Kind) -> Note {
    Note { chat: bytes::Bytes::copy_from_slice(chat.as_bytes()), users: vec![], kind: Some(kind) }
}
