//! The picture fits, keeps its height, and says what is.

use super::*;

const COLOURED: Style = Style { colour: true, unicode: true };
const PLAIN: Style = Style { colour: false, unicode: false };

fn lane(name: &str, applied: u64, queued: u64) -> Lane {
    Lane {
        name: name.into(),
        server_id: "localhost:40001".into(),
        up: true,
        state: "live".into(),
        next_attempt: None,
        acknowledged: applied + queued,
        applied,
        queued,
        rate: Rate::default(),
        depths: Depths::default(),
    }
}

fn picture(b: Lane, c: Lane) -> Picture {
    let (elapsed, sender) = (Duration::from_millis(12_340), "localhost:40000".into());
    Picture { elapsed, sender, events: 10_000, lanes: [b, c], notes: vec![] }
}

/// Without what a terminal does not show.
fn shown(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => drop(chars.by_ref().find(char::is_ascii_alphabetic)),
            _ => out.push(c),
        }
    }
    out
}

#[test]
fn every_frame_fits_80_by_24_and_has_the_same_height() {
    let mut full = picture(lane("B", 123_456, 999_999), lane("C", 1_000_000, 0));
    full.events = 1_000_000;
    full.lanes[0].state = "retrying".into();
    full.lanes[0].next_attempt = Some(Duration::from_secs(3600));
    for at in 0..5000 {
        full.lanes[0].depths.note(Duration::from_millis(at * 100), at * 1000);
        full.notes.push(Note { at: Duration::from_millis(at), text: "x".repeat(200) });
    }
    for picture in [full, picture(lane("B", 0, 0), lane("C", 0, 0))] {
        for style in [COLOURED, PLAIN] {
            let frame = picture.frame(style);
            assert_eq!(frame.len(), HEIGHT);
            for line in &frame {
                assert!(shown(line).chars().count() <= WIDTH, "{line}");
            }
        }
    }
}

#[test]
fn the_title_tells_the_time() {
    let frame = picture(lane("B", 0, 0), lane("C", 0, 0)).frame(PLAIN);
    assert!(frame[0].starts_with(" pillarbox demo") && frame[0].ends_with(" 12.3 s"), "{}", frame[0]);
}

#[test]
fn colour_changes_no_character() {
    let picture = picture(lane("B", 3000, 1000), lane("C", 4000, 2));
    let plain = picture.frame(Style { colour: false, unicode: true });
    assert!(plain.iter().all(|line| !line.contains('\x1b')));
    assert_eq!(picture.frame(COLOURED).iter().map(|line| shown(line)).collect::<Vec<_>>(), plain);
}

#[test]
fn without_unicode_every_character_is_ascii() {
    let mut picture = picture(lane("B", 3000, 1000), lane("C", 4000, 2));
    picture.lanes[0].depths.note(Duration::ZERO, 1000);
    assert!(picture.frame(PLAIN).iter().all(|line| line.is_ascii()));
}

#[test]
fn a_node_that_is_down_is_told_with_what_the_sender_does() {
    let mut down = lane("B", 3000, 1412);
    down.up = false;
    down.state = "retrying".into();
    down.next_attempt = Some(Duration::from_millis(1200));
    let picture = picture(down, lane("C", 4410, 2));
    let text = picture.frame(PLAIN).join("\n");
    for part in ["DOWN", "A says: retrying, next in 1.2 s", "queue   1,412", "to come   5,588", "A says: live"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let line = picture.line();
    assert!(line.contains("B DOWN retrying") && line.contains("C up   live") && line.contains("1,412"), "{line}");
}

#[test]
fn the_newest_notes_are_shown() {
    let mut picture = picture(lane("B", 0, 0), lane("C", 0, 0));
    picture.notes = (0..9).map(|at| Note { at: Duration::from_secs(at), text: format!("note {at}") }).collect();
    let text = picture.frame(PLAIN).join("\n");
    assert!(!text.contains("note 2") && text.contains("note 3") && text.contains("note 8"), "{text}");
}

#[test]
fn the_bar_is_full_only_when_all_is_applied() {
    let width = BAR;
    // events, applied, acknowledged → columns
    let table = [
        ((10_000, 0, 0), [0, 0, width]),
        ((10_000, 0, 1), [0, 1, width - 1]),
        ((10_000, 5000, 5000), [width / 2, 0, width / 2]),
        ((10_000, 0, 10_000), [0, width, 0]),
        ((10_000, 9999, 10_000), [width - 1, 1, 0]),
        ((10_000, 10_000, 10_000), [width, 0, 0]),
        ((10_000, 20_000, 20_000), [width, 0, 0]),
        ((0, 0, 0), [0, 0, width]),
    ];
    for ((events, applied, acknowledged), columns) in table {
        assert_eq!(bar(events, applied, acknowledged), columns, "{events} {applied} {acknowledged}");
    }
}

#[test]
fn both_queues_are_drawn_on_one_scale() {
    let (mut b, mut c) = (lane("B", 0, 0), lane("C", 0, 0));
    for (at, depth) in [(0, 0), (500, 4000), (1000, 2000)] {
        b.depths.note(Duration::from_millis(at), depth);
        c.depths.note(Duration::from_millis(at), depth / 1000);
    }
    let frame = picture(b, c).frame(Style { colour: false, unicode: true });
    assert!(frame.iter().any(|line| line.contains("for B  ▁█▅ ")), "{frame:#?}");
    assert!(frame.iter().any(|line| line.contains("for C  ▁▁▁ ")), "{frame:#?}");
}

#[test]
fn thousands_are_told_apart() {
    for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (123_456, "123,456"), (1_000_000, "1,000,000")] {
        assert_eq!(thousands(number), text);
    }
}
