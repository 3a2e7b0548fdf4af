//! What a node costs that does nothing: the time until it takes calls, and its
//! memory.

use crate::{
    Failure, Size,
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use pillarbox::bench::usage::memory;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const STARTS: usize = 5;
/// What a start leaves to do is done by then.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    let mut measured = [const { (vec![], vec![]) }; 2];
    for _ in 0..STARTS.min(2 * size.rounds) {
        let dir = crate::directory()?;
        // The second start finds what the first one left when it was killed.
        for (ready, resident) in &mut measured {
            let (mut node, took) = start(dir.path(), &[]);
            ready.push(took.as_secs_f64() * 1000.0);
            sleep(SETTLED).await;
            resident.push(memory(node.pid(), "VmRSS")?);
            node.kill();
        }
    }
    for (what, (ready, resident)) in ["a fresh directory", "its directory"].into_iter().zip(measured) {
        report.add(&Figure::new(format!("idle: ready on {what}"), "ms", ready).aim(Aim::AtMost(200.0)));
        report.add(&Figure::new(format!("idle: resident, {what}"), "MiB", resident).aim(Aim::AtMost(25.0)));
    }
    Ok(())
}

/// Starts a node; the time from there to its ready line.
pub fn start(dir: &Path, settings: &[(&str, &str)]) -> (NodeProcess, Duration) {
    let since = Instant::now();
    let node = NodeProcess::start(dir, settings);
    (node, since.elapsed())
}
