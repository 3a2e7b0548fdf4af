//! The service behind the users of a node, in its chats.

use super::caller::Caller;
use crate::{
    net::link::Link,
    proto::chat::{Message, NewRequest, SendRequest, chat_client::ChatClient},
};
use tonic::{Status, Streaming};

/// A cheap clone.
#[derive(Debug, Clone)]
pub struct Talkers {
    client: ChatClient<Link>,
    caller: Caller,
}

impl Talkers {
    pub fn new(caller: Caller) -> Self {
        Self { client: ChatClient::with_origin(caller.link.clone(), caller.link.origin()), caller }
    }

    /// The chat of these users.
    pub async fn open(&self, users: &[&str]) -> Result<String, Status> {
        let user_ids = users.iter().map(|user| (*user).to_owned()).collect();
        Ok(self.client.clone().new_chat(self.caller.request(NewRequest { user_ids })).await?.into_inner().chat_id)
    }

    pub async fn send(&self, chat: &str, user: &str, client_id: String, text: String) -> Result<(), Status> {
        let request = SendRequest { client_id, chat_id: chat.into(), user_id: user.into(), subject: "".into(), text };
        self.client.clone().send(self.caller.request(request)).await.map(drop)
    }

    pub async fn listen(&self, chat: &str, user: &str) -> Result<Streaming<Message>, Status> {
        let mut request = self.caller.request(tokio_stream::empty());
        for (key, value) in [("chat-id", chat), ("user-id", user)] {
            request.metadata_mut().insert(key, value.parse().map_err(|_| Status::internal("no metadata"))?);
        }
        self.client.clone().connect_chat(request).await.map(tonic::Response::into_inner)
    }
}
