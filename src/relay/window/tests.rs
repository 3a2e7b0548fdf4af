//! The rules of one subscription by table, and its bounds by lists of operations.

use super::*;
use proptest::prelude::*;

const S: &str = "s";
const NONE: [u64; 0] = [];

struct Bench {
    now: Instant,
    window: Window,
}

fn redelivery(max: usize) -> Redelivery {
    Redelivery { after: Duration::from_secs(10), tries: 3, max }
}

fn row(seq: u64) -> Row<'static> {
    Row { seq, session: S, retries: 0 }
}

fn rows(seqs: impl IntoIterator<Item = u64>) -> Vec<Row<'static>> {
    seqs.into_iter().map(row).collect()
}

impl Bench {
    fn new(max: usize) -> Self {
        Self { now: Instant::now(), window: Window::new(redelivery(max), 7) }
    }

    /// Asks for a page, reads it, and returns what is to be sent.
    fn read(&mut self, rows: &[Row<'_>], more: bool) -> Vec<u64> {
        let page = self.window.next_page().expect("a page is wanted");
        let through = rows.last().map_or(page.after, |row| row.seq);
        self.window.read(rows, through, more)
    }

    fn send(&mut self, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            self.window.sent(self.now, seq);
        }
    }

    /// A window that has sent these.
    fn sending(max: usize, seqs: impl IntoIterator<Item = u64>) -> Self {
        let mut bench = Self::new(max);
        let fresh = bench.read(&rows(seqs), false);
        bench.send(fresh);
        bench
    }

    /// Jumps to the deadline; how long that was, and what is due.
    fn next(&mut self) -> (Duration, Vec<Due>) {
        let at = self.window.deadline().expect("something is planned");
        let waited = at - self.now;
        self.now = at;
        (waited, self.window.due(at))
    }
}

fn about(duration: Duration, seconds: u64) -> bool {
    let wanted = Duration::from_secs(seconds);
    wanted * 9 / 10 <= duration && duration <= wanted * 11 / 10
}

#[test]
fn it_begins_at_the_start() {
    let mut window = Window::new(redelivery(8), 7);
    assert_eq!(window.next_page(), Some(Page { after: 0, limit: 8 }));
    assert_eq!(window.deadline(), None);
}

#[test]
fn pages_come_one_after_the_other_and_are_sent_in_order() {
    let mut bench = Bench::new(8);
    assert_eq!(bench.read(&rows([2, 5]), true), [2, 5]);
    // What was read goes out before more is read.
    assert_eq!(bench.window.next_page(), None);
    bench.send([2]);
    assert_eq!(bench.window.next_page(), None);
    bench.send([5]);
    assert_eq!(bench.window.next_page(), Some(Page { after: 5, limit: 6 }));
    assert_eq!(bench.window.next_page(), None, "a page is on its way");
    assert_eq!(bench.window.read(&rows([9]), 9, false), [9]);
    bench.send([9]);
    assert_eq!(bench.window.next_page(), None, "all was read");
    bench.window.woken();
    assert_eq!(bench.window.next_page(), Some(Page { after: 9, limit: 5 }));
}

#[test]
fn who_is_woken_while_a_page_is_read_looks_again() {
    let mut bench = Bench::new(8);
    bench.window.next_page().unwrap();
    bench.window.woken();
    assert_eq!(bench.window.read(&[], 0, false), NONE);
    assert!(bench.window.next_page().is_some());
}

#[test]
fn a_page_that_failed_is_asked_for_again() {
    let mut bench = Bench::new(8);
    let page = bench.window.next_page();
    bench.window.unread();
    assert_eq!(bench.window.next_page(), page);
}

#[test]
fn what_was_left_out_is_not_looked_at_again() {
    let mut bench = Bench::new(8);
    bench.window.next_page().unwrap();
    assert_eq!(bench.window.read(&[], 40, true), NONE);
    assert_eq!(bench.window.next_page(), Some(Page { after: 40, limit: 8 }));
}

#[test]
fn a_full_window_waits_for_acknowledgements() {
    let mut bench = Bench::sending(2, [1, 2]);
    bench.window.woken();
    assert_eq!(bench.window.next_page(), None);
    bench.window.finished(1);
    assert_eq!(bench.window.next_page(), Some(Page { after: 2, limit: 1 }));
    // A page longer than asked for takes no more than there is room for.
    assert_eq!(bench.window.read(&rows([3, 4]), 4, false), [3]);
    bench.send([3]);
    bench.window.finished(2);
    assert_eq!(bench.window.next_page(), Some(Page { after: 3, limit: 1 }));
}

#[test]
fn a_repeat_comes_after_a_time_out_that_doubles_and_raises_the_count() {
    let mut bench = Bench::sending(8, [1]);
    for (seconds, retries) in [(10, 1), (20, 2)] {
        let (waited, due) = bench.next();
        assert!(about(waited, seconds), "{waited:?}, not {seconds} s");
        assert_eq!(due, [Due::Repeat { seq: 1, retries }]);
        // Its time begins when it is sent.
        assert_eq!(bench.window.deadline(), None);
        bench.now += Duration::from_secs(1000);
        bench.send([1]);
    }
}

#[test]
fn the_last_try_gets_its_time_and_then_the_delivery_fails() {
    let mut bench = Bench::sending(8, [1]);
    for _ in 0..2 {
        bench.next();
        bench.send([1]);
    }
    let (waited, due) = bench.next();
    assert!(about(waited, 40), "{waited:?}");
    assert_eq!(due, [Due::GiveUp { seq: 1 }]);
    // Said again until it is on disk.
    assert_eq!(bench.next().1, [Due::GiveUp { seq: 1 }]);
    bench.window.finished(1);
    assert!(bench.window.is_empty() && bench.window.deadline().is_none());
}

#[test]
fn waits_end_at_five_minutes() {
    let redelivery = Redelivery { after: Duration::from_secs(10), tries: 100, max: 8 };
    let mut window = Window::new(redelivery, 7);
    let now = Instant::now();
    window.next_page().unwrap();
    let fresh = window.read(&[Row { seq: 1, session: S, retries: 60 }], 1, false);
    assert_eq!(fresh, [1]);
    window.sent(now, 1);
    assert!(about(window.deadline().unwrap() - now, 300));
}

#[test]
fn a_new_subscription_goes_on_from_the_row_without_a_try() {
    let mut bench = Bench::new(8);
    let last = Row { seq: 1, session: S, retries: 2 };
    // Sent once more, although all tries were had, and given up after its time.
    let fresh = bench.read(&[last], false);
    assert_eq!(fresh, [1]);
    bench.send(fresh);
    let (waited, due) = bench.next();
    assert!(about(waited, 40), "{waited:?}");
    assert_eq!(due, [Due::GiveUp { seq: 1 }]);
}

#[test]
fn what_is_final_is_neither_sent_nor_repeated() {
    let mut bench = Bench::new(8);
    let fresh = bench.read(&rows([1, 2]), false);
    assert_eq!(fresh, [1, 2]);
    bench.window.finished(1);
    assert!(!bench.window.holds(1) && bench.window.holds(2));
    bench.send([1, 2]);
    bench.window.finished(2);
    assert_eq!((bench.window.deadline(), bench.window.len()), (None, 0));
}

#[test]
fn what_became_final_while_it_was_read_is_not_sent() {
    let mut bench = Bench::new(8);
    bench.window.next_page().unwrap();
    bench.window.finished(2);
    assert_eq!(bench.window.read(&rows([1, 2, 3]), 3, false), [1, 3]);
}

#[test]
fn what_became_final_while_it_was_looked_at_again_is_not_sent_again() {
    let mut bench = Bench::sending(8, [1, 2]);
    bench.window.rescan();
    bench.window.next_page().unwrap();
    bench.window.finished(1);
    assert_eq!(bench.window.read(&rows([1, 2]), 2, false), NONE);
    assert_eq!(bench.window.len(), 1);
}

#[test]
fn many_acknowledgements_while_a_page_is_read_cost_the_page_and_no_memory() {
    let mut bench = Bench::new(2);
    let page = bench.window.next_page();
    (1..=3).for_each(|seq| bench.window.finished(seq));
    assert_eq!(bench.window.read(&rows([1]), 1, false), NONE);
    assert_eq!(bench.window.next_page(), page);
}

#[test]
fn a_session_is_let_go_of_with_what_is_on_its_way() {
    let mut bench = Bench::new(8);
    let t = Row { seq: 2, session: "t", retries: 0 };
    let fresh = bench.read(&[row(1), t], true);
    bench.send(fresh);
    bench.window.next_page().unwrap();
    bench.window.let_go(|session| session == "t");
    assert!(bench.window.holds(1) && !bench.window.holds(2));
    // The page may show the session.
    assert_eq!(bench.window.read(&[Row { seq: 3, ..t }], 3, false), NONE);
    assert_eq!(bench.window.next_page(), Some(Page { after: 2, limit: 7 }));
}

#[test]
fn a_rescan_finds_what_came_back_and_sends_nothing_twice() {
    let mut bench = Bench::sending(4, [1, 4]);
    bench.window.rescan();
    // The two that are held take no new place.
    assert_eq!(bench.window.next_page(), Some(Page { after: 0, limit: 4 }));
    assert_eq!(bench.window.read(&rows([1, 2, 3, 4]), 4, true), [2, 3]);
    bench.send([2, 3]);
    bench.window.finished(1);
    assert_eq!(bench.window.next_page(), Some(Page { after: 4, limit: 1 }));
}

#[test]
fn a_page_from_before_a_rescan_is_dropped() {
    let mut bench = Bench::sending(4, [1]);
    bench.window.woken();
    bench.window.next_page().unwrap();
    bench.window.rescan();
    assert_eq!(bench.window.read(&rows([5]), 5, false), NONE);
    assert_eq!(bench.read(&rows([1, 3, 5]), false), [3, 5]);
}

#[test]
fn repeats_are_spread() {
    let mut bench = Bench::sending(512, 1..=200);
    let first = bench.window.deadline().unwrap();
    let due = bench.window.due(first + Duration::from_secs(1));
    assert!((50..=150).contains(&due.len()), "{} of 200 in the first of two seconds", due.len());
}

proptest! {
    /// Rows 1..=20 of two sessions in a store that acknowledges at will; whatever
    /// happens, the window stays in its bounds, firsts go in order, and in the end
    /// every row was sent.
    #[test]
    fn bounds_hold_and_nothing_is_forgotten(
        ops in prop::collection::vec((0..9_u8, 1..=20_u64), 0..80),
        max in 1..6_usize,
    ) {
        let session = |seq: u64| if seq.is_multiple_of(2) { "even" } else { "odd" };
        let mut bench = Bench::new(max);
        let (mut acked, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut page: Option<(Page, Vec<u64>)> = None;
        let mut wire = std::collections::VecDeque::new();
        let finish = (0..2_000_u64).map(|step| ((step % 8) as u8, step % 20 + 1));
        for (op, seq) in ops.into_iter().chain(finish) {
            match op {
                0 | 1 if page.is_none() => page = bench.window.next_page().map(|page| {
                    let rows = (page.after + 1..=20).filter(|seq| !acked.contains(seq)).collect();
                    (page, rows)
                }),
                0..=2 => if let Some((asked, mut found)) = page.take() {
                    let more = found.len() > asked.limit;
                    found.truncate(asked.limit);
                    let rows: Vec<_> =
                        found.iter().map(|seq| Row { seq: *seq, session: session(*seq), retries: 0 }).collect();
                    let through = found.last().copied().unwrap_or(20);
                    let fresh = bench.window.read(&rows, through, more);
                    prop_assert!(fresh.is_sorted());
                    wire.extend(fresh);
                },
                3 | 4 => if let Some(seq) = wire.pop_front() && bench.window.holds(seq) {
                    prop_assert!(!acked.contains(&seq));
                    seen.insert(seq);
                    bench.send([seq]);
                },
                5 => if seen.contains(&seq) && acked.insert(seq) {
                    bench.window.finished(seq);
                },
                6 => if let Some(at) = bench.window.deadline() {
                    bench.now = bench.now.max(at);
                    for due in bench.window.due(bench.now) {
                        match due {
                            Due::Repeat { seq, retries } => {
                                prop_assert!(retries < 3);
                                wire.push_back(seq);
                            }
                            Due::GiveUp { seq } => {
                                acked.insert(seq);
                                bench.window.finished(seq);
                            }
                        }
                    }
                },
                7 => bench.window.woken(),
                // The session goes, and comes back at once.
                _ => {
                    bench.window.let_go(|session| session == "even");
                    bench.window.rescan();
                }
            }
            prop_assert!(bench.window.len() <= max);
            prop_assert!(bench.window.deadline().is_none() || !bench.window.is_empty());
        }
        prop_assert_eq!((seen.len(), acked.len(), bench.window.len()), (20, 20, 0));
    }
}
