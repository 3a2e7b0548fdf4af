//! Chats across nodes: one history everywhere, whatever is cut, restored,
//! overfull or forged.

use crate::{
    common::{TestNode, faulty::Faulty, federate, forwarder::Forwarder, quick},
    eventually,
    talker::{Line, Talker},
};
use bytes::Bytes;
use pillarbox::{
    chat::topic::{chained, found, message_id},
    federation::Speaks,
    identity::node_key::NodeKey,
    proto::pillarbox::chat::v1::{Letter, Message as Said, Note, Place, Posts, note::Kind},
    store::{
        Op, Store,
        chat::{Change as Row, Entry, Message, Told},
    },
    types::{Millis, ServerId, uuid::Uuid},
};
use std::{path::PathBuf, time::Duration};
use tonic::Code;

fn at(name: &str, id: &ServerId) -> String {
    format!("{name}@{id}")
}

/// Two nodes with a link that can be cut, and a chat of theirs.
struct Two {
    a: TestNode,
    b: TestNode,
    to_a: Forwarder,
    to_b: Forwarder,
    /// A user of a, such that the chat's home is where the test wants it.
    alice: String,
    chat: String,
}

impl Two {
    /// `home_at_a`: rather than at b.
    async fn with_home(home_at_a: bool, edit: impl Fn(&mut pillarbox::config::Config)) -> Self {
        let both = |config: &mut pillarbox::config::Config| {
            quick(config);
            edit(config);
        };
        let (a, b) = (TestNode::start_with(both).await, TestNode::start_with(both).await);
        let (to_a, to_b) = (Forwarder::to(a.address).await, Forwarder::to(b.address).await);
        a.add_at(&b.id, b.key, Some(to_b.address)).await;
        b.add_at(&a.id, a.key, Some(to_a.address)).await;
        let home = if home_at_a { &a.id } else { &b.id };
        let is_right = |name: &String| found(vec![at(name, &a.id), at("bob", &b.id)]).home == home.to_string();
        let alice = (0..).map(|n| format!("alice{n}")).find(is_right).unwrap();
        let talker = Talker::of(&a, &alice).await;
        let chat = talker.new_chat(&[&alice, &at("bob", &b.id)]).await.unwrap();
        let two = Self { a, b, to_a, to_b, alice, chat };
        let bob = two.bob().await;
        eventually!(bob.history(&two.chat).await.is_ok());
        two
    }

    async fn alice(&self) -> Talker {
        Talker::of(&self.a, &self.alice).await
    }

    async fn bob(&self) -> Talker {
        Talker::of(&self.b, "bob").await
    }

    fn cut(&self, closed: bool) {
        for link in [&self.to_a, &self.to_b] {
            if closed { link.close() } else { link.open() }
        }
    }

    /// Both have these texts, in this order, by the same ids.
    async fn agree_on(&self, count: usize) -> Vec<String> {
        let (alice, bob) = (self.alice().await, self.bob().await);
        let ids = async |talker: &Talker| {
            let history = talker.history(&self.chat).await.unwrap();
            history.into_iter().map(|message| (message.id, message.text)).collect::<Vec<_>>()
        };
        eventually!(ids(&alice).await.len() >= count && ids(&bob).await == ids(&alice).await);
        let history = ids(&alice).await;
        assert_eq!(history.len(), count, "{history:?}");
        history.into_iter().map(|(_, text)| text).collect()
    }
}

/// Somebody's words among others.
fn of(texts: &[String], whose: &str) -> Vec<String> {
    texts.iter().filter(|text| text.starts_with(whose)).cloned().collect()
}

fn numbered(whose: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{whose} {n}")).collect()
}

async fn send_all(talker: &Talker, chat: &str, texts: &[String]) {
    for text in texts {
        talker.send_once(chat, text, text).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_nodes_make_the_same_chat_at_once_and_hear_each_other() {
    let (a, b) = (TestNode::start_with(quick).await, TestNode::start_with(quick).await);
    federate(&a, &b).await;
    for n in 0..6 {
        let (name, other) = (format!("alice{n}"), at("bob", &b.id));
        let (alice, bob) = (Talker::of(&a, &name).await, Talker::of(&b, "bob").await);
        let far = at(&name, &a.id);
        let (one, two) = (&[&*name, &*other], &["bob", &*far]);
        let (here, there) = tokio::join!(alice.new_chat(one), bob.new_chat(two));
        let chat = here.unwrap();
        assert_eq!(there.unwrap(), chat);
        let (mut to_alice, mut to_bob) = (alice.connect(&chat).await.unwrap(), bob.connect(&chat).await.unwrap());
        alice.send(&chat, "from a").await.unwrap();
        let heard = to_bob.next().await.unwrap();
        assert_eq!((&*heard.text, &*heard.user_id), ("from a", &*far));
        bob.send(&chat, "from b").await.unwrap();
        assert_eq!(to_alice.next().await.unwrap().user_id, other);
        let ids = |history: &[pillarbox::proto::chat::Message]| {
            history.iter().map(|message| (message.id.clone(), message.sent_at)).collect::<Vec<_>>()
        };
        eventually!(alice.texts(&chat).await.len() == 2 && bob.texts(&chat).await.len() == 2);
        assert_eq!(ids(&alice.history(&chat).await.unwrap()), ids(&bob.history(&chat).await.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_made_on_one_node_is_known_on_the_others_wherever_its_home_is() {
    for home_at_a in [true, false] {
        let two = Two::with_home(home_at_a, |_| {}).await;
        two.bob().await.send(&two.chat, "by its id alone").await.unwrap();
        assert_eq!(two.agree_on(1).await, ["by its id alone"]);
        let stranger = Talker::of(&two.b, "mallory").await;
        assert_eq!(stranger.history(&two.chat).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(stranger.send(&two.chat, "x").await.unwrap_err().code(), Code::PermissionDenied);
        // A name of another server is nobody's here.
        let mut words = two.bob().await.words(&two.chat, "", "x");
        words.user_id = at(&two.alice, &two.a.id);
        assert_eq!(two.bob().await.send_as(words).await.unwrap_err().code(), Code::PermissionDenied);
        let service = Talker::service(&two.b).await;
        assert_eq!(service.texts(&two.chat).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_sides_say_while_the_link_is_cut_is_one_history_afterwards() {
    for home_at_a in [true, false] {
        let two = Two::with_home(home_at_a, |_| {}).await;
        let (alice, bob) = (two.alice().await, two.bob().await);
        alice.send(&two.chat, "before").await.unwrap();
        two.agree_on(1).await;
        two.cut(true);
        let (hers, his) = (numbered("alice", 0..40), numbered("bob", 0..40));
        tokio::join!(send_all(&alice, &two.chat, &hers), send_all(&bob, &two.chat, &his));
        // What is not numbered yet is in no history; a retry finds it all the same.
        let away = if home_at_a { (&bob, &his) } else { (&alice, &hers) };
        assert_eq!(away.0.texts(&two.chat).await, ["before"]);
        send_all(away.0, &two.chat, away.1).await;
        two.cut(false);
        let texts = two.agree_on(81).await;
        assert_eq!((of(&texts, "alice"), of(&texts, "bob")), (hers, his));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_stopped_gets_what_it_missed_and_what_it_had_to_say_is_kept() {
    let mut two = Two::with_home(true, |_| {}).await;
    two.cut(true);
    let his = numbered("bob", 0..20);
    send_all(&two.bob().await, &two.chat, &his).await;
    two.b.stop().await;
    let hers = numbered("alice", 0..300);
    send_all(&two.alice().await, &two.chat, &hers).await;
    two.cut(false);
    two.b.start_again().await;
    let texts = two.agree_on(320).await;
    assert_eq!((of(&texts, "alice"), of(&texts, "bob")), (hers, his));
}

/// The database of a stopped node.
fn database(node: &TestNode) -> PathBuf {
    node.config.data_dir.join("pillarbox.db")
}

async fn backup(node: &mut TestNode) -> Vec<u8> {
    node.stop().await;
    let copy = std::fs::read(database(node)).unwrap();
    node.start_again().await;
    copy
}

async fn restore(node: &mut TestNode, copy: &[u8]) {
    node.stop().await;
    for tail in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{tail}", database(node).display()));
    }
    std::fs::write(database(node), copy).unwrap();
    node.start_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_comes_from_a_backup_is_told_what_it_forgot() {
    let mut two = Two::with_home(true, |_| {}).await;
    send_all(&two.alice().await, &two.chat, &numbered("alice", 0..5)).await;
    let copy = backup(&mut two.a).await;
    send_all(&two.alice().await, &two.chat, &numbered("alice", 5..15)).await;
    send_all(&two.bob().await, &two.chat, &numbered("bob", 0..10)).await;
    let before = two.agree_on(25).await;
    two.cut(true);
    restore(&mut two.a, &copy).await;
    assert_eq!(two.alice().await.texts(&two.chat).await.len(), 5);
    // Others are waited for a moment; what is said then comes first, and nothing is lost.
    two.alice().await.send(&two.chat, "meanwhile").await.unwrap();
    two.cut(false);
    let texts = two.agree_on(26).await;
    assert_eq!(texts[..5], before[..5]);
    assert_eq!(texts[5], "meanwhile");
    assert_eq!(texts[6..], before[5..], "in the order they had");
    two.bob().await.send(&two.chat, "on it goes").await.unwrap();
    two.agree_on(27).await;
}

/// The words of a line, until one of them is `last`.
async fn until(line: &mut Line, last: &str) -> Vec<String> {
    let mut texts = vec![];
    while texts.last().is_none_or(|text| text != last) {
        texts.push(line.text().await);
    }
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resumes_after_a_word_that_came_back_misses_nothing_that_was_said_before_it_did() {
    let mut two = Two::with_home(true, |_| {}).await;
    let watching = async |node: &TestNode| Talker::acting_as(node, "service:backend", "watcher").await;
    let watcher = watching(&two.b).await;
    let mut stays = watcher.connect(&two.chat).await.unwrap();
    send_all(&two.alice().await, &two.chat, &numbered("alice", 0..3)).await;
    two.agree_on(3).await;
    let copy = backup(&mut two.a).await;
    two.bob().await.send(&two.chat, "lost").await.unwrap();
    two.agree_on(4).await;
    let seen = two.alice().await.history(&two.chat).await.unwrap()[3].id.clone();
    two.cut(true);
    restore(&mut two.a, &copy).await;
    let unknown = watching(&two.a).await.resume(&two.chat, &seen).await.map(drop);
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound, "it does not begin somewhere without a word");
    // Nobody hears of what was lost within the moment that home waits.
    two.alice().await.send(&two.chat, "meanwhile").await.unwrap();
    two.cut(false);
    assert_eq!(two.agree_on(5).await[3..], ["meanwhile", "lost"]);
    two.alice().await.send(&two.chat, "last").await.unwrap();
    two.agree_on(6).await;
    // Home has forgotten what it told before the other: both come.
    let mut resumed = watching(&two.a).await.resume(&two.chat, &seen).await.unwrap();
    assert_eq!(until(&mut resumed, "last").await, ["meanwhile", "lost", "last"]);
    // The other node has not, and tells nothing twice: neither who resumes, nor who stayed.
    let mut resumed = watcher.resume(&two.chat, &seen).await.unwrap();
    assert_eq!(until(&mut resumed, "last").await, ["meanwhile", "last"]);
    let all = until(&mut stays, "last").await;
    assert_eq!(all, ["alice 0", "alice 1", "alice 2", "lost", "meanwhile", "last"]);
    // What home knows of it is on disk.
    two.a.stop().await;
    two.a.start_again().await;
    let mut resumed = watching(&two.a).await.resume(&two.chat, &seen).await.unwrap();
    assert_eq!(until(&mut resumed, "last").await, ["meanwhile", "lost", "last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_from_a_backup_catches_up() {
    let mut two = Two::with_home(true, |_| {}).await;
    send_all(&two.bob().await, &two.chat, &numbered("bob", 0..5)).await;
    two.agree_on(5).await;
    let copy = backup(&mut two.b).await;
    send_all(&two.bob().await, &two.chat, &numbered("bob", 5..10)).await;
    send_all(&two.alice().await, &two.chat, &numbered("alice", 0..5)).await;
    let before = two.agree_on(15).await;
    restore(&mut two.b, &copy).await;
    assert_eq!(two.agree_on(15).await, before);
    two.bob().await.send(&two.chat, "on it goes").await.unwrap();
    two.agree_on(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_overtakes_their_own_words_at_a_home_that_comes_from_a_backup() {
    let mut two = Two::with_home(true, |_| {}).await;
    send_all(&two.alice().await, &two.chat, &numbered("alice", 0..5)).await;
    let copy = backup(&mut two.a).await;
    // More than one flight of posts.
    send_all(&two.alice().await, &two.chat, &numbered("alice", 5..400)).await;
    let before = two.agree_on(400).await;
    restore(&mut two.a, &copy).await;
    two.alice().await.send(&two.chat, "at once").await.unwrap();
    let texts = two.agree_on(401).await;
    assert_eq!(texts[..400], before[..]);
    assert_eq!(texts[400], "at once");
}

/// Whoever forgot a chat cannot ask for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chats_that_a_backup_does_not_know_are_told_again() {
    let mut two = Two::with_home(true, |_| {}).await;
    let copy = backup(&mut two.b).await;
    let mut chats = vec![];
    for n in 0..6 {
        // The home of some of them is a, of others b.
        let other = Talker::of(&two.a, &format!("other{n}")).await;
        let chat = other.new_chat(&[&other.name, &at("bob", &two.b.id)]).await.unwrap();
        other.send(&chat, "one").await.unwrap();
        chats.push(chat);
    }
    for restored in [false, true] {
        if restored {
            restore(&mut two.b, &copy).await;
        }
        let bob = two.bob().await;
        for chat in &chats {
            eventually!(bob.history(chat).await.is_ok_and(|history| history.len() == 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_full_refuses_nobody_and_loses_nothing() {
    let two = Two::with_home(true, |config| config.federation.queue_max_events = 3).await;
    two.cut(true);
    let (hers, his) = (numbered("alice", 0..60), numbered("bob", 0..60));
    // Each alone, so that no two of them travel together.
    for (one, other) in hers.iter().zip(&his) {
        two.alice().await.send_once(&two.chat, one, one).await.unwrap();
        two.bob().await.send_once(&two.chat, other, other).await.unwrap();
    }
    two.cut(false);
    let texts = two.agree_on(120).await;
    assert_eq!((of(&texts, "alice"), of(&texts, "bob")), (hers, his));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_and_one_that_was_away_when_the_chat_was_made_hears_of_it() {
    let (a, b) = (TestNode::start_with(quick).await, TestNode::start_with(quick).await);
    let mut c = TestNode::start_with(quick).await;
    for (one, other) in [(&a, &b), (&b, &c), (&a, &c)] {
        federate(one, other).await;
    }
    for (one, other) in [(&a, &b), (&a, &c), (&b, &c)] {
        one.federation().letter_peer(&other.id, Speaks::Chat).await.unwrap();
        other.federation().letter_peer(&one.id, Speaks::Chat).await.unwrap();
    }
    let (alice, bob) = (Talker::of(&a, "alice").await, Talker::of(&b, "bob").await);
    let (bob_there, carol_there) = (at("bob", &b.id), at("carol", &c.id));
    c.stop().await;
    let chat = alice.new_chat(&["alice", &bob_there, &carol_there]).await.unwrap();
    alice.send(&chat, "alice 0").await.unwrap();
    c.start_again().await;
    let carol = Talker::of(&c, "carol").await;
    eventually!(carol.history(&chat).await.is_ok_and(|history| !history.is_empty()));
    eventually!(bob.history(&chat).await.is_ok());
    let all = [("alice", &alice), ("bob", &bob), ("carol", &carol)];
    for n in 1..20 {
        for (name, talker) in all {
            talker.send(&chat, &format!("{name} {n}")).await.unwrap();
        }
    }
    for (_, talker) in all {
        eventually!(talker.texts(&chat).await.len() == 58);
    }
    let texts = alice.texts(&chat).await;
    assert_eq!((bob.texts(&chat).await, carol.texts(&chat).await), (texts.clone(), texts.clone()));
    assert_eq!(of(&texts, "alice"), numbered("alice", 0..20));
    assert_eq!(of(&texts, "carol"), numbered("carol", 1..20));
}

fn id(text: &str) -> Uuid {
    text.parse().unwrap()
}

/// A message of `author`, in whose name somebody else speaks.
fn forged(two: &Two, author: &str, place: u32) -> Said {
    let id = message_id(id(&two.chat), author, "forged");
    let signature = Bytes::from(vec![7; 64]);
    let content = Bytes::from_static(b"\"never said\"");
    Said {
        id: Bytes::copy_from_slice(id.as_bytes()),
        author: place,
        sent_at: 1,
        client_id: "forged".into(),
        head: Bytes::new(),
        content,
        signature,
        since: None,
    }
}

fn users(two: &Two) -> Vec<String> {
    found(vec![at(&two.alice, &two.a.id), at("bob", &two.b.id)]).users
}

async fn forged_at(node: &TestNode) -> u64 {
    let address = node.node().metrics_address().expect("the test asked for metrics");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find(|line| line.starts_with("pillarbox_chat_forged_total")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn measured(config: &mut pillarbox::config::Config) {
    config.metrics.listen = Some(([127, 0, 0, 1], 0).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_node_cannot_speak_for_another_nodes_user() {
    let two = Two::with_home(true, measured).await;
    two.alice().await.send(&two.chat, "real").await.unwrap();
    two.agree_on(1).await;
    let (chat, users) = (id(&two.chat), users(&two));
    let alice = at(&two.alice, &two.a.id);
    let place = u32::try_from(users.iter().position(|user| *user == alice).unwrap()).unwrap();
    // b speaks for alice, and for bob under an id that is not his.
    let other_id = Said { id: Bytes::from(vec![3; 16]), ..forged(&two, &at("bob", &two.b.id), 1 - place) };
    let messages = vec![forged(&two, &alice, place), other_id];
    let posts = Posts { after: Some(Place::default()), messages, ..Posts::default() };
    let note = Note { chat: Bytes::copy_from_slice(chat.as_bytes()), users: vec![], kind: Some(Kind::Posts(posts)) };
    let peer = two.b.federation().peer_of(&two.a.id).unwrap();
    two.b.federation().post(Op::new(), vec![(peer, 1, Letter { notes: vec![note] })]).await.unwrap();
    eventually!(forged_at(&two.a).await == 2);
    two.bob().await.send(&two.chat, "his own").await.unwrap();
    assert_eq!(two.agree_on(2).await, ["real", "his own"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_cannot_forge_and_what_is_behind_its_forgery_comes_all_the_same() {
    let mut two = Two::with_home(true, measured).await;
    two.alice().await.send(&two.chat, "real").await.unwrap();
    two.agree_on(1).await;
    // Into a's own rows: what it tells is then of one piece.
    two.a.stop().await;
    let store = Store::open(&two.a.config.data_dir).await.unwrap();
    let row = store.chat(id(&two.chat)).await.unwrap().unwrap();
    let bob = at("bob", &two.b.id);
    let place = row.members.iter().position(|member| member.qualified == bob).unwrap();
    let said = forged(&two, &bob, u32::try_from(place).unwrap());
    let message = Message {
        id: Uuid::from_slice(&said.id),
        author: said.author,
        sent_at: Millis(said.sent_at),
        client_id: said.client_id,
        head: said.head,
        content: said.content,
        signature: Some(said.signature),
        since: None,
    };
    let (revision, seq, chain) = row.head;
    let entry = Entry {
        revision: revision + 1,
        seq: seq + 1,
        chain: chained(chain, message.id),
        told: Told::at(revision + 1),
        message,
    };
    store.submit(Row::Append { topic: row.number, entries: vec![entry], cleared: vec![] }).await.unwrap();
    store.close().await;
    two.a.start_again().await;
    eventually!(forged_at(&two.b).await == 1);
    two.alice().await.send(&two.chat, "real, too").await.unwrap();
    two.bob().await.send(&two.chat, "bob is here").await.unwrap();
    let bob = two.bob().await;
    eventually!(bob.texts(&two.chat).await == ["real", "real, too", "bob is here"]);
    assert_eq!(forged_at(&two.b).await, 1, "it is refused once");
    let key = NodeKey::load_or_make(&two.b.config.data_dir.join("node.key")).unwrap();
    assert_eq!(key.public(), two.b.key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_gone_for_good_leaves_its_history() {
    // What waits for it is given up after a second.
    let age = |config: &mut pillarbox::config::Config| config.federation.queue_max_age = Duration::from_secs(1);
    let mut two = Two::with_home(true, age).await;
    two.alice().await.send(&two.chat, "last words").await.unwrap();
    two.agree_on(1).await;
    two.a.stop().await;
    let bob = two.bob().await;
    bob.send_once(&two.chat, "k", "is anybody there?").await.unwrap();
    eventually!(bob.send(&two.chat, "hello?").await.is_err_and(|status| status.code() == Code::Unavailable));
    assert_eq!(bob.send_once(&two.chat, "k", "?").await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(bob.texts(&two.chat).await, ["last words"]);
    // Should it come back after all, the chat goes on.
    two.a.start_again().await;
    eventually!(bob.send_once(&two.chat, "again", "back?").await.is_ok());
    let texts = two.bob().await;
    eventually!(texts.texts(&two.chat).await.last().is_some_and(|text| text == "back?"));
    // And a server that was removed is gone at once.
    two.b.federation().remove_peer(&two.b.peer(&two.a.id)).await.unwrap();
    assert_eq!(bob.send(&two.chat, "x").await.unwrap_err().code(), Code::Unavailable);
    assert!(bob.texts(&two.chat).await.len() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_server_may_make_this_node_keep_is_bounded() {
    let edit = |config: &mut pillarbox::config::Config| {
        config.chat.peer_max_bytes = bytesize::ByteSize(20_000);
        config.chat.peer_max_chats = 2;
    };
    let two = Two::with_home(true, edit).await;
    let bob = two.bob().await;
    let long = "x".repeat(5_000);
    for n in 0..6 {
        bob.send_once(&two.chat, &n.to_string(), &long).await.unwrap();
    }
    let alice = two.alice().await;
    eventually!(alice.texts(&two.chat).await.len() == 3);
    two.alice().await.send(&two.chat, "there is room for her").await.unwrap();
    eventually!(bob.texts(&two.chat).await.len() == 4);
    // Of the chats that b opens, a takes two.
    for n in 0..6 {
        bob.new_chat(&["bob", &at(&format!("other{n}"), &two.a.id)]).await.unwrap();
    }
    let service = Talker::service(&two.a).await;
    let count = async || {
        let mut known = 0;
        for n in 0..6 {
            let users = found(vec![at("bob", &two.b.id), at(&format!("other{n}"), &two.a.id)]);
            known += usize::from(service.history(&users.chat.to_string()).await.is_ok());
        }
        known
    };
    eventually!(count().await == 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_much_waits_for_a_home_that_is_away_and_no_more() {
    let two = Two::with_home(true, |config| config.chat.max_waiting = 5).await;
    two.cut(true);
    let bob = two.bob().await;
    let his = numbered("bob", 0..5);
    send_all(&bob, &two.chat, &his).await;
    let status = bob.send(&two.chat, "one too many").await.unwrap_err();
    assert!(status.code() == Code::ResourceExhausted && status.message().contains("chat.max_waiting"), "{status}");
    bob.send_once(&two.chat, "bob 0", "a retry is no new message").await.unwrap();
    two.cut(false);
    assert_eq!(two.agree_on(5).await, his);
    bob.send(&two.chat, "there is room again").await.unwrap();
    two.agree_on(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_changes_its_name_keeps_its_chats() {
    let (a, b) = (TestNode::start_with(quick).await, TestNode::start_with(quick).await);
    federate(&a, &b).await;
    let (alice, bob) = (Talker::of(&a, "alice").await, Talker::of(&b, "bob").await);
    let chat = alice.new_chat(&["alice", &at("bob", &b.id)]).await.unwrap();
    alice.send(&chat, "before").await.unwrap();
    eventually!(bob.history(&chat).await.is_ok_and(|history| history.len() == 1));
    let new_id: ServerId = b.id.to_string().replace("localhost", "127.0.0.1").parse().unwrap();
    b.federation().rename(new_id.clone()).await.unwrap();
    eventually!(a.federation().peer(&new_id).is_ok_and(|peer| peer.server_id() == new_id));
    for name in [at("bob", &new_id), at("bob", &b.id)] {
        assert_eq!(alice.new_chat(&["alice", &name]).await.unwrap(), chat, "{name}");
    }
    assert_eq!(bob.new_chat(&["bob", &at("alice", &a.id)]).await.unwrap(), chat);
    bob.send(&chat, "after").await.unwrap();
    alice.send(&chat, "indeed").await.unwrap();
    eventually!(alice.texts(&chat).await.len() == 3 && bob.texts(&chat).await.len() == 3);
    assert_eq!(alice.texts(&chat).await, bob.texts(&chat).await);
    let his: Vec<_> = alice.history(&chat).await.unwrap().into_iter().filter(|said| said.text == "after").collect();
    assert_eq!(his[0].user_id, at("bob", &new_id), "he is shown by the name his server has now");
    // A new chat of the two servers is the same on both, too.
    let (here, there) = (at("carol", &new_id), at("alice", &a.id));
    let carol = Talker::of(&b, "carol").await;
    assert_eq!(alice.new_chat(&["alice", &here]).await.unwrap(), carol.new_chat(&["carol", &there]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_chats_is_refused_at_the_door() {
    let (a, stock) = (TestNode::start().await, Faulty::start().await);
    a.add(&stock.id, stock.key).await;
    let alice = Talker::of(&a, "alice").await;
    let status = alice.new_chat(&["alice", &at("bob", &stock.id)]).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}
