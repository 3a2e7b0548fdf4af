//! A stock peer: it applies whatever a Push brings, knows no numbers and no
//! states, and Pulls each of our nodes once an interval. It never crashes.

use super::{
    disk::Serial,
    oracle::Sight,
    world::{Happening, Ms, PULL_INTERVAL, Reply, Request, World, note},
};

#[derive(Debug)]
pub struct Stock {
    /// What was applied, by sender.
    pub logs: Vec<Vec<Serial>>,
    /// The call of the last Pull, by the node asked, while it is unanswered.
    pulls: Vec<Option<u64>>,
    /// When the next one is due; a Pull without an answer is given up then.
    next: Vec<Ms>,
}

impl Stock {
    pub fn new(ours: usize) -> Self {
        Self { logs: vec![Vec::new(); ours], pulls: vec![None; ours], next: vec![1; ours] }
    }
}

impl World {
    fn stock_mut(&mut self) -> &mut Stock {
        self.stock.as_mut().expect("only a world with a stock peer speaks to it")
    }

    fn stock_applies(&mut self, from: usize, serials: &[Serial]) {
        let me = self.nodes.len();
        note!(self, "stock applies {serials:?} of {from}");
        let stock = self.stock.as_mut().expect("as above");
        self.oracle.applied(me, &mut stock.logs[from], serials, true);
    }

    pub fn stock_asked(&mut self, from: usize, call: u64, request: Request) {
        let me = self.nodes.len();
        let reply = match request {
            Request::Push { serial, .. } => {
                self.stock_applies(from, &[serial]);
                self.oracle.see(Sight::StockPushed);
                Reply::Pushed(None)
            }
            Request::Pull { .. } => Reply::Page { rows: Vec::new(), state: None },
        };
        self.send_reply(me, from, call, reply);
    }

    pub fn on_stock_timer(&mut self, node: usize) {
        let (now, me) = (self.now, self.nodes.len());
        if self.stock_mut().next[node] != now {
            return;
        }
        let call = self.fresh_id();
        let stock = self.stock_mut();
        stock.pulls[node] = Some(call);
        stock.next[node] = now + PULL_INTERVAL;
        self.plan_in(PULL_INTERVAL, Happening::StockTimer { node });
        self.send_request(me, node, call, Request::Pull { state: None, waiting: false });
    }

    pub fn stock_heard(&mut self, from: usize, call: u64, reply: Reply) {
        if self.stock_mut().pulls[from] != Some(call) {
            return;
        }
        self.stock_mut().pulls[from] = None;
        let Reply::Page { rows, .. } = reply else { return };
        if rows.is_empty() {
            return;
        }
        self.oracle.see(Sight::StockPage);
        let serials: Vec<Serial> = rows.iter().map(|&(_, serial)| serial).collect();
        self.stock_applies(from, &serials);
        if self.rng.chance(50) {
            let soon = self.now + 1;
            self.stock_mut().next[from] = soon;
            self.plan_at(soon, Happening::StockTimer { node: from });
        }
    }
}
