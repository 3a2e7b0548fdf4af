//! What the machine gives by itself: the disk, SQLite, signatures, calls.

use super::{Error, echo::EchoProcess};
use crate::{identity::node_key::NodeKey, store::yardstick::Yardstick, types::signed_bytes};
use serde::Serialize;
use std::{
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

/// Statements of 64 rows in one commit.
const STATEMENTS: usize = 16;

/// All of them, a second.
#[derive(Debug, Clone, Serialize)]
pub struct Baselines {
    pub fdatasync: f64,
    /// Commits of one row.
    pub sqlite_commits: f64,
    /// Rows, at 1,024 a commit.
    pub sqlite_rows: f64,
    /// Calls, one after the other, and as many in flight as the bench has.
    pub unary_echo_one: f64,
    pub unary_echo: f64,
    /// Messages on one stream, as many on their way.
    pub stream_echo: f64,
    pub ed25519_sign: f64,
    pub ed25519_verify: f64,
}

impl Baselines {
    /// Each for `span`. `size`: bytes of a row and of a message.
    pub async fn measure(
        program: &Path,
        dir: &Path,
        (size, in_flight): (usize, usize),
        span: Duration,
    ) -> Result<Self, Error> {
        let body = vec![0x2a; size];
        let mut sqlite = Yardstick::make(&dir.join("plain.db")).await?;
        let key = NodeKey::load_or_make(&dir.join("node.key"))?;
        let echo = EchoProcess::start(program, dir, size).await?;
        let (ed25519_sign, ed25519_verify) = signatures(&key, span)?;
        let measured = Self {
            fdatasync: fdatasyncs(dir, span)?,
            sqlite_commits: one_row_commits(&mut sqlite, &body, span).await?,
            sqlite_rows: many_row_commits(&mut sqlite, &body, span).await?,
            unary_echo_one: echo.calls(1, span).await?.calls,
            unary_echo: echo.calls(in_flight, span).await?.calls,
            stream_echo: echo.streamed(in_flight, span).await?.calls,
            ed25519_sign,
            ed25519_verify,
        };
        sqlite.close().await?;
        Ok(measured)
    }
}

fn rate(done: u64, since: Instant) -> f64 {
    done as f64 / since.elapsed().as_secs_f64()
}

/// Over pages that are there already, as a write-ahead log does it most of the time.
pub fn fdatasyncs(dir: &Path, span: Duration) -> Result<f64, Error> {
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

/// Commits a second of one row each.
pub async fn one_row_commits(sqlite: &mut Yardstick, body: &[u8], span: Duration) -> Result<f64, Error> {
    let (since, mut done) = (Instant::now(), 0);
    while since.elapsed() < span {
        sqlite.commit_one(body).await?;
        done += 1;
    }
    Ok(rate(done, since))
}

/// Rows a second, at 1,024 a commit.
pub async fn many_row_commits(sqlite: &mut Yardstick, body: &[u8], span: Duration) -> Result<f64, Error> {
    let (since, mut done) = (Instant::now(), 0);
    while since.elapsed() < span {
        done += sqlite.commit_many(body, STATEMENTS).await?;
    }
    Ok(rate(done, since))
}

/// Made and verified a second, over as many bytes as a token has.
pub fn signatures(key: &NodeKey, span: Duration) -> Result<(f64, f64), Error> {
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
