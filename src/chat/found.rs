//! Making chats: by users of this node, and by the word of others.
//!
//! Which id a chat has and where its home is follows from its users alone, by
//! the names their servers had first in the alphabet: of the ids a server ever
//! had, the order of time is known to nobody but itself.

use super::{
    Chat,
    room::Room,
    topic::{Founding, found, members_key},
};
use crate::{
    error::Error,
    federation::Speaks,
    store::{
        Change,
        chat::{Change as Row, Member, NewTopic},
    },
    types::{Millis, PeerId, ServerId, check_user_name, uuid::Uuid},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Users of one chat.
pub const MEMBERS_MAX: usize = 1_024;
/// Other servers open chats only up to three quarters of what there may be.
const RESERVE: u64 = 4;

/// How many chats there are, by who made them, and bytes by who sent them.
pub struct Counts {
    total: u64,
    users: HashMap<String, u64>,
    peers: HashMap<PeerId, u64>,
    bytes: HashMap<PeerId, u64>,
}

impl Counts {
    pub fn new(makers: Vec<(PeerId, Option<String>, u64)>, bytes: HashMap<PeerId, u64>) -> Self {
        let mut counts = Self { total: 0, users: HashMap::new(), peers: HashMap::new(), bytes };
        for (peer, maker, chats) in makers {
            counts.total += chats;
            match maker {
                Some(maker) => *counts.users.entry(maker).or_default() += chats,
                None => *counts.peers.entry(peer).or_default() += chats,
            }
        }
        counts
    }

    pub fn bytes_of(&self, peer: PeerId) -> u64 {
        self.bytes.get(&peer).copied().unwrap_or_default()
    }

    pub fn use_bytes(&mut self, peer: PeerId, bytes: u64) {
        *self.bytes.entry(peer).or_default() += bytes;
    }

    fn add(&mut self, maker: &Maker, more: bool) {
        let count = match maker {
            Maker::Local { principal, .. } => self.users.entry(principal.clone()).or_default(),
            Maker::Peer(peer) => self.peers.entry(*peer).or_default(),
        };
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        self.total = if more { self.total + 1 } else { self.total.saturating_sub(1) };
    }
}

/// Who makes a chat.
#[derive(Debug, Clone)]
pub enum Maker {
    /// A principal of this node; `bounded`: a user, who may open so many.
    Local {
        principal: String,
        bounded: bool,
    },
    Peer(PeerId),
}

/// Somebody to talk with, as a caller writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub name: String,
    /// `None`: of this node.
    pub server: Option<ServerId>,
}

impl Chat {
    /// Reads the name of a user in `field`: `name`, or `name@domain:port`.
    pub fn name(&self, field: &str, text: &str) -> Result<Name, Error> {
        let federation = self.federation()?;
        let (name, server) = match text.rsplit_once('@') {
            None => (text, None),
            Some((name, server)) => {
                let server: ServerId = server.parse().map_err(|error| Error::invalid(format!("{field}: {error}")))?;
                (name, Some(server))
            }
        };
        check_user_name(field, name)?;
        Ok(Name { name: name.to_owned(), server: server.filter(|server| !federation.is_own_id(server)) })
    }

    /// The chat of these users, made if there is none. On disk when this
    /// returns.
    ///
    /// `Precondition`: a user's server is no peer, or takes no chats.
    /// `Exhausted`: there are too many chats.
    pub async fn open(&self, maker: Maker, names: Vec<Name>) -> Result<Uuid, Error> {
        let names: BTreeSet<Name> = names.into_iter().collect();
        if names.is_empty() || names.len() > MEMBERS_MAX {
            let given = names.len();
            return Err(Error::invalid(format!("user_ids: {given} users; a chat has 1 to {MEMBERS_MAX}")));
        }
        if names.iter().all(|name| name.server.is_some()) {
            return Err(Error::invalid(
                "user_ids: nobody of them is of this server; a chat is made where a user of it is",
            ));
        }
        let federation = self.federation()?;
        let row_of = |name: &Name| match &name.server {
            None => Some(PeerId::SELF.0),
            Some(server) => federation.peer_of(server).map(|peer| peer.0),
        };
        let members: Option<Vec<_>> = names.iter().map(|name| Some((row_of(name)?, name.name.as_str()))).collect();
        if let Some(members) = members
            && let Some(row) = self.0.store.chat_of(&members_key(members.into_iter())).await?
        {
            return Ok(self.enter(row).chat);
        }
        let mut peers: BTreeMap<&ServerId, (PeerId, String)> = BTreeMap::new();
        for server in names.iter().filter_map(|name| name.server.as_ref()) {
            if !peers.contains_key(server) {
                let peer = federation.letter_peer(server, Speaks::Chat).await?;
                peers.insert(server, (peer, self.first_id_of(peer, server)));
            }
        }
        let own = self.own_ids().await?.into_iter().next().unwrap_or_default();
        let members: Vec<Member> = names
            .iter()
            .map(|Name { name, server }| {
                let known = server.as_ref().and_then(|server| peers.get(server));
                let (peer, server) = known.map_or((PeerId::SELF, &own), |(peer, server)| (*peer, server));
                Member { peer, name: name.clone(), qualified: format!("{name}@{server}") }
            })
            .collect();
        let founding = found(members.iter().map(|member| member.qualified.clone()).collect());
        let chat = founding.chat;
        self.make(maker, founding, members, None).await?;
        Ok(chat)
    }

    /// All ids this node ever had, the first of the alphabet first.
    pub(super) async fn own_ids(&self) -> Result<BTreeSet<String>, Error> {
        let former = self.0.store.former_ids().await?;
        let mut ids: BTreeSet<String> = former.iter().map(|former| former.server_id.to_string()).collect();
        ids.insert(self.federation()?.own_id().to_string());
        Ok(ids)
    }

    fn first_id_of(&self, peer: PeerId, now: &ServerId) -> String {
        let ids = self.federation().map(|federation| federation.ids_of(peer)).unwrap_or_default();
        ids.iter().min_by_key(|id| id.as_str()).unwrap_or(now).to_string()
    }

    /// Makes the rows of a chat, unless they are there. `known_to`: a peer that
    /// has it already.
    pub(super) async fn make(
        &self,
        maker: Maker,
        founding: Founding,
        mut members: Vec<Member>,
        known_to: Option<PeerId>,
    ) -> Result<Arc<Room>, Error> {
        if let Some(room) = self.room(founding.chat).await? {
            return Ok(room);
        }
        members.sort_by(|a, b| a.qualified.cmp(&b.qualified));
        members.dedup_by(|a, b| a.qualified == b.qualified);
        let at_home = |member: &&Member| super::topic::server_of(&member.qualified) == founding.home;
        let home = members.iter().find(at_home).map_or(PeerId::SELF, |member| member.peer);
        let home = (home != PeerId::SELF).then_some(home);
        let others: BTreeSet<PeerId> =
            members.iter().map(|member| member.peer).filter(|peer| *peer != PeerId::SELF).collect();
        let links = match home {
            Some(home) => vec![(home, known_to == Some(home))],
            None => others.into_iter().map(|peer| (peer, known_to == Some(peer))).collect(),
        };
        self.reserve(&maker)?;
        let key = members_key(members.iter().map(|member| (member.peer.0, member.name.as_str())));
        let (principal, maker_peer) = match &maker {
            Maker::Local { principal, .. } => (Some(principal.clone()), PeerId::SELF),
            Maker::Peer(peer) => (None, *peer),
        };
        let new = NewTopic {
            number: self.next_number(),
            chat: founding.chat,
            members_key: key,
            home,
            maker: principal,
            maker_peer,
            created_at: Millis::now(),
            members,
            links,
        };
        let chat = self.clone();
        let made =
            self.0.tasks.spawn(async move { chat.0.store.submit(Change::Chat(Row::Topic(Box::new(new)))).await });
        let made = made.await.map_err(Error::internal)?;
        let is_new = made.is_ok() && maker_peer == PeerId::SELF;
        match made {
            Ok(_) => {}
            // Somebody else made it at the same time.
            Err(Error::Conflict(_)) => self.counts().add(&maker, false),
            Err(error) => {
                self.counts().add(&maker, false);
                return Err(error);
            }
        }
        let room =
            self.room(founding.chat).await?.ok_or_else(|| Error::internal("a chat that was made is not there"))?;
        if is_new {
            room.topic().trust();
        }
        self.attend(&room);
        Ok(room)
    }

    fn reserve(&self, maker: &Maker) -> Result<(), Error> {
        let config = &self.0.config;
        let mut counts = self.counts();
        let total = match maker {
            Maker::Local { .. } => config.max_chats,
            Maker::Peer(_) => config.max_chats - config.max_chats / RESERVE,
        };
        if counts.total >= total {
            return Err(Error::exhausted(format!("{} chats are kept here; chat.max_chats is the limit", counts.total)));
        }
        let (whose, count, limit, key) = match maker {
            Maker::Local { bounded: false, .. } => ("", 0, u64::MAX, ""),
            Maker::Local { principal, .. } => {
                let count = counts.users.get(principal).copied().unwrap_or_default();
                (principal.as_str(), count, config.user_max_chats, "user_max_chats")
            }
            Maker::Peer(peer) => {
                let count = counts.peers.get(peer).copied().unwrap_or_default();
                ("the server", count, config.peer_max_chats, "peer_max_chats")
            }
        };
        if count >= limit {
            return Err(Error::exhausted(format!("{whose} has opened {count} chats; chat.{key} is the limit")));
        }
        counts.add(maker, true);
        Ok(())
    }

    /// A member as it is shown here: qualified when it belongs to another
    /// server, by the name that server has now.
    pub(super) fn show(&self, member: &Member) -> String {
        if member.peer == PeerId::SELF {
            return member.name.clone();
        }
        let server = self.0.federation.get().and_then(|federation| federation.server_of(member.peer));
        server.map_or_else(|| member.qualified.clone(), |server| format!("{}@{server}", member.name))
    }
}
