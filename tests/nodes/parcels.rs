//! Parcels between two postboxes over real connections: a letter takes effect
//! once and in order, and one that does not arrive comes back to its maker.

use crate::{
    common::{LONG, TestNode, event, faulty::Faulty},
    eventually,
};
use bytes::Bytes;
use pillarbox::{
    error::Error,
    federation::{AddPeer, Config, Federation, Letters, Outcome, PARCEL_MAX, Parts, Taken, Takers, delivery::State},
    identity::node_key::NodeKey,
    metrics::Metrics,
    net::{
        dial::{DialConfig, Dialer},
        limits::{self, Limits},
        listen::{self, Listener},
    },
    proto::{
        pillarbox::{
            chat::v1 as chat,
            federation::v1::{Parcel, parcel::Body},
            relay::v1::{Letter, Message as Said, letter::Kind},
        },
        protocol::sync::v1::{
            Event,
            event::{self, UserInvited},
        },
    },
    store::{Change, Direction, DiskSpace, Op, Settings, Store},
    types::{Millis, PeerId, ServerId},
};
use prost::Message;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpSocket, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, body::Body as GrpcBody, service::Routes};
use tower::ServiceExt;

fn letter(text: &str, size: usize) -> Letter {
    let said = Said { message_type: text.into(), payload: vec![7; size].into(), ..Said::default() };
    Letter { kind: Some(Kind::Message(said)) }
}

fn text(letter: Letter) -> String {
    match letter.kind {
        Some(Kind::Message(said)) => said.message_type,
        other => panic!("no letter of these tests: {other:?}"),
    }
}

/// Takes letters by their text: "refuse…" is refused; "guild" makes the
/// database grow; "answer" is answered in the same transaction.
#[derive(Default)]
struct Book {
    /// How often a letter was opened.
    opened: AtomicUsize,
    /// Letters whose effect is on disk.
    taken: Mutex<Vec<String>>,
    /// What did not become of letters.
    lost: Mutex<Vec<(String, Outcome)>>,
    returned: Mutex<Vec<(u64, String)>>,
}

/// The row by which a parcel that came back is known to have had its effect.
fn trace(peer: PeerId, id: u64) -> Change {
    Change::Guild { user: 1, guild: id, peer, member: true }
}

struct Taker(Arc<Book>);

impl Letters<Letter> for Taker {
    fn take(&self, peer: PeerId, server: &ServerId, letter: Letter, now: Millis) -> Result<Taken, String> {
        assert!(server.as_str().starts_with("localhost:"));
        self.0.opened.fetch_add(1, Relaxed);
        let text = text(letter);
        if text.starts_with("refuse") {
            return Err(format!("{text}, it said"));
        }
        let changes = match text.as_str() {
            "guild" => vec![trace(peer, 1)],
            "answer" => {
                let parcel = Parcel { id: 500, body: Some(Body::Relay(self::letter("answered", 0))) };
                let body = Event { kind: Some(event::Kind::Parcel(parcel)) }.encode_to_vec().into();
                vec![Change::Enqueue { peer, id: getrandom::u64().unwrap(), stored_at: now, body }]
            }
            _ => vec![],
        };
        let (book, numbers) = (self.0.clone(), changes.iter().map(Change::numbers).sum::<u64>());
        Ok(Taken::new(changes, move |outcome| match outcome {
            Outcome::Committed(own) => {
                assert_eq!(own.end - own.start, numbers);
                book.taken.lock().unwrap().push(text);
            }
            other => book.lost.lock().unwrap().push((text, other)),
        }))
    }

    fn returned(&self, peer: PeerId, id: u64, reason: &str, _: Millis) -> Taken {
        let (book, reason) = (self.0.clone(), reason.to_owned());
        Taken::new(vec![trace(peer, id)], move |outcome| {
            assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
            book.returned.lock().unwrap().push((id, reason));
        })
    }
}

/// No letters of chats are sent here.
impl Letters<chat::Letter> for Taker {
    fn take(&self, _: PeerId, _: &ServerId, _: chat::Letter, _: Millis) -> Result<Taken, String> {
        Err("no chats here".into())
    }

    fn returned(&self, peer: PeerId, id: u64, reason: &str, now: Millis) -> Taken {
        Letters::<Letter>::returned(self, peer, id, &format!("of a chat: {reason}"), now)
    }
}

fn takers(book: &Arc<Book>) -> Takers {
    Takers { relay: Arc::new(Taker(book.clone())), chat: Arc::new(Taker(book.clone())) }
}

/// A postbox whose letters the test reads, without the rest of a node.
struct Office {
    dir: TempDir,
    id: ServerId,
    address: SocketAddr,
    book: Arc<Book>,
    full: Arc<AtomicBool>,
    config: Config,
    open: Option<Open>,
    /// While it is closed nobody else gets its port.
    port: Option<TcpSocket>,
}

struct Open {
    federation: Federation,
    store: Store,
    dialer: Dialer,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Office {
    async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    async fn open_with(edit: impl FnOnce(&mut Config)) -> Self {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr();
        let mut config = Config {
            retry_base: Duration::from_millis(5),
            retry_max: Duration::from_millis(20),
            pull_interval: Duration::from_secs(1),
            ..Config::default()
        };
        edit(&mut config);
        let mut office = Self {
            dir: tempfile::tempdir().unwrap(),
            id: format!("localhost:{}", address.port()).parse().unwrap(),
            address,
            book: Arc::default(),
            full: Arc::default(),
            config,
            open: None,
            port: None,
        };
        office.start(listener).await;
        office
    }

    async fn start(&mut self, listener: Listener) {
        let full = self.full.clone();
        let free_space = Arc::new(move || {
            let free_bytes = if full.load(Relaxed) { 0 } else { 1 << 40 };
            Some(DiskSpace { free_bytes, total_bytes: 1 << 40 })
        });
        let settings = Settings { free_space, ..Settings::new(self.dir.path()) };
        let store = Store::open_with(self.dir.path(), settings).await.unwrap();
        store.submit(Change::PutNode { server_id: self.id.clone(), port: self.address.port() }).await.unwrap();
        let dialer = Dialer::new(&DialConfig::default()).unwrap();
        let stop = CancellationToken::new();
        let federation = Federation::start(Parts {
            config: self.config.clone(),
            store: store.clone(),
            key: NodeKey::load_or_make(&self.dir.path().join("node.key")).unwrap(),
            dialer: dialer.clone(),
            metrics: Metrics::new(),
            own_id: self.id.clone(),
            former_ids: vec![],
            before_rename: Box::new(|_| Ok(())),
            letters: takers(&self.book),
            listener: None,
            stop: stop.clone(),
        })
        .await
        .unwrap();
        let routes = Routes::new(federation.postbox_service())
            .add_service(federation.auth_service())
            .add_service(federation.courier_service());
        let door = routes
            .into_axum_router()
            .into_service()
            .map_response(|answer: http::Response<_>| answer.map(GrpcBody::new));
        let tasks = TaskTracker::new();
        let limits = Limits::new(limits::Config::default());
        tasks.spawn(listen::serve(listener, None, limits, door, stop.clone(), Duration::from_secs(1)));
        self.open = Some(Open { federation, store, dialer, stop, tasks });
    }

    async fn close(&mut self) {
        let Open { federation, store, dialer, stop, tasks } = self.open.take().unwrap();
        stop.cancel();
        tasks.close();
        let ended = async {
            tasks.wait().await;
            federation.ended().await;
            dialer.shutdown().await;
            store.close().await;
        };
        timeout(LONG, ended).await.unwrap();
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind(self.address).unwrap();
        self.port = Some(port);
    }

    async fn open_again(&mut self) {
        let listener = Listener::bind(self.address).unwrap();
        self.port = None;
        self.start(listener).await;
    }

    fn federation(&self) -> &Federation {
        &self.open.as_ref().unwrap().federation
    }

    fn store(&self) -> &Store {
        &self.open.as_ref().unwrap().store
    }

    async fn add(&self, id: &ServerId) {
        let add = AddPeer { server_id: id.clone(), key: None, address: None, plaintext: true };
        self.federation().add_peer(add).await.unwrap();
    }

    async fn state(&self, id: &ServerId) -> State {
        let peer = self.federation().peer(id).unwrap();
        self.federation().view(&peer).await.unwrap().state
    }

    fn queued(&self, id: &ServerId) -> u64 {
        self.federation().peer(id).unwrap().queued().0
    }

    /// Posts letters of these texts, their ids counted from `first`.
    async fn post(&self, to: &ServerId, first: u64, texts: &[&str]) {
        let peer = self.federation().peer_of(to).unwrap();
        let letters = (first..).zip(texts).map(|(id, text)| (peer, id, letter(text, 0))).collect();
        self.federation().post(Op::new(), letters).await.unwrap();
    }

    fn taken(&self) -> Vec<String> {
        self.book.taken.lock().unwrap().clone()
    }

    fn returned(&self) -> Vec<(u64, String)> {
        self.book.returned.lock().unwrap().clone()
    }

    /// Ids of parcels whose return had its effect.
    async fn traces(&self) -> Vec<u64> {
        self.store().guilds(1).await.unwrap().into_iter().map(|(id, _)| id).collect()
    }
}

async fn pair() -> (Office, Office) {
    let (a, b) = (Office::open().await, Office::open().await);
    a.add(&b.id).await;
    b.add(&a.id).await;
    (a, b)
}

#[tokio::test]
async fn a_peer_that_takes_parcels_is_known_by_its_key_and_stays_known() {
    let (mut a, b) = pair().await;
    let peer = a.federation().parcel_peer(&b.id).await.unwrap();
    assert_eq!(a.federation().server_of(peer), Some(b.id.clone()));
    assert_eq!(a.federation().peer_of(&b.id), Some(peer));
    assert!(a.federation().is_own_id(&a.id) && !a.federation().is_own_id(&b.id));
    a.close().await;
    a.open_again().await;
    assert!(a.federation().peer(&b.id).unwrap().row().parcels);
}

#[tokio::test]
async fn the_largest_letter_arrives_once_and_a_larger_one_is_refused_at_the_door() {
    let (a, b) = pair().await;
    let peer = a.federation().parcel_peer(&b.id).await.unwrap();
    let largest = letter("large", PARCEL_MAX - 64);
    a.federation().post(Op::new(), vec![(peer, 1, largest.clone()), (peer, 2, largest)]).await.unwrap();
    a.post(&b.id, 3, &["last"]).await;
    eventually!(b.taken().len() >= 3);
    eventually!(a.queued(&b.id) == 0);
    assert_eq!(b.taken(), ["large", "large", "last"]);
    let too_large = vec![(peer, 4, letter("larger", PARCEL_MAX))];
    let error = a.federation().post(Op::new(), too_large).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains(&PARCEL_MAX.to_string())), "{error}");
    assert_eq!(a.queued(&b.id), 0);
    // Nothing of it is an event of the homeserver's.
    assert_eq!(b.store().inbound_range().await.unwrap(), None);
}

#[tokio::test]
async fn letters_survive_restarts_at_both_ends_in_their_order() {
    let (mut a, mut b) = pair().await;
    let peer = a.federation().parcel_peer(&b.id).await.unwrap();
    let names: Vec<String> = (0..60).map(|n| format!("{n:02}")).collect();
    let post = async |a: &Office, range: std::ops::Range<usize>| {
        let letters = range.map(|n| (peer, n as u64, letter(&names[n], 300_000))).collect();
        a.federation().post(Op::new(), letters).await.unwrap();
    };
    post(&a, 0..20).await;
    b.close().await;
    post(&a, 20..40).await;
    a.close().await;
    b.open_again().await;
    a.open_again().await;
    post(&a, 40..60).await;
    eventually!(b.taken().len() >= 60);
    eventually!(a.queued(&b.id) == 0);
    assert_eq!(b.taken(), names);
    assert!(a.returned().is_empty());
}

#[tokio::test]
async fn a_letter_that_is_pulled_takes_effect_like_one_that_is_pushed() {
    let (a, mut b) = pair().await;
    let peer = a.federation().parcel_peer(&b.id).await.unwrap();
    b.close().await;
    let letters = (0..3).map(|id| (peer, id, letter(&id.to_string(), PARCEL_MAX - 64))).collect();
    a.federation().post(Op::new(), letters).await.unwrap();
    eventually!(a.state(&b.id).await == State::Queued);
    b.open_again().await;
    eventually!(b.taken() == ["0", "1", "2"]);
    eventually!(a.state(&b.id).await == State::Live && a.queued(&b.id) == 0);
}

#[tokio::test]
async fn a_refused_letter_comes_back_to_its_maker_and_what_is_behind_it_goes_on() {
    let (a, b) = pair().await;
    a.federation().parcel_peer(&b.id).await.unwrap();
    a.post(&b.id, 40, &["one", "refuse this", "two"]).await;
    eventually!(!a.returned().is_empty());
    assert_eq!(a.returned(), [(41, "refuse this, it said".to_owned())]);
    assert_eq!(a.traces().await, [41]);
    eventually!(b.taken() == ["one", "two"]);
    eventually!(a.queued(&b.id) == 0 && b.queued(&a.id) == 0);
    for office in [&a, &b] {
        assert!(office.federation().dead_letters(None, None).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_letter_may_be_answered_in_the_transaction_that_takes_it() {
    let (a, b) = pair().await;
    a.federation().parcel_peer(&b.id).await.unwrap();
    a.post(&b.id, 1, &["one", "answer", "refuse", "two"]).await;
    eventually!(a.taken() == ["answered"] && a.returned() == [(3, "refuse, it said".to_owned())]);
    eventually!(b.taken() == ["one", "answer", "two"]);
    eventually!(a.queued(&b.id) == 0 && b.queued(&a.id) == 0);
}

#[tokio::test]
async fn a_letter_that_could_not_be_stored_comes_again_and_its_taker_knows() {
    let (a, b) = pair().await;
    a.federation().parcel_peer(&b.id).await.unwrap();
    b.full.store(true, Relaxed);
    a.post(&b.id, 1, &["guild"]).await;
    eventually!(!b.book.lost.lock().unwrap().is_empty());
    b.full.store(false, Relaxed);
    eventually!(!b.taken().is_empty());
    eventually!(a.queued(&b.id) == 0);
    assert_eq!((b.taken(), b.traces().await), (vec!["guild".to_owned()], vec![1]));
    let lost = b.book.lost.lock().unwrap();
    assert!(lost.iter().all(|lost| *lost == ("guild".to_owned(), Outcome::Failed)), "{lost:?}");
}

#[tokio::test]
async fn letters_that_die_here_come_back_to_their_maker_and_may_live_again() {
    let (a, mut b) = pair().await;
    a.federation().parcel_peer(&b.id).await.unwrap();
    b.close().await;
    a.post(&b.id, 10, &["one", "two"]).await;
    a.federation().send(&b.id, vec![event(5)]).await.unwrap();
    a.post(&b.id, 20, &["three"]).await;
    let peer = a.federation().peer(&b.id).unwrap();
    let second = a.federation().queue(&peer, 0).await.unwrap()[1].number;
    a.federation().drop_queued(&peer, Some(second)).await.unwrap();
    assert_eq!(a.returned(), [(11, "dropped".to_owned())]);
    assert_eq!(a.federation().drop_queued(&peer, None).await.unwrap(), 3);
    assert_eq!(a.returned()[1..], [(10, "dropped".to_owned()), (20, "dropped".to_owned())]);
    assert_eq!(a.traces().await, [10, 11, 20]);

    let dead = a.federation().dead_letters(None, None).await.unwrap();
    assert_eq!(dead.len(), 4);
    a.federation().resend_dead(dead[0].id).await.unwrap();
    b.open_again().await;
    eventually!(b.taken() == ["three"]);
    eventually!(a.queued(&b.id) == 0);
    assert_eq!(a.federation().dead_letters(None, None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn letters_for_a_peer_that_is_removed_come_back() {
    let (a, mut b) = pair().await;
    let row = a.federation().parcel_peer(&b.id).await.unwrap();
    b.close().await;
    a.post(&b.id, 10, &["one"]).await;
    let peer = a.federation().peer(&b.id).unwrap();
    assert_eq!(a.federation().remove_peer(&peer).await.unwrap(), 1);
    assert_eq!(a.returned(), [(10, "peer_removed".to_owned())]);
    assert_eq!((a.federation().server_of(row), a.federation().peer_of(&b.id)), (None, None));
    let error = a.federation().post(Op::new(), vec![(row, 11, letter("two", 0))]).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn what_is_posted_together_is_stored_together_or_not_at_all() {
    let a = Office::open_with(|config| config.queue_max_events = 2).await;
    let (mut b, mut c) = (Office::open().await, Office::open().await);
    let mut peers = vec![];
    for office in [&b, &c] {
        a.add(&office.id).await;
        peers.push(a.federation().parcel_peer(&office.id).await.unwrap());
    }
    b.close().await;
    c.close().await;
    a.post(&c.id, 1, &["one"]).await;
    let both = |count: u64| {
        let letters = peers.iter().flat_map(|peer| (0..count).map(|id| (*peer, id, letter("both", 0))));
        a.federation().post(Op::from(trace(PeerId(1), 77)), letters.collect())
    };
    let error = both(2).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!((a.queued(&b.id), a.queued(&c.id), a.traces().await), (0, 1, vec![]));
    let done = both(1).await.unwrap();
    assert_eq!(done.numbers.end - done.numbers.start, 2);
    assert_eq!((a.queued(&b.id), a.queued(&c.id), a.traces().await), (1, 2, vec![77]));
    b.open_again().await;
    c.open_again().await;
    for office in [&b, &c] {
        office.add(&a.id).await;
    }
    eventually!(b.taken() == ["both"] && c.taken() == ["one", "both"]);
}

#[tokio::test]
async fn a_letter_beside_an_event_that_finds_its_list_full_is_opened_once() {
    let (a, mut b) = pair().await;
    a.federation().parcel_peer(&b.id).await.unwrap();
    let peer = b.federation().peer_of(&a.id).unwrap();
    b.close().await;
    let store = Store::open(b.dir.path()).await.unwrap();
    let put = |user| Change::Invite { user, invite: "i".into(), peer, inviter: Some(1) };
    for tenth in 0..10 {
        store.submit((0..10_000).map(|n| put(tenth * 10_000 + n)).collect::<Vec<_>>()).await.unwrap();
    }
    store.close().await;
    a.post(&b.id, 1, &["before"]).await;
    let invited = UserInvited { user_id: 100_000, inviter_id: 1, invite_id: "i".into() };
    let invited = Event { kind: Some(event::Kind::UserInvited(invited)) }.encode_to_vec();
    a.federation().send(&b.id, vec![invited.into()]).await.unwrap();
    a.post(&b.id, 2, &["after"]).await;
    eventually!(a.state(&b.id).await == State::Queued);
    b.open_again().await;
    eventually!(b.taken() == ["before", "after"] && a.queued(&b.id) == 0);
    assert_eq!(b.book.opened.load(Relaxed), 2);
    let dead = b.federation().dead_letters(None, None).await.unwrap();
    assert_eq!((dead.len(), dead[0].letter.reason.as_str()), (1, "list_full"));
    assert!(a.returned().is_empty());
}

#[tokio::test]
async fn only_a_peer_that_takes_parcels_is_a_parcel_peer() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    let gone = {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        format!("localhost:{}", listener.local_addr().port()).parse().unwrap()
    };
    node.add(&gone, faulty.key).await;
    let cases = [
        (faulty.id.clone(), "takes no parcels"),
        (gone, "not known yet"),
        ("stranger.example:7443".parse().unwrap(), "peer add stranger.example:7443"),
    ];
    for (id, why) in cases {
        let error = node.federation().parcel_peer(&id).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = node.federation().parcel_peer(&node.id).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(faulty.pushes(), 0);
}

/// The event that carries a letter.
fn parcel(id: u64) -> Bytes {
    let parcel = Parcel { id, body: Some(Body::Relay(letter("hello", 0))) };
    Event { kind: Some(event::Kind::Parcel(parcel)) }.encode_to_vec().into()
}

#[tokio::test]
async fn a_parcel_of_a_stock_server_is_a_dead_letter_and_nothing_goes_back() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    faulty.push(&node, parcel(3)).await.unwrap();
    faulty.push(&node, event(1)).await.unwrap();
    let dead = node.federation().dead_letters(None, None).await.unwrap();
    assert_eq!((dead.len(), dead[0].letter.direction, dead[0].letter.reason.as_str()), (1, Direction::In, "refused"));
    let error = node.federation().resend_dead(dead[0].id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!((faulty.pushes(), node.peer(&faulty.id).queued().0), (0, 0));
}

#[tokio::test]
async fn nobody_but_the_node_itself_sends_parcels() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    let error = node.federation().send(&faulty.id, vec![event(1), parcel(3)]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.to_string().contains("events[1]: it is a parcel"), "{error}");
    assert_eq!(node.peer(&faulty.id).queued().0, 0);
}

#[tokio::test]
async fn a_letter_that_a_node_does_not_take_comes_back_with_the_reason() {
    let (office, node) = (Office::open().await, TestNode::start().await);
    let add = AddPeer { server_id: node.id.clone(), key: Some(node.key), address: None, plaintext: false };
    office.federation().add_peer(add).await.unwrap();
    let add = AddPeer { server_id: office.id.clone(), key: None, address: None, plaintext: true };
    node.federation().add_peer(add).await.unwrap();
    let peer = office.federation().parcel_peer(&node.id).await.unwrap();
    office.federation().post(Op::new(), vec![(peer, 9, letter("x", PARCEL_MAX - 64))]).await.unwrap();
    eventually!(!office.returned().is_empty());
    assert_eq!(office.returned(), [(9, "expired".to_owned())]);
}
