//! Tests of `store/rows`.

use super::*;

#[test]
fn a_text_repeats_its_row_and_numbers_no_parameter() {
    assert_eq!(
        text("INSERT INTO t VALUES", "(?, ?)", "RETURNING a", 2),
        "INSERT INTO t VALUES (?, ?), (?, ?) RETURNING a"
    );
}

#[test]
fn rows_are_cut_into_the_fixed_sizes_and_none_is_left_out() {
    let many = ManyRows::new("VALUES", "(?)", "");
    for total in [0, 1, 7, 8, 9, 63, 64, 65, 200] {
        let rows: Vec<usize> = (0..total).collect();
        let parts: Vec<&[usize]> = many.parts(&rows).map(|(_, part)| part).collect();
        assert!(parts.iter().all(|part| SIZES.contains(&part.len())));
        assert_eq!(parts.concat(), rows);
    }
}

#[test]
fn a_page_has_at_least_one_row_and_stops_at_its_bytes() {
    assert_eq!(page_len([], 10), 0);
    assert_eq!(page_len([100, 1], 10), 1);
    assert_eq!(page_len([4, 6, 1], 10), 2);
    assert_eq!(page_len([0, 0, 0], 0), 3);
    assert_eq!(page_len([i64::MAX, i64::MAX], usize::MAX), 2);
}

#[test]
fn every_u64_survives_the_cast() {
    for value in [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1] {
        assert_eq!(unbits(bits(value)), value);
    }
}
