//! `pillarbox demo chat`: two real nodes, three users, a link that is cut, and
//! one history in the end.
//!
//! The nodes are processes of their own and are spoken to only through their
//! sockets, as any operator and any client would.

use super::{
    Error,
    link::Link,
    process::{Name, Nodes, Ready},
};
use crate::{
    admin::client::{self, Client},
    net::{
        dial::{DialConfig, Dialer, Target},
        link::Link as Connection,
    },
    proto::{
        chat::{HistoryRequest, NewRequest, SendRequest, chat_client::ChatClient},
        pillarbox::admin::v1::{AddPeerRequest, NewTokenRequest},
    },
};
use bytes::Bytes;
use serde::Serialize;
use std::{fmt::Write as _, io::Write, path::PathBuf, time::Duration};
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

/// What each user says while the link is cut.
const APART: usize = 5;
const CALL: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(50);

/// How it went.
#[derive(Debug, Serialize)]
pub struct Report {
    pub ok: bool,
    pub chat_id: String,
    /// The server that gives the order.
    pub messages: usize,
    /// Messages that each node had while the link was cut.
    pub apart: [usize; 2],
    pub converged_after_seconds: f64,
    /// Who said what, in the one order.
    pub history: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

impl Report {
    pub fn text(&self) -> String {
        let mut text = String::from("\nthe history, on both nodes:\n");
        for line in &self.history {
            let _ = writeln!(text, "  {line}");
        }
        let verdict = match self.ok {
            true => "OK: both nodes have the same messages in the same order",
            false => "FAILED: the nodes do not have the same history",
        };
        let _ = write!(text, "\n{verdict} ({} s after the link was back)", self.converged_after_seconds);
        if let Some(kept) = &self.kept {
            let _ = write!(text, "\n  data and logs of the nodes: {}", kept.display());
        }
        text
    }
}

/// Plays it and tells each step to `out`. When this returns no node runs.
pub async fn run(keep: bool, mut out: Box<dyn Write + Send>, stop: impl Future<Output = u8>) -> Result<Report, Error> {
    let mut nodes = Nodes::new(&std::env::temp_dir(), "demo")?;
    let played = tokio::select! {
        played = play(&mut nodes, &mut *out) => played,
        signal = stop => Err(Error::Stopped(signal)),
    };
    nodes.end().await;
    let home = nodes.home().to_owned();
    if keep || !played.as_ref().is_ok_and(|report| report.ok) && !matches!(played, Err(Error::Stopped(_))) {
        nodes.keep();
        return match played {
            Ok(report) => Ok(Report { kept: Some(home), ..report }),
            Err(Error::Failed(text)) => {
                Err(Error::Failed(format!("{text}\n  data and logs of the nodes: {}", home.display())))
            }
            Err(other) => Err(other),
        };
    }
    played
}

/// A user with a connection to the node it belongs to.
struct User {
    name: &'static str,
    client: ChatClient<Connection>,
    bearer: MetadataValue<Ascii>,
}

impl User {
    async fn of(name: &'static str, ready: &Ready, operator: &mut Client, dialer: &Dialer) -> Result<Self, Error> {
        let request = NewTokenRequest { principal: format!("user:{name}"), ttl: 0, user: String::new() };
        let token = answered(operator.new_token(request)).await?.token;
        let bearer = format!("Bearer {token}").parse().map_err(|_| "a token that is no text".to_owned())?;
        let target = Target {
            id: ready.server_id.clone(),
            address: Some(("127.0.0.1".to_owned(), ready.server_id.port())),
            plaintext: false,
            http1: false,
            pinned: Some(ready.key),
            trusted: true,
        };
        let link = dialer.dial(&target, Instant::now() + CALL).await.map_err(|cause| cause.to_string())?;
        let origin = link.origin();
        Ok(Self { name, client: ChatClient::with_origin(link, origin), bearer })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }

    async fn open(&self, users: &[String]) -> Result<String, Error> {
        let request = self.request(NewRequest { user_ids: users.to_vec() });
        Ok(answered(self.client.clone().new_chat(request)).await?.chat_id)
    }

    async fn say(&self, chat: &str, text: String) -> Result<(), Error> {
        let (chat_id, user_id) = (chat.to_owned(), self.name.to_owned());
        let request = self.request(SendRequest { chat_id, user_id, text, ..SendRequest::default() });
        answered(self.client.clone().send(request)).await.map(drop)
    }

    /// Id and text of each message.
    async fn history(&self, chat: &str) -> Result<Vec<(String, String)>, Error> {
        let request = self.request(HistoryRequest { chat_id: chat.to_owned() });
        let messages = answered(self.client.clone().history(request)).await?.messages;
        Ok(messages.into_iter().map(|message| (message.id, message.text)).collect())
    }
}

async fn answered<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, Error> {
    match timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Error::Failed(status.message().to_owned())),
        Err(_) => Err(Error::Failed(format!("no answer within {} s", CALL.as_secs()))),
    }
}

async fn play(nodes: &mut Nodes, out: &mut (dyn Write + Send)) -> Result<Report, Error> {
    let began = Instant::now();
    let mut tell = |text: &str| writeln!(out, "{:6.1} s  {text}", began.elapsed().as_secs_f64());
    let (a, b) = (nodes.start(Name::A, 0).await?, nodes.start(Name::B, 0).await?);
    let (to_a, to_b) = (Link::to(a.server_id.port()).await?, Link::to(b.server_id.port()).await?);
    let (mut at_a, mut at_b) = (connect(nodes, Name::A).await?, connect(nodes, Name::B).await?);
    add_peer(&mut at_a, &b, &to_b).await?;
    add_peer(&mut at_b, &a, &to_a).await?;
    tell("A and B are ready, each knows the other's key; the link between them can be cut")?;
    let dialer = Dialer::new(&DialConfig::default()).map_err(|cause| cause.to_string())?;
    let (alice, bob) =
        (User::of("alice", &a, &mut at_a, &dialer).await?, User::of("bob", &a, &mut at_a, &dialer).await?);
    let carol = User::of("carol", &b, &mut at_b, &dialer).await?;
    let users = [format!("alice@{}", a.server_id), format!("bob@{}", a.server_id), format!("carol@{}", b.server_id)];
    let (chat, there) = tokio::try_join!(alice.open(&users), carol.open(&users))?;
    if chat != there {
        return Err(Error::Failed(format!("alice's chat is {chat}, carol's {there}")));
    }
    tell(&format!("alice and bob at A and carol at B have a chat; both nodes call it {chat}"))?;
    alice.say(&chat, "alice: hello, Carol".to_owned()).await?;
    until(async || Ok(carol.history(&chat).await?.len() == 1)).await?;
    carol.say(&chat, "carol: hello, you two".to_owned()).await?;
    until(async || Ok(alice.history(&chat).await?.len() == 2 && carol.history(&chat).await?.len() == 2)).await?;
    tell("alice and carol have greeted each other")?;

    to_a.cut(true);
    to_b.cut(true);
    tell("the link is cut; everybody goes on talking, and every message is acknowledged")?;
    for n in 1..=APART {
        for user in [&alice, &carol, &bob] {
            user.say(&chat, format!("{}: {n} while the link is cut", user.name)).await?;
        }
    }
    let apart = [alice.history(&chat).await?.len(), carol.history(&chat).await?.len()];
    tell(&format!("A shows {} messages, B {}; what is not in order yet waits on disk", apart[0], apart[1]))?;

    to_a.cut(false);
    to_b.cut(false);
    let back = Instant::now();
    tell("the link is back")?;
    let all = 2 + 3 * APART;
    until(async || Ok(alice.history(&chat).await?.len() == all && carol.history(&chat).await?.len() == all)).await?;
    let converged_after_seconds = super::rounded(back.elapsed());
    let (ours, theirs) = (alice.history(&chat).await?, carol.history(&chat).await?);
    tell("both nodes have everything")?;
    let in_order = |name: &str| {
        let said = ours.iter().filter(|(_, text)| text.starts_with(name) && text.ends_with("cut"));
        said.map(|(_, text)| text.clone()).eq((1..=APART).map(|n| format!("{name}: {n} while the link is cut")))
    };
    let ok = ours == theirs && ["alice", "bob", "carol"].into_iter().all(in_order);
    nodes.stop().await?;
    let history = ours.into_iter().map(|(_, text)| text).collect();
    Ok(Report { ok, chat_id: chat, messages: all, apart, converged_after_seconds, history, kept: None })
}

/// Looks until it is so.
async fn until(is: impl AsyncFn() -> Result<bool, Error>) -> Result<(), Error> {
    let look = async {
        while !is().await? {
            sleep(LOOK).await;
        }
        Ok(())
    };
    match timeout(PATIENCE, look).await {
        Ok(done) => done,
        Err(_) => Err(Error::Failed(format!("waited in vain for {} s until both nodes agree", PATIENCE.as_secs()))),
    }
}

async fn connect(nodes: &Nodes, name: Name) -> Result<Client, Error> {
    let socket = nodes.dir(name).join("admin.sock");
    Ok(client::connect(&socket).await.map_err(|cause| format!("cannot connect to {}: {cause}", socket.display()))?)
}

/// As `pillarbox peer add ID --key KEY --address LINK` does.
async fn add_peer(node: &mut Client, other: &Ready, by: &Link) -> Result<(), Error> {
    let key = Bytes::copy_from_slice(other.key.as_bytes());
    let address = by.address().to_string();
    let request = AddPeerRequest { server_id: other.server_id.to_string(), key, address, ..AddPeerRequest::default() };
    answered(node.add_peer(request)).await.map(drop)
}
