//! The rule by table, and its bounds by lists of operations.

use super::*;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(600);
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
        self.rule.offer(self.now, subject(party, session), Kind::Message, Millis(1))
    }

    fn next(&mut self) -> Job {
        self.rule.next(self.now).expect("one is due")
    }

    /// Ends the next one so.
    fn end(&mut self, attempt: Attempt) -> Verdict {
        let job = self.next();
        self.rule.done(self.now, job, attempt, u64::MAX)
    }
}

#[test]
fn a_subject_is_notified_once_in_the_window() {
    let mut bench = Bench::new();
    assert_eq!(bench.offer("bob", "s"), QUEUED);
    assert_eq!(bench.offer("bob", "s"), Offer::Known, "it waits");
    let job = bench.next();
    assert_eq!(*job.subject, subject("bob", "s"));
    assert_eq!(bench.offer("bob", "s"), Offer::Known, "it is under way");
    bench.now += Duration::from_secs(7);
    assert_eq!(bench.rule.done(bench.now, job, Attempt::Sent, 0), Verdict::Sent);
    assert_eq!(bench.offer("bob", "t"), QUEUED, "another session is another subject");
    assert_eq!(bench.offer("carol", "s"), QUEUED, "and so is another party");
    bench.now += WINDOW - Duration::from_millis(1);
    assert_eq!(bench.offer("bob", "s"), Offer::Known, "it was sent lately");
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.offer("bob", "s"), QUEUED);
}

#[test]
fn what_was_not_sent_does_not_count() {
    for (attempt, verdict) in [(Attempt::Never, Verdict::GivenUp), (Attempt::Needless, Verdict::Needless)] {
        let mut bench = Bench::new();
        bench.offer("bob", "s");
        assert_eq!(bench.end(attempt), verdict);
        assert_eq!(bench.rule.deadline(), None);
        assert_eq!(bench.offer("bob", "s"), QUEUED);
    }
}

#[test]
fn an_attempt_that_failed_is_repeated_with_growing_pauses_and_given_up_after_the_last() {
    let mut bench = Bench::new();
    bench.offer("bob", "s");
    for most in [1_000, 5_000, 25_000, 125_000] {
        let job = bench.next();
        // The number that gives the longest pause.
        assert_eq!(bench.rule.done(bench.now, job, LATER, most), Verdict::Again { dropped: false });
        assert_eq!(bench.offer("bob", "s"), Offer::Known, "it waits for its next attempt");
        let at = bench.rule.deadline().expect("another attempt");
        assert_eq!(at - bench.now, Duration::from_millis(most));
        assert!(bench.rule.next(at - Duration::from_millis(1)).is_none());
        bench.now = at;
    }
    assert_eq!(bench.end(LATER), Verdict::GivenUp);
    assert_eq!(bench.offer("bob", "s"), QUEUED);
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
        bench.rule.done(bench.now, job, attempt, 1_000);
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
    bench.rule.done(bench.now, job, LATER, 0);
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
    assert_eq!(bench.rule.done(bench.now, job, LATER, 0), Verdict::Again { dropped: true });
    assert_eq!(&*bench.next().subject.party, "b");
    assert_eq!(bench.offer("a", "s"), QUEUED);
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
        steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..4, 0u64..200), 0..400),
    ) {
        let mut bench = Bench::new();
        let mut under_way = VecDeque::new();
        let mut sent: Vec<(Instant, Arc<Subject>)> = vec![];
        for (step, party, session, number) in steps {
            match step {
                0 => drop(bench.offer(&party.to_string(), &session.to_string())),
                1 => under_way.extend(bench.rule.next(bench.now)),
                2 => bench.now += Duration::from_secs(number),
                _ => if let Some(job) = under_way.pop_front() {
                    let attempt = [Attempt::Sent, LATER, Attempt::Never, Attempt::Needless][usize::from(session)];
                    let subject = job.subject.clone();
                    if bench.rule.done(bench.now, job, attempt, number) == Verdict::Sent {
                        let lately = |(at, of): &(Instant, Arc<Subject>)| *of == subject && *at + WINDOW > bench.now;
                        prop_assert!(!sent.iter().any(lately));
                        sent.push((bench.now, subject));
                    }
                }
            }
            let rule = &bench.rule;
            prop_assert!(rule.waiting.len() <= 4 && rule.known.len() <= 8);
            prop_assert_eq!(rule.waiting.len(), rule.due.len());
            prop_assert_eq!(rule.waiting.len() + rule.sent.len() + under_way.len(), rule.known.len());
            prop_assert!(rule.parties.values().all(|count| (1..=3).contains(count)));
            prop_assert_eq!(rule.parties.values().sum::<usize>(), rule.known.len());
        }
    }
}
