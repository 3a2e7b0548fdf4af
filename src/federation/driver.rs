//! Does what the delivery machine of one peer says: reads rows, calls, applies,
//! saves, and reports back.
//!
//! One task a peer, the only one that touches its streams. Calls and commits
//! run as jobs of its own; nothing here waits for the network. Decides nothing
//! about when and in which order: that is the machine's.

mod inbound;
mod outbound;
mod restored;
mod session;

use super::{
    Inner,
    courier::{self, Arrived as Batch, Session},
    delivery::{Action, Call, Delivery, Failure, Input, Kind, State},
    inbox::Row,
    peers::{Page, Peer, PullAsked, Sent},
    remote::{CallError, Remote},
    save::{Save, Saver},
    stream::Mark,
    wire::PullAnswer,
};
use crate::{
    error::Error,
    store::OutRow,
    types::{Millis, PeerId},
};
use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

/// Pushes of the peer that wait for the one being applied.
const BACKLOG_MAX: usize = 16;
/// Settled rows of a peer of ours are forgotten together: a commit for each
/// would compete for the disk with those that callers and peers wait for.
const FORGET_PAUSE: Duration = Duration::from_millis(20);
/// At shutdown: for the Push in flight and what is to be saved.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the rest of the node asks of a peer's driver.
pub enum Command {
    /// A verified Push; the answer is how far the stream was applied then.
    Push {
        row: Row,
        reply: oneshot::Sender<Result<Mark, Error>>,
    },
    /// A verified batch.
    Batch(Batch),
    /// How far the peer's stream is applied.
    Applied(oneshot::Sender<Mark>),
    /// A verified Pull.
    Pull {
        asked: PullAsked,
        reply: oneshot::Sender<Result<Page, Error>>,
    },
    Hold(bool),
    RetryNow {
        push: bool,
    },
    /// The queue changed in a way nobody could say: look what is in it.
    LookAgain,
    Learnt(Kind),
    /// The peer is to be reached elsewhere.
    Moved,
    View(oneshot::Sender<View>),
}

/// How a peer's delivery stands.
#[derive(Debug, Clone)]
pub struct View {
    pub state: State,
    pub kind: Kind,
    pub held: bool,
    /// Our stream to it.
    pub settled: Mark,
    /// Its stream to us.
    pub applied: Mark,
    pub next_attempt: Option<Millis>,
    pub next_pull: Option<Millis>,
}

enum Finished {
    Pushed { number: u64, id: u64, result: Result<Option<Mark>, CallError> },
    Pulled(Result<PullAnswer, CallError>),
    Applied { mark: Mark, result: Result<(), Error>, then: Then },
    Saved(Mark),
    Fate { call: Call, arrived: bool },
    ReadAhead(NextPage),
    Noted,
}

enum Then {
    AnswerPush(oneshot::Sender<Result<Mark, Error>>),
    /// They were applied together.
    AnswerBatches(Vec<inbound::Taken>),
    Pulled {
        state: Option<Mark>,
        rows: bool,
    },
}

struct Arrived {
    row: Row,
    reply: oneshot::Sender<Result<Mark, Error>>,
}

/// An answer to a stock peer whose fate is open.
struct OpenAnswer {
    call: Call,
    connection: u64,
    sent: Sent,
}

/// The rows after a number, read while the peer applies those before.
struct NextPage {
    after: u64,
    rows: Vec<OutRow>,
    /// Reads before it are no good any more.
    reading: u64,
    /// A peer that does not come back must not hold memory.
    until: Instant,
}

pub struct Driver {
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    row_id: PeerId,
    machine: Delivery,
    remote: Arc<Remote>,
    commands: mpsc::Receiver<Box<Command>>,
    newest: watch::Receiver<u64>,
    jobs: JoinSet<Finished>,
    inputs: VecDeque<Input>,
    saver: Saver,
    saving: bool,
    pushing: bool,
    /// What the Push in flight has become, or may become.
    session: Option<Session>,
    /// The next Push is a plain one: the peer takes no batches.
    no_session: bool,
    /// When the rows that wait to be forgotten are.
    forget_at: Option<Instant>,
    /// Rows after `ahead_of`, read but not settled.
    ahead: VecDeque<OutRow>,
    ahead_of: u64,
    next_page: Option<NextPage>,
    /// Grows when rows that were read ahead may be gone.
    reading: u64,
    /// How far the peer's stream is applied: what is committed.
    applied: Mark,
    applying: bool,
    pulling: bool,
    answer: Option<PullAnswer>,
    deferred: Option<Arrived>,
    backlog: VecDeque<Arrived>,
    batches: VecDeque<Batch>,
    asked: Option<(PullAsked, oneshot::Sender<Result<Page, Error>>)>,
    calls: Call,
    open_answers: Vec<OpenAnswer>,
    noted_kind: Kind,
    stopping: bool,
}

impl Driver {
    pub fn new(
        inner: Arc<Inner>,
        peer: Arc<Peer>,
        machine: Delivery,
        commands: mpsc::Receiver<Box<Command>>,
        saver: Saver,
        applied: Mark,
    ) -> Self {
        let remote = Arc::new(Remote::new(inner.clone(), peer.clone()));
        let noted_kind = machine.kind();
        peer.set_state(machine.state());
        Self {
            row_id: peer.row_id(),
            newest: peer.watch_newest(),
            inner,
            peer,
            machine,
            remote,
            commands,
            jobs: JoinSet::new(),
            inputs: VecDeque::new(),
            saver,
            saving: false,
            pushing: false,
            session: None,
            no_session: false,
            forget_at: None,
            ahead: VecDeque::new(),
            ahead_of: 0,
            next_page: None,
            reading: 0,
            applied,
            applying: false,
            pulling: false,
            answer: None,
            deferred: None,
            backlog: VecDeque::new(),
            batches: VecDeque::new(),
            asked: None,
            calls: 0,
            open_answers: Vec::new(),
            noted_kind,
            stopping: false,
        }
    }

    /// Runs until `stop`; then finishes the Push in flight and saves what is
    /// to be saved.
    ///
    /// There are many drivers, and nearly all are waiting: what they do then is
    /// boxed, for the task to have only the room of one that waits.
    pub async fn run(mut self: Box<Self>, stop: CancellationToken) {
        Box::pin(self.give(Input::Tick)).await;
        loop {
            // An overdue timer is not left to the runtime's budget.
            if self.machine.deadline().is_some_and(|at| at <= Instant::now()) {
                Box::pin(self.give(Input::Tick)).await;
            }
            let due = self.next_due();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(command) = self.commands.recv() => Box::pin(self.on_command(*command)).await,
                Ok(()) = self.newest.changed() => {
                    let newest = *self.newest.borrow_and_update();
                    Box::pin(self.give(Input::Stored { newest })).await;
                }
                Some(finished) = self.jobs.join_next() => Box::pin(self.on_joined(finished)).await,
                told = session::told(&mut self.session) => Box::pin(self.on_told(told)).await,
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
            }
        }
        Box::pin(self.finish()).await;
    }

    /// Does what is due but for the machine; returns when something will be.
    fn next_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.forget_at.is_some_and(|at| at <= now) {
            self.save_next();
        }
        self.next_page.take_if(|page| page.until <= now);
        let page_until = self.next_page.as_ref().map(|page| page.until);
        let idle_at = self.remote.close_idle().map(tokio::time::Instant::into_std);
        [self.machine.deadline(), self.forget_at, page_until, idle_at].into_iter().flatten().min()
    }

    async fn finish(&mut self) {
        self.stopping = true;
        self.commands.close();
        self.batches.clear();
        self.end_session();
        self.save_next();
        let farewell = tokio::time::sleep(FAREWELL);
        tokio::pin!(farewell);
        while self.unfinished() {
            tokio::select! {
                () = &mut farewell => {
                    tracing::warn!(peer = %self.peer.server_id(), "stopped with a call in flight");
                    return;
                }
                told = session::told(&mut self.session) => self.on_told(told).await,
                Some(finished) = self.jobs.join_next() => self.on_joined(finished).await,
            }
        }
    }

    /// What must not be cut off. The machine may already wish for the next call:
    /// that one is not made any more.
    fn unfinished(&self) -> bool {
        // A stock peer forgets what it hands over.
        let handed_over = self.pulling && self.machine.kind() != Kind::Ours && self.remote.is_connected();
        self.pushing || self.session.is_some() || self.saving || self.applying || handed_over
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Push { row, reply } => {
                if self.backlog.len() >= BACKLOG_MAX {
                    let _ = reply.send(Err(Error::unavailable("too many Pushes at once: send one after the other")));
                    return;
                }
                self.backlog.push_back(Arrived { row, reply });
                self.work().await;
            }
            Command::Batch(batch) => self.on_batch(batch).await,
            Command::Applied(reply) => {
                let _ = reply.send(self.applied);
            }
            Command::Pull { asked, reply } => self.on_pull_asked(asked, reply).await,
            Command::Hold(held) => self.give(Input::Hold(held)).await,
            Command::RetryNow { push } => self.give(Input::RetryNow { push }).await,
            Command::LookAgain => self.look_again().await,
            Command::Learnt(kind) => self.give(Input::Learnt(kind)).await,
            Command::Moved => {
                self.remote.close();
                self.give(Input::RetryNow { push: false }).await;
            }
            Command::View(reply) => {
                let _ = reply.send(self.view());
            }
        }
    }

    async fn on_joined(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let finished = match finished {
            Ok(finished) => finished,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return, // aborted with the set: the driver is going
        };
        match finished {
            Finished::Pushed { number, id, result } => self.on_pushed(number, id, result).await,
            Finished::Pulled(Ok(answer)) => {
                self.called(&self.inner.metrics.pulls, None);
                self.answer = Some(answer);
                self.work().await;
            }
            Finished::Pulled(Err(error)) => {
                self.called(&self.inner.metrics.pulls, Some(&error));
                self.pulling = false;
                self.give(Input::PullFailed(error.failure)).await;
                self.work().await;
            }
            Finished::Applied { mark, result, then } => self.on_applied(mark, result, then).await,
            Finished::Saved(mark) => {
                self.saving = false;
                self.save_next();
                self.give(Input::Saved(mark)).await;
            }
            Finished::Fate { call, arrived } => {
                self.open_answers.retain(|open| open.call != call);
                let input = if arrived { Input::AnswerSettled { call } } else { Input::AnswerBroken { call } };
                self.give(input).await;
            }
            Finished::ReadAhead(page) if page.reading == self.reading => self.next_page = Some(page),
            Finished::ReadAhead(_) | Finished::Noted => {}
        }
    }

    // ----- the machine

    /// Gives the machine an input and does what it says, until it is silent.
    async fn give(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let before = self.machine.state();
            self.machine.handle(Instant::now(), input);
            self.note_change(before);
            while let Some(action) = self.machine.poll() {
                self.act(action).await;
            }
        }
        self.peer.set_failing(self.machine.failing());
        self.peer.set_state(self.machine.state());
        self.note_kind();
    }

    /// What the peer turned out to be is remembered over a restart.
    fn note_kind(&mut self) {
        let kind = self.machine.kind();
        if kind == self.noted_kind {
            return;
        }
        self.noted_kind = kind;
        let (inner, row_id) = (self.inner.clone(), self.row_id);
        self.jobs.spawn(async move {
            if let Err(error) = inner.registry.set_kind(row_id, kind).await {
                tracing::debug!(%error, "the kind of a peer could not be written");
            }
            Finished::Noted
        });
    }

    fn note_change(&self, before: State) {
        let after = self.machine.state();
        if std::mem::discriminant(&before) == std::mem::discriminant(&after) {
            return;
        }
        let peer = self.peer.server_id();
        match after {
            State::Live => tracing::info!(%peer, "live"),
            State::Retrying { .. } => tracing::debug!(%peer, "retrying"),
            State::Queued => tracing::warn!(%peer, "queued: nothing is pushed until it has pulled the queue empty"),
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Push { .. } | Action::Pull { .. } if self.stopping => {}
            Action::Push { .. } if self.machine.kind() == Kind::Ours && !mem::take(&mut self.no_session) => {
                self.open_session();
            }
            Action::Push { after } => self.push(after).await,
            Action::Deliver { after } => self.begin_session(after),
            Action::EndSession => self.end_session(),
            Action::DropSession => self.session = None,
            Action::Pull { waiting } => self.pull(waiting),
            Action::Answer { call, after } => self.answer_pull(call, after).await,
            Action::Forget { through } => {
                while self.ahead.front().is_some_and(|row| row.number <= through.number) {
                    self.ahead.pop_front();
                }
                self.ahead_of = through.number;
                self.save(Save::Forget(through));
            }
            Action::Save { mark, because } => {
                self.drop_ahead();
                self.tell(because);
                self.save(Save::Mark { mark, because });
            }
            Action::SaveQueued(queued) => self.save(Save::Queued(queued)),
        }
    }

    fn save(&mut self, what: Save) {
        self.saver.add(what);
        self.save_next();
    }

    fn save_next(&mut self) {
        if self.saving || self.forgetting_may_wait() {
            return;
        }
        self.forget_at = None;
        if let Some((mark, op)) = self.saver.next() {
            self.saving = true;
            let (inner, peer) = (self.inner.clone(), self.peer.clone());
            self.jobs.spawn(async move {
                super::save::commit(&inner, &peer, op).await;
                Finished::Saved(mark)
            });
        }
    }

    /// Towards a stock peer the next Push waits for what the last one settled.
    fn forgetting_may_wait(&mut self) -> bool {
        if self.stopping || self.machine.kind() != Kind::Ours || !self.saver.only_forgets() {
            return false;
        }
        let now = Instant::now();
        *self.forget_at.get_or_insert(now + FORGET_PAUSE) > now
    }

    /// What the operator reads of a call, and the metrics.
    fn called(&self, counter: &prometheus::IntCounterVec, error: Option<&CallError>) {
        let result = match error.map(|error| error.failure) {
            None => "ok",
            Some(Failure::Transient { .. }) => "transient",
            Some(Failure::Refused) => "refused",
            Some(Failure::Local) => "local",
        };
        counter.with_label_values(&[result]).inc();
        if let Some(error) = error {
            tracing::debug!(peer = %self.peer.server_id(), error = error.text, "call failed");
        }
        self.peer.note_outbound(error.map(|error| error.text.as_str()));
    }

    /// It answered, and goes on.
    fn called_well(&self) {
        self.peer.note_outbound(None);
    }

    fn view(&self) -> View {
        let (now, clock) = (Instant::now(), Millis::now());
        let moment = |at: Instant| clock.plus(at.saturating_duration_since(now));
        let next_attempt = match self.machine.state() {
            State::Retrying { at, .. } => Some(moment(at)),
            State::Live | State::Queued => None,
        };
        View {
            state: self.machine.state(),
            kind: self.machine.kind(),
            held: self.machine.held(),
            settled: self.machine.settled(),
            applied: self.applied,
            next_attempt,
            next_pull: self.machine.next_pull().map(moment),
        }
    }
}
