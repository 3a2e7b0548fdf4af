//! What the machine gives by itself, all of it.

use crate::{
    Failure, Size,
    load::echo,
    report::{Figure, Report},
};
use pillarbox::{
    bench::{
        baselines::{fdatasyncs, many_row_commits, one_row_commits, signatures},
        events::{EVENT, Shape, event},
    },
    identity::node_key::NodeKey,
    store::{Change, Store, yardstick::Yardstick},
    types::{Millis, PeerId},
};
use std::time::{Duration, Instant};

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
        "stream echo, 64 on their way",
        "Ed25519 signatures made",
        "Ed25519 signatures verified",
    ]
    .map(|name| (name, vec![]))
    .into();
    let echo = echo().await?;
    let store = Store::open(dir.path()).await?;
    let mut sqlite = Yardstick::make(&dir.path().join("plain.db")).await?;
    let key = NodeKey::load_or_make(&dir.path().join("node.key"))?;
    let body = [0x2a; EVENT];
    for _ in 0..size.rounds {
        let (made, verified) = signatures(&key, size.span)?;
        let values = [
            fdatasyncs(dir.path(), size.span)?,
            one_row_commits(&mut sqlite, &body, size.span).await?,
            many_row_commits(&mut sqlite, &body, size.span).await?,
            store_commits(&store, size.span).await?,
            echo.calls(1, size.span).await?.calls,
            echo.calls(64, size.span).await?.calls,
            echo.calls(512, size.span).await?.calls,
            echo.streamed(64, size.span).await?.calls,
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

/// Events a second that the store takes one after the other, each on disk
/// before the next.
async fn store_commits(store: &Store, span: Duration) -> Result<f64, Failure> {
    let body = event(Shape::Added, 0);
    let (since, mut done) = (Instant::now(), 0);
    while since.elapsed() < span {
        let row = Change::Enqueue { peer: PeerId(1), id: done, stored_at: Millis::now(), body: body.clone() };
        store.submit(row).await?;
        done += 1;
    }
    Ok(done as f64 / since.elapsed().as_secs_f64())
}
