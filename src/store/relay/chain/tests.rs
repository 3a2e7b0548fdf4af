//! Tests of `store/relay/chain`.

use super::*;

#[test]
fn a_link_depends_on_all_that_stands_before_it() {
    let head = Head::default().next("s", b"entry", &[1; 32]);
    assert_eq!(head.position, 1);
    let others = [
        Head { position: 0, link: [1; 32] }.next("s", b"entry", &[1; 32]),
        Head::default().next("t", b"entry", &[1; 32]),
        Head::default().next("s", b"entrz", &[1; 32]),
        Head::default().next("s", b"entry", &[2; 32]),
        // The same bytes, cut elsewhere.
        Head::default().next("se", b"ntry", &[1; 32]),
    ];
    assert!(others.iter().all(|other| other.link != head.link));
    assert_ne!(head.next("s", b"entry", &[1; 32]).link, head.link);
}

#[test]
fn a_session_that_was_dropped_begins_anew() {
    let head = Head::default().next("s", b"", &[1; 32]);
    let mut heads = Heads::default();
    heads.advance(&HashMap::from([("s".to_owned(), head), ("t".to_owned(), head)]), &[]);
    assert_eq!((heads.of("s"), heads.of("u")), (head, Head::default()));
    heads.advance(&HashMap::new(), &["s".into()]);
    assert_eq!((heads.of("s"), heads.of("t")), (Head::default(), head));
}
