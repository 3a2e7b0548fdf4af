//! What the machine gives by itself: the disk, SQLite, signatures, calls.

use crate::{
    Failure, Size,
    echo::EchoProcess,
    load::{EVENT, Shape, event},
    report::{Figure, Report},
};
use pillarbox::{
    identity::node_key::NodeKey,
    store::{Change, Store},
    types::{Millis, PeerId, signed_bytes},
};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use std::{
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Rows of one commit, in statements of so many.
const COMMIT_ROWS: usize = 1024;
const STATEMENT_ROWS: usize = 64;

pub async fn baselines(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dir = crate::directory()?;
    let mut measured: Vec<(&str, Vec<f64>)> = [
        "fdatasync of 4 KiB",
        "SQLite, commits of one row",
        "SQLite, rows at 1,024 a commit",
        "store, commits of one row",
        "unary echo, 1 in flight",
        "unary echo, 64 in flight",
        "unary echo, 512 in flight",
        "Ed25519 signatures made",
        "Ed25519 signatures verified",
    ]
    .map(|name| (name, vec![]))
    .into();
    let echo = EchoProcess::start().await?;
    let store = Store::open(dir.path()).await?;
    let mut sqlite = sqlite(&dir.path().join("plain.db")).await?;
    let key = NodeKey::load_or_make(&dir.path().join("node.key"))?;
    for _ in 0..size.rounds {
        let (made, verified) = signatures(&key, size.span)?;
        let values = [
            fdatasyncs(dir.path(), size.span)?,
            one_row_commits(&mut sqlite, size.span).await?,
            many_row_commits(&mut sqlite, size.span).await?,
            store_commits(&store, size.span).await?,
            echo.calls(1, size.span).await?.calls,
            echo.calls(64, size.span).await?.calls,
            echo.calls(512, size.span).await?.calls,
            made,
            verified,
        ];
        for ((_, all), value) in measured.iter_mut().zip(values) {
            all.push(value);
        }
    }
    store.close().await;
    sqlite.close().await?;
    for (name, values) in measured {
        report.add(&Figure::new(name, "/s", values));
    }
    Ok(())
}

fn rate(done: u64, since: Instant) -> f64 {
    done as f64 / since.elapsed().as_secs_f64()
}

/// Over pages that are there already, as a write-ahead log does it most of the time.
pub fn fdatasyncs(dir: &Path, span: Duration) -> Result<f64, Failure> {
    const PAGES: u64 = 1024;
    let file = File::create(dir.join("pages"))?;
    let page = [0x2a; 4096];
    for at in 0..PAGES {
        file.write_all_at(&page, at * 4096)?;
    }
    file.sync_all()?;
    let (since, mut done) = (Instant::now(), 0);
    while since.elapsed() < span {
        file.write_all_at(&page, done % PAGES * 4096)?;
        file.sync_data()?;
        done += 1;
    }
    Ok(rate(done, since))
}

/// As the node's own file is opened, with the plainest table there is.
async fn sqlite(path: &Path) -> Result<SqliteConnection, Failure> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
        .connect()
        .await?;
    sqlx::query("CREATE TABLE row (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

async fn one_row_commits(connection: &mut SqliteConnection, span: Duration) -> Result<f64, Failure> {
    let (since, mut done) = (Instant::now(), 0);
    while since.elapsed() < span {
        sqlx::query("INSERT INTO row (body) VALUES ($1)").bind(vec![0x2a; EVENT]).execute(&mut *connection).await?;
        done += 1;
    }
    Ok(rate(done, since))
}

async fn many_row_commits(connection: &mut SqliteConnection, span: Duration) -> Result<f64, Failure> {
    let text: Arc<str> = format!("INSERT INTO row (body) VALUES {}", ["(?)"; STATEMENT_ROWS].join(", ")).into();
    let (since, mut done) = (Instant::now(), 0);
    while since.elapsed() < span {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        for _ in 0..COMMIT_ROWS / STATEMENT_ROWS {
            let insert = sqlx::query(AssertSqlSafe(text.clone()));
            let insert = (0..STATEMENT_ROWS).fold(insert, |insert, _| insert.bind(vec![0x2a; EVENT]));
            insert.execute(&mut *connection).await?;
        }
        sqlx::query("COMMIT").execute(&mut *connection).await?;
        done += COMMIT_ROWS as u64;
    }
    Ok(rate(done, since))
}

/// Rows a second that the node's own store takes with a single bulk writer, for the drain.
pub async fn rows_per_second(span: Duration) -> Result<f64, Failure> {
    let dir = crate::directory()?;
    let mut sqlite = sqlite(&dir.path().join("plain.db")).await?;
    let rate = many_row_commits(&mut sqlite, span).await?;
    sqlite.close().await?;
    Ok(rate)
}

/// Events a second that the store takes one after the other, each on disk
/// before the next.
pub async fn store_commits(store: &Store, span: Duration) -> Result<f64, Failure> {
    let body = event(Shape::Added, 0);
    let (since, mut done) = (Instant::now(), 0);
    while since.elapsed() < span {
        let row = Change::Enqueue { peer: PeerId(1), id: done, stored_at: Millis::now(), body: body.clone() };
        store.submit(row).await?;
        done += 1;
    }
    Ok(rate(done, since))
}

/// Made and verified a second, over as many bytes as a token has.
fn signatures(key: &NodeKey, span: Duration) -> Result<(f64, f64), Failure> {
    const PURPOSE: &str = "benchmark";
    let bytes = [0x2a; 200];
    let (since, mut made) = (Instant::now(), 0);
    while since.elapsed() < span / 2 {
        black_box(key.sign(PURPOSE, black_box(&bytes)));
        made += 1;
    }
    let made = rate(made, since);
    let (public, signature) = (key.public(), key.sign(PURPOSE, &bytes));
    let framed = signed_bytes(PURPOSE, &bytes);
    let (since, mut verified) = (Instant::now(), 0);
    while since.elapsed() < span / 2 {
        if !public.verify(black_box(&framed), &signature) {
            return Err("a good signature was refused".into());
        }
        verified += 1;
    }
    Ok((made, rate(verified, since)))
}
