//! The bounds, and a count that runs beside new rows.

use super::*;

fn rows(guilds: u64, invites: u64, invite_bytes: u64) -> Rows {
    Rows { guilds, invites, invite_bytes }
}

#[test]
fn what_was_added_takes_room_until_a_count_says_otherwise() {
    let lists = Lists::default();
    assert_eq!(lists.room(), MAX);
    lists.add(rows(10, 20, 300));
    assert_eq!(lists.room(), MAX - rows(10, 20, 300));
    lists.add(MAX);
    assert_eq!(lists.room(), rows(0, 0, 0));
    lists.counted(rows(1, 2, 30), lists.added());
    assert_eq!(lists.room(), MAX - rows(1, 2, 30));
}

#[test]
fn what_is_added_while_it_is_counted_is_not_forgotten() {
    let lists = Lists::default();
    lists.add(rows(5, 0, 0));
    let before = lists.added();
    lists.add(rows(7, 0, 0));
    lists.counted(rows(5, 0, 0), before);
    assert_eq!(lists.room(), MAX - rows(12, 0, 0));
}

#[test]
fn room_is_taken_whole_or_not_at_all() {
    let mut room = rows(1, 2, 10);
    assert_eq!([room.take_guild(), room.take_guild()], [true, false]);
    assert!(!room.take_invite(11));
    assert!(room.take_invite(10));
    assert_eq!(room, rows(0, 1, 0));
    assert!(!room.take_invite(1));
    assert!(room.take_invite(0));
    assert!(!room.take_invite(0));
}

#[test]
fn room_is_ample_if_events_of_every_kind_fit() {
    assert!(rows(2, 2, 10).is_ample(2, 10));
    for short in [rows(1, 2, 10), rows(2, 1, 10), rows(2, 2, 9)] {
        assert!(!short.is_ample(2, 10));
    }
}

#[test]
fn all_lists_are_counted_once_a_minute_at_most() {
    let (counting, now) = (Counting::default(), Instant::now());
    assert!(counting.is_due(now));
    assert!(!counting.is_due(now + COUNT_EVERY / 2));
    assert!(counting.is_due(now + COUNT_EVERY));
    assert!(!counting.is_due(now + COUNT_EVERY));
}
