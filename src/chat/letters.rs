//! Letters of other servers: taken from the postbox, and given to the chats they
//! are about.
//!
//! A letter is not part of the postbox's transaction: what is lost between the
//! two is found out by comparing heads. Bounded: what does not fit goes back to
//! its maker, who sends it again later.

use super::{
    Chat,
    found::{MEMBERS_MAX, Maker},
    room::Job,
    topic::{found, server_of},
};
use crate::{
    error::Error,
    federation::{Letters, Speaks, Taken},
    proto::pillarbox::chat::v1::{Letter, Message as Said, Note, Place, note::Kind},
    store::chat::{Member, Message},
    types::{Millis, PeerId, ServerId, check_user_name, uuid::Uuid},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{sync::mpsc, time::Instant};

/// Letters, and their bytes, that wait to be opened.
const LETTERS_MAX: usize = 256;
const BYTES_MAX: usize = 32 << 20;
/// Bytes of one note: a page of messages, or one large one.
const NOTE_MAX: usize = 2 << 20;
/// Notes in one letter.
pub const NOTES_MAX: usize = 1_024;
/// What one message of another server may have.
const CLIENT_ID_MAX: usize = 256;
const HEAD_MAX: usize = 32 << 10;
const CONTENT_MAX: usize = 512 << 10;

/// A letter that came, and from whom.
pub struct Came {
    peer: PeerId,
    letter: Letter,
    bytes: usize,
}

/// The door for letters.
pub struct Inbound {
    door: mpsc::Sender<Came>,
    waiting: Arc<AtomicUsize>,
}

impl Inbound {
    pub fn new() -> (Self, mpsc::Receiver<Came>) {
        let (door, letters) = mpsc::channel(LETTERS_MAX);
        (Self { door, waiting: Arc::default() }, letters)
    }

    fn put(&self, peer: PeerId, letter: Letter) -> Result<(), String> {
        let bytes = prost::Message::encoded_len(&letter);
        if self.waiting.fetch_add(bytes, Relaxed) + bytes > BYTES_MAX {
            self.waiting.fetch_sub(bytes, Relaxed);
            return Err("too many letters of chats wait; send it again later".into());
        }
        self.door.try_send(Came { peer, letter, bytes }).map_err(|_| {
            self.waiting.fetch_sub(bytes, Relaxed);
            "too many letters of chats wait; send it again later".to_owned()
        })
    }
}

impl Letters<Letter> for Chat {
    fn take(&self, peer: PeerId, _: &ServerId, letter: Letter, _: Millis) -> Result<Taken, String> {
        let put = match letter.notes.len() {
            1..=NOTES_MAX => self.0.inbound.put(peer, letter),
            _ => Err(format!("a letter of chats has 1 to {NOTES_MAX} notes")),
        };
        put.inspect_err(|_| self.0.metrics.chat_letters_refused.inc())?;
        Ok(Taken::nothing())
    }

    fn returned(&self, peer: PeerId, _: u64, _: &str, _: Millis) -> Taken {
        // What was in it is found out by comparing.
        self.compare_later(peer);
        Taken::nothing()
    }

    fn restored(&self, peer: PeerId) {
        // Who forgot a chat cannot ask for it.
        self.compare_from(peer, Instant::now());
    }
}

impl Chat {
    /// Opens letters, one after the other, until the node stops.
    pub(super) async fn take_letters(self, mut letters: mpsc::Receiver<Came>) {
        let next = async |letters: &mut mpsc::Receiver<Came>| self.0.stop.run_until_cancelled(letters.recv()).await;
        while let Some(Some(Came { peer, letter, bytes })) = next(&mut letters).await {
            for note in letter.notes {
                if let Err(error) = self.take_note(peer, note).await {
                    self.0.metrics.chat_letters_refused.inc();
                    match error {
                        // Many, after an outage.
                        Error::Exhausted { .. } => {
                            tracing::debug!(peer = peer.0, %error, "what a server told of a chat is left out")
                        }
                        _ => tracing::warn!(peer = peer.0, %error, "what a server told of a chat is refused"),
                    }
                }
            }
            self.0.inbound.waiting.fetch_sub(bytes, Relaxed);
        }
    }

    async fn take_note(&self, peer: PeerId, note: Note) -> Result<(), Error> {
        let Some(chat) = Uuid::from_slice(&note.chat) else { return Err(Error::invalid("chat: not 16 bytes")) };
        let bytes = prost::Message::encoded_len(&note);
        if bytes > NOTE_MAX {
            return Err(Error::invalid(format!("a note of {bytes} bytes; the limit is {NOTE_MAX}")));
        }
        let room = match self.room(chat).await? {
            Some(room) => room,
            None if note.users.is_empty() => {
                if !matches!(note.kind, Some(Kind::Unknown(_))) {
                    self.is_unknown(peer, chat);
                }
                return Ok(());
            }
            None => self.introduced(peer, chat, note.users).await?,
        };
        room.topic().is_known_to_sender(peer, &note.kind);
        match note.kind {
            // What it asks for, if it is left out, is sent.
            Some(kind) => self.add(&room, Job::Note(peer, kind)).inspect_err(|_| self.attend(&room)),
            None => Ok(()),
        }
    }

    /// Another server has a chat with users of this node.
    async fn introduced(&self, peer: PeerId, chat: Uuid, users: Vec<String>) -> Result<Arc<super::room::Room>, Error> {
        if users.len() > MEMBERS_MAX {
            return Err(Error::invalid(format!("users: {}; a chat has at most {MEMBERS_MAX}", users.len())));
        }
        let founding = found(users.clone());
        if founding.chat != chat || founding.users != users {
            return Err(Error::invalid("users: they are not those of this chat"));
        }
        let (federation, own) = (self.federation()?, self.own_ids().await?);
        let mut servers: BTreeMap<&str, PeerId> = BTreeMap::new();
        for server in users.iter().map(|user| server_of(user)) {
            if servers.contains_key(server) {
                continue;
            }
            let found = match own.contains(server) {
                true => PeerId::SELF,
                false => {
                    let id: ServerId = server.parse()?;
                    if id.as_str() != server {
                        return Err(Error::invalid(format!("users: {server:?} is written {id}")));
                    }
                    match federation.peer_of(&id) {
                        Some(peer) => peer,
                        None => federation.letter_peer(&id, Speaks::Chat).await?,
                    }
                }
            };
            servers.insert(server, found);
        }
        let home = servers.get(founding.home.as_str()).copied();
        let has_part = |who: PeerId| servers.values().any(|server| *server == who);
        if !has_part(PeerId::SELF) || !has_part(peer) || (home != Some(PeerId::SELF) && home != Some(peer)) {
            return Err(Error::Denied("the server has no business to introduce this chat here".into()));
        }
        let mut members = Vec::with_capacity(users.len());
        for qualified in &users {
            let (name, server) = qualified.rsplit_once('@').unwrap_or_default();
            check_user_name("users", name)?;
            let peer = servers.get(server).copied().ok_or_else(|| Error::internal("every server was looked up"))?;
            members.push(Member { peer, name: name.to_owned(), qualified: qualified.clone() });
        }
        self.make(Maker::Peer(peer), founding, members, Some(peer)).await
    }
}

impl super::topic::Topic {
    /// Whoever speaks of a chat knows it, unless that is what it says.
    fn is_known_to_sender(&mut self, peer: PeerId, kind: &Option<Kind>) {
        if !matches!(kind, Some(Kind::Unknown(_))) {
            self.is_known_to(peer);
        }
    }
}

/// A message as it came. What is no message at all has no id.
pub fn message_of(said: Said) -> Message {
    let Said { id, author, sent_at, client_id, head, content, signature, since } = said;
    Message {
        id: Uuid::from_slice(&id),
        author,
        sent_at: Millis(sent_at),
        client_id,
        head,
        content,
        signature: Some(signature),
        since,
    }
}

/// Its parts are no larger than what a message may have.
pub fn is_sized(message: &Message) -> bool {
    message.client_id.len() <= CLIENT_ID_MAX
        && message.head.len() <= HEAD_MAX
        && message.content.len() <= CONTENT_MAX
        && message.signature.as_ref().is_none_or(|signature| signature.len() == 64)
}

/// The revision at the end of so many changes.
pub fn changes_of(after: &Option<Place>, messages: usize) -> u64 {
    after.as_ref().map_or(0, |after| after.revision).saturating_add(messages as u64)
}
