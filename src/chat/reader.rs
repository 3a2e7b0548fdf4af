//! Reading a chat: its history in pages, and streams that follow it.
//!
//! A stream follows the order of telling (`topic/telling.rs`) and holds a cursor in
//! it: woken, it reads what is behind it. Those that are up to date share one page,
//! read once. Nothing waits in memory for a slow
//! client but the page it is at.

use super::{Chat, content, room::Room, topic::goes_on};
use crate::{
    error::Error,
    net::{
        feed::{Held, Patience},
        unread::pages,
    },
    proto::chat::Message as Shown,
    store::chat::{Message, Place},
    types::uuid::Uuid,
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::timeout,
};

/// Messages and bytes read in one go for streams.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 64 << 10;
/// Bytes of the messages in one answer.
const HISTORY_BYTES: usize = 3 << 20;
/// More cannot be in an answer, whatever their size.
const HISTORY_MAX: usize = HISTORY_BYTES / 64;
/// A stream that is behind by fewer is not slow.
const BEHIND_MAX: u64 = 256;

/// A run of tellings, as callers see them.
pub struct Page {
    after: u64,
    last: u64,
    /// Telling, author, and the message.
    rows: Vec<(u64, u32, Option<Shown>)>,
}

/// Why a stream is to end; said once.
#[derive(Default)]
pub struct Ending {
    why: Mutex<Option<Error>>,
    said: Notify,
}

impl Ending {
    pub fn end(&self, why: Error) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.said.notify_one();
    }

    fn take(&self) -> Option<Error> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// One stream of a chat.
pub struct Reader {
    chat: Chat,
    room: Arc<Room>,
    /// Whose own messages are left out.
    own: Option<u32>,
    told: watch::Receiver<u64>,
    /// The telling it was told last.
    cursor: u64,
    page: Option<(Arc<Page>, usize)>,
    /// It was up to date once.
    current: bool,
    /// What this user's streams hold unread, all together.
    unread: Arc<Semaphore>,
    behind_since: Option<Instant>,
    ending: Arc<Ending>,
}

impl Chat {
    /// Where a message of the chat is. `NotFound`: it is none.
    async fn revision_of(&self, room: &Room, field: &str, id: &str) -> Result<u64, Error> {
        let unknown = || Error::NotFound(format!("{field}: the chat has no message {id:?}"));
        let id: Uuid = id.parse().map_err(|_| unknown())?;
        match self.places(room, &[id]).await?.remove(&id) {
            Some(Place::Logged(_, revision)) => Ok(revision),
            Some(Place::Waiting(..)) => {
                Err(Error::unavailable(format!("{field}: the message waits for its place; try again")))
            }
            Some(Place::GivenUp(..)) | None => Err(unknown()),
        }
    }

    /// The telling behind which a reader goes on that has seen a message.
    /// `NotFound`: it is none of the chat; `Unavailable`: it is not known yet.
    async fn telling_after(&self, room: &Room, id: &str) -> Result<u64, Error> {
        let unknown = || Error::NotFound(format!("metadata x-after-id: the chat has no message {id:?}"));
        let parsed: Uuid = id.parse().map_err(|_| unknown())?;
        let (told, behind) = self.0.store.chat_told_of(room.number, parsed).await?.ok_or_else(unknown)?;
        let waits = || Error::unavailable("metadata x-after-id: the message waits for its place; try again");
        let told = told.ok_or_else(waits)?;
        Ok(goes_on(told, behind))
    }

    /// The newest messages, oldest first, as many as one answer holds, and
    /// whether there are older ones. `before`: those before this message.
    pub(super) async fn history(
        &self,
        room: &Room,
        before: Option<&str>,
        limit: Option<usize>,
    ) -> Result<(Vec<Shown>, bool), Error> {
        let before = match before {
            Some(id) => self.revision_of(room, "metadata x-before-id", id).await?,
            None => u64::MAX,
        };
        let limit = limit.unwrap_or(HISTORY_MAX).min(HISTORY_MAX);
        let (entries, cut) = self.0.store.chat_entries_before(room.number, before, limit + 1, HISTORY_BYTES).await?;
        let (mut shown, mut bytes, mut more) = (Vec::new(), 0, cut);
        for entry in &entries {
            let Some(message) = self.shown(room, &entry.message) else { continue };
            // What stands around it in the answer.
            bytes += prost::Message::encoded_len(&message) + 8;
            if shown.len() == limit || (bytes > HISTORY_BYTES && !shown.is_empty()) {
                more = true;
                break;
            }
            shown.push(message);
        }
        shown.reverse();
        Ok((shown, more))
    }

    pub(super) fn shown(&self, room: &Room, message: &Message) -> Option<Shown> {
        let (subject, text) = content::to_text(&message.head, &message.content);
        Some(Shown {
            id: message.id?.to_string(),
            client_id: message.client_id.clone(),
            chat_id: room.chat.to_string(),
            user_id: self.show(room.member(message.author)?),
            sent_at: message.sent_at.0.div_euclid(1_000),
            subject,
            text,
        })
    }

    /// What is told behind a telling: what was read for others, if it goes on there.
    async fn page(&self, room: &Room, after: u64) -> Result<Arc<Page>, Error> {
        let mut shared = room.page.lock().await;
        if let Some(page) = shared.as_ref().filter(|page| page.after <= after && after < page.last) {
            return Ok(page.clone());
        }
        let tellings = self.0.store.chat_tellings(room.number, after, PAGE, PAGE_BYTES).await?;
        let last = tellings.last().map_or(after, |(told, _)| *told);
        let rows = tellings.iter().map(|(told, message)| (*told, message.author, self.shown(room, message)));
        let page = Arc::new(Page { after, last, rows: rows.collect() });
        // Who reads old messages reads them alone.
        if shared.as_ref().is_none_or(|shared| shared.last <= last) {
            *shared = Some(page.clone());
        }
        Ok(page)
    }

    /// A stream of what is said in a chat from now on, or after a message.
    pub(super) async fn follow(
        &self,
        room: Arc<Room>,
        user: &str,
        own: Option<u32>,
        after: Option<&str>,
        ending: Arc<Ending>,
    ) -> Result<Reader, Error> {
        let told = room.told.subscribe();
        let cursor = match after {
            Some(id) => self.telling_after(&room, id).await?,
            None => room.topic().told().end(),
        };
        let chat = self.clone();
        let unread = self.0.unread.of(user);
        let (page, current, behind_since) = (None, false, None);
        Ok(Reader { chat, room, own, told, cursor, page, current, unread, behind_since, ending })
    }

    /// How long a stream may be left unread.
    pub(super) fn patience(&self) -> Patience {
        let over = self.too_slow("nothing of the stream was read").into();
        Patience { lasts: self.0.config.slow_after, over }
    }

    fn too_slow(&self, why: &str) -> Error {
        Error::exhausted(format!(
            "{why} for more than {} ms (chat.slow_after); connect again with x-after-id of the last message",
            self.0.config.slow_after.as_millis()
        ))
    }
}

impl Reader {
    /// The next message for the client, once there is room for it; an error ends
    /// the stream.
    pub async fn next(&mut self) -> Result<Held<Shown>, Error> {
        let message = self.next_message().await?;
        let room = self.unread.clone().acquire_many_owned(pages(prost::Message::encoded_len(&message)));
        let room = tokio::select! {
            room = timeout(self.chat.0.config.slow_after, room) => room,
            () = self.ending.said.notified() => return Err(self.ending.take().unwrap_or_else(|| ended("the stream"))),
            () = self.chat.0.stop.cancelled() => return Err(ended("the node")),
        };
        let room = room.map_err(|_| self.chat.too_slow("other streams of this user held all it may leave unread"))?;
        Ok(Held { answer: message, room: Some(Arc::new(room.map_err(Error::internal)?)) })
    }

    async fn next_message(&mut self) -> Result<Shown, Error> {
        loop {
            if let Some(why) = self.ending.take() {
                return Err(why);
            }
            let head = *self.told.borrow_and_update();
            if let Some(message) = self.next_of_page(head)? {
                return Ok(message);
            }
            // Rows are there a moment before they are told of: the cursor may be further.
            if self.cursor < head {
                let page = self.chat.page(&self.room, self.cursor).await?;
                if page.last > self.cursor {
                    let at = page.rows.partition_point(|(told, ..)| *told <= self.cursor);
                    self.page = Some((page, at));
                    continue;
                }
            }
            (self.current, self.behind_since) = (true, None);
            self.wait().await?;
        }
    }

    /// The next of the page that is for this client.
    fn next_of_page(&mut self, head: u64) -> Result<Option<Shown>, Error> {
        let Some((page, at)) = &mut self.page else { return Ok(None) };
        while let Some((told, author, message)) = page.rows.get(*at) {
            *at += 1;
            self.cursor = *told;
            if let Some(message) = message
                && Some(*author) != self.own
            {
                let message = message.clone();
                self.check_pace(head)?;
                return Ok(Some(message));
            }
        }
        self.page = None;
        Ok(None)
    }

    /// Who was up to date and has not been for too long is too slow.
    fn check_pace(&mut self, head: u64) -> Result<(), Error> {
        if !self.current || head.saturating_sub(self.cursor) < BEHIND_MAX {
            self.behind_since = None;
            return Ok(());
        }
        let since = *self.behind_since.get_or_insert_with(Instant::now);
        let patience = self.chat.0.config.slow_after;
        match since.elapsed() > patience {
            true => Err(self.chat.too_slow("the stream is behind")),
            false => Ok(()),
        }
    }

    async fn wait(&mut self) -> Result<(), Error> {
        tokio::select! {
            changed = self.told.changed() => changed.map_err(|_| Error::unavailable("the chat is closed; connect again")),
            () = self.ending.said.notified() => Ok(()),
            () = self.chat.0.stop.cancelled() => Err(ended("the node")),
        }
    }
}

fn ended(what: &str) -> Error {
    Error::unavailable(format!("{what} stops; connect again, nothing is lost"))
}
