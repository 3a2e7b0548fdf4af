//! One chat in memory: its users, its rules, what waits to be done with it, and
//! the page that its readers share.
//!
//! Owns the order of a chat's changes: one batch of work is under way at a time.
//! The store is told first, then `topic.rs`, then whoever waits.

use super::{reader::Page, topic::Topic};
use crate::{
    error::Error,
    proto::pillarbox::chat::v1::note::Kind,
    store::chat::{Member, Message, TopicRow},
    types::{Millis, PeerId, uuid::Uuid},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot, watch};

/// What waits to be done with one chat; of it, what other nodes told.
const JOBS_MAX: usize = 8_192;
const NOTES_MAX: usize = 32;
/// Messages and bytes of one batch.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

pub struct Room {
    pub number: u64,
    pub chat: Uuid,
    pub members: Vec<Member>,
    topic: Mutex<Topic>,
    work: Mutex<Work>,
    /// Whether the chat's home is sure of its log may have changed.
    pub is_sure: Notify,
    /// The last telling; wakes the readers.
    pub told: watch::Sender<u64>,
    /// What was read last for the readers.
    pub page: tokio::sync::Mutex<Option<Arc<Page>>>,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    notes: usize,
    running: bool,
}

/// Somebody of this node says something.
pub struct Say {
    pub message: Message,
    /// Its client id was made here: nobody said it before.
    pub fresh: bool,
    pub reply: oneshot::Sender<Result<(), Error>>,
}

pub enum Job {
    Say(Say),
    Note(PeerId, Kind),
    /// Posts that waited for too long.
    GiveUp(Vec<i64>),
}

/// What is done in one go.
pub enum Batch {
    Say(Vec<Say>),
    Note(PeerId, Kind),
    GiveUp(Vec<i64>),
}

impl Room {
    pub fn new(row: TopicRow, topic: Topic) -> Self {
        Self {
            number: row.number,
            chat: row.chat,
            members: row.members,
            told: watch::Sender::new(topic.told().last),
            topic: Mutex::new(topic),
            is_sure: Notify::new(),
            work: Mutex::default(),
            page: tokio::sync::Mutex::default(),
        }
    }

    pub fn topic(&self) -> MutexGuard<'_, Topic> {
        self.topic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a member in the list of users.
    pub fn place_of(&self, peer: PeerId, name: &str) -> Option<u32> {
        let at = self.members.iter().position(|member| member.peer == peer && member.name == name)?;
        u32::try_from(at).ok()
    }

    pub fn member(&self, place: u32) -> Option<&Member> {
        self.members.get(usize::try_from(place).ok()?)
    }

    /// Adds work; `true`: somebody has to do it now. `Exhausted`: too much waits; what was
    /// in a note comes again.
    pub fn add(&self, job: Job, now: Millis) -> Result<bool, Error> {
        let mut work = self.work();
        if let Job::Note(peer, _) = job {
            if work.notes >= NOTES_MAX || work.jobs.len() >= JOBS_MAX {
                drop(work);
                self.left_out(peer, now);
                return Err(Error::exhausted("too much that was told of this chat waits; it is asked for again"));
            }
            work.notes += 1;
        }
        if work.jobs.len() >= JOBS_MAX {
            return Err(Error::exhausted(format!("{JOBS_MAX} messages of this chat wait to be stored; try again")));
        }
        work.jobs.push_back(job);
        Ok(!std::mem::replace(&mut work.running, true))
    }

    /// A note of the peer is not looked at. Posts come again by themselves.
    fn left_out(&self, peer: PeerId, now: Millis) {
        let mut topic = self.topic();
        match topic.home() {
            Some(_) => topic.ask(now),
            None => topic.compare(peer),
        }
    }

    /// What is to be done next; `None`: nothing, and nobody does it any more.
    pub fn next(&self) -> Option<Batch> {
        let mut work = self.work();
        let first = match work.jobs.pop_front() {
            None => {
                work.running = false;
                return None;
            }
            Some(Job::Note(peer, kind)) => {
                work.notes -= 1;
                return Some(Batch::Note(peer, kind));
            }
            Some(Job::GiveUp(places)) => return Some(Batch::GiveUp(places)),
            Some(Job::Say(say)) => say,
        };
        let mut bytes = first.message.size();
        let mut says = vec![first];
        while says.len() < BATCH
            && bytes < BATCH_BYTES
            && let Some(Job::Say(_)) = work.jobs.front()
            && let Some(Job::Say(say)) = work.jobs.pop_front()
        {
            bytes += say.message.size();
            says.push(say);
        }
        Some(Batch::Say(says))
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::topic::{Due, Saved, Tellings},
        *,
    };
    use crate::store::chat::LinkRow;

    const B: PeerId = PeerId(2);
    const NOW: Millis = Millis(1_000);

    fn room(home: Option<PeerId>) -> Room {
        let links = vec![LinkRow { peer: B, introduced: true, behind: None }];
        let (chat, waiting, lost) = (Uuid::of_hash([1; 32]), (0, 0, 0), false);
        let saved =
            Saved { head: Default::default(), home, links: links.clone(), waiting, lost, told: Tellings::default() };
        let row =
            TopicRow { number: 1, chat, home, lost, members: vec![], links, head: (0, 0, 0), waiting, told: (0, None) };
        Room::new(row, Topic::new(saved, 3, 1))
    }

    #[test]
    fn what_is_told_while_too_much_waits_is_asked_for_again() {
        for home in [None, Some(B)] {
            let room = room(home);
            let note = || Job::Note(B, Kind::Head(Default::default()));
            assert!(room.add(note(), NOW).unwrap(), "somebody has to begin");
            for _ in 1..NOTES_MAX {
                assert!(!room.add(note(), NOW).unwrap());
            }
            assert_eq!(room.topic().due(B, NOW), []);
            assert!(matches!(room.add(note(), NOW), Err(Error::Exhausted { .. })));
            assert_eq!(room.topic().due(B, NOW), [Due::Head { introduce: false }], "the last that came was left out");
            // Room for one more.
            assert!(matches!(room.next(), Some(Batch::Note(..))));
            assert!(!room.add(note(), NOW).unwrap());
        }
    }
}
