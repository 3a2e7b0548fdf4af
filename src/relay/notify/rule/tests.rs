//! The rule by table, and its bounds by lists of operations.

use super::*;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(600);
const WALL: Millis = Millis(1_000_000);
const QUEUED: Offer = Offer::Queued { dropped: false };
const LATER: Attempt = Attempt::Later { after: None };

struct Bench {
    now: Instant,
    rule: Rule,
}

fn subject(party: &str, session: &str) -> Subject {
    Subject { party: party.into(), session: session.into() }
}

fn limits() -> Limits {
    Limits { window: WINDOW, tries: 5, waiting: 4, subjects: 8, of_party: 3 }
}

impl Bench {
    fn new() -> Self {
        Self { now: Instant::now(), rule: Rule::new(limits()) }
    }

    fn offer(&mut self, party: &str, session: &str) -> Offer {
        self.offer_in(0, party, session)
    }

    /// To a party that will have been silent long enough after so many seconds.
    fn offer_in(&mut self, seconds: u64, party: &str, session: &str) -> Offer {
        let at = self.now + Duration::from_secs(seconds);
        self.rule.offer(self.now, at, subject(party, session), Kind::Message, Millis(1))
    }

    fn next(&mut self) -> Job {
        self.rule.next(self.now).expect("one is due")
    }

    fn done(&mut self, job: Job, attempt: Attempt) -> Verdict {
        self.rule.done(self.now, WALL, job, attempt, u64::MAX)
    }

    /// Ends the next one so.
    fn end(&mut self, attempt: Attempt) -> Verdict {
        let job = self.next();
        self.done(job, attempt)
    }

    /// Seconds until something is to be done.
    fn due_in(&self) -> Option<u64> {
        self.rule.deadline().map(|at| at.saturating_duration_since(self.now).as_secs())
    }
}

#[test]
fn a_subject_is_notified_once_in_the_window() {
    let mut bench = Bench::new();
    assert_eq!(bench.offer("bob", "s"), QUEUED);
    assert_eq!(bench.offer("bob", "s"), Offer::Known, "it waits");
    let job = bench.next();
    assert_eq!((&*job.subject, job.told), (&subject("bob", "s"), None));
    assert_eq!(bench.offer("bob", "s"), Offer::Known, "it is under way");
    bench.now += Duration::from_secs(7);
    assert_eq!(bench.done(job, Attempt::Sent), Verdict::Sent);
    assert_eq!(bench.due_in(), None, "what came under way is part of it");
    assert_eq!(bench.offer("bob", "t"), QUEUED, "another session is another subject");
    assert_eq!(bench.offer("carol", "s"), QUEUED, "and so is another party");
    assert_eq!((bench.end(Attempt::Sent), bench.end(Attempt::Sent)), (Verdict::Sent, Verdict::Sent));
    bench.now += WINDOW;
    assert_eq!(bench.offer("bob", "s"), QUEUED);
    assert_eq!(bench.next().told, None, "long ago");
}

#[test]
fn what_comes_within_the_window_is_looked_at_when_it_is_over() {
    // How the first ended, whether somebody was told by it, and when after it the next is looked at.
    for (first, told, silent_in, due_in) in [
        (Attempt::Sent, Some(WALL), 0, 599),
        (Attempt::Sent, Some(WALL), 599, 599),
        (Attempt::Sent, Some(WALL), 700, 700),
        (Attempt::Never, None, 0, 599),
    ] {
        let mut bench = Bench::new();
        bench.offer("bob", "s");
        bench.end(first);
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.offer_in(silent_in, "bob", "s"), QUEUED);
        assert_eq!(bench.offer("bob", "s"), Offer::Known);
        assert_eq!(bench.due_in(), Some(due_in), "{first:?} {silent_in}");
        bench.now += Duration::from_secs(due_in);
        let job = bench.next();
        assert_eq!((job.number, job.told), (2, told));
        // The party knows: nothing is sent, and the next is a new occasion.
        assert_eq!(bench.done(job, Attempt::Needless), Verdict::Needless);
        assert_eq!(bench.offer("bob", "s"), QUEUED);
        assert_eq!(bench.due_in(), Some(0));
    }
}

#[test]
fn what_failed_for_good_counts_and_what_was_needless_does_not() {
    for (attempt, verdict, due_in) in
        [(Attempt::Never, Verdict::GivenUp, 600), (Attempt::Needless, Verdict::Needless, 0)]
    {
        let mut bench = Bench::new();
        bench.offer("bob", "s");
        assert_eq!(bench.end(attempt), verdict);
        assert_eq!(bench.due_in(), None, "nothing comes by itself");
        assert_eq!(bench.offer("bob", "s"), QUEUED);
        assert_eq!(bench.due_in(), Some(due_in));
    }
}

#[test]
fn a_party_is_looked_at_when_it_was_silent_for_a_while() {
    let mut bench = Bench::new();
    assert_eq!(bench.offer_in(30, "bob", "s"), QUEUED);
    bench.now += Duration::from_secs(10);
    assert_eq!(bench.offer("bob", "s"), Offer::Known, "one look is enough");
    assert_eq!(bench.offer("carol", "s"), QUEUED, "others are not held up");
    assert_eq!(&*bench.next().subject.party, "carol");
    assert_eq!(bench.due_in(), Some(20));
    bench.now += Duration::from_secs(20);
    // It gave signs of life; as often as it does.
    for _ in 0..9 {
        let at = bench.now + Duration::from_secs(25);
        assert_eq!(bench.end(Attempt::NotYet { at }), Verdict::Again { dropped: false });
        assert_eq!(bench.offer("bob", "s"), Offer::Known);
        assert_eq!(bench.due_in(), Some(25));
        bench.now = at;
    }
    assert_eq!(bench.next().failed, 0, "a look is no failure");
}

#[test]
fn what_comes_while_a_look_finds_nothing_is_looked_at_too() {
    let mut bench = Bench::new();
    bench.offer("bob", "s");
    let job = bench.next();
    assert_eq!(bench.offer_in(30, "bob", "s"), Offer::Known);
    assert_eq!(bench.offer_in(40, "bob", "s"), Offer::Known);
    assert_eq!(bench.done(job, Attempt::Needless), Verdict::Again { dropped: false });
    assert_eq!(bench.due_in(), Some(30));
    bench.now += Duration::from_secs(30);
    assert_eq!(bench.end(Attempt::Needless), Verdict::Needless);
    assert_eq!((bench.due_in(), bench.rule.known.len()), (None, 0));
}

#[test]
fn an_attempt_that_failed_is_repeated_with_growing_pauses_and_given_up_after_the_last() {
    let mut bench = Bench::new();
    bench.offer("bob", "s");
    for most in [1_000, 5_000, 25_000, 125_000] {
        let job = bench.next();
        // The number that gives the longest pause.
        assert_eq!(bench.rule.done(bench.now, WALL, job, LATER, most), Verdict::Again { dropped: false });
        assert_eq!(bench.offer("bob", "s"), Offer::Known, "it waits for its next attempt");
        let at = bench.rule.deadline().expect("another attempt");
        assert_eq!(at - bench.now, Duration::from_millis(most));
        assert!(bench.rule.next(at - Duration::from_millis(1)).is_none());
        bench.now = at;
    }
    assert_eq!(bench.end(LATER), Verdict::GivenUp);
    assert_eq!(bench.offer("bob", "s"), QUEUED);
    assert_eq!(bench.due_in(), Some(600), "it counts");
}

#[test]
fn every_pause_is_somewhere_up_to_its_cap() {
    for random in [0, 1, 999, 1_000, 1_001, u64::MAX] {
        assert!(pause(1, random) <= PAUSE);
        assert!(pause(3, random) <= PAUSE * 25);
    }
    assert_eq!(pause(1, 0), Duration::ZERO);
    assert_eq!(pause(u32::MAX, 5), Duration::from_millis(5), "no overflow");
}

#[test]
fn the_other_side_may_ask_for_a_minute() {
    for (asked, pause) in [(0, 1), (30, 30), (60, 60), (3_600, 60)] {
        let mut bench = Bench::new();
        bench.offer("bob", "s");
        let job = bench.next();
        let attempt = Attempt::Later { after: Some(Duration::from_secs(asked)) };
        bench.rule.done(bench.now, WALL, job, attempt, 1_000);
        assert_eq!(bench.rule.deadline(), Some(bench.now + Duration::from_secs(pause)), "asked for {asked} s");
    }
}

#[test]
fn the_number_of_a_notification_stays_the_same() {
    let mut bench = Bench::new();
    bench.offer("bob", "s");
    bench.offer("bob", "t");
    let job = bench.next();
    let number = job.number;
    bench.rule.done(bench.now, WALL, job, LATER, 0);
    let again = bench.next();
    assert_eq!((number, again.number), (1, 1));
    assert_eq!(bench.next().number, 2);
}

#[test]
fn the_oldest_gives_way_and_does_not_count() {
    let mut bench = Bench::new();
    for party in ["a", "b", "c", "d"] {
        assert_eq!(bench.offer(party, "s"), QUEUED);
    }
    assert_eq!(bench.offer("e", "s"), Offer::Queued { dropped: true });
    assert_eq!(bench.offer("a", "s"), Offer::Queued { dropped: true }, "a was not notified; b gives way");
    let order: Vec<_> =
        std::iter::from_fn(|| bench.rule.next(bench.now)).map(|job| job.subject.party.clone()).collect();
    assert_eq!(order, ["c", "d", "e", "a"]);
}

#[test]
fn one_that_comes_back_to_a_full_queue_gives_way() {
    let mut bench = Bench::new();
    bench.offer("a", "s");
    let job = bench.next();
    for party in ["b", "c", "d", "e"] {
        bench.offer(party, "s");
    }
    assert_eq!(bench.rule.done(bench.now, WALL, job, LATER, 0), Verdict::Again { dropped: true });
    assert_eq!(&*bench.next().subject.party, "b");
    assert_eq!(bench.offer("a", "s"), QUEUED);
}

#[test]
fn one_that_waits_for_its_window_gives_way_and_its_window_still_counts() {
    let mut bench = Bench::new();
    bench.offer("a", "s");
    bench.end(Attempt::Sent);
    assert_eq!(bench.offer("a", "s"), QUEUED);
    for party in ["b", "c", "d"] {
        assert_eq!(bench.offer(party, "s"), QUEUED);
    }
    assert_eq!(bench.offer("e", "s"), Offer::Queued { dropped: true });
    assert_eq!(bench.offer("a", "s"), Offer::Queued { dropped: true }, "b gives way");
    let order: Vec<_> =
        std::iter::from_fn(|| bench.rule.next(bench.now)).map(|job| job.subject.party.clone()).collect();
    assert_eq!(order, ["c", "d", "e"]);
    assert_eq!(bench.due_in(), Some(600));
}

#[test]
fn who_left_is_looked_at_once_after_its_last_end() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let mut leaving = Leaving::new(2);
    assert!(leaving.enter("bob", after(30)) && leaving.enter("carol", after(35)));
    assert!(!leaving.enter("dave", after(1)), "there are two");
    // It came and went once more.
    assert!(leaving.enter("bob", after(40)));
    assert_eq!(leaving.deadline(), Some(after(35)));
    assert_eq!(leaving.next(after(34)), None);
    assert_eq!(leaving.next(after(41)).as_deref(), Some("carol"));
    assert!(leaving.enter("dave", after(50)));
    assert_eq!(leaving.next(after(41)).as_deref(), Some("bob"));
    assert_eq!(leaving.next(after(41)), None);
    assert_eq!(leaving.next(after(50)).as_deref(), Some("dave"));
    assert_eq!((leaving.deadline(), leaving.parties.len(), leaving.due.len()), (None, 0, 0));
}

#[test]
fn a_party_is_not_buried_and_takes_nobody_elses_room() {
    let mut bench = Bench::new();
    for session in ["1", "2", "3"] {
        assert_eq!(bench.offer("bob", session), QUEUED);
        bench.end(Attempt::Sent);
    }
    assert_eq!(bench.offer("bob", "4"), Offer::Refused);
    for party in ["a", "b", "c", "d", "e"] {
        assert_eq!(bench.offer(party, "s"), QUEUED);
        bench.end(Attempt::Sent);
    }
    assert_eq!(bench.offer("f", "s"), Offer::Refused, "so many subjects are known");
    bench.now += WINDOW;
    assert_eq!(bench.offer("bob", "4"), QUEUED);
    assert_eq!(bench.offer("f", "s"), QUEUED);
}

proptest! {
    #[test]
    fn it_holds_no_more_than_its_bounds_and_sends_nothing_twice_in_the_window(
        steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..5, 0u64..200), 0..400),
    ) {
        let mut bench = Bench::new();
        let mut under_way = VecDeque::new();
        let mut sent: Vec<(Instant, Arc<Subject>)> = vec![];
        for (step, party, session, number) in steps {
            match step {
                0 => drop(bench.offer_in(number % 3 * 40, &party.to_string(), &session.to_string())),
                1 => under_way.extend(bench.rule.next(bench.now)),
                2 => bench.now += Duration::from_secs(number),
                _ => if let Some(job) = under_way.pop_front() {
                    let at = bench.now + Duration::from_secs(number);
                    let attempt = [Attempt::Sent, LATER, Attempt::Never, Attempt::Needless, Attempt::NotYet { at }];
                    let subject = job.subject.clone();
                    let verdict = bench.rule.done(bench.now, WALL, job, attempt[usize::from(session)], number);
                    if matches!(verdict, Verdict::Sent | Verdict::GivenUp) {
                        let lately = |(at, of): &(Instant, Arc<Subject>)| *of == subject && *at + WINDOW > bench.now;
                        prop_assert!(!sent.iter().any(lately));
                        sent.push((bench.now, subject));
                    }
                }
            }
            let rule = &bench.rule;
            prop_assert!(rule.waiting.len() <= 4 && rule.known.len() <= 8);
            prop_assert_eq!(rule.waiting.len(), rule.due.len());
            let idle = rule.known.values().filter(|known| matches!(known.stage, Stage::Idle));
            prop_assert_eq!(rule.waiting.len() + idle.count() + under_way.len(), rule.known.len());
            prop_assert_eq!(rule.known.values().filter(|known| known.past.is_some()).count(), rule.pasts.len());
            prop_assert!(rule.known.values().all(|known| !matches!(known.stage, Stage::Idle) || known.past.is_some()));
            prop_assert!(rule.parties.values().all(|count| (1..=3).contains(count)));
            prop_assert_eq!(rule.parties.values().sum::<usize>(), rule.known.len());
        }
    }
}
