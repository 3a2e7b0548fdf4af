//! Who gets what, and who is cut off, in every order of things.

use super::*;
use crate::proto::galaxy::backend::push::v1::ClientEvent;

fn hub(limits: Limits) -> Arc<Hub> {
    let hub = Arc::new(Hub::new(limits, None));
    hub.begin_anew();
    hub
}

fn who(user: &str, session: &str) -> Who {
    Who { user: user.into(), session: session.into(), expires_at: 0 }
}

fn event(cursor: u64, user: &str, session: &str) -> Event {
    let event = ClientEvent { user_id: user.into(), device_session_id: session.into(), ..ClientEvent::default() };
    Event::new(Cursor(cursor), event)
}

fn ended(session: &str, user: &str) -> SessionInvalidation {
    SessionInvalidation { device_session_id: session.into(), user_id: user.into(), reason: "why".into() }
}

fn admit(hub: &Arc<Hub>, user: &str, session: &str, last: Option<u64>) -> Admitted {
    let last = last.map(|last| Cursor(last).to_string());
    hub.admit(hub.ticket(), who(user, session), last.as_deref()).unwrap()
}

fn waiting(admitted: &Admitted) -> Vec<u64> {
    std::iter::from_fn(|| admitted.place.seat.next()).map(|event| event.cursor().0).collect()
}

#[test]
fn an_event_is_for_all_sessions_of_its_user_or_for_the_one_it_names() {
    let hub = hub(Limits::default());
    let clients = [admit(&hub, "alice", "1", None), admit(&hub, "alice", "2", None), admit(&hub, "bob", "3", None)];
    for (cursor, user, session) in
        [(1, "alice", ""), (2, "alice", "2"), (3, "bob", "1"), (4, "", "3"), (5, "", ""), (6, "carol", "")]
    {
        assert!(hub.publish(event(cursor, user, session)));
    }
    assert_eq!(clients.each_ref().map(waiting), [vec![1], vec![1, 2], vec![4]]);
    let again =
        [("alice", "1"), ("alice", "2"), ("bob", "3")].map(|(user, session)| admit(&hub, user, session, Some(1)));
    assert_eq!(again.each_ref().map(waiting), [vec![], vec![2], vec![4]], "the ring says the same");
}

#[test]
fn an_ended_session_ends_its_streams_and_no_others() {
    let table: &[(&str, &str, [bool; 3])] = &[
        ("1", "", [true, false, false]),
        ("1", "alice", [true, false, false]),
        ("", "alice", [true, true, false]),
        ("1", "bob", [false, false, false]),
        ("", "", [false, false, false]),
        ("9", "", [false, false, false]),
    ];
    for (session, user, expected) in table {
        let hub = hub(Limits::default());
        let clients = [admit(&hub, "alice", "1", None), admit(&hub, "alice", "2", None), admit(&hub, "bob", "3", None)];
        hub.publish(event(1, "alice", ""));
        hub.invalidate(Cursor(2), ended(session, user));
        let gone = clients.each_ref().map(|client| client.place.seat.ended());
        assert_eq!(gone.each_ref().map(Option::is_some), *expected, "{session:?} {user:?}");
        if let [Some(end), ..] = gone {
            assert_eq!(end, End::Revoked("why".into()));
            assert!(waiting(&clients[0]).is_empty(), "nothing is told after it");
        }
    }
}

#[test]
fn a_session_that_ends_while_it_is_looked_up_is_not_let_in() {
    let hub = hub(Limits::default());
    let ticket = hub.ticket();
    hub.invalidate(Cursor(1), ended("1", "alice"));
    assert_eq!(hub.admit(ticket, who("alice", "1"), None).err(), Some(Refused::Revoked));
    assert!(hub.admit(ticket, who("alice", "2"), None).is_ok());
    assert!(hub.admit(hub.ticket(), who("alice", "1"), None).is_ok(), "what was before the look-up, the backend knew");
    let ticket = hub.ticket();
    (0..=ENDINGS).for_each(|n| hub.invalidate(Cursor(2 + n as u64), ended("9", "")));
    assert_eq!(hub.admit(ticket, who("alice", "1"), None).err(), Some(Refused::Again), "more than is remembered");
    let ticket = hub.ticket();
    hub.begin_anew();
    assert_eq!(hub.admit(ticket, who("alice", "1"), None).err(), Some(Refused::Again));
}

#[test]
fn a_feed_that_begins_anew_ends_all_streams_and_forgets_the_ring() {
    let hub = hub(Limits::default());
    hub.publish(event(1, "alice", ""));
    let client = admit(&hub, "alice", "1", None);
    hub.begin_anew();
    assert_eq!(client.place.seat.ended(), Some(End::Revalidate));
    assert_eq!(admit(&hub, "alice", "1", Some(1)).resume, Resume::Gone);
    assert_eq!(hub.mark(), None);
}

#[test]
fn nobody_is_let_in_before_all_that_was_handed_on_came_again() {
    let mark = Mark { start: Cursor(1), cursor: Cursor(3) };
    let hub = Arc::new(Hub::new(Limits::default(), Some(mark)));
    hub.set_subscribed(true);
    let refused = |hub: &Arc<Hub>| hub.admit(hub.ticket(), who("alice", "1"), None).err();
    assert_eq!(refused(&hub), Some(Refused::Again));
    hub.publish(event(2, "alice", ""));
    assert!(!hub.standing().open);
    hub.publish(event(3, "alice", ""));
    assert!(hub.standing().open);
    assert_eq!(waiting(&admit(&hub, "alice", "1", Some(1))), [2, 3]);
    assert_eq!(waiting(&admit(&hub, "alice", "1", None)), [] as [u64; 0], "who resumes nothing gets nothing old");
    assert_eq!(hub.mark(), Some(mark));
}

#[test]
fn with_nothing_to_repeat_it_is_open_once_subscribed() {
    let mark = Mark { start: Cursor(3), cursor: Cursor(3) };
    let hub = Hub::new(Limits::default(), Some(mark));
    assert!(!hub.standing().open);
    hub.set_subscribed(true);
    assert!(hub.standing().open);
    let hub = Hub::new(Limits::default(), Some(Mark { start: Cursor(2), cursor: Cursor(3) }));
    hub.set_subscribed(true);
    assert!(!hub.standing().open);
    hub.pass(Cursor(3));
    assert!(hub.standing().open);
}

#[test]
fn what_is_not_told_again_is_gone() {
    let hub = Arc::new(Hub::new(Limits::default(), Some(Mark { start: Cursor(1), cursor: Cursor(3) })));
    hub.publish(event(2, "alice", ""));
    hub.begin_after(Cursor(3));
    hub.set_subscribed(true);
    assert!(hub.standing().open);
    assert_eq!(admit(&hub, "alice", "1", Some(2)).resume, Resume::Gone);
    assert_eq!(admit(&hub, "alice", "1", Some(3)).resume, Resume::After(Cursor(3)));
}

#[test]
fn what_a_client_has_seen_before_the_gateway_is_not_told_again() {
    let hub = hub(Limits::default());
    hub.publish(event(1, "alice", ""));
    let client = admit(&hub, "alice", "1", Some(3));
    assert_eq!(client.resume, Resume::Ahead(Cursor(3)));
    (2..=4).for_each(|n| assert!(hub.publish(event(n, "alice", ""))));
    assert_eq!(waiting(&client), [4]);
}

#[test]
fn a_repeat_is_told_once() {
    let hub = hub(Limits::default());
    let client = admit(&hub, "alice", "1", None);
    assert!(hub.publish(event(1, "alice", "")));
    assert!(!hub.publish(event(1, "alice", "")));
    assert_eq!(waiting(&client), [1]);
}

#[test]
fn who_does_not_keep_up_is_ended_and_the_others_are_not() {
    let queue = Bounds { events: 2, bytes: 1 << 20 };
    let hub = hub(Limits { queue, ..Limits::default() });
    (1..=3).for_each(|n| assert!(hub.publish(event(n, "alice", ""))));
    // What it resumes with does not count.
    let (slow, quick) = (admit(&hub, "alice", "1", Some(1)), admit(&hub, "alice", "2", None));
    for n in 4..=6 {
        hub.publish(event(n, "alice", ""));
        assert_eq!(waiting(&quick), [n]);
    }
    assert_eq!((slow.place.seat.ended(), quick.place.seat.ended()), (Some(End::Slow), None));
    let by_bytes = Bounds { events: 100, bytes: 600 };
    let hub = self::hub(Limits { queue: by_bytes, ..Limits::default() });
    let client = admit(&hub, "alice", "1", None);
    hub.publish(event(1, "alice", ""));
    assert_eq!(client.place.seat.ended(), None);
    hub.publish(event(2, "alice", ""));
    assert_eq!(client.place.seat.ended(), Some(End::Slow));
}

#[test]
fn a_seat_counts_until_its_client_has_gone() {
    let hub = hub(Limits { clients: 3, clients_per_user: 2, ..Limits::default() });
    let refused = |user: &str| hub.admit(hub.ticket(), who(user, "1"), None).err();
    let first = admit(&hub, "alice", "1", None);
    let _second = admit(&hub, "alice", "1", None);
    assert_eq!(refused("alice"), Some(Refused::UserFull));
    let _third = admit(&hub, "bob", "1", None);
    assert_eq!(refused("carol"), Some(Refused::Full));
    drop(first);
    assert_eq!((hub.clients(), refused("alice")), (2, None));
    hub.stop();
    assert_eq!(refused("carol"), Some(Refused::Again));
}
