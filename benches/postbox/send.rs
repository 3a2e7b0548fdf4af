//! How many events a second the node acknowledges: each in a call of its own,
//! each on disk before its answer.

use crate::{
    Failure, Size,
    load::{echo, mailroom},
    process::NodeProcess,
    report::{Aim, Figure, Report},
};
use pillarbox::bench::{
    drive::{Rate, calls},
    events::{Shape, event},
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
    let (backend, echo) = (mailroom(&node).await?, echo().await?);
    let next = Arc::new(AtomicU64::new(0));
    for in_flight in [1, 64, 512] {
        let (mut sends, mut echoes) = (vec![], vec![]);
        for _ in 0..size.rounds {
            echoes.push(echo.calls(in_flight, size.span).await?);
            let (backend, next) = (backend.clone(), next.clone());
            let call = move || {
                let (backend, body) = (backend.clone(), event(Shape::Added, next.fetch_add(1, Relaxed)));
                async move { backend.send(AWAY, vec![body]).await }
            };
            sends.push(calls(node.pid(), in_flight, size.span, call).await?);
        }
        let each = |of: fn(&Rate) -> f64| (sends.iter().map(of).collect(), echoes.iter().map(of).collect());
        let (name, (values, baseline)) = (format!("Send, {in_flight} in flight"), each(|rate| rate.calls));
        let figure = Figure::new(&name, "/s", values).beside("unary echo", baseline);
        report.add(&if in_flight == 64 { figure.aim(Aim::Ratio(0.6)) } else { figure });
        let (values, baseline) = each(|rate| rate.cpu);
        report.add(&Figure::new(format!("{name}: CPU of the node"), "µs", values).beside("unary echo", baseline));
    }
    Ok(())
}
