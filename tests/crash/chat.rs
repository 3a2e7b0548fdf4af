//! `kill -9` under a chat: users of two nodes talk, a reader at each node goes
//! on after its last word, and both nodes are killed again and again.

use super::{
    disk::{Disk, SIZE},
    load::{DEADLINE, Pair, QUICK, eventually, pause, scratch},
    way::Way,
};
use crate::process::NodeProcess;
use pillarbox::{
    net::link::Link,
    proto::chat::{HistoryRequest, Message, NewRequest, SendRequest, chat_client::ChatClient},
};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet, time::timeout};
use tokio_stream::pending;
use tonic::{Code, Request, Status};

const SPEAKERS: usize = 8;
const EACH: usize = 60;
const ALL: usize = SPEAKERS * EACH;
const KILLS: usize = 8;
/// Acts for all users of its node.
const PRINCIPAL: &str = "service:backend";
const CALL: Duration = Duration::from_secs(10);

async fn chat_of(way: &Way) -> ChatClient<Link> {
    let link = way.connect().await;
    ChatClient::with_origin(link.clone(), link.origin())
}

/// A word under a client id that is its text.
fn word(way: &Way, chat: &str, speaker: usize, text: &str) -> Request<SendRequest> {
    way.request(SendRequest {
        client_id: text.into(),
        chat_id: chat.into(),
        user_id: format!("s{speaker}"),
        subject: String::new(),
        text: text.into(),
    })
}

/// Says each word until it is acknowledged.
async fn speak(way: Way, chat: String, speaker: usize, said: Arc<AtomicUsize>) {
    let mut client = chat_of(&way).await;
    for n in 0..EACH {
        let text = format!("{speaker} {n}");
        loop {
            match timeout(CALL, client.send(word(&way, &chat, speaker, &text))).await {
                Ok(Ok(_)) => break,
                _ => client = chat_of(&way).await,
            }
        }
        said.fetch_add(1, Relaxed);
    }
}

async fn made(way: &Way, user_ids: Vec<String>) -> String {
    let made = chat_of(way).await.new_chat(way.request(NewRequest { user_ids })).await;
    made.unwrap().into_inner().chat_id
}

async fn history(way: &Way, chat: &str) -> Result<Vec<Message>, Status> {
    let request = way.request(HistoryRequest { chat_id: chat.into() });
    Ok(chat_of(way).await.history(request).await?.into_inner().messages)
}

/// Reads until it has all; returns their texts as it saw them first.
async fn read(way: Way, chat: String) -> Vec<String> {
    let (mut ids, mut texts, mut last) = (HashSet::new(), vec![], None::<String>);
    while texts.len() < ALL {
        let mut client = chat_of(&way).await;
        let mut request = way.request(pending::<Message>());
        let metadata = [("chat-id", Some(&*chat)), ("user-id", Some("watcher")), ("x-after-id", last.as_deref())];
        for (key, value) in metadata {
            if let Some(value) = value {
                request.metadata_mut().insert(key, value.parse().unwrap());
            }
        }
        let is_first = last.is_none();
        let Ok(Ok(answer)) = timeout(CALL, client.connect_chat(request)).await else { continue };
        let mut see = |message: Message| {
            if ids.insert(message.id.clone()) {
                texts.push(message.text);
            }
            last = Some(message.id);
            texts.len()
        };
        // What was said before the first stream is in the history.
        if is_first {
            let Ok(before) = history(&way, &chat).await else { continue };
            before.into_iter().for_each(|message| _ = see(message));
        }
        let (mut messages, mut line) = (answer.into_inner(), HashSet::new());
        while let Ok(Some(message)) = messages.message().await {
            assert!(line.insert(message.id.clone()), "a stream tells something twice");
            if see(message) == ALL {
                break;
            }
        }
    }
    texts
}

#[test]
fn kill_9_under_a_chat_of_two_nodes_loses_no_word_and_leaves_no_reader_a_gap() {
    let dir = scratch();
    let mut pair = Pair::start(&dir.path().join("a"), &dir.path().join("b"));
    let ways = [Way::of(&pair.a, PRINCIPAL), Way::of(&pair.b, PRINCIPAL)];
    let runtime = Runtime::new().unwrap();
    let id = |n: usize| ways[n % 2].target.id.to_string();
    let user_ids = (0..SPEAKERS).map(|n| format!("s{n}@{}", id(n))).collect();
    let chat = runtime.block_on(made(&ways[0], user_ids));
    eventually("the other node knows the chat", || runtime.block_on(history(&ways[1], &chat)).ok());

    let said = Arc::new(AtomicUsize::new(0));
    let mut speakers = JoinSet::new();
    for speaker in 0..SPEAKERS {
        speakers.spawn_on(speak(ways[speaker % 2].clone(), chat.clone(), speaker, said.clone()), runtime.handle());
    }
    let readers = ways.clone().map(|way| runtime.spawn(read(way, chat.clone())));
    for kill in 1..=KILLS {
        let (due, since) = (kill * ALL / (KILLS + 1), Instant::now());
        while said.load(Relaxed) < due {
            assert!(since.elapsed() < DEADLINE, "{} of {due} were said", said.load(Relaxed));
            pause(Duration::from_millis(2));
        }
        let node = if kill % 2 == 0 { &mut pair.a } else { &mut pair.b };
        node.kill();
        let dir = node.dir().to_owned();
        *node = NodeProcess::start(&dir, QUICK);
    }
    runtime.block_on(async {
        timeout(DEADLINE, speakers.join_all()).await.expect("a speaker never got through");
        let mut histories = vec![];
        for (way, reader) in ways.iter().zip(readers) {
            let seen = timeout(DEADLINE, reader).await.expect("a reader misses something").unwrap();
            let history = history(way, &chat).await.unwrap();
            let texts: Vec<String> = history.iter().map(|message| message.text.clone()).collect();
            assert_eq!(texts.len(), ALL, "each word once");
            assert_eq!(seen, texts, "as the history has it");
            histories.push(history.into_iter().map(|message| (message.id, message.text)).collect::<Vec<_>>());
        }
        assert!(histories[0] == histories[1], "both nodes have one history");
        for speaker in 0..SPEAKERS {
            let texts = histories[0].iter().map(|(_, text)| text);
            let own: Vec<_> = texts.filter(|text| text.starts_with(&format!("{speaker} "))).cloned().collect();
            assert_eq!(own, (0..EACH).map(|n| format!("{speaker} {n}")).collect::<Vec<_>>());
        }
    });
}

#[test]
fn what_was_said_before_the_disk_was_full_is_answered_when_it_is_said_again() {
    let Some(disk) = Disk::new() else { return };
    let node = NodeProcess::start(&disk.data(), QUICK);
    let way = Way::of(&node, PRINCIPAL);
    Runtime::new().unwrap().block_on(async {
        let chat = made(&way, vec!["s0".into()]).await;
        let mut client = chat_of(&way).await;
        client.send(word(&way, &chat, 0, "before")).await.unwrap();
        disk.fill(SIZE / 20);
        let refused = client.send(word(&way, &chat, 0, "after")).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        client.send(word(&way, &chat, 0, "before")).await.unwrap();
        assert_eq!(history(&way, &chat).await.unwrap().len(), 1);
    });
}
