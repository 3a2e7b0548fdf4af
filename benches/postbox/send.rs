//! How many events a second the node acknowledges: each in a call of its own,
//! each on disk before its answer.

use crate::{
    Failure, Size,
    echo::EchoProcess,
    load::{Backend, event, per_second},
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A server that is away, so that nothing but taking the events goes on.
const AWAY: &str = "localhost:1";

pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    let dir = crate::directory()?;
    let room = [("FEDERATION__QUEUE_MAX_EVENTS", "1000000000"), ("FEDERATION__QUEUE_MAX_BYTES", "1TiB")];
    let node = NodeProcess::start(dir.path(), &room);
    node.ok(&["peer", "add", AWAY]);
    node.ok(&["queue", "hold", AWAY]);
    let (backend, echo) = (Backend::of(&node).await?, EchoProcess::start().await?);
    let next = Arc::new(AtomicU64::new(0));
    for in_flight in [1, 64, 512] {
        let (mut values, mut baseline) = (vec![], vec![]);
        for _ in 0..size.rounds {
            baseline.push(echo.per_second(in_flight, size.span).await?);
            let (backend, next) = (backend.clone(), next.clone());
            let call = move || {
                let (backend, body) = (backend.clone(), event(next.fetch_add(1, Relaxed)));
                async move { backend.send(AWAY, vec![body]).await }
            };
            values.push(per_second(in_flight, size.span, call).await?);
        }
        let figure = Figure::new(format!("Send, {in_flight} in flight"), "/s", values).beside("unary echo", baseline);
        report.add(&if in_flight == 64 { figure.aim(Aim::Ratio(0.6)) } else { figure });
    }
    Ok(())
}
