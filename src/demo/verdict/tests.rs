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
fn a_span_counts_what_was_sent_and_what_was_applied_within_it() {
    let sent = ledger(&[(1, 1), (2, 2), (3, 3), (4, 4)]); // at 0, 10, 20, 30
    let arrived = [(1, 1), (2, 15), (3, 120), (2, 500), (9, 16)];
    let arrived = arrived.map(|(serial, received_at)| Arrival { serial, received_at });
    let span = |during| {
        let Span { sent, applied, applied_per_second, median_ms, worst_ms } = Span::of(&sent, &arrived, &during);
        (sent, applied, applied_per_second, median_ms, worst_ms)
    };
    assert_eq!(span(0..10), (1, 1, 100, 1, 1));
    // 3 came after the span, 4 never; nobody sent 9, and the second application of 2 does not count.
    assert_eq!(span(10..40), (3, 1, 33, 100, 100));
    assert_eq!(span(0..200), (4, 3, 15, 5, 100));
    // 3 was sent before the span and applied within it.
    assert_eq!(span(100..200), (0, 1, 10, 0, 0));
    assert_eq!(span(400..600), (0, 0, 0, 0, 0));
    assert_eq!(span(5..5), (0, 0, 0, 0, 0));
}
