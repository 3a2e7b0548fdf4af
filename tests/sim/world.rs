//! The world: virtual time, the order of what happens, the network, and the
//! run from the first fault to the last check.

use super::{
    courier::{Message, Streams},
    disk::Serial,
    faults::Fault,
    node::Node,
    oracle::{Oracle, Sight, Sights},
    rng::Rng,
    stock::Stock,
};
use pillarbox::federation::{
    delivery::{Call, Failure, Retry},
    stream::{Mark, Position},
};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

/// Virtual milliseconds since the beginning.
pub type Ms = u64;

pub const FAULTS_END: Ms = 60_000;
pub const EVENTS_END: Ms = FAULTS_END + 5 * 60_000;
pub const END: Ms = EVENTS_END + 40 * 60_000;
const CALM: Ms = END - 10 * 60_000;
pub const PULL_INTERVAL: Ms = 10_000;
pub const TRANSIENT: Failure = Failure::Transient { retry_after: None };
/// More happenings than this in one run are a livelock.
const STEPS_MAX: u32 = 200_000;

/// One node's view of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    pub node: usize,
    pub peer: usize,
}

#[derive(Debug, Clone)]
pub enum Request {
    Push {
        position: Position,
        serial: Serial,
    },
    /// `state`: none from a stock peer.
    Pull {
        state: Option<Mark>,
        waiting: bool,
    },
}

#[derive(Debug, Clone)]
pub enum Reply {
    Pushed(Option<Mark>),
    Page { rows: Vec<(Position, Serial)>, state: Option<Mark> },
    Failed(Failure),
}

#[derive(Debug)]
pub enum Happening {
    Request {
        from: usize,
        to: usize,
        call: u64,
        request: Request,
    },
    /// `to` made the call.
    Reply {
        from: usize,
        to: usize,
        call: u64,
        reply: Reply,
    },
    Commit {
        node: usize,
        boot: u32,
    },
    ReadRow {
        side: Side,
        life: u32,
        after: Mark,
    },
    ReadPage {
        side: Side,
        life: u32,
        answer: Call,
        call: u64,
        after: Mark,
    },
    Timer {
        side: Side,
        life: u32,
    },
    Stream {
        stream: u64,
        /// A receipt.
        back: bool,
        message: Message,
    },
    /// The sender of a dead stream hears of it.
    Reset {
        stream: u64,
    },
    /// The peer takes no batches.
    NoSession {
        side: Side,
        life: u32,
    },
    ReadBatch {
        side: Side,
        stream: u64,
    },
    SessionDue {
        side: Side,
        stream: u64,
    },
    Evidence {
        side: Side,
        life: u32,
        answer: Call,
        arrived: bool,
    },
    StockTimer {
        node: usize,
    },
    Client {
        from: usize,
        to: usize,
        events: u64,
    },
    Fault(Fault),
}

/// The way from one node to another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    pub cut: Option<Cut>,
    /// Up to so many milliseconds more.
    pub slow: Ms,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing comes through and nothing is said.
    Silent,
    /// Whoever calls hears at once that it cannot be.
    Refusing,
}

#[derive(Debug)]
pub struct World {
    pub rng: Rng,
    pub now: Ms,
    base: Instant,
    due: BinaryHeap<Reverse<(Ms, u64, usize)>>,
    slots: Vec<Option<Happening>>,
    free: Vec<usize>,
    order: u64,
    pub nodes: Vec<Node>,
    pub stock: Option<Stock>,
    links: Vec<Link>,
    pub streams: Streams,
    /// Of a hundred messages.
    pub loss: u64,
    pub duplicates: u64,
    /// The usual way takes up to this.
    pub delay: Ms,
    pub oracle: Oracle,
    last_id: u64,
    calm_requests: u64,
    pub trace: bool,
}

macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if $world.trace {
            println!("{:>9.3}  {}", $world.now as f64 / 1000.0, format_args!($($text)*));
        }
    };
}
pub(crate) use note;

/// Runs the world of this seed to its end.
pub fn run(seed: u64, trace: bool) -> Result<Sights, String> {
    let mut world = World::new(seed, trace);
    let mut steps = 0;
    while world.oracle.broken.is_none() && world.step() {
        steps += 1;
        if steps > STEPS_MAX {
            return Err(format!("livelock: {steps} steps until {} ms", world.now));
        }
    }
    if world.oracle.broken.is_none() {
        world.check_end();
    }
    match world.oracle.broken {
        Some(rule) => Err(format!("at {} ms: {rule}", world.now)),
        None => Ok(world.oracle.sights),
    }
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let ours = if rng.chance(30) { 3 } else { 2 };
        let stock = rng.chance(35).then(|| Stock::new(ours));
        let all = ours + usize::from(stock.is_some());
        let mut world = Self {
            now: 0,
            base: Instant::now(),
            due: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            order: 0,
            nodes: (0..ours).map(|_| Node::new(all, &mut rng)).collect(),
            stock,
            links: vec![Link::default(); all * all],
            streams: Streams::default(),
            loss: 0,
            duplicates: 0,
            delay: rng.between(2, 100),
            oracle: Oracle::default(),
            last_id: 0,
            calm_requests: 0,
            trace,
            rng,
        };
        world.plan_lanes(seed);
        world.plan();
        for node in 0..ours {
            world.boot(node);
        }
        if world.stock.is_some() {
            for node in 0..ours {
                world.plan_at(1, Happening::StockTimer { node });
            }
        }
        world
    }

    /// All nodes, the stock peer last.
    pub fn all(&self) -> usize {
        self.nodes.len() + usize::from(self.stock.is_some())
    }

    pub fn is_stock(&self, node: usize) -> bool {
        node == self.nodes.len()
    }

    pub fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    /// The first millisecond at or after it.
    pub fn millis(&self, at: Instant) -> Ms {
        let nanos = at.saturating_duration_since(self.base).as_nanos();
        Ms::try_from(nanos.div_ceil(1_000_000)).expect("a run is short").max(self.now)
    }

    pub fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn link(&mut self, from: usize, to: usize) -> &mut Link {
        let all = self.all();
        &mut self.links[from * all + to]
    }

    pub fn plan_at(&mut self, at: Ms, happening: Happening) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(happening);
        self.order += 1;
        self.due.push(Reverse((at, self.order, slot)));
    }

    pub fn plan_in(&mut self, wait: Ms, happening: Happening) {
        self.plan_at(self.now + wait, happening);
    }

    fn step(&mut self) -> bool {
        let Some(Reverse((at, _, slot))) = self.due.pop() else { return false };
        if at > END {
            return false;
        }
        self.now = at;
        self.free.push(slot);
        let happening = self.slots[slot].take().expect("a slot is filled until it is due");
        match happening {
            Happening::Request { from, to, call, request } => self.on_request(from, to, call, request),
            Happening::Reply { from, to, call, reply } => match self.is_stock(to) {
                true => self.stock_heard(from, call, reply),
                false => self.on_reply(Side { node: to, peer: from }, call, reply),
            },
            Happening::Commit { node, boot } => self.on_commit(node, boot),
            Happening::ReadRow { side, life, after } => self.on_row_read(side, life, after),
            Happening::ReadPage { side, life, answer, call, after } => {
                self.on_page_read(side, life, answer, call, after);
            }
            Happening::Timer { side, life } => self.on_timer(side, life),
            Happening::Stream { stream, back, message } => self.on_stream(stream, back, message),
            Happening::Reset { stream } => self.on_reset(stream),
            Happening::NoSession { side, life } => self.on_no_session(side, life),
            Happening::ReadBatch { side, stream } => self.on_batch_read(side, stream),
            Happening::SessionDue { side, stream } => self.on_session_due(side, stream),
            Happening::Evidence { side, life, answer, arrived } => self.on_evidence(side, life, answer, arrived),
            Happening::StockTimer { node } => self.on_stock_timer(node),
            Happening::Client { from, to, events } => self.on_client(from, to, events),
            Happening::Fault(fault) => self.on_fault(fault),
        }
        true
    }

    // ----- the network

    /// How long a message is under way; `None`: it is lost.
    pub fn way(&mut self, from: usize, to: usize) -> Option<Ms> {
        let link = *self.link(from, to);
        if link.cut.is_some() {
            return None;
        }
        if self.rng.chance(self.loss) {
            self.oracle.see(Sight::Loss);
            return None;
        }
        let mut wait = self.rng.between(1, self.delay);
        if link.slow > 0 {
            self.oracle.see(Sight::SlowLink);
            wait += self.rng.between(0, link.slow);
        }
        Some(wait)
    }

    pub fn count_request(&mut self) {
        if self.now >= CALM {
            self.calm_requests += 1;
        }
    }

    pub fn send_request(&mut self, from: usize, to: usize, call: u64, request: Request) {
        self.count_request();
        match self.link(from, to).cut {
            Some(Cut::Refusing) => {
                self.oracle.see(Sight::CutRefusing);
                return self.refuse_at_once(from, to, call);
            }
            Some(Cut::Silent) => self.oracle.see(Sight::CutSilent),
            None => {}
        }
        // A stock peer's Pull comes over TCP, and so once.
        if !self.is_stock(from) && self.rng.chance(self.duplicates) {
            self.oracle.see(Sight::Duplicate);
            if let Some(wait) = self.way(from, to) {
                self.plan_in(wait, Happening::Request { from, to, call, request: request.clone() });
            }
        }
        if let Some(wait) = self.way(from, to) {
            self.plan_in(wait, Happening::Request { from, to, call, request });
        }
    }

    /// `from` answers the call of `to`.
    pub fn send_reply(&mut self, from: usize, to: usize, call: u64, reply: Reply) {
        if self.rng.chance(self.duplicates)
            && let Some(wait) = self.way(from, to)
        {
            self.plan_in(wait, Happening::Reply { from, to, call, reply: reply.clone() });
        }
        if let Some(wait) = self.way(from, to) {
            self.plan_in(wait, Happening::Reply { from, to, call, reply });
        }
    }

    /// A page for a stock peer: it arrives within 5 s or never, and 5 s after it
    /// was written the connection tells which.
    pub fn send_stock_page(&mut self, side: Side, life: u32, answer: Call, call: u64, reply: Reply) -> Option<Ms> {
        let wait = self.way(side.node, side.peer).filter(|&wait| wait <= 5_000);
        if let Some(wait) = wait {
            self.plan_in(wait, Happening::Reply { from: side.node, to: side.peer, call, reply });
        }
        self.plan_in(5_000, Happening::Evidence { side, life, answer, arrived: wait.is_some() });
        wait
    }

    pub fn refuse_at_once(&mut self, from: usize, to: usize, call: u64) {
        self.plan_in(1, Happening::Reply { from: to, to: from, call, reply: Reply::Failed(TRANSIENT) });
    }

    fn on_request(&mut self, from: usize, to: usize, call: u64, request: Request) {
        note!(self, "{from} -> {to}  #{call} {request:?}");
        if self.is_stock(to) {
            return self.stock_asked(from, call, request);
        }
        if !self.nodes[to].up {
            return self.refuse_at_once(from, to, call);
        }
        let side = Side { node: to, peer: from };
        if self.life(side).is_none() {
            self.oracle.see(Sight::RefusedByPeer);
            return self.send_reply(to, from, call, Reply::Failed(Failure::Refused));
        }
        match request {
            Request::Push { position, serial } => self.on_push(side, call, position, serial),
            Request::Pull { state, waiting } => self.on_pull(side, call, state, waiting),
        }
    }

    // ----- the end

    fn check_end(&mut self) {
        let mut idle = 0;
        for node in 0..self.nodes.len() {
            for peer in (0..self.all()).filter(|&peer| peer != node) {
                self.check_side(Side { node, peer });
                idle += 10 * 60_000 / PULL_INTERVAL;
            }
            if self.stock.is_some() {
                idle += 10 * 60_000 / PULL_INTERVAL;
            }
        }
        if self.calm_requests > 2 * idle {
            let calls = self.calm_requests;
            self.oracle.break_rule(|| format!("{calls} calls in calm, {idle} explained"));
        }
        for serial in 0..self.oracle.next_serial() {
            self.check_event(serial);
        }
    }

    fn check_event(&mut self, serial: Serial) {
        let event = *self.oracle.event(serial);
        if event.acknowledged.is_none() {
            return;
        }
        let out = &self.nodes[event.from].disk.peers[event.to];
        let applied = match &self.stock {
            Some(stock) if self.is_stock(event.to) => stock.logs[event.from].contains(&serial),
            _ => self.nodes[event.to].disk.peers[event.from].log.contains(&serial),
        };
        let dead = out.dead.iter().any(|row| row.serial == serial);
        if !applied && !dead && !self.oracle.excused(&event, &out.holes) {
            self.oracle.break_rule(|| format!("event {serial} is lost: {event:?}"));
        }
    }
}

/// The schedule of every machine.
pub fn retry() -> Retry {
    Retry {
        retries: 5,
        base: Duration::from_millis(500),
        max: Duration::from_secs(4),
        pull_interval: Duration::from_millis(PULL_INTERVAL),
    }
}
