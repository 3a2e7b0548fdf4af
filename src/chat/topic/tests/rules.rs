//! The rules one by one.

use super::super::{
    replica::{PAUSE_MAX, POST_PAUSE},
    *,
};
use bytes::Bytes;

const B: PeerId = PeerId(2);
const NOW: Millis = Millis(1_000_000);

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn id(n: u8) -> Uuid {
    Uuid::of_hash([n; 32])
}

fn message(n: u8) -> Message {
    Message { id: Some(id(n)), content: Bytes::from(vec![n]), ..Message::refused() }
}

fn link(introduced: bool) -> LinkRow {
    LinkRow { peer: B, introduced, behind: None }
}

fn told(head: Head) -> Tellings {
    Tellings { last: head.revision, away: None }
}

fn grown(head: Head) -> Growth {
    Growth { head, told: head.revision }
}

fn topic(home: Option<PeerId>, head: Head) -> Topic {
    Topic::new(Saved { head, home, links: vec![link(true)], waiting: (0, 0, 0), lost: false, told: told(head) }, 3, 1)
}

/// The head behind messages of these numbers.
fn head(of: &[u8]) -> Head {
    let chain = of.iter().fold(0, |chain, n| chained(chain, Some(id(*n))));
    Head { revision: of.len() as u64, seq: of.len() as u64, chain }
}

fn ids(of: &[u8]) -> Vec<Option<Uuid>> {
    of.iter().map(|n| Some(id(*n))).collect()
}

#[test]
fn the_same_users_make_the_same_chat_whatever_their_order_and_repeats() {
    let chat = found(names(&["bob@b:1", "alice@a:1", "bob@b:1"]));
    assert_eq!(chat, found(names(&["alice@a:1", "bob@b:1"])));
    assert_eq!(chat.users, ["alice@a:1", "bob@b:1"]);
    assert!(["a:1", "b:1"].contains(&&*chat.home));
    // What it was computed to be, it must always be.
    assert_eq!(chat.chat.to_string(), GOLDEN);
    for other in [&["alice@a:1"][..], &["alice@a:1", "bob@b:2"], &["alice@a:1b", "ob@b:1"], &["Alice@a:1", "bob@b:1"]] {
        assert_ne!(found(names(other)).chat, chat.chat, "{other:?}");
    }
}

const GOLDEN: &str = "e557af42-5009-89dd-9854-073b5eb58065";

#[test]
fn homes_are_spread_over_the_servers() {
    let homes = (0..200).map(|n| found(names(&[&format!("u{n}@a:1"), "bob@b:1", "carol@c:1"])).home);
    let mut counts = BTreeMap::new();
    homes.for_each(|home| *counts.entry(home).or_insert(0) += 1);
    assert!(counts.len() == 3 && counts.values().all(|count| *count > 30), "{counts:?}");
}

#[test]
fn a_message_is_called_by_chat_author_and_client_id() {
    let all = [
        message_id(id(1), "a@a:1", "x"),
        message_id(id(2), "a@a:1", "x"),
        message_id(id(1), "b@a:1", "x"),
        message_id(id(1), "a@a:1", "y"),
        message_id(id(1), "a@a:1x", ""),
    ];
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    assert_eq!(message_id(id(1), "a@a:1", "x"), all[0]);
}

#[test]
fn what_is_signed_names_everything_that_a_home_could_change() {
    let said = Said { chat: id(1), id: id(2), user: "a@a:1", client_id: "c", sent_at: 5, head: b"h", content: b"t" };
    let others = [
        Said { chat: id(3), ..said },
        Said { id: id(3), ..said },
        Said { user: "b@a:1", ..said },
        Said { client_id: "d", ..said },
        Said { sent_at: 6, ..said },
        Said { head: b"i", ..said },
        Said { content: b"u", ..said },
        Said { client_id: "ch", head: b"", ..said },
    ];
    for other in others {
        assert_ne!(other.to_sign(), said.to_sign(), "{other:?}");
    }
}

#[test]
fn home_numbers_what_is_new_once_and_in_order() {
    let home = topic(None, head(&[1]));
    let known = Known { logged: [id(1)].into(), ..Known::default() };
    let entries = home.number(None, [1, 2, 2, 3].map(message), &known);
    let numbered: Vec<_> = entries.iter().map(|entry| (entry.revision, entry.seq, entry.message.id)).collect();
    assert_eq!(numbered, [(2, 2, Some(id(2))), (3, 3, Some(id(3)))]);
    assert_eq!(entries[1].chain, head(&[1, 2, 3]).chain);
}

/// The telling of each, and behind which one goes on who saw it.
fn tellings(entries: &[Entry]) -> Vec<(u64, u64)> {
    entries.iter().map(|entry| (entry.told.at, entry.told.resume)).collect()
}

#[test]
fn what_home_may_have_forgotten_is_resumed_from_before_the_words_that_stand_before_it_now() {
    let mut home = topic(None, head(&[1]));
    let by_itself = home.number(Some(B), [2, 3].map(message), &Known::default());
    assert_eq!(tellings(&by_itself), [(2, 2), (3, 3)], "nobody else's words stand before them");
    let own = home.number(None, [message(2)], &Known::default());
    assert_eq!((tellings(&own), own[0].message.since), (vec![(2, 2)], None));
    assert_eq!((home.overtaken_by(None), home.overtaken_by(Some(B))), (vec![B], vec![]));
    home.overtook(&[B], 1);
    home.grown(grown(head(&[1, 2])), &[]);
    assert_eq!(home.overtaken_by(None), [], "once is enough");
    let back = home.number(Some(B), [3, 4].map(message), &Known::default());
    assert_eq!((tellings(&back), back[1].message.since), (vec![(3, 1), (4, 1)], Some(1)));
    let said_since = Known { fresh: [id(3)].into(), ..Known::default() };
    let fresh = home.number(Some(B), [message(3)], &said_since);
    assert_eq!((tellings(&fresh), fresh[0].message.since), (vec![(3, 3)], None), "it was not said before");
    // The peer knows of longer ago.
    let longer = Message { since: Some(0), ..message(5) };
    assert_eq!(tellings(&home.number(Some(B), [longer.clone()], &Known::default())), [(3, 0)]);
    // Whoever has nothing left says new words from then on.
    assert!(!home.has_all_of(B, 9), "it answers another run");
    assert!(home.has_all_of(B, 1) && !home.has_all_of(B, 1));
    let new = home.number(Some(B), [message(3), longer], &Known::default());
    assert_eq!((tellings(&new), new[1].message.since), (vec![(3, 3), (4, 4)], None));
}

#[test]
fn a_replica_knows_what_was_said_after_home_asked() {
    let mut replica = topic(Some(B), Head::default());
    replica.posted(2);
    replica.asked(B, 7);
    assert_eq!(replica.fresh_from(), 2);
    replica.posted(1);
    replica.asked(B, 7);
    assert_eq!(replica.fresh_from(), 2, "it is the same question");
    replica.asked(B, 8);
    assert_eq!(replica.fresh_from(), 3);
    let home = topic(None, Head::default());
    assert!(home.is_of_this_run(1) && !home.is_of_this_run(0) && !replica.is_of_this_run(1));
}

#[test]
fn a_replica_tells_what_home_has_put_elsewhere_once_and_misses_nothing() {
    let mut replica = topic(Some(B), head(&[1, 2, 3]));
    replica.cut(head(&[1]), -2, 2, Some(2), NOW);
    assert_eq!(replica.told().end(), 1, "who reads the history now is told what is not in it");
    let known = Known { told: [(id(2), Told::at(2)), (id(3), Told::at(3))].into(), ..Known::default() };
    let seen_to = |n, since| (Message { since: Some(since), ..message(n) }, true);
    let changes = vec![(message(4), true), seen_to(2, 1), seen_to(3, 1), seen_to(5, 2)];
    let (entries, _) = replica.follow(changes, &known);
    // Of 5 it does not know whether it has forgotten to have told it: before 2, then.
    assert_eq!(tellings(&entries), [(4, 4), (2, 2), (3, 3), (5, 1)]);
    replica.grown(Growth::of(&entries).unwrap(), &[-2, -1]);
    assert_eq!((replica.told().last, replica.told().end()), (5, 5));
    assert_eq!(replica.looks_behind([&seen_to(6, 2).0, &seen_to(7, 5).0]), [2].into());
    let known = Known { behind: [(2, 2)].into(), ..Known::default() };
    let (entries, _) = replica.follow(vec![seen_to(6, 2), seen_to(7, 6)], &known);
    assert_eq!(tellings(&entries), [(6, 1), (7, 7)]);
}

#[test]
fn a_replica_takes_what_follows_and_asks_for_what_does_not() {
    let at_two = topic(Some(B), head(&[1, 2]));
    let table: &[(&[u8], &[u8], Step)] = &[
        (&[1, 2], &[3, 4], Step::Take { skip: 0 }),
        (&[1], &[2, 3], Step::Take { skip: 1 }),
        (&[], &[1, 2], Step::Old),
        (&[], &[1], Step::Old),
        (&[1, 2], &[], Step::Old),
        (&[1, 2, 3], &[4], Step::Ask),
        (&[1], &[9, 3], Step::Ask),
        (&[9, 2], &[3], Step::Ask),
    ];
    for (after, changes, step) in table {
        assert_eq!(at_two.judge(head(after).mark(), &ids(changes)), *step, "{changes:?} after {after:?}");
    }
}

#[test]
fn what_is_refused_keeps_its_place_so_that_nothing_stands_still_behind_it() {
    let replica = topic(Some(B), head(&[1]));
    let known = Known { logged: [id(1)].into(), waiting: [(id(3), 40)].into(), ..Known::default() };
    // A forged one, a repeat, and one of ours that waited.
    let (entries, cleared) =
        replica.follow([(2, false), (1, true), (3, true)].map(|(n, good)| (message(n), good)).into(), &known);
    let kept: Vec<_> = entries.iter().map(|entry| (entry.revision, entry.message.id)).collect();
    assert_eq!(kept, [(2, None), (3, None), (4, Some(id(3)))]);
    assert_eq!(entries[2].chain, head(&[1, 2, 1, 3]).chain, "the chain is home's");
    assert_eq!(cleared, [40]);
}

#[test]
fn a_home_that_has_forgotten_shows_its_log_and_numbers_nothing_of_who_knows_more() {
    let mut home = topic(None, head(&[1]));
    assert!(!home.may_post(B, head(&[1, 2]).mark(), None));
    assert_eq!(home.due(B, NOW), [Due::Outline { asked: head(&[1, 2]).mark() }]);
    assert!(!home.may_post(B, head(&[9]).mark(), Some(head(&[1]).chain)), "another log of the same length");
    assert!(home.may_post(B, head(&[1]).mark(), Some(head(&[1]).chain)));
    assert_eq!(topic(None, Head { revision: 5, ..Head::default() }).outline(), [5, 4, 3, 1, 0]);
}

#[test]
fn an_outline_counts_only_for_the_place_that_was_asked_about() {
    let replica = topic(Some(B), head(&[1, 2, 3]));
    let outline = [head(&[1, 9]).mark(), head(&[1]).mark(), Mark::default()];
    let mine = [(1, head(&[1]).chain), (2, head(&[1, 2]).chain)].into();
    assert_eq!(replica.common(head(&[1, 2, 3]).mark(), &outline, &mine), Some(1));
    assert_eq!(replica.common(head(&[1, 2]).mark(), &outline, &mine), None);
    assert_eq!(topic(None, head(&[1])).common(head(&[1]).mark(), &outline, &mine), None, "home has no home");
}

#[test]
fn what_a_log_is_cut_back_by_waits_before_all_else() {
    let mut replica = topic(Some(B), head(&[1, 2, 3]));
    assert_eq!(replica.place_behind(), 0);
    replica.posted(2);
    assert_eq!(replica.place_before(2), -2);
    replica.cut(head(&[1]), -2, 2, Some(2), NOW);
    assert_eq!((replica.waiting(), replica.place_behind(), replica.place_before(1)), (4, 2, -3));
    assert_eq!(replica.due(B, NOW), [Due::Head { introduce: false }, Due::Posts]);
}

#[test]
fn posts_fly_together_and_the_next_wait_until_they_landed() {
    let mut replica = topic(Some(B), Head::default());
    replica.posted(3);
    assert_eq!(replica.due(B, NOW), [Due::Posts]);
    replica.sent_posts(2, 1, NOW);
    assert_eq!(replica.due(B, NOW), []);
    replica.grown(grown(head(&[1])), &[0]);
    assert_eq!(replica.due(B, NOW), []);
    replica.grown(grown(head(&[1, 2])), &[1]);
    assert_eq!(replica.due(B, NOW), [Due::Posts]);
    // What does not land is sent again, and heads are compared.
    replica.sent_posts(1, 2, NOW);
    let again = replica.next_due().unwrap();
    assert!(again > NOW && again < NOW.plus(2 * POST_PAUSE));
    assert_eq!(replica.due(B, again), [Due::Head { introduce: false }, Due::Posts]);
    // A home that started anew may have lost what was under way to it.
    replica.asked(B, 7);
    assert_eq!(replica.due(B, NOW), [Due::Head { introduce: false }, Due::Posts]);
    replica.sent_posts(1, 2, NOW);
    replica.asked(B, 7);
    assert_eq!(replica.due(B, NOW), [Due::Head { introduce: false }]);
}

#[test]
fn nobody_is_told_of_a_chat_before_being_introduced() {
    let (head_then, links) = (head(&[1]), vec![link(false)]);
    let saved = Saved { head: head_then, home: None, links, waiting: (0, 0, 0), lost: false, told: told(head_then) };
    let mut home = Topic::new(saved, 3, 1);
    assert_eq!(home.due(B, NOW), [Due::Head { introduce: true }]);
    home.sent(B, &Due::Head { introduce: true }, NOW);
    assert_eq!(home.due(B, NOW), []);
    home.grown(grown(head(&[1, 2])), &[]);
    assert_eq!(home.due(B, NOW), [Due::Changes { after: 1 }]);
    home.heard(B, Mark::default(), Some(0), NOW);
    home.sent_changes(B, 1, 2);
    assert_eq!(home.due(B, NOW), [Due::Changes { after: 0 }], "it asked for more meanwhile");
    home.is_unknown_to(B);
    assert_eq!(home.due(B, NOW), [Due::Head { introduce: true }]);
}

#[test]
fn a_question_is_repeated_with_pauses_for_as_long_as_home_is_further() {
    let mut replica = topic(Some(B), head(&[1]));
    replica.heard(B, head(&[1, 2]).mark(), None, NOW);
    assert_eq!(replica.due(B, NOW), [Due::Head { introduce: false }]);
    replica.sent(B, &Due::Head { introduce: false }, NOW);
    assert_eq!(replica.due(B, NOW), []);
    replica.ask(NOW);
    assert_eq!(replica.due(B, NOW), [], "not at once again");
    assert_eq!(replica.due(B, NOW.plus(PAUSE_MAX)), [Due::Head { introduce: false }]);
    replica.grown(grown(head(&[1, 2])), &[]);
    assert_eq!(replica.next_due(), None);
}

#[test]
fn a_home_that_was_silent_for_too_long_is_lost_until_it_is_heard_of() {
    let mut replica = topic(Some(B), Head::default());
    replica.posted(1);
    replica.gave_up(&[0], NOW);
    assert!(replica.is_lost() && replica.waiting() == 0);
    assert_eq!(replica.due(B, NOW), [Due::Head { introduce: false }], "is anybody there?");
    let mut home = topic(None, Head::default());
    home.heard(B, Mark::default(), Some(0), NOW);
    assert_eq!(home.due(B, NOW), [Due::Head { introduce: false }]);
    replica.heard(B, Mark::default(), Some(0), NOW);
    assert!(!replica.is_lost());
}
