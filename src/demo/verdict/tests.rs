//! Every way in which delivery can fail is seen, and told apart from the others.

use super::*;

/// Serial and number of what was acknowledged, sent 10 ms apart.
fn ledger(letters: &[(u64, u64)]) -> Vec<Letter> {
    let letter = |(at, (serial, number)): (usize, &(u64, u64))| Letter {
        serial: *serial,
        number: *number,
        sent_at: 10 * i64::try_from(at).expect("a small table"),
    };
    letters.iter().enumerate().map(letter).collect()
}

fn log(serials: &[u64]) -> Vec<Arrival> {
    serials.iter().map(|serial| Arrival { serial: *serial, received_at: 0 }).collect()
}

#[test]
fn each_fault_is_counted_as_what_it_is() {
    // Serial 3 was acknowledged before serial 2, as happens with several in flight; numbers have holes.
    let sent = ledger(&[(1, 10), (3, 12), (2, 15), (4, 16)]);
    // log, applied, lost, repeated, out of order, unknown
    let table: &[(&[u64], [u64; 5])] = &[
        (&[1, 3, 2, 4], [4, 0, 0, 0, 0]),
        // lost: at the end, in the middle, at the start, all
        (&[1, 3, 2], [3, 1, 0, 0, 0]),
        (&[1, 2, 4], [3, 1, 0, 0, 0]),
        (&[3, 2, 4], [3, 1, 0, 0, 0]),
        (&[], [0, 4, 0, 0, 0]),
        // repeated: at once, later, twice
        (&[1, 3, 3, 2, 4], [4, 0, 1, 0, 0]),
        (&[1, 3, 2, 4, 1], [4, 0, 1, 0, 0]),
        (&[1, 1, 1, 3, 2, 4], [4, 0, 2, 0, 0]),
        // out of order: by the serial's order instead of the number's, one late, all backwards
        (&[1, 2, 3, 4], [4, 0, 0, 1, 0]),
        (&[3, 2, 4, 1], [4, 0, 0, 1, 0]),
        (&[4, 2, 3, 1], [4, 0, 0, 3, 0]),
        // nobody was promised 9
        (&[1, 9, 3, 2, 4], [4, 0, 0, 0, 1]),
        // several at once: 3 is lost, 1 repeated, 2 late
        (&[1, 4, 2, 1], [3, 1, 1, 1, 0]),
    ];
    for (serials, [applied, lost, repeated, out_of_order, unknown]) in table {
        let verdict = Verdict::of(&sent, &log(serials));
        let expected = Verdict {
            acknowledged: 4,
            applied: *applied,
            lost: *lost,
            repeated: *repeated,
            out_of_order: *out_of_order,
            unknown: *unknown,
        };
        assert_eq!(verdict, expected, "{serials:?}");
        assert_eq!(verdict.is_clean(), lost + repeated + out_of_order + unknown == 0, "{serials:?}");
    }
}

#[test]
fn nothing_sent_and_nothing_applied_is_clean() {
    assert!(Verdict::of(&[], &[]).is_clean());
}

#[test]
fn a_span_counts_what_was_sent_and_applied_within_it() {
    let sent = ledger(&[(1, 1), (2, 2), (3, 3), (4, 4)]); // at 0, 10, 20, 30
    let arrived: Vec<_> =
        [(1, 1), (2, 15), (3, 120), (2, 500)].map(|(serial, received_at)| Arrival { serial, received_at }).to_vec();
    let span = |during| Span::of(&sent, &arrived, &during);
    assert_eq!(span(0..10), Span { sent: 1, applied: 1, median_ms: 1, worst_ms: 1 });
    // 3 came after the span, 4 never; the second application of 2 does not count.
    assert_eq!(span(10..40), Span { sent: 3, applied: 1, median_ms: 100, worst_ms: 100 });
    assert_eq!(span(0..200), Span { sent: 4, applied: 3, median_ms: 5, worst_ms: 100 });
    assert_eq!(span(50..60), Span { sent: 0, applied: 0, median_ms: 0, worst_ms: 0 });
}
