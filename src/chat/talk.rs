//! What changes a chat's log and what waits beside it: words of this node's
//! users, and what other nodes tell.
//!
//! One batch of a chat is under way at a time: the rows are read, `topic.rs`
//! decides, one op is committed, and only then anybody hears of it.

use super::{
    Chat,
    letters::{changes_of, message_of},
    news,
    proof::Doubt,
    room::{Batch, Job, Room, Say},
    topic::{Growth, Head, Known, Mark, Step, message_id},
};
use crate::{
    error::Error,
    proto::pillarbox::chat::v1::{Changes, Outline, Place as WirePlace, Posts, note::Kind},
    store::{
        Change, Op,
        chat::{Change as Row, Entry, Message, Place, Post},
    },
    types::{Millis, PeerId, uuid::Uuid},
};
use bytes::Bytes;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::oneshot;

/// What somebody says, checked.
#[derive(Debug, Clone)]
pub struct Words {
    /// Place of the author, a member of this node.
    pub author: u32,
    /// Empty: one is made.
    pub client_id: String,
    pub head: Bytes,
    pub content: Bytes,
}

/// What a log is to grow by.
#[derive(Default)]
struct Growing {
    entries: Vec<Entry>,
    /// `Conflict` if one of these is here.
    unsaid: Vec<Uuid>,
    /// Places of posts that wait no more then, and whether they were not given up.
    cleared: Vec<(i64, bool)>,
    /// Whose letter it is from.
    from: Option<PeerId>,
}

impl Chat {
    /// Says something in a chat; on disk when this returns. What was said under
    /// the same client id before is not said again.
    ///
    /// `Unavailable`: its home is gone. `Exhausted`: too much waits, or the disk
    /// is full.
    pub async fn say(&self, room: &Arc<Room>, words: Words) -> Result<(), Error> {
        let Words { author, mut client_id, head, content } = words;
        let fresh = client_id.is_empty();
        if fresh {
            client_id = format!("{:016x}{:016x}", random()?, random()?);
        }
        let user = room.member(author).ok_or_else(|| Error::internal("an author who is no member"))?;
        let id = message_id(room.chat, &user.qualified, &client_id);
        let message =
            Message { id: Some(id), author, sent_at: Millis::now(), client_id, head, content, ..Message::refused() };
        self.be_sure(room).await?;
        let (reply, answer) = oneshot::channel();
        self.add(room, Job::Say(Say { message, fresh, reply }))?;
        answer.await.map_err(|_| stops())?
    }

    /// Adds work to a chat; it is done by a task of its own.
    pub(super) fn add(&self, room: &Arc<Room>, job: Job) -> Result<(), Error> {
        if room.add(job, Millis::now())? {
            let (chat, room) = (self.clone(), room.clone());
            self.0.tasks.spawn(async move {
                while let Some(batch) = room.next() {
                    chat.work(&room, batch).await;
                }
            });
        }
        Ok(())
    }

    async fn work(&self, room: &Arc<Room>, batch: Batch) {
        let done = match batch {
            Batch::Say(says) => return self.say_all(room, says).await,
            Batch::Note(from, kind) => self.note(room, from, kind).await,
            Batch::GiveUp(places) => self.give_up(room, places).await,
        };
        if let Err(error) = done {
            tracing::warn!(chat = %room.chat, %error, "what was told of a chat could not be stored; it is asked for again");
            room.topic().ask(Millis::now());
        }
        room.is_sure.notify_waiters();
        self.attend(room);
    }

    // ----- words of this node's users

    async fn say_all(&self, room: &Arc<Room>, says: Vec<Say>) {
        let result = self.say_batch(room, &says).await;
        if result.is_ok() {
            self.0.metrics.chat_messages.inc_by(says.len() as u64);
            self.attend(room);
        }
        let given_up = result.as_ref().ok().cloned().unwrap_or_default();
        for say in says {
            let answer = match &result {
                Ok(_) if say.message.id.is_some_and(|id| given_up.contains(&id)) => Err(Error::Precondition(
                    "client_id: this message was given up since the chat's home was away for too long; \
                     say it again under another client_id"
                        .into(),
                )),
                Ok(_) => Ok(()),
                Err(error) => Err(error.clone()),
            };
            // Who does not wait any more does not want to know.
            let _ = say.reply.send(answer);
        }
    }

    /// Returns those that were given up before.
    async fn say_batch(&self, room: &Arc<Room>, says: &[Say]) -> Result<HashSet<Uuid>, Error> {
        let asked: Vec<Uuid> = says.iter().filter(|say| !say.fresh).filter_map(|say| say.message.id).collect();
        let home = room.topic().home();
        if home.is_none() {
            // A retry is rare: the writer, which has the rows at hand, finds that it is one. On a full
            // disk, too, what was said before is answered.
            match self.say_here(room, says, &Known::default(), asked.clone()).await {
                Err(Error::Conflict(_) | Error::Exhausted { .. }) if !asked.is_empty() => {}
                done => return done.map(|()| HashSet::new()),
            }
        }
        let places = self.places(room, &asked).await?;
        match home {
            None => self.say_here(room, says, &known(&places), vec![]).await?,
            Some(home) => self.wait(room, home, says, &places).await?,
        }
        let given_up = places.iter().filter(|(_, place)| matches!(place, Place::GivenUp(..))).map(|(id, _)| *id);
        Ok(given_up.collect())
    }

    async fn say_here(&self, room: &Arc<Room>, says: &[Say], known: &Known, unsaid: Vec<Uuid>) -> Result<(), Error> {
        let messages = says.iter().map(|say| say.message.clone());
        let entries = room.topic().number(None, messages, known);
        self.append(room, Growing { entries, unsaid, ..Growing::default() }).await
    }

    async fn wait(
        &self,
        room: &Arc<Room>,
        home: PeerId,
        says: &[Say],
        places: &HashMap<Uuid, Place>,
    ) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let messages = says.iter().map(|say| say.message.clone());
        let new = |message: &Message| message.id.is_some_and(|id| !places.contains_key(&id) && seen.insert(id));
        let messages: Vec<Message> = messages.filter(new).collect();
        if messages.is_empty() {
            return Ok(());
        }
        let (first, waiting, lost) = {
            let topic = room.topic();
            (topic.place_behind(), topic.waiting(), topic.is_lost())
        };
        if lost || self.federation()?.server_of(home).is_none() {
            let why = "the server that orders this chat is gone; its history can be read";
            return Err(Error::unavailable(format!("chat_id: {why}")));
        }
        let limit = self.0.config.max_waiting;
        if waiting + messages.len() > limit {
            return Err(Error::exhausted(format!(
                "{waiting} messages of this chat wait for its home to come back; chat.max_waiting = {limit} is the limit"
            )));
        }
        let count = messages.len();
        let posts = (first..).zip(messages).map(|(place, message)| Post { place, message }).collect();
        let row = Row::Wait { topic: room.number, stored_at: Millis::now(), posts };
        self.0.store.submit(Change::Chat(row)).await?;
        room.topic().posted(count);
        Ok(())
    }

    /// Puts entries at the end of the log.
    async fn append(&self, room: &Arc<Room>, growing: Growing) -> Result<(), Error> {
        let Growing { entries, unsaid, cleared, from } = growing;
        let Some(growth) = Growth::of(&entries) else { return Ok(()) };
        let bytes = entries.iter().map(|entry| entry.message.size() as u64).sum();
        let told = self.told_of(room, &entries);
        // Those that were given up count no longer.
        let counted: Vec<i64> = cleared.iter().filter(|(_, waited)| *waited).map(|(place, _)| *place).collect();
        let cleared = cleared.into_iter().map(|(place, _)| place).collect();
        let (behind, overtaken) = {
            let topic = room.topic();
            (topic.head().revision, topic.overtaken_by(from))
        };
        let mut op = Op::from(Row::Append { topic: room.number, entries, cleared });
        if !unsaid.is_empty() {
            op.push(Change::Chat(Row::Unsaid(unsaid)));
        }
        op.changes.extend(told);
        for peer in &overtaken {
            op.push(Change::Chat(Row::Behind { topic: room.number, peer: *peer, behind: Some(behind) }));
        }
        if let Some(peer) = from {
            op.push(Change::Chat(Row::Used { peer, bytes }));
        }
        let was_lost = room.topic().is_lost();
        if was_lost {
            op.push(Change::Chat(Row::Found { topic: room.number }));
        }
        self.0.store.submit(op).await?;
        if let Some(peer) = from {
            self.counts().use_bytes(peer, bytes);
        }
        let told = {
            let mut topic = room.topic();
            topic.overtook(&overtaken, behind);
            topic.grown(growth, &counted);
            topic.told().last
        };
        room.told.send_replace(told);
        Ok(())
    }

    /// What gateways are told of what is appended.
    fn told_of(&self, room: &Room, entries: &[Entry]) -> Vec<Change> {
        if !self.0.store.push_wanted() {
            return vec![];
        }
        let (now, last) = (Millis::now(), room.topic().told().last);
        let told = |entry: &Entry| news::of(room, entry, &self.shown(room, &entry.message)?, now);
        // What has its place again was told when it had it first.
        entries.iter().filter(|entry| entry.told.at > last).filter_map(told).collect()
    }

    async fn give_up(&self, room: &Arc<Room>, places: Vec<i64>) -> Result<(), Error> {
        let row = Row::GiveUp { topic: room.number, places: places.clone() };
        self.0.store.submit(Change::Chat(row)).await?;
        self.0.metrics.chat_given_up.inc_by(places.len() as u64);
        tracing::warn!(chat = %room.chat, messages = places.len(), "the home of a chat was away for too long; messages are given up");
        room.topic().gave_up(&places, Millis::now());
        Ok(())
    }

    // ----- what other nodes tell

    async fn note(&self, room: &Arc<Room>, from: PeerId, kind: Kind) -> Result<(), Error> {
        let now = Millis::now();
        if !room.topic().has_link(from) {
            return self.refuse(room, from, "it has no part in the chat");
        }
        let home = room.topic().home();
        match kind {
            Kind::Head(place) => {
                let theirs = mark(&place);
                let mine = self.chain_at(room, theirs.revision).await?;
                let was_lost = room.topic().is_lost();
                let cleared = {
                    let mut topic = room.topic();
                    topic.heard(from, theirs, mine, now);
                    match home {
                        Some(home) if home == from => {
                            topic.asked(from, place.asks);
                            false
                        }
                        None if mine == Some(theirs.chain) && !place.waits => topic.has_all_of(from, place.asks),
                        _ => false,
                    }
                };
                if cleared {
                    self.is_not_behind(room, from).await?;
                }
                if was_lost && !room.topic().is_lost() {
                    self.0.store.submit(Change::Chat(Row::Found { topic: room.number })).await?;
                }
                Ok(())
            }
            Kind::Unknown(_) => {
                room.topic().is_unknown_to(from);
                Ok(())
            }
            Kind::Outline(outline) if home == Some(from) => self.outlined(room, outline, now).await,
            Kind::Changes(changes) if home == Some(from) => self.changes(room, from, changes, now).await,
            Kind::Posts(posts) if home.is_none() => self.posts(room, from, posts).await,
            _ => self.refuse(room, from, "it is not the home of the chat, or takes this node for it"),
        }
    }

    /// All that a peer had is in the log.
    async fn is_not_behind(&self, room: &Room, peer: PeerId) -> Result<(), Error> {
        let row = Row::Behind { topic: room.number, peer, behind: None };
        self.0.store.submit(Change::Chat(row)).await.map(drop)
    }

    fn refuse(&self, room: &Room, from: PeerId, why: &str) -> Result<(), Error> {
        self.0.metrics.chat_letters_refused.inc();
        tracing::warn!(chat = %room.chat, peer = from.0, why, "a server told what it may not");
        Ok(())
    }

    async fn chain_at(&self, room: &Room, revision: u64) -> Result<Option<u64>, Error> {
        let head = room.topic().head();
        if revision == 0 || revision == head.revision {
            return Ok(Some(if revision == 0 { 0 } else { head.chain }));
        }
        Ok(self.0.store.chat_chains(room.number, &[revision]).await?.remove(&revision))
    }

    /// Home does not know where this log stands: it came from a backup.
    async fn outlined(&self, room: &Arc<Room>, outline: Outline, now: Millis) -> Result<(), Error> {
        let places: Vec<Mark> = outline.places.iter().map(mark).collect();
        let revisions: Vec<u64> = places.iter().map(|place| place.revision).collect();
        let mine = self.0.store.chat_chains(room.number, &revisions).await?;
        let asked = outline.asked.as_ref().map(mark).unwrap_or_default();
        let Some(common) = room.topic().common(asked, &places, &mine) else { return Ok(()) };
        let head = room.topic().head();
        if common >= head.revision {
            room.topic().ask(now);
            return Ok(());
        }
        let (moved, told, seq, chain) = self.0.store.chat_behind(room.number, common).await?;
        let first_place = room.topic().place_before(moved);
        let row = Row::CutBack { topic: room.number, revision: common, first_place, stored_at: now };
        self.0.store.submit(Change::Chat(row)).await?;
        tracing::warn!(
            chat = %room.chat, from = head.revision, to = common, messages = moved,
            "the home of a chat has another history; what it does not know is given to it again"
        );
        room.topic().cut(Head { revision: common, seq, chain }, first_place, moved, told, now);
        Ok(())
    }

    async fn changes(&self, room: &Arc<Room>, from: PeerId, changes: Changes, now: Millis) -> Result<(), Error> {
        let after = changes.after.as_ref().map(mark).unwrap_or_default();
        let ids: Vec<Option<Uuid>> = changes.messages.iter().map(|message| Uuid::from_slice(&message.id)).collect();
        let step = room.topic().judge(after, &ids);
        let skip = match step {
            Step::Take { skip } => skip,
            Step::Ask => {
                room.topic().ask(now);
                return Ok(());
            }
            Step::Old => return Ok(()),
        };
        let mut messages: Vec<Message> = changes.messages.into_iter().skip(skip).map(message_of).collect();
        if self.fit(from, &mut messages)? {
            room.topic().ask(now);
        }
        let places = self.places(room, &ids[skip..].iter().flatten().copied().collect::<Vec<_>>()).await?;
        let mut judged = Vec::with_capacity(messages.len());
        for message in messages {
            match self.prove(room, message).await {
                Ok(message) => judged.push((message, true)),
                Err((message, Doubt::Forged)) => {
                    self.0.metrics.chat_forged.inc();
                    tracing::warn!(
                        chat = %room.chat, home = from.0,
                        "the home of a chat sent a message that its author's server never signed: it is left out"
                    );
                    judged.push((message, false));
                }
                // What is before it is taken; the rest is asked for again.
                Err((_, Doubt::NoKey)) => {
                    room.topic().ask(now);
                    break;
                }
            }
        }
        let mut known = known(&places);
        let behind = room.topic().looks_behind(judged.iter().map(|(message, _)| message));
        for revision in behind {
            let first = self.0.store.chat_told_behind(room.number, revision).await?;
            known.behind.extend(first.map(|first| (revision, first)));
        }
        let (entries, cleared) = room.topic().follow(judged, &known);
        let given_up: HashSet<i64> = places
            .values()
            .filter_map(|place| match place {
                Place::GivenUp(_, at, _) => Some(*at),
                _ => None,
            })
            .collect();
        let cleared = cleared.into_iter().map(|place| (place, !given_up.contains(&place))).collect();
        self.append(room, Growing { entries, cleared, from: Some(from), ..Growing::default() }).await?;
        let further = room.topic().head().revision < changes.revision;
        if changes_of(&changes.after, ids.len()) >= changes.revision && further {
            room.topic().ask(now);
        }
        Ok(())
    }

    async fn posts(&self, room: &Arc<Room>, from: PeerId, posts: Posts) -> Result<(), Error> {
        let theirs = posts.after.as_ref().map(mark).unwrap_or_default();
        let mine = self.chain_at(room, theirs.revision).await?;
        if !room.topic().may_post(from, theirs, mine) {
            return Ok(());
        }
        let mut messages: Vec<Message> = posts.messages.into_iter().map(message_of).collect();
        let old = usize::try_from(posts.old).unwrap_or(usize::MAX);
        let said_since: Vec<Uuid> = messages.iter().skip(old).filter_map(|message| message.id).collect();
        // What is left out is sent again.
        let mut all = !self.fit(from, &mut messages)? && !posts.more;
        let ids: Vec<Uuid> = messages.iter().filter_map(|message| message.id).collect();
        let places = self.places(room, &ids).await?;
        let mut proven = Vec::with_capacity(messages.len());
        for message in messages {
            match self.prove(room, message).await {
                Ok(message) => proven.push(message),
                Err((_, Doubt::Forged)) => {
                    self.0.metrics.chat_forged.inc();
                    let why = "it sent a message that its author's server never signed";
                    tracing::warn!(chat = %room.chat, peer = from.0, why, "a message is refused");
                }
                // Its node sends it again.
                Err((_, Doubt::NoKey)) => {
                    all = false;
                    break;
                }
            }
        }
        let mut known = known(&places);
        if room.topic().is_of_this_run(posts.asks) {
            known.fresh.extend(said_since);
        }
        let entries = room.topic().number(Some(from), proven, &known);
        self.append(room, Growing { entries, from: Some(from), ..Growing::default() }).await?;
        if all && room.topic().has_all_of(from, posts.asks) {
            self.is_not_behind(room, from).await?;
        }
        Ok(())
    }

    /// Leaves out what there is no room for, from the end; whether something
    /// was. `Exhausted`: nothing of it fits.
    fn fit(&self, peer: PeerId, messages: &mut Vec<Message>) -> Result<bool, Error> {
        let (taken, limit) = (self.counts().bytes_of(peer), self.0.config.peer_max_bytes.as_u64());
        let mut bytes = taken;
        let fits = messages.iter().take_while(|message| {
            bytes = bytes.saturating_add(message.size() as u64);
            bytes <= limit
        });
        let (count, all) = (fits.count(), messages.len());
        if count == 0 && all > 0 {
            return Err(Error::exhausted(format!(
                "{taken} bytes of the server are kept; chat.peer_max_bytes = {limit}"
            )));
        }
        messages.truncate(count);
        Ok(count < all)
    }
}

pub(super) fn mark(place: &WirePlace) -> Mark {
    Mark { revision: place.revision, chain: place.chain }
}

fn known(places: &HashMap<Uuid, Place>) -> Known {
    let mut known = Known::default();
    for (id, place) in places {
        match place {
            Place::Logged(..) => _ = known.logged.insert(*id),
            Place::Waiting(_, at, told) | Place::GivenUp(_, at, told) => {
                known.waiting.insert(*id, *at);
                known.told.extend(told.map(|told| (*id, told)));
            }
        }
    }
    known
}

pub(super) fn stops() -> Error {
    Error::unavailable("the node stops; say it again under the same client_id")
}

fn random() -> Result<u64, Error> {
    getrandom::u64().map_err(Error::internal)
}
