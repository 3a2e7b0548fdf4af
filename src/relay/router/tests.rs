//! The rules of sessions and quotas by table.

use super::*;
use std::collections::BTreeMap;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Millis = Millis(1_000_000_000_000);
const B: PeerId = PeerId(1);
const C: PeerId = PeerId(2);
const MINE: PeerId = PeerId::SELF;

impl Router {
    /// What is taken of the quotas, by session and by sender (a server's as a
    /// whole, without a name), where it is not nothing.
    pub(in crate::relay) fn accounts(&self) -> (BTreeMap<String, u64>, BTreeMap<PartyRef, u64>) {
        let sessions = self.sessions.iter().map(|(name, known)| (name.clone(), known.bytes));
        let parties = self.senders.parties().map(|(name, bytes)| (local(name), bytes));
        let servers = self.senders.servers().map(|(peer, bytes)| (of(peer, ""), bytes));
        (sessions.filter(|(_, bytes)| *bytes > 0).collect(), parties.chain(servers).collect())
    }
}

fn limits() -> Limits {
    Limits { recipients: 4, session_bytes: 1000, sender_bytes: 600, sessions: 8, parties_a_session: 8 }
}

fn router() -> Router {
    Router::new(limits(), HOUR, vec![], [])
}

fn of(peer: PeerId, name: &str) -> PartyRef {
    PartyRef { peer, name: name.to_owned() }
}

fn local(name: &str) -> PartyRef {
    of(MINE, name)
}

fn locals(names: &[&str]) -> Vec<PartyRef> {
    names.iter().map(|name| local(name)).collect()
}

fn send(router: &mut Router, from: &str, to: &[&str]) -> Result<Routed, Refusal> {
    router.route(NOW, "s", &local(from), &locals(to), 10)
}

fn recipients(router: &mut Router, from: &str, to: &[&str]) -> Vec<PartyRef> {
    send(router, from, to).unwrap().recipients
}

fn settle(router: &mut Router, owner: PeerId, parties: &[PartyRef]) {
    let announced = router.announce(NOW, "s", owner, parties, NOW).unwrap();
    assert_eq!(announced.settles, !parties.is_empty());
}

fn invalid(result: Result<impl std::fmt::Debug, Refusal>, field: &str) {
    match result {
        Err(Refusal::Invalid(text)) if text.starts_with(&format!("{field}: ")) => {}
        other => panic!("Invalid naming {field} was expected, not {other:?}"),
    }
}

fn exhausted(result: Result<impl std::fmt::Debug, Refusal>, naming: &str, limit: &str) {
    match result {
        Err(Refusal::Exhausted(text)) if text.contains(naming) && text.contains(limit) => {}
        other => panic!("Exhausted naming {naming} and {limit} was expected, not {other:?}"),
    }
}

#[test]
fn names_have_1_to_256_bytes_without_spaces_and_control_characters() {
    let (long, longest) = ("x".repeat(257), "x".repeat(256));
    let good = ["a", "party-1", "Jürgen", "日本", ".", &longest];
    let bad = ["", " ", "a b", "a\n", "\0", "a\u{a0}b", "\u{85}", &long];
    for name in good {
        let mut router = router();
        assert!(router.route(NOW, name, &local(name), &[local("else")], 1).is_ok(), "{name:?}");
        assert!(router.route(NOW, "s", &local("else"), &[local(name)], 1).is_ok(), "{name:?}");
    }
    for name in bad {
        let mut router = router();
        invalid(router.route(NOW, name, &local("a"), &[local("b")], 1), "session_id");
        invalid(router.route(NOW, "s", &local(name), &[local("b")], 1), "from_party");
        invalid(router.route(NOW, "s", &local("a"), &[local("b"), local(name)], 1), "to_parties[1]");
        invalid(router.route_inbound(NOW, "s", &of(B, "a"), &[name.to_owned()], 1), "to_parties[0]");
        invalid(router.join(NOW, name, &local("a")), "session_id");
        invalid(router.join(NOW, "s", &local(name)), "party_id");
        invalid(router.announce(NOW, name, MINE, &[], NOW), "session_id");
        invalid(router.announce(NOW, "s", MINE, &[local("a"), local(name)], NOW), "selected_parties[1]");
        assert!(router.sessions.is_empty(), "{name:?} took something");
    }
}

#[test]
fn a_party_name_has_no_server_in_it() {
    invalid(send(&mut router(), "a@b.example:1", &["b"]), "from_party");
    invalid(send(&mut router(), "a", &["b@b.example:1"]), "to_parties[0]");
    assert!(router().route(NOW, "s@b.example:1", &local("a"), &[local("b")], 1).is_ok());
}

#[test]
fn recipients_are_in_the_order_given_and_count_once() {
    let mut router = router();
    assert_eq!(recipients(&mut router, "a", &["d", "b", "d", "c", "b", "e"]), locals(&["d", "b", "c", "e"]));
    exhausted(send(&mut router, "a", &["b", "c", "d", "e", "f"]), "to_parties", "4");
    // The same name on another server is another party.
    let to = [local("b"), of(B, "b"), of(C, "b"), of(B, "b")];
    assert_eq!(router.route(NOW, "s", &local("a"), &to, 1).unwrap().recipients, to[..3]);
}

#[test]
fn nobody_sends_to_itself() {
    let mut router = router();
    invalid(send(&mut router, "a", &["b", "a"]), "to_parties[1]");
    // Its namesake elsewhere is somebody else.
    assert!(router.route(NOW, "s", &local("a"), &[of(B, "a")], 1).is_ok());
}

#[test]
fn in_an_open_session_who_sends_or_subscribes_is_a_party() {
    let mut router = router();
    assert!(send(&mut router, "a", &["x"]).unwrap().joined);
    assert_eq!(router.join(NOW, "s", &local("b")).map(|due| due.is_some()), Ok(true));
    // x was sent to and is no party by that.
    assert_eq!(recipients(&mut router, "a", &[]), locals(&["b"]));
    assert_eq!(router.join(NOW, "s", &local("c")), Ok(Some(NOW.plus(HOUR))));
    assert_eq!(recipients(&mut router, "a", &[]), locals(&["b", "c"]));
    assert_eq!(router.join(NOW, "t", &local("a")).map(|due| due.is_some()), Ok(true));
    assert_eq!(recipients(&mut router, "b", &[]), locals(&["a", "c"]), "sessions have parties of their own");
}

#[test]
fn a_broadcast_to_nobody_is_refused_and_takes_nothing() {
    let mut router = router();
    assert!(matches!(send(&mut router, "a", &[]), Err(Refusal::Precondition(_))));
    assert!(router.sessions.is_empty());
    router.join(NOW, "s", &local("a")).unwrap();
    assert!(matches!(send(&mut router, "a", &[]), Err(Refusal::Precondition(_))));
    assert_eq!(router.accounts(), Default::default());
}

#[test]
fn a_broadcast_is_held_to_the_limit_of_recipients() {
    let mut router = router();
    for name in ["b", "c", "d", "e"] {
        router.join(NOW, "s", &local(name)).unwrap();
    }
    assert_eq!(recipients(&mut router, "a", &[]).len(), 4);
    router.join(NOW, "s", &local("f")).unwrap();
    exhausted(send(&mut router, "a", &[]), "to_parties", "4");
}

#[test]
fn in_a_settled_session_only_its_parties_send_and_are_sent_to() {
    let mut router = router();
    settle(&mut router, MINE, &[local("b"), of(B, "c"), local("a"), local("a")]);
    assert_eq!(recipients(&mut router, "a", &[]), [local("b"), of(B, "c")]);
    assert!(matches!(send(&mut router, "x", &["a"]), Err(Refusal::Denied(_))));
    assert!(matches!(send(&mut router, "x", &[]), Err(Refusal::Denied(_))));
    assert!(matches!(send(&mut router, "c", &["a"]), Err(Refusal::Denied(_))), "c of this node is not c of b");
    invalid(send(&mut router, "a", &["b", "x"]), "to_parties[1]");
    assert!(!send(&mut router, "a", &["b"]).unwrap().joined, "its row was due with the event");
    let inbound = |router: &mut Router, from: &PartyRef| router.route_inbound(NOW, "s", from, &["a".into()], 1);
    assert_eq!(inbound(&mut router, &of(B, "c")).unwrap().recipients, locals(&["a"]));
    assert!(matches!(inbound(&mut router, &of(C, "c")), Err(Refusal::Denied(_))));
    assert!(matches!(inbound(&mut router, &of(B, "a")), Err(Refusal::Denied(_))));
}

#[test]
fn who_is_no_party_may_listen_and_joins_nothing() {
    let mut router = router();
    settle(&mut router, MINE, &locals(&["a", "b"]));
    assert_eq!(router.join(NOW, "s", &local("x")), Ok(None));
    assert_eq!(router.join(NOW, "s", &local("a")), Ok(None));
    assert_eq!(recipients(&mut router, "a", &[]), locals(&["b"]));
}

#[test]
fn an_announcement_settles_an_open_session_and_the_latest_counts() {
    let mut router = router();
    send(&mut router, "a", &["b"]).unwrap();
    settle(&mut router, MINE, &locals(&["b", "c"]));
    assert!(matches!(send(&mut router, "a", &["b"]), Err(Refusal::Denied(_))));
    settle(&mut router, MINE, &locals(&["a", "c"]));
    assert_eq!(recipients(&mut router, "a", &[]), locals(&["c"]));
    assert!(matches!(send(&mut router, "b", &["a"]), Err(Refusal::Denied(_))));
}

#[test]
fn an_event_that_names_nobody_leaves_the_parties_as_they_are() {
    let mut router = router();
    settle(&mut router, B, &[]);
    assert!(send(&mut router, "a", &["b"]).unwrap().joined, "still open");
    assert!(matches!(router.announce(NOW, "s", C, &[], NOW), Err(Refusal::Denied(_))), "and owned");
    settle(&mut router, B, &locals(&["a", "b"]));
    settle(&mut router, B, &[]);
    assert!(matches!(send(&mut router, "x", &["a"]), Err(Refusal::Denied(_))), "still settled");
}

#[test]
fn a_session_belongs_to_the_server_that_announced_it_first() {
    for (first, second) in [(MINE, B), (B, MINE), (B, C)] {
        let mut router = router();
        send(&mut router, "a", &["b"]).unwrap();
        settle(&mut router, first, &locals(&["a", "b"]));
        let refused = router.announce(NOW, "s", second, &[of(second, "x")], NOW);
        assert!(matches!(refused, Err(Refusal::Denied(_))));
        assert_eq!(recipients(&mut router, "a", &[]), locals(&["b"]));
        settle(&mut router, first, &locals(&["a", "c"]));
    }
}

#[test]
fn a_remote_sender_joins_an_open_session_so_that_a_broadcast_answers_it() {
    let mut router = router();
    let routed = router.route_inbound(NOW, "s", &of(B, "a"), &["b".into(), "c".into(), "b".into()], 1).unwrap();
    assert_eq!((routed.recipients, routed.joined), (locals(&["b", "c"]), true));
    assert_eq!(recipients(&mut router, "b", &[]), [of(B, "a")]);
    invalid(router.route_inbound(NOW, "s", &of(B, "a"), &[], 1), "to_parties");
}

#[test]
fn the_row_of_a_party_is_due_until_it_is_saved() {
    let mut router = router();
    assert!(send(&mut router, "a", &["b"]).unwrap().joined);
    router.undo("s", &local("a"), 10);
    assert!(send(&mut router, "a", &["b"]).unwrap().joined);
    assert_eq!(router.join(NOW, "s", &local("a")).map(|due| due.is_some()), Ok(true));
    router.saved("s", &local("a"));
    assert!(!send(&mut router, "a", &["b"]).unwrap().joined);
    assert_eq!(router.join(NOW, "s", &local("a")), Ok(None));
}

#[test]
fn an_event_that_was_not_stored_changed_nothing() {
    let mut router = router();
    send(&mut router, "a", &["b"]).unwrap();
    let first = router.announce(NOW, "s", B, &locals(&["x", "y"]), NOW).unwrap();
    router.undo_announce("s", first);
    assert!(send(&mut router, "a", &["b"]).is_ok());
    // Neither its owner nor its parties are left.
    let second = router.announce(NOW, "s", MINE, &locals(&["a", "b"]), NOW).unwrap();
    let third = router.announce(NOW, "s", MINE, &locals(&["a", "c"]), NOW).unwrap();
    // A later one was made upon it.
    router.undo_announce("s", second);
    assert_eq!(recipients(&mut router, "a", &[]), locals(&["c"]));
    router.undo_announce("s", third);
    assert_eq!(recipients(&mut router, "a", &[]), locals(&["b"]));
}

#[test]
fn stored_bytes_count_against_the_sender_and_the_session() {
    let mut router = router();
    let route = |router: &mut Router, session: &str, from: &str, bytes| {
        router.route(NOW, session, &local(from), &locals(&["x", "y"]), bytes).map(drop)
    };
    route(&mut router, "s", "a", 400).unwrap();
    exhausted(route(&mut router, "t", "a", 201), "of the sender:", "600");
    route(&mut router, "t", "a", 200).unwrap();
    exhausted(route(&mut router, "t", "a", u64::MAX), "of the sender:", "600");
    route(&mut router, "s", "b", 500).unwrap();
    exhausted(route(&mut router, "s", "c", 101), "of the session:", "1000");
    route(&mut router, "s", "c", 100).unwrap();
    let (sessions, senders) = router.accounts();
    assert_eq!(sessions, [("s".to_owned(), 1000), ("t".to_owned(), 200)].into());
    assert_eq!(senders, [(local("a"), 600), (local("b"), 500), (local("c"), 100)].into());
    // What was refused is no party either.
    exhausted(route(&mut router, "s", "d", 1), "of the session:", "1000");
    assert!(!router.sessions["s"].members.parties.contains(&local("d")));

    router.freed("s", &local("a"), 400);
    router.undo("t", &local("a"), 200);
    route(&mut router, "s", "a", 400).unwrap();
    for (session, from, bytes) in [("s", "a", 400), ("s", "b", 500), ("s", "c", 100)] {
        router.freed(session, &local(from), bytes);
    }
    assert_eq!(router.accounts(), Default::default());
}

#[test]
fn a_remote_message_counts_against_its_server_as_a_whole() {
    let mut router = router();
    let mut route = |peer, from: &str, bytes| router.route_inbound(NOW, "s", &of(peer, from), &["x".into()], bytes);
    route(B, "a", 400).unwrap();
    exhausted(route(B, "b", 201), "of the sender's server:", "600");
    route(C, "b", 600).unwrap();
    assert_eq!(router.accounts().1, [(of(B, ""), 400), (of(C, ""), 600)].into());
    router.freed("s", &of(B, "a"), 400);
    assert!(router.route_inbound(NOW, "s", &of(B, "b"), &["x".into()], 400).is_ok());
}

#[test]
fn other_servers_leave_room_for_the_parties_of_this_node() {
    let mut router = router();
    let inbound = |router: &mut Router, session: &str, from: &str| {
        router.route_inbound(NOW, session, &of(B, from), &["x".into()], 1).map(drop)
    };
    for at in 0..6 {
        inbound(&mut router, &format!("s{at}"), "a").unwrap();
        inbound(&mut router, "s0", &format!("a{at}")).unwrap_or_else(|refusal| {
            assert_eq!(at, 5);
            assert_eq!(refusal, inbound(&mut router, "s0", "z").unwrap_err());
        });
    }
    exhausted(inbound(&mut router, "s6", "a"), "sessions", "6");
    exhausted(router.announce(NOW, "s6", B, &[], NOW), "sessions", "6");
    exhausted(inbound(&mut router, "s0", "z"), "parties of the session", "6");
    for name in ["l1", "l2"] {
        router.join(NOW, name, &local("l1")).unwrap();
        router.join(NOW, "s0", &local(name)).unwrap();
    }
    exhausted(router.join(NOW, "l3", &local("l1")), "sessions", "8");
    exhausted(router.route(NOW, "l3", &local("l1"), &[local("x")], 1), "sessions", "8");
    exhausted(router.announce(NOW, "l3", MINE, &[], NOW), "sessions", "8");
    exhausted(router.join(NOW, "s0", &local("l3")), "parties of the session", "8");
    exhausted(router.route(NOW, "s0", &local("l3"), &[local("x")], 1), "parties of the session", "8");
    // Who is in, stays in.
    assert_eq!(router.join(NOW, "s0", &local("l2")).map(|due| due.is_some()), Ok(true));
    let nine: Vec<_> = (0..9).map(|at| local(&format!("p{at}"))).collect();
    invalid(router.announce(NOW, "s0", MINE, &nine, NOW), "selected_parties");
    assert_eq!(router.sessions.len(), 8);
}

#[test]
fn a_session_ends_a_retention_after_its_last_activity() {
    let end = NOW.plus(HOUR);
    let mut router = router();
    assert_eq!(send(&mut router, "a", &["b"]).unwrap().until, end);
    router.freed("s", &local("a"), 10);
    assert_eq!(router.expire(Millis(end.0 - 1), |_| false), [] as [String; 0]);
    router.join(Millis(NOW.0 + 5), "s", &local("b")).unwrap();
    assert_eq!(router.expire(end, |_| false), [] as [String; 0]);
    assert_eq!(router.expire(Millis(end.0 + 5), |_| false), ["s"]);
    assert!(matches!(send(&mut router, "a", &[]), Err(Refusal::Precondition(_))), "it was forgotten");
}

#[test]
fn the_later_of_an_announcement_and_the_last_activity_counts() {
    let (far, near) = (NOW.plus(HOUR * 5), NOW.plus(HOUR));
    let mut router = router();
    let announced = |router: &mut Router, until| router.announce(NOW, "s", MINE, &[], until).unwrap().until;
    assert_eq!(announced(&mut router, Millis(0)), near);
    assert_eq!(announced(&mut router, far), far);
    assert_eq!(announced(&mut router, Millis(0)), far);
    assert_eq!(send(&mut router, "a", &["b"]).unwrap().until, far);
    // A clock that goes back shortens nothing.
    assert_eq!(router.route(Millis(0), "s", &local("a"), &[local("b")], 1).unwrap().until, far);
}

#[test]
fn what_holds_bytes_or_is_in_use_does_not_end() {
    let end = NOW.plus(HOUR);
    let mut router = router();
    send(&mut router, "a", &["b"]).unwrap();
    assert_eq!(router.expire(end, |_| false), [] as [String; 0]);
    router.freed("s", &local("a"), 10);
    assert_eq!(router.expire(end, |session| session == "s"), [] as [String; 0]);
    // It has begun a new time.
    assert_eq!(router.expire(Millis(end.0 + 1), |_| false), [] as [String; 0]);
    assert_eq!(router.expire(end.plus(HOUR), |_| false), ["s"]);
}

#[test]
fn a_session_is_touched_once_when_its_end_rises() {
    let mut router = router();
    send(&mut router, "a", &["b"]).unwrap();
    send(&mut router, "a", &["b"]).unwrap();
    assert_eq!(router.touched(), [("s".to_owned(), NOW.plus(HOUR))]);
    send(&mut router, "a", &["b"]).unwrap();
    assert_eq!(router.touched(), []);
    router.join(Millis(NOW.0 + 1), "s", &local("a")).unwrap();
    router.join(Millis(NOW.0 + 2), "s", &local("b")).unwrap();
    assert_eq!(router.touched(), [("s".to_owned(), Millis(NOW.0 + 2).plus(HOUR))]);
    // Forgotten, begun again: it is told once, forgotten for good: not at all.
    let mut router = super::tests::router();
    let late = NOW.plus(HOUR * 2);
    router.join(NOW, "s", &local("a")).unwrap();
    router.expire(late, |_| false);
    router.join(late, "s", &local("a")).unwrap();
    assert_eq!(router.touched(), [("s".to_owned(), late.plus(HOUR))]);
    router.join(late.plus(HOUR), "s", &local("a")).unwrap();
    router.expire(late.plus(HOUR * 3), |_| false);
    assert_eq!(router.touched(), []);
}

#[test]
fn a_restart_goes_on_from_the_rows() {
    let saved = |session: &str, owner, settled, parties: &[PartyRef]| Saved {
        session: session.into(),
        owner,
        settled,
        parties: parties.to_vec(),
        until: NOW,
    };
    let rows = vec![
        saved("open", None, false, &locals(&["a", "b"])),
        saved("owned", Some(B), false, &locals(&["a", "b"])),
        saved("settled", Some(MINE), true, &locals(&["a", "b"])),
    ];
    let stored = [
        ("open".to_owned(), local("a"), 300),
        ("open".to_owned(), local("a"), 200),
        ("settled".to_owned(), of(B, "x"), 7),
        ("settled".to_owned(), of(B, "y"), 8),
        // No row of a session: it is as one that nobody announced.
        ("lost".to_owned(), local("b"), 1),
    ];
    let mut router = Router::new(limits(), HOUR, rows, stored);
    let (sessions, senders) = router.accounts();
    assert_eq!(sessions, [("lost".to_owned(), 1), ("open".to_owned(), 500), ("settled".to_owned(), 15)].into());
    assert_eq!(senders, [(local("a"), 500), (local("b"), 1), (of(B, ""), 15)].into());
    assert_eq!(router.touched(), []);
    assert!(matches!(router.announce(NOW, "owned", MINE, &[], NOW), Err(Refusal::Denied(_))));
    let mut sent = |session: &str, from: &str| router.route(Millis(0), session, &local(from), &[], 1);
    assert_eq!(sent("open", "a").map(|routed| (routed.recipients, routed.joined)), Ok((locals(&["b"]), false)));
    assert_eq!(sent("owned", "c").map(|routed| (routed.recipients, routed.joined)), Ok((locals(&["a", "b"]), true)));
    assert!(matches!(sent("settled", "c"), Err(Refusal::Denied(_))));
    assert_eq!(router.expire(NOW, |_| false), [] as [String; 0]);
    router.freed("lost", &local("b"), 1);
    assert_eq!(router.expire(NOW, |_| false), ["lost"]);
}

#[test]
fn a_refusal_is_the_error_of_its_name() {
    let text = || "why".to_owned();
    let table = [
        (Refusal::Invalid(text()), Error::Invalid(text())),
        (Refusal::Denied(text()), Error::Denied(text())),
        (Refusal::Precondition(text()), Error::Precondition(text())),
        (Refusal::Exhausted(text()), Error::exhausted("why")),
    ];
    for (refusal, error) in table {
        assert_eq!(Error::from(refusal), error);
    }
}
