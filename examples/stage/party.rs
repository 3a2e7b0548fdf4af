//! A party: connects to its node, takes part in what is announced, until the
//! director hangs up.

use super::{
    Part, Report,
    watch::{Board, Watched, watch},
};
use pillarbox::client::{Client, Options, round_based};
use round_based::connect;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    thread,
};
use tokio::sync::{oneshot, watch as gate};
use tokio_stream::StreamExt;

/// The cryptography of a party. Its shares live as long as its process.
pub trait Actor: Default {
    /// Takes part in one run; what it came to, as text that all parties of the
    /// run must agree on.
    fn play(&mut self, run: Run<'_>) -> impl Future<Output = Result<String, Box<dyn Error>>>;
}

/// A run that was announced.
pub struct Run<'a> {
    pub kind: String,
    /// Agreed on by all, and never used again.
    pub session: String,
    /// The index of this party among `parties`.
    pub own: u16,
    pub parties: Vec<String>,
    /// What is to be signed, if anything.
    pub message: Vec<u8>,
    client: &'a Client,
    outage: &'a super::Outage,
    gate: gate::Receiver<bool>,
}

impl Run<'_> {
    /// The party as protocols want it, connected to the router.
    pub fn connect<M>(&self) -> Result<Watched<M>, Box<dyn Error>>
    where
        M: ::round_based::ProtocolMessage + Serialize + DeserializeOwned,
    {
        let party = connect::<M>(self.client, &self.session, &self.kind, &self.parties, self.own)?;
        let holds = (self.outage.run == self.kind).then_some(self.outage.round);
        let board = Arc::new(Board::new(self.kind.clone(), &self.parties, self.own, holds));
        Ok(party.map_delivery(|delivery| watch(delivery, board, self.gate.clone())))
    }

    pub fn count(&self) -> u16 {
        u16::try_from(self.parties.len()).unwrap_or(u16::MAX)
    }
}

pub(super) async fn run<A: Actor>() -> ExitCode {
    let mut line = String::new();
    if let Err(cause) = io::stdin().read_line(&mut line) {
        return super::failed(&format!("the party was told nothing: {cause}"));
    }
    let part = match serde_json::from_str::<Part>(&line) {
        Ok(part) => part,
        Err(cause) => return super::failed(&format!("the party does not understand its part: {cause}")),
    };
    let (open, gate) = gate::channel(false);
    let (hung_up, end) = oneshot::channel();
    // A thread of its own: nothing but the end of the process ends a read of standard input.
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            open.send_replace(line == "go");
        }
        // If nobody waits any more the process ends anyway.
        let _ = hung_up.send(());
    });
    tokio::select! {
        Err(why) = take_part::<A>(part, gate) => {
            report(&Report::Failed { why: why.to_string() });
            ExitCode::FAILURE
        }
        _ = end => ExitCode::SUCCESS,
    }
}

enum Never {}

async fn take_part<A: Actor>(part: Part, gate: gate::Receiver<bool>) -> Result<Never, Box<dyn Error>> {
    let options = Options::new(&part.node, &part.party, &part.token)?.pinned(part.key.parse()?);
    let client = Client::connect(options).await?;
    client.register("temporary").await?;
    let mut actor = A::default();
    let mut events = client.events(Vec::<String>::new());
    report(&Report::Ready);
    while let Some(event) = events.next().await {
        let event = event?;
        let own = event.selected_parties.iter().position(|name| *name == part.party);
        let own = own.ok_or("an event that does not name this party")?;
        let run = Run {
            kind: event.event_type.clone(),
            session: event.session_id,
            own: u16::try_from(own)?,
            parties: event.selected_parties,
            message: event.message_hash.to_vec(),
            client: &client,
            outage: &part.outage,
            gate: gate.clone(),
        };
        let result = actor.play(run).await?;
        client.flush().await?;
        report(&Report::Done { run: event.event_type, result });
    }
    Err("the stream of events ended".into())
}

pub(super) fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        // Without a director there is nobody to tell; standard input ends, too.
        let _ = writeln!(io::stdout(), "{line}");
    }
}
