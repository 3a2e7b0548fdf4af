//! The director: starts nodes and parties, announces the runs, kills node C in
//! the middle of one, and tells what happens.
//!
//! Sees what the parties report and what the nodes tell their operator. When
//! it ends, however it ends, none of its processes is left, and the directory
//! of the nodes only if something failed.

use super::{Outage, Part, Report, Standing, short};
use pillarbox::{
    admin,
    client::{Client, Options, SessionEvent},
    demo::process::{Name, Nodes, Ready},
    proto::pillarbox::admin::v1::{AddPeerRequest, ListPeersRequest, NewTokenRequest},
};
use std::{collections::BTreeMap, env, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

const PARTIES: [(&str, Name); 3] = [("alice", Name::A), ("bob", Name::B), ("carol", Name::C)];
/// The party of the node that is killed.
const AWAY: &str = "carol";
/// How long node C is away once the others wait for its party.
const DOWN: Duration = Duration::from_secs(2);
/// Longer than any computation between two reports.
const STALL: Duration = Duration::from_secs(180);
/// What changes within this is told in one line, but for who waits for whom.
const GATHER: Duration = Duration::from_millis(40);

/// How far the outage has come.
#[derive(Clone, Copy)]
enum Act {
    Before,
    /// Node C does not run; since when the others wait for its party alone.
    Down(Option<Instant>),
    After,
}

pub struct Director {
    nodes: Nodes,
    ready: BTreeMap<Name, Ready>,
    operator: admin::client::Client,
    coordinator: Client,
    /// Each with its end of the pipe to it.
    parties: BTreeMap<String, (Child, ChildStdin)>,
    reports: mpsc::Receiver<(String, Result<Report, String>)>,
    outage: Outage,
    act: Act,
    standings: BTreeMap<String, Standing>,
    told: String,
    began: Instant,
}

/// Plays the whole of it. The text is the verdict.
pub async fn direct(
    outage: Outage,
    play: impl AsyncFnOnce(&mut Director) -> Result<String, String>,
) -> Result<String, String> {
    let (mut interrupt, mut terminate) = (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    let played = async {
        let mut director = Director::set(outage).await?;
        let verdict = play(&mut director).await;
        let verdict = verdict.and_then(|verdict| match director.act {
            Act::After => Ok(verdict),
            _ => Err("no node was killed in mid-protocol: the outage never came".into()),
        });
        if verdict.is_err() {
            director.nodes.keep();
            eprintln!("data and logs of the nodes: {}", director.nodes.home().display());
        }
        director.end().await;
        verdict
    };
    // Whoever is dropped here ends its processes.
    tokio::select! {
        verdict = played => verdict,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("told to stop".into()),
    }
}

fn watch(kind: SignalKind) -> Result<tokio::signal::unix::Signal, String> {
    signal(kind).map_err(|cause| format!("no signals: {cause}"))
}

impl Director {
    async fn set(outage: Outage) -> Result<Self, String> {
        let began = Instant::now();
        let mut nodes = Nodes::new(&std::env::temp_dir(), "example")?;
        let (mut ready, mut operators) = (BTreeMap::new(), BTreeMap::new());
        for name in Name::ALL {
            ready.insert(name, nodes.start(name, 0).await?);
            operators.insert(name, operator(&nodes, name).await?);
        }
        for (name, operator) in &mut operators {
            for (_, peer) in ready.iter().filter(|(other, _)| *other != name) {
                let key = peer.key.as_bytes().to_vec().into();
                let add = AddPeerRequest { server_id: peer.server_id.to_string(), key, ..AddPeerRequest::default() };
                operator.add_peer(add).await.map_err(|status| format!("peers: {}", status.message()))?;
            }
        }
        let mut operator = operators.remove(&Name::A).ok_or("node A is missing")?;
        let token = token(&mut operator, "service:coordinator").await?;
        let home = &ready[&Name::A];
        let options = Options::new(home.server_id.as_str(), "", &token).map_err(|error| error.to_string())?;
        let coordinator = Client::connect(options.pinned(home.key)).await.map_err(|error| error.to_string())?;
        let (reporting, reports) = mpsc::channel(64);
        let mut director = Self {
            nodes,
            ready,
            operator,
            coordinator,
            parties: BTreeMap::new(),
            reports,
            outage,
            act: Act::Before,
            standings: BTreeMap::new(),
            told: String::new(),
            began,
        };
        for (name, at) in Name::ALL.iter().map(|name| (name, &director.ready[name])) {
            director.says(format!("node {name} is {}, a process of its own", at.server_id));
        }
        for (party, node) in PARTIES {
            let token = match operators.get_mut(&node) {
                Some(operator) => token_of(operator, party).await?,
                None => token_of(&mut director.operator, party).await?,
            };
            director.enter(party, node, token, reporting.clone()).await?;
        }
        for _ in PARTIES {
            match director.report().await? {
                (_, Report::Ready) => {}
                (party, other) => return Err(format!("{party}: {other:?} before it was ready")),
            }
        }
        director.says("alice, bob and carol are connected, each to its own node".into());
        Ok(director)
    }

    /// Starts a party's process.
    async fn enter(
        &mut self,
        party: &str,
        node: Name,
        token: String,
        reports: mpsc::Sender<(String, Result<Report, String>)>,
    ) -> Result<(), String> {
        let failed = |cause: std::io::Error| format!("{party} cannot be started: {cause}");
        let program = env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("party").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{party} has no pipes"));
        };
        let at = &self.ready[&node];
        let part = Part {
            node: at.server_id.to_string(),
            key: at.key.to_string(),
            party: party.to_owned(),
            token,
            outage: self.outage.clone(),
        };
        let line = serde_json::to_string(&part).map_err(|cause| cause.to_string())? + "\n";
        stdin.write_all(line.as_bytes()).await.map_err(failed)?;
        // Ends with the party, or with whoever reads its reports.
        tokio::spawn(read(party.to_owned(), stdout, reports));
        self.parties.insert(party.to_owned(), (child, stdin));
        Ok(())
    }

    /// Announces a run and waits for its end. What it came to: all must agree.
    pub async fn run(&mut self, kind: &str, parties: &[&str], message: &[u8]) -> Result<String, String> {
        let unique = format!("{kind}-{}", self.began.elapsed().as_millis());
        let names = PARTIES.iter().filter(|(party, _)| parties.contains(party));
        let names = names.map(|(party, node)| format!("{party}@{}", self.ready[node].server_id)).collect();
        let event = SessionEvent {
            event_type: kind.to_owned(),
            session_id: unique,
            threshold_n: 3,
            threshold_t: 2,
            selected_parties: names,
            message_hash: message.to_vec().into(),
            ..SessionEvent::default()
        };
        self.coordinator.publish(event).await.map_err(|error| format!("{kind}: {error}"))?;
        self.standings.clear();
        self.says(format!("{kind} is announced to {}", parties.join(", ")));
        let mut results: BTreeMap<String, String> = BTreeMap::new();
        let mut tick = interval(GATHER);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut moved = Instant::now();
        while results.len() < parties.len() {
            tokio::select! {
                biased;
                report = self.reports.recv() => {
                    moved = Instant::now();
                    match told(report)? {
                        (party, Report::Standing { run, standing }) if run == kind => {
                            let waits = matches!(&standing, Standing::Waits { whom, .. } if !whom.is_empty());
                            self.standings.insert(party, standing);
                            // The rest is told if it lasts.
                            if waits {
                                self.tell(kind);
                            }
                        }
                        (party, Report::Done { run, result }) if run == kind => {
                            self.standings.remove(&party);
                            results.insert(party, result);
                        }
                        (party, other) => return Err(format!("{party}: {other:?} in {kind}")),
                    }
                }
                _ = tick.tick() => {
                    self.tell(kind);
                    self.outage(kind, parties.len()).await?;
                    if moved.elapsed() > STALL {
                        return Err(format!("{kind}: nothing happens any more; {}", self.told));
                    }
                }
            }
        }
        let mut different: Vec<&String> = results.values().collect();
        different.dedup();
        match different[..] {
            [result] => {
                self.says(format!("{kind} is done; all of {} have the same result", parties.join(", ")));
                Ok(result.clone())
            }
            _ => Err(format!("{kind}: the parties do not agree: {results:?}")),
        }
    }

    /// The next step of the outage, if its time has come.
    async fn outage(&mut self, kind: &str, parties: usize) -> Result<(), String> {
        if kind != self.outage.run {
            return Ok(());
        }
        let standings = || self.standings.iter();
        match self.act {
            Act::Before => {
                let holding = standings().filter(|(_, standing)| matches!(standing, Standing::Holds { .. })).count();
                if holding == parties {
                    self.nodes.kill(Name::C).await?;
                    self.says(format!("node C is killed (SIGKILL): round {} begins without it", self.outage.round));
                    self.act = Act::Down(None);
                    for (_, stdin) in self.parties.values_mut() {
                        stdin.write_all(b"go\n").await.map_err(|cause| format!("a party is gone: {cause}"))?;
                    }
                }
            }
            Act::Down(None) => {
                let stuck =
                    |standing: &Standing| matches!(standing, Standing::Waits { whom, .. } if whom[..] == [AWAY]);
                let others = || self.standings.iter().filter(|(party, _)| *party != AWAY);
                if others().count() + 1 == parties && others().all(|(_, standing)| stuck(standing)) {
                    self.act = Act::Down(Some(Instant::now()));
                    self.tell_queue().await?;
                }
            }
            Act::Down(Some(since)) if since.elapsed() > DOWN => {
                let port = self.ready[&Name::C].server_id.port();
                self.nodes.start(Name::C, port).await?;
                self.says("node C is started again on its data".into());
                self.act = Act::After;
            }
            Act::Down(Some(_)) | Act::After => {}
        }
        Ok(())
    }

    /// What the operator of node A sees of node C.
    async fn tell_queue(&mut self) -> Result<(), String> {
        let peers = self.operator.list_peers(ListPeersRequest {}).await;
        let peers = peers.map_err(|status| format!("node A: {}", status.message()))?.into_inner().peers;
        let away = self.ready[&Name::C].server_id.to_string();
        if let Some(peer) = peers.into_iter().filter_map(|detail| detail.peer).find(|peer| peer.server_id == away) {
            self.says(format!("node A keeps {} parcel(s) for node C ({})", peer.queued, peer.state));
        }
        Ok(())
    }

    /// Who waits for whom, if that changed.
    fn tell(&mut self, kind: &str) {
        let each = self.standings.iter().map(|(party, standing)| match standing {
            Standing::Holds { round } => format!("{party} is at round {round}"),
            Standing::Sends { round } => format!("{party} sends round {round}"),
            Standing::Waits { round, whom } if whom.is_empty() => format!("{party} computes after round {round}"),
            Standing::Waits { round, whom } => {
                let whom: Vec<&str> = whom.iter().map(|name| short(name)).collect();
                format!("{party} waits for {} in round {round}", whom.join(" and "))
            }
        });
        let line = each.collect::<Vec<_>>().join(" · ");
        if !line.is_empty() && line != self.told {
            self.says(format!("{kind}: {line}"));
        }
        self.told = line;
    }

    pub fn says(&self, text: String) {
        println!("{:6.1} s  {text}", self.began.elapsed().as_secs_f64());
    }

    async fn report(&mut self) -> Result<(String, Report), String> {
        match tokio::time::timeout(STALL, self.reports.recv()).await {
            Ok(report) => told(report),
            Err(_) => Err("the parties say nothing".into()),
        }
    }

    /// Parties end when they are hung up on, nodes are stopped in good order.
    async fn end(mut self) {
        for (_, (mut child, stdin)) in std::mem::take(&mut self.parties) {
            drop(stdin);
            if tokio::time::timeout(Duration::from_secs(5), child.wait()).await.is_err() {
                // It is killed with its handle.
                drop(child);
            }
        }
        if let Err(why) = self.nodes.stop().await {
            eprintln!("{why}");
        }
        self.nodes.end().await;
    }
}

/// A report, or why there is none.
fn told(report: Option<(String, Result<Report, String>)>) -> Result<(String, Report), String> {
    match report {
        Some((party, Ok(Report::Failed { why }))) => Err(format!("{party}: {why}")),
        Some((party, Ok(report))) => Ok((party, report)),
        Some((party, Err(why))) => Err(format!("{party}: {why}")),
        None => Err("all parties have ended".into()),
    }
}

async fn read(party: String, stdout: ChildStdout, reports: mpsc::Sender<(String, Result<Report, String>)>) {
    let mut lines = BufReader::new(stdout).lines();
    loop {
        let report = match lines.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(|cause| format!("{line:?} is no report: {cause}")),
            Ok(None) => Err("it ended".into()),
            Err(cause) => Err(cause.to_string()),
        };
        let last = report.is_err();
        if reports.send((party.clone(), report)).await.is_err() || last {
            return;
        }
    }
}

async fn operator(nodes: &Nodes, name: Name) -> Result<admin::client::Client, String> {
    let socket = nodes.dir(name).join("admin.sock");
    admin::client::connect(&socket).await.map_err(|cause| format!("node {name}: {cause}"))
}

async fn token_of(operator: &mut admin::client::Client, party: &str) -> Result<String, String> {
    token(operator, &format!("party:{party}")).await
}

async fn token(operator: &mut admin::client::Client, principal: &str) -> Result<String, String> {
    let request = NewTokenRequest { principal: principal.to_owned(), ttl: 0, user: String::new() };
    let answer = operator.new_token(request).await;
    Ok(answer.map_err(|status| format!("{principal}: {}", status.message()))?.into_inner().token)
}
