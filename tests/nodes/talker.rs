//! A user, or the service behind one, as a client of `chat.Chat`.

use crate::common::{LONG, TestNode};
use pillarbox::{
    net::link::Link,
    proto::chat::{HistoryRequest, Message, NewRequest, SendRequest, chat_client::ChatClient},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

#[derive(Clone)]
pub struct Talker {
    pub name: String,
    pub client: ChatClient<Link>,
    bearer: MetadataValue<Ascii>,
}

impl Talker {
    /// A client with the token of `user:NAME`.
    pub async fn of(node: &TestNode, name: &str) -> Self {
        Self::acting_as(node, &format!("user:{name}"), name).await
    }

    pub async fn service(node: &TestNode) -> Self {
        Self::acting_as(node, "service:backend", "").await
    }

    pub async fn acting_as(node: &TestNode, principal: &str, name: &str) -> Self {
        let link = node.dial(false).await;
        let origin = link.origin();
        let client = ChatClient::with_origin(link, origin);
        Self { name: name.into(), client, bearer: node.bearer(principal).await }
    }

    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    pub async fn new_chat(&self, users: &[&str]) -> Result<String, Status> {
        let user_ids = users.iter().map(|user| (*user).to_owned()).collect();
        let request = self.request(NewRequest { user_ids });
        Ok(self.client.clone().new_chat(request).await?.into_inner().chat_id)
    }

    pub fn words(&self, chat: &str, client_id: &str, text: &str) -> SendRequest {
        SendRequest {
            client_id: client_id.into(),
            chat_id: chat.into(),
            user_id: self.name.clone(),
            subject: String::new(),
            text: text.into(),
        }
    }

    pub async fn send(&self, chat: &str, text: &str) -> Result<(), Status> {
        self.send_as(self.words(chat, "", text)).await
    }

    pub async fn send_once(&self, chat: &str, client_id: &str, text: &str) -> Result<(), Status> {
        self.send_as(self.words(chat, client_id, text)).await
    }

    pub async fn send_as(&self, request: SendRequest) -> Result<(), Status> {
        self.client.clone().send(self.request(request)).await.map(drop)
    }

    pub async fn history(&self, chat: &str) -> Result<Vec<Message>, Status> {
        Ok(self.page(chat, None, None).await?.0)
    }

    /// The texts of the history.
    pub async fn texts(&self, chat: &str) -> Vec<String> {
        self.history(chat).await.unwrap().into_iter().map(|message| message.text).collect()
    }

    /// A page of the history, and whether there is more.
    pub async fn page(
        &self,
        chat: &str,
        before: Option<&str>,
        limit: Option<&str>,
    ) -> Result<(Vec<Message>, bool), Status> {
        let mut request = self.request(HistoryRequest { chat_id: chat.into() });
        for (key, value) in [("x-before-id", before), ("x-limit", limit)] {
            if let Some(value) = value {
                request.metadata_mut().insert(key, value.parse().unwrap());
            }
        }
        let answer = self.client.clone().history(request).await?;
        let more = answer.metadata().get("x-more").is_some_and(|more| more == "true");
        Ok((answer.into_inner().messages, more))
    }

    pub async fn connect(&self, chat: &str) -> Result<Line, Status> {
        self.connect_with(&[("chat-id", chat), ("user-id", &self.name)]).await
    }

    pub async fn resume(&self, chat: &str, after: &str) -> Result<Line, Status> {
        self.connect_with(&[("chat-id", chat), ("user-id", &self.name), ("x-after-id", after)]).await
    }

    pub async fn connect_with(&self, metadata: &[(&'static str, &str)]) -> Result<Line, Status> {
        let (say, said) = mpsc::channel(8);
        let mut request = self.request(ReceiverStream::new(said));
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        let heard = self.client.clone().connect_chat(request).await?.into_inner();
        Ok(Line { say, heard })
    }
}

/// An open `Connect`.
pub struct Line {
    say: mpsc::Sender<Message>,
    heard: Streaming<Message>,
}

impl Line {
    pub async fn say(&self, message: Message) {
        // It may have ended; whoever listens finds out.
        let _ = self.say.send(message).await;
    }

    pub async fn next(&mut self) -> Result<Message, Status> {
        let message = timeout(LONG, self.heard.message()).await.expect("no message came")?;
        message.ok_or_else(|| Status::new(Code::Ok, "the stream ended"))
    }

    pub async fn text(&mut self) -> String {
        self.next().await.unwrap().text
    }

    /// The error that ends it.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub fn text(text: &str) -> Message {
    Message { text: text.into(), ..Message::default() }
}
