//! Tests of `store/rows`.

use super::*;
use sqlx::Connection;

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

#[tokio::test]
async fn a_failure_at_the_commit_is_told_from_one_before_it() {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    // Whether a child has its parent is looked at in the COMMIT.
    let tables = "PRAGMA foreign_keys = ON; CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";
    sqlx::raw_sql(tables).execute(&mut connection).await.unwrap();
    let script = |parents: &[i64], child: i64| {
        let mut script = Script::default();
        script.add("BEGIN");
        for parent in parents {
            script.add("INSERT INTO parent VALUES (?)").bind(*parent);
        }
        script.add("INSERT INTO child VALUES (?)").bind(child);
        script
    };
    script(&[7], 7).commit(&mut connection).await.unwrap();
    let before = script(&[8, 7], 7).commit(&mut connection).await;
    assert!(matches!(before, Err(Uncommitted::Before(_))), "{before:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    // Also where the COMMIT stands in a text of its own.
    for parents in [(8..9).collect::<Vec<i64>>(), (8..22).collect()] {
        let at = script(&parents, 99).commit(&mut connection).await;
        assert!(matches!(at, Err(Uncommitted::Commit(_))), "{at:?}");
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    }
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM parent").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1);
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
