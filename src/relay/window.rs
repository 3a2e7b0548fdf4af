//! What one subscription was sent and did not acknowledge: in which order it is
//! read, when it is sent again, when it is given up.
//!
//! Pure: no I/O, no clock; `now` and a seed come in. It holds numbers of delivery
//! rows, never a body, and at most [`Redelivery::max`] of them.
//!
//! One task a stream: `next_page` → read rows → `read` → send each that is still
//! `holds` → `sent`; at `deadline`: `due`; when the writer says so: `woken`,
//! `finished`; when the subscription's share changed: `let_go`, `rescan`. A window
//! ends with its stream. The next one begins at the start and repeats what is
//! unacknowledged without counting a try: only a time-out counts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

/// The longest wait before a repeat, unless the first is longer.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Clone)]
pub struct Redelivery {
    /// The first wait for an acknowledgement; doubled each time, up to 5 min. All
    /// are jittered by ± 10 %.
    pub after: Duration,
    /// How often a message is sent before its delivery fails, at least 1.
    pub tries: u32,
    /// Unacknowledged at once, at least 1.
    pub max: usize,
}

/// What is to be read next: unfinished delivery rows of this subscription with
/// numbers above `after`, in order, at most `limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub after: u64,
    pub limit: usize,
}

/// A row of a page.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub seq: u64,
    pub session: &'a str,
    /// Repeats so far, as the row says.
    pub retries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Send it again, say `retries`, and note it in the row.
    Repeat { seq: u64, retries: u32 },
    /// The last try's time is over: the delivery fails. It is held, and given up
    /// again after a while, until `finished` says that this is on disk.
    GiveUp { seq: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Read and not yet sent on this stream.
    Fresh,
    /// To be repeated, or given up, at this time.
    Sent(Instant),
    /// Waits to be repeated.
    Late,
}

#[derive(Debug)]
struct Held {
    session: Arc<str>,
    retries: u32,
    stage: Stage,
}

/// A page on its way.
#[derive(Debug, Default)]
struct Reading {
    /// It was asked for before the share changed.
    stale: bool,
    /// Became final meanwhile; the page may still show them.
    finished: BTreeSet<u64>,
}

#[derive(Debug)]
pub struct Window {
    redelivery: Redelivery,
    random: u64,
    held: BTreeMap<u64, Held>,
    /// The sessions of what is held, and how many each has.
    sessions: HashMap<Arc<str>, usize>,
    timers: BTreeSet<(Instant, u64)>,
    fresh: usize,
    /// All rows up to here were seen.
    cursor: u64,
    /// There may be rows after the cursor.
    more: bool,
    reading: Option<Reading>,
}

impl Window {
    /// `seed`: for the jitter.
    pub fn new(redelivery: Redelivery, seed: u64) -> Self {
        Self {
            redelivery,
            random: seed,
            held: BTreeMap::new(),
            sessions: HashMap::new(),
            timers: BTreeSet::new(),
            fresh: 0,
            cursor: 0,
            more: true,
            reading: None,
        }
    }

    /// What to read next, to be answered by `read` or `unread`. `None` while a page
    /// is on its way or not wholly sent, while the window is full, or when all that
    /// is known of was read.
    pub fn next_page(&mut self) -> Option<Page> {
        let max = self.redelivery.max.max(1);
        if !self.more || self.reading.is_some() || self.fresh > 0 || self.held.len() >= max {
            return None;
        }
        self.more = false;
        self.reading = Some(Reading::default());
        // What is held after the cursor takes no new place.
        let again = self.held.range(self.cursor.saturating_add(1)..).count();
        Some(Page { after: self.cursor, limit: max - self.held.len() + again })
    }

    /// The page as it was read. `through`: the last number looked at, also when it
    /// was left out; `more`: there may be rows after that. Returns what is to be
    /// sent now, in this order; nothing when the page is out of date and asked for
    /// anew. Each stays held until it is `finished`.
    #[must_use = "what is not sent holds the window up"]
    pub fn read(&mut self, rows: &[Row<'_>], through: u64, more: bool) -> Vec<u64> {
        let Some(reading) = self.reading.take() else { return vec![] };
        if reading.stale {
            return vec![];
        }
        let mut fresh = vec![];
        for row in rows {
            if row.seq <= self.cursor {
                continue; // nobody asked for it
            }
            let known = self.held.contains_key(&row.seq) || reading.finished.contains(&row.seq);
            if !known && self.held.len() >= self.redelivery.max.max(1) {
                self.more = true;
                return fresh;
            }
            self.cursor = row.seq;
            if !known {
                self.hold(row);
                fresh.push(row.seq);
            }
        }
        self.cursor = self.cursor.max(through);
        self.more |= more;
        fresh
    }

    /// The page could not be read: it is asked for again.
    pub fn unread(&mut self) {
        self.more |= self.reading.take().is_some();
    }

    /// There may be new rows.
    pub fn woken(&mut self) {
        self.more = true;
    }

    /// It waits for its acknowledgement, or to be sent. Asked before it is sent,
    /// because it may have become final since it was read.
    pub fn holds(&self, seq: u64) -> bool {
        self.held.contains_key(&seq)
    }

    /// The row was handed to the stream, for the first time or again: its time
    /// begins.
    pub fn sent(&mut self, now: Instant, seq: u64) {
        self.arm(now, seq);
    }

    /// The row is final on disk: acknowledged, failed, expired.
    pub fn finished(&mut self, seq: u64) {
        self.drop_held(seq);
        if let Some(reading) = &mut self.reading
            && seq > self.cursor
        {
            reading.finished.insert(seq);
            if reading.finished.len() > self.redelivery.max {
                reading.stale = true;
                reading.finished.clear();
                self.more = true;
            }
        }
    }

    /// What is due, to be called at `deadline`. Repeats are to be sent by number,
    /// those that are still `holds`.
    pub fn due(&mut self, now: Instant) -> Vec<Due> {
        let mut due = vec![];
        while let Some(&(at, seq)) = self.timers.first()
            && at <= now
        {
            let held = self.held.get_mut(&seq).expect("a timer is of a row that is held");
            if held.retries.saturating_add(1) >= self.redelivery.tries {
                self.arm(now, seq);
                due.push(Due::GiveUp { seq });
            } else {
                held.retries += 1;
                held.stage = Stage::Late;
                self.timers.pop_first();
                due.push(Due::Repeat { seq, retries: held.retries });
            }
        }
        due
    }

    /// When `due` is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Sessions that have a subscription of their own now: their rows are forgotten
    /// here.
    pub fn let_go(&mut self, of: impl Fn(&str) -> bool) {
        self.turn_stale();
        if self.sessions.keys().any(|session| of(session)) {
            let gone = self.held.iter().filter(|(_, held)| of(&held.session));
            for seq in gone.map(|(seq, _)| *seq).collect::<Vec<_>>() {
                self.drop_held(seq);
            }
        }
    }

    /// A session came back to this subscription: everything is looked at again
    /// from the start. What is held is not sent twice.
    pub fn rescan(&mut self) {
        self.turn_stale();
        self.cursor = 0;
        self.more = true;
    }

    /// How many wait for their acknowledgement, or to be sent.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn turn_stale(&mut self) {
        if let Some(reading) = &mut self.reading {
            reading.stale = true;
            self.more = true;
        }
    }

    fn hold(&mut self, row: &Row<'_>) {
        let session = match self.sessions.get_key_value(row.session) {
            Some((session, _)) => session.clone(),
            None => Arc::from(row.session),
        };
        *self.sessions.entry(session.clone()).or_default() += 1;
        self.held.insert(row.seq, Held { session, retries: row.retries, stage: Stage::Fresh });
        self.fresh += 1;
    }

    fn drop_held(&mut self, seq: u64) {
        let Some(held) = self.held.remove(&seq) else { return };
        match held.stage {
            Stage::Fresh => self.fresh -= 1,
            Stage::Sent(at) => _ = self.timers.remove(&(at, seq)),
            Stage::Late => {}
        }
        if let Some(count) = self.sessions.get_mut(&held.session) {
            *count -= 1;
            if *count == 0 {
                self.sessions.remove(&held.session);
            }
        }
    }

    /// Begins the wait for the acknowledgement of what is held.
    fn arm(&mut self, now: Instant, seq: u64) {
        let Some(retries) = self.held.get(&seq).map(|held| held.retries) else { return };
        let at = now + self.wait(retries);
        let Some(held) = self.held.get_mut(&seq) else { return };
        match std::mem::replace(&mut held.stage, Stage::Sent(at)) {
            Stage::Fresh => self.fresh -= 1,
            Stage::Sent(before) => _ = self.timers.remove(&(before, seq)),
            Stage::Late => {}
        }
        self.timers.insert((at, seq));
    }

    /// Before the next repeat of a row that was repeated so often.
    fn wait(&mut self, retries: u32) -> Duration {
        let first = self.redelivery.after;
        let wait = first.saturating_mul(1 << retries.min(20)).min(WAIT_MAX.max(first));
        // Steps of the golden ratio fall evenly into any interval.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let tenth = wait / 10;
        wait - tenth + (tenth * 2).mul_f64((self.random >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests;
