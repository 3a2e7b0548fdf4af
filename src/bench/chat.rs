//! `bench chat`: messages of one user in chats with others of the same node, each
//! with a stream.

use super::{
    Bench, Error, Listeners,
    drive::Meter,
    events::{age, stamped_text},
    report::Figure,
    talkers::Talkers,
    unique,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const SETTINGS: [(&str, &str); 1] = [("LIMITS__CALLS_PER_SECOND", "0")];

pub async fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>, Error> {
    let (node, _) = bench.stage(0, &SETTINGS).await?;
    let mut senders = Vec::new();
    for _ in 0..bench.options.connections {
        senders.push(Talkers::new(node.caller().await?));
    }
    // Names of their own: a running node may know others.
    let run = unique()?;
    let from = format!("{run}-from");
    let readers = Talkers::new(node.caller().await?);
    let mut chats = Vec::new();
    let mut listeners = Listeners::new();
    for at in 0..bench.options.peers {
        let reader = format!("{run}-u{at}");
        let chat = readers.open(&[&from, &reader]).await?;
        let stream = readers.listen(&chat, &reader).await?;
        listeners.spawn(listen(stream, bench.delivered.clone()));
        chats.push(chat);
    }
    let (since, used, size) = (Instant::now(), node.cpu(), bench.options.size);
    let loaded = bench.load(move |number| {
        let at = |count: usize| usize::try_from(number % count as u64).unwrap_or(0);
        let (sender, chat) = (senders[at(senders.len())].clone(), chats[at(chats.len())].clone());
        let (from, client_id) = (from.clone(), format!("{run}-{number}"));
        async move { sender.send(&chat, &from, client_id, stamped_text(size)).await }
    });
    let loaded = loaded.await?;
    bench.all_arrive(&mut listeners, 1).await?;
    Ok(bench.figures_of_one(&node, used, loaded, since.elapsed().as_secs_f64()))
}

async fn listen(mut stream: tonic::Streaming<crate::proto::chat::Message>, delivered: Arc<Meter>) -> Result<(), Error> {
    while let Some(message) = stream.message().await? {
        delivered.note(age(message.text.as_bytes()).unwrap_or(Duration::ZERO), 1);
    }
    Ok(())
}
