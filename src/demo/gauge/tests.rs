//! Depths keep their peaks however narrow; rates forget what is long ago.

use super::*;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_column_shows_the_deepest_of_its_time() {
    let mut depths = Depths::default();
    for (millis, depth) in [(0, 1), (100, 7), (400, 2), (600, 3), (2100, 4)] {
        depths.note(at(millis), depth);
    }
    assert_eq!(depths.columns(60), [7, 3, 3, 3, 4], "a gap shows what was seen last");
    assert_eq!(depths.deepest(), 7);
}

#[test]
fn a_long_time_fits_and_keeps_its_peak() {
    let mut depths = Depths::default();
    for second in 0..1000 {
        depths.note(at(second * 500), if second == 321 { 99 } else { 1 });
    }
    let columns = depths.columns(60);
    assert!((30..=60).contains(&columns.len()), "{}", columns.len());
    assert_eq!(columns.iter().filter(|depth| **depth == 99).count(), 1);
    assert!(Depths::default().columns(60).is_empty());
}

#[test]
fn a_rate_is_that_of_the_last_second() {
    let mut rate = Rate::default();
    assert_eq!(rate.per_second(), 0);
    rate.note(at(0), 0);
    assert_eq!(rate.per_second(), 0, "one look is no rate");
    for tenth in 1..=20 {
        rate.note(at(tenth * 100), tenth * 50);
    }
    assert_eq!(rate.per_second(), 500);
    for tenth in 21..=31 {
        rate.note(at(tenth * 100), 1000);
    }
    assert_eq!(rate.per_second(), 0);
}
