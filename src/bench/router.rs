//! `bench router`: messages from one party to others of the same node, each
//! subscribed and acknowledging.

use super::{
    Bench, Error, Listeners,
    drive::Meter,
    events::{age, stamped_text},
    parties::{Parties, ROOMY},
    report::Figure,
    unique,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Acknowledgements of a subscriber under way.
const ACKNOWLEDGING: usize = 64;

pub async fn run(bench: &mut Bench<'_>) -> Result<Vec<Figure>, Error> {
    let (node, _) = bench.stage(0, &ROOMY).await?;
    let mut senders = Vec::new();
    for _ in 0..bench.options.connections {
        senders.push(Parties::new(node.caller().await?));
    }
    // Names of their own: a running node may know others.
    let session = unique()?;
    let names: Vec<String> = (0..bench.options.peers).map(|at| format!("{session}-p{at}")).collect();
    let from = format!("{session}-from");
    senders[0].open_session(&session, names.iter().cloned().chain([from.clone()]).collect()).await?;
    let subscribers = Parties::new(node.caller().await?);
    let mut listeners = Listeners::new();
    for name in &names {
        let stream = subscribers.subscribe(name).await?;
        listeners.spawn(listen(subscribers.clone(), name.clone(), stream, bench.delivered.clone()));
    }
    let (since, used, size) = (Instant::now(), node.cpu(), bench.options.size);
    let loaded = bench.load(move |number| {
        let at = |count: usize| usize::try_from(number % count as u64).unwrap_or(0);
        let (sender, to) = (senders[at(senders.len())].clone(), names[at(names.len())].clone());
        let (session, from) = (session.clone(), from.clone());
        async move { sender.route(&session, &from, vec![to], stamped_text(size).into()).await }
    });
    let loaded = loaded.await?;
    bench.all_arrive(&mut listeners, 1).await?;
    Ok(bench.figures_of_one(&node, used, loaded, since.elapsed().as_secs_f64()))
}

async fn listen(
    parties: Parties,
    name: String,
    mut stream: tonic::Streaming<crate::proto::mpc::router::v1::MpcMessage>,
    delivered: Arc<Meter>,
) -> Result<(), Error> {
    let mut acknowledging = JoinSet::new();
    while let Some(message) = stream.message().await? {
        delivered.note(age(&message.payload).unwrap_or(Duration::ZERO), 1);
        if acknowledging.len() >= ACKNOWLEDGING
            && let Some(ended) = acknowledging.join_next().await
        {
            ended??;
        }
        let (parties, name) = (parties.clone(), name.clone());
        acknowledging.spawn(async move { parties.acknowledge(&name, message).await });
    }
    Ok(())
}
