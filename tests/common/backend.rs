//! A backend written from the two contracts of the push channel alone, that
//! behaves as its script says: a log with a window, sessions, and every way to
//! break off.

use super::LONG;
use pillarbox::{
    net::{
        limits::{self, Limits},
        listen::{Listener, serve},
    },
    proto::{
        galaxy::backend::push::v1::{
            ClientEvent, GatewaySubscribeRequest, PushEvent, SessionInvalidation,
            push_event::Kind,
            push_server::{self, PushServer},
        },
        pillarbox::push::v1::{
            CheckRequest, CheckResponse,
            sessions_server::{self, SessionsServer},
        },
    },
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, service::Routes};

/// What a gateway has to show.
pub const TOKEN: &str = "pbt_of-the-gateway";

#[derive(Default)]
struct Script {
    log: Vec<(u64, Kind)>,
    newest: u64,
    /// What is kept is newer than this.
    floor: u64,
    sessions: HashMap<String, CheckResponse>,
    /// The cursors that were asked for.
    asked: Vec<String>,
    agents: Vec<String>,
    checks_fail: Option<Code>,
    /// Checks wait for this many to be released.
    held: bool,
}

struct Shared {
    script: Mutex<Script>,
    /// The log grew, or something else changed.
    changed: watch::Sender<u64>,
    /// How the streams that are open end.
    kill: watch::Sender<(u64, Code)>,
    /// The stream that is live.
    live: watch::Sender<u64>,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }
}

/// Stops when it is dropped.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<(CancellationToken, TaskTracker)>,
}

impl Backend {
    pub async fn start() -> Self {
        let shared = Shared {
            script: Mutex::default(),
            changed: watch::Sender::new(0),
            kill: watch::Sender::new((0, Code::Ok)),
            live: watch::Sender::new(0),
        };
        let mut backend = Self { address: ([127, 0, 0, 1], 0).into(), shared: Arc::new(shared), running: None };
        backend.start_again();
        backend
    }

    pub fn start_again(&mut self) {
        let listener = Listener::bind(self.address).unwrap();
        self.address = listener.local_addr();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let face = Face(self.shared.clone());
        let routes = Routes::new(PushServer::new(face.clone())).add_service(SessionsServer::new(face)).prepare();
        let limits = Limits::new(limits::Config::default());
        tasks.spawn(serve(listener, None, limits, routes, stop.clone(), Duration::ZERO));
        tasks.close();
        self.running = Some((stop, tasks));
    }

    /// The address is kept.
    pub async fn stop(&mut self) {
        let (stop, tasks) = self.running.take().unwrap();
        stop.cancel();
        timeout(LONG, tasks.wait()).await.unwrap();
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A user's token.
    pub fn signed_in(&self, token: &str, user: &str, session: &str, expires_at: i64) {
        let answer = CheckResponse { user_id: user.into(), device_session_id: session.into(), expires_at };
        self.shared.script().sessions.insert(token.into(), answer);
    }

    /// The session's token is worthless, and gateways are told.
    pub fn revoke(&self, session: &str, reason: &str) -> u64 {
        self.shared.script().sessions.retain(|_, answer| answer.device_session_id != session);
        let ended =
            SessionInvalidation { device_session_id: session.into(), user_id: String::new(), reason: reason.into() };
        self.append(Kind::SessionInvalidation(ended))
    }

    /// All tokens of the user are worthless, and gateways are told.
    pub fn disable(&self, user: &str) -> u64 {
        self.shared.script().sessions.retain(|_, answer| answer.user_id != user);
        let ended = SessionInvalidation {
            device_session_id: String::new(),
            user_id: user.into(),
            reason: "user_disabled".into(),
        };
        self.append(Kind::SessionInvalidation(ended))
    }

    /// An event with this text for a payload; its cursor.
    pub fn publish(&self, user: &str, text: &str) -> u64 {
        self.publish_event(ClientEvent {
            user_id: user.into(),
            kind: "test.said".into(),
            payload: serde_json::json!({ "text": text }).to_string().into(),
            event_id: format!("event-{text}"),
            ..ClientEvent::default()
        })
    }

    pub fn publish_event(&self, event: ClientEvent) -> u64 {
        self.append(Kind::ClientEvent(event))
    }

    fn append(&self, kind: Kind) -> u64 {
        let mut script = self.shared.script();
        // Numbers may have holes.
        script.newest += 2;
        let cursor = script.newest;
        script.log.push((cursor, kind));
        drop(script);
        self.shared.changed.send_modify(|count| *count += 1);
        cursor
    }

    /// The window is empty: no cursor leads anywhere.
    pub fn forget(&self) {
        let mut script = self.shared.script();
        script.floor = script.newest + 1;
        script.newest += 2;
    }

    /// Only what came after the cursor is kept.
    pub fn keep_after(&self, cursor: u64) {
        self.shared.script().floor = cursor;
    }

    /// Ends the streams there are with this code.
    pub fn kill(&self, code: Code) {
        self.shared.kill.send_modify(|(count, with)| (*count, *with) = (*count + 1, code));
    }

    /// As another gateway with the same id does.
    pub fn replace(&self) {
        self.shared.live.send_modify(|live| *live += 1);
    }

    /// What subscriptions asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.script().asked.clone()
    }

    pub fn agents(&self) -> Vec<String> {
        self.shared.script().agents.clone()
    }

    /// How each Check is answered from now on.
    pub fn fail_checks(&self, code: Option<Code>) {
        self.shared.script().checks_fail = code;
    }

    /// Checks are answered when they are not held any more, with what was true when they came.
    pub fn hold_checks(&self, held: bool) {
        self.shared.script().held = held;
        self.shared.changed.send_modify(|count| *count += 1);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some((stop, _)) = self.running.take() {
            stop.cancel();
        }
    }
}

#[derive(Clone)]
struct Face(Arc<Shared>);

fn authenticate(metadata: &MetadataMap) -> Result<(), Status> {
    let expected = format!("Bearer {TOKEN}");
    let given = metadata.get("authorization").and_then(|value| value.to_str().ok());
    (given == Some(&expected)).then_some(()).ok_or_else(|| Status::unauthenticated("unknown token"))
}

#[tonic::async_trait]
impl push_server::Push for Face {
    type SubscribePushStream = Pin<Box<dyn Stream<Item = Result<PushEvent, Status>> + Send>>;

    async fn subscribe_push(
        &self,
        request: Request<GatewaySubscribeRequest>,
    ) -> Result<Response<Self::SubscribePushStream>, Status> {
        authenticate(request.metadata())?;
        let asked = request.into_inner().cursor;
        let shared = self.0.clone();
        let (mut after, reset) = {
            let mut script = shared.script();
            script.asked.push(asked.clone());
            match asked.parse::<u64>() {
                Ok(cursor) if cursor < script.floor => (script.newest, Some("expired")),
                Ok(cursor) if cursor <= script.newest => (cursor, None),
                _ => (script.newest, Some("unknown")),
            }
        };
        let (mut changed, mut kill, mut live) =
            (shared.changed.subscribe(), shared.kill.subscribe(), shared.live.subscribe());
        shared.live.send_modify(|count| *count += 1);
        live.mark_unchanged();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let page: Vec<_> = shared.script().log.iter().filter(|(cursor, _)| *cursor > after).cloned().collect();
                for (cursor, kind) in page {
                    after = cursor;
                    let event = PushEvent { kind: Some(kind), cursor: format!("{cursor:020}") };
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                let end = tokio::select! {
                    _ = changed.changed() => continue,
                    _ = kill.changed() => Status::new(kill.borrow().1, "killed by the script"),
                    _ = live.changed() => Status::aborted("a newer subscription took over"),
                    () = sender.closed() => return,
                };
                let _ = sender.send(Err(end)).await;
                return;
            }
        });
        let mut response = Response::new(Box::pin(ReceiverStream::new(receiver)) as Self::SubscribePushStream);
        if let Some(reset) = reset {
            response.metadata_mut().insert("x-cursor-reset", reset.parse().unwrap());
        }
        Ok(response)
    }
}

#[tonic::async_trait]
impl sessions_server::Sessions for Face {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        authenticate(request.metadata())?;
        let request = request.into_inner();
        let mut changed = self.0.changed.subscribe();
        let (found, fails) = {
            let mut script = self.0.script();
            script.agents.push(request.user_agent);
            (script.sessions.get(&request.token).cloned(), script.checks_fail)
        };
        while self.0.script().held {
            let _ = changed.changed().await;
        }
        if let Some(code) = fails {
            return Err(Status::new(code, "as the script says"));
        }
        found.map(Response::new).ok_or_else(|| Status::unauthenticated("no session has this token"))
    }
}
