//! `chat.Chat` as its callers see it.
//!
//! Verifies who calls and for whom, reads and names the fields, calls the
//! handle, maps the answer. Never touches the store.

use super::{
    Chat, content,
    found::{Maker, Name},
    reader::Ending,
    room::Room,
    talk::Words,
    trailers::{MORE, Trailing},
};
use crate::{
    error::Error,
    identity::{principal::Principal, tokens::Tokens, users::Users},
    proto::chat::{
        HistoryRequest, HistoryResponse, Message, NewRequest, NewResponse, SendRequest, SendResponse,
        chat_server::{Chat as Face, ChatServer},
    },
    types::{PeerId, uuid::Uuid},
};
use futures_util::stream;
use std::{pin::Pin, sync::Arc};
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

/// Bytes of one text.
pub const TEXT_MAX: usize = 64 << 10;
const SUBJECT_MAX: usize = 1 << 10;
const CLIENT_ID_MAX: usize = 256;
/// The names of as many users as a chat has, and more than one message.
const REQUEST_MAX: usize = 1 << 20;

/// The service; hold it behind the node's one port.
#[derive(Clone)]
pub struct Service {
    chat: Chat,
    tokens: Tokens,
    users: Users,
}

pub type MessageStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

impl Chat {
    pub fn service(&self, tokens: Tokens, users: Users) -> Trailing<ChatServer<Service>> {
        let service = Service { chat: self.clone(), tokens, users };
        Trailing(ChatServer::new(service).max_decoding_message_size(REQUEST_MAX))
    }
}

/// A member's words in a chat.
struct Seat {
    room: Arc<Room>,
    author: u32,
}

impl Service {
    async fn caller(&self, metadata: &MetadataMap) -> Result<Principal, Error> {
        match self.tokens.authenticate(metadata).await? {
            principal @ (Principal::User(_) | Principal::Service(_)) => Ok(principal),
            other => Err(Error::Denied(format!("{other} may not chat; a user: or service: principal may"))),
        }
    }

    /// The user of this node in `field`, if the caller may act as it.
    async fn act_as(&self, caller: &Principal, field: &str, text: &str) -> Result<String, Error> {
        if text.is_empty() {
            return Err(Error::invalid(format!("{field}: it is missing")));
        }
        let Name { name, server } = self.chat.name(field, text)?;
        if let Some(server) = server {
            return Err(Error::Denied(format!(
                "{field}: {name}@{server} is not a user of this server; it calls its own"
            )));
        }
        Ok(self.users.acting(caller, field, &name).await?.name)
    }

    async fn room(&self, field: &str, text: &str) -> Result<Arc<Room>, Error> {
        if text.is_empty() {
            return Err(Error::invalid(format!("{field}: it is missing")));
        }
        let unknown = || Error::NotFound(format!("{field}: there is no chat {text:?} on this server"));
        let id: Uuid = text.parse().map_err(|_| unknown())?;
        self.chat.room(id).await?.ok_or_else(unknown)
    }

    /// Somebody who says something must be a member.
    async fn seat(&self, caller: &Principal, chat_id: &str, user_id: &str) -> Result<Seat, Error> {
        let name = self.act_as(caller, "user_id", user_id).await?;
        let room = self.room("chat_id", chat_id).await?;
        let author = room.place_of(PeerId::SELF, &name).ok_or_else(|| stranger("user_id", &name))?;
        Ok(Seat { room, author })
    }

    async fn say(&self, seat: &Seat, client_id: String, subject: &str, text: &str) -> Result<(), Error> {
        if text.is_empty() {
            return Err(Error::invalid("text: it is missing"));
        }
        bounded("text", text, TEXT_MAX)?;
        bounded("subject", subject, SUBJECT_MAX)?;
        bounded("client_id", &client_id, CLIENT_ID_MAX)?;
        let (head, content) = content::of_text(subject, text);
        self.chat.say(&seat.room, Words { author: seat.author, client_id, head, content }).await
    }

    /// What a client says on its stream, until it ends.
    async fn listen(
        self,
        caller: Principal,
        seat: Option<Seat>,
        ids: (String, String),
        mut said: Streaming<Message>,
        ending: Arc<Ending>,
    ) {
        let stop = self.chat.0.stop.clone();
        let listening = async {
            while let Some(message) = said.message().await? {
                let Message { client_id, chat_id, user_id, subject, text, .. } = message;
                for (field, given, meant) in [("chat_id", chat_id, &ids.0), ("user_id", user_id, &ids.1)] {
                    if !given.is_empty() && given != *meant {
                        let text = format!("{field}: {given:?}; on this stream it is empty or {meant:?}");
                        return Err(Status::from(Error::Invalid(text)));
                    }
                }
                let seat = seat.as_ref().ok_or_else(|| Status::from(stranger("user_id", &ids.1)))?;
                // Whoever was disabled meanwhile says nothing more, through a service neither.
                self.act_as(&caller, "user_id", &ids.1).await?;
                self.say(seat, client_id, &subject, &text).await?;
            }
            Ok::<(), Status>(())
        };
        if let Some(Err(status)) = stop.run_until_cancelled(listening).await {
            ending.end(of_status(&status));
        }
    }
}

fn bounded(field: &str, text: &str, limit: usize) -> Result<(), Error> {
    match text.len() > limit {
        true => Err(Error::invalid(format!("{field}: {} bytes; the limit is {limit}", text.len()))),
        false => Ok(()),
    }
}

fn stranger(field: &str, name: &str) -> Error {
    Error::Denied(format!("{field}: {name} is not a member of this chat"))
}

/// The reason a stream ends with; only ours are told in full.
fn of_status(status: &Status) -> Error {
    let text = status.message().to_owned();
    match status.code() {
        tonic::Code::InvalidArgument => Error::Invalid(text),
        tonic::Code::PermissionDenied => Error::Denied(text),
        tonic::Code::NotFound => Error::NotFound(text),
        tonic::Code::FailedPrecondition => Error::Precondition(text),
        tonic::Code::ResourceExhausted | tonic::Code::OutOfRange => Error::exhausted(text),
        tonic::Code::Unauthenticated => Error::Unauthenticated(text),
        tonic::Code::Internal => Error::Internal(text),
        _ => Error::unavailable(text),
    }
}

/// A metadata value; `None`: it is not there.
fn metadata_text(metadata: &MetadataMap, key: &'static str) -> Result<Option<String>, Error> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Error::invalid(format!("metadata {key}: not ASCII")))?;
    Ok(Some(text.to_owned()))
}

fn required(metadata: &MetadataMap, key: &'static str) -> Result<String, Error> {
    let text = metadata_text(metadata, key)?.filter(|text| !text.is_empty());
    text.ok_or_else(|| Error::invalid(format!("metadata {key}: it is missing")))
}

#[tonic::async_trait]
impl Face for Service {
    type ConnectStream = MessageStream;

    async fn new_chat(&self, request: Request<NewRequest>) -> Result<Response<NewResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let texts = request.into_inner().user_ids;
        if texts.is_empty() {
            return Err(Error::invalid("user_ids: it is empty; a chat has at least one user").into());
        }
        let mut names = Vec::with_capacity(texts.len().min(2 * super::found::MEMBERS_MAX));
        for (at, text) in texts.iter().enumerate() {
            names.push(self.chat.name(&format!("user_ids[{at}]"), text)?);
        }
        names.sort();
        names.dedup();
        let is_own = |own: &String| names.iter().any(|name| name.server.is_none() && name.name == *own);
        let maker = match &caller {
            Principal::User(own) => {
                self.users.acting(&caller, "user_ids", own).await?;
                if !is_own(own) {
                    return Err(Error::Denied(format!("user_ids: {caller} must be one of them")).into());
                }
                Maker::Local { principal: caller.to_string(), bounded: true }
            }
            _ => {
                if names.len() > super::found::MEMBERS_MAX {
                    let (given, limit) = (names.len(), super::found::MEMBERS_MAX);
                    return Err(Error::invalid(format!("user_ids: {given} users; a chat has 1 to {limit}")).into());
                }
                for name in names.iter().filter(|name| name.server.is_none()) {
                    self.users.acting(&caller, "user_ids", &name.name).await?;
                }
                Maker::Local { principal: caller.to_string(), bounded: false }
            }
        };
        let chat_id = self.chat.open(maker, names).await?.to_string();
        Ok(Response::new(NewResponse { chat_id }))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let (metadata, _, HistoryRequest { chat_id }) = request.into_parts();
        let room = self.room("chat_id", &chat_id).await?;
        if let Principal::User(own) = &caller {
            self.users.acting(&caller, "user", own).await?;
            if room.place_of(PeerId::SELF, own).is_none() {
                return Err(stranger("chat_id", own).into());
            }
        }
        let before = metadata_text(&metadata, "x-before-id")?;
        let limit = match metadata_text(&metadata, "x-limit")? {
            None => None,
            Some(text) => match text.parse() {
                Ok(limit) if limit > 0 => Some(limit),
                _ => return Err(Error::invalid(format!("metadata x-limit: {text:?}; it is a number from 1")).into()),
            },
        };
        let (messages, more) = self.chat.history(&room, before.as_deref(), limit).await?;
        let mut answer = Response::new(HistoryResponse { messages });
        if more {
            answer.metadata_mut().insert(MORE, MetadataValue::from_static("true"));
        }
        Ok(answer)
    }

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let SendRequest { client_id, chat_id, user_id, subject, text } = request.into_inner();
        let seat = self.seat(&caller, &chat_id, &user_id).await?;
        self.say(&seat, client_id, &subject, &text).await?;
        Ok(Response::new(SendResponse {}))
    }

    async fn connect_chat(&self, request: Request<Streaming<Message>>) -> Result<Response<MessageStream>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let (metadata, _, said) = request.into_parts();
        let (chat_id, user_id) = (required(&metadata, "chat-id")?, required(&metadata, "user-id")?);
        let name = self.act_as(&caller, "metadata user-id", &user_id).await?;
        let room = self.room("metadata chat-id", &chat_id).await?;
        let author = room.place_of(PeerId::SELF, &name);
        if author.is_none() && !matches!(caller, Principal::Service(_)) {
            return Err(stranger("metadata user-id", &name).into());
        }
        let after = metadata_text(&metadata, "x-after-id")?;
        let ending = Arc::new(Ending::default());
        let reader = self.chat.follow(room.clone(), &name, author, after.as_deref(), ending.clone()).await?;
        let seat = author.map(|author| Seat { room, author });
        let listening = self.chat.0.tasks.spawn(self.clone().listen(caller, seat, (chat_id, user_id), said, ending));
        // Nobody listens to a client that is gone.
        let listening = Listening(listening.abort_handle());
        let messages = stream::unfold(Some((reader, listening)), |state| async {
            let (mut reader, listening) = state?;
            match reader.next().await {
                Ok(message) => Some((Ok(message), Some((reader, listening)))),
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        Ok(Response::new(self.tokens.while_read(&metadata, messages, Some(self.chat.patience()))))
    }
}

/// Ends the task with the stream.
struct Listening(tokio::task::AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}
