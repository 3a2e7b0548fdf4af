//! Tests of what is said of figures and baselines.

use super::*;
use std::time::Duration;

fn report() -> Report {
    let meter = Meter::default();
    for micros in 1..=1000 {
        meter.note(Duration::from_micros(micros), 2);
    }
    let base = Baselines {
        fdatasync: 10_000.0,
        sqlite_commits: 5_000.0,
        sqlite_rows: 400_000.0,
        unary_echo_one: 10_000.0,
        unary_echo: 40_000.0,
        stream_echo: 200_000.0,
        ed25519_sign: 70_000.0,
        ed25519_verify: 28_000.0,
    };
    let mut report = Report {
        bench: "postbox",
        started: true,
        peers: 1,
        connections: 1,
        in_flight: 64,
        batch: 2,
        size: 256,
        figures: vec![
            Figure::new(crate::bench::ACKNOWLEDGED, &meter, 0.1, 256).cpu(Some(0.04)),
            Figure::counted(crate::bench::DELIVERED, 2000, 0.2, 256, None),
        ],
        refused: 3,
        baselines: Some(base),
        ratios: vec![],
        machine: Machine { cores: 2, load_average: vec![0.5, 0.25, 0.0] },
    };
    report.compare();
    report
}

#[test]
fn rates_times_and_ratios_are_those_that_were_measured() {
    let report = report();
    let [acknowledged, delivered] = &report.figures[..] else { panic!("two figures") };
    assert_eq!((acknowledged.messages, acknowledged.messages_per_second), (2000, 20_000.0));
    assert_eq!(acknowledged.cpu_us, Some(20.0));
    let times = acknowledged.latency_us.as_ref().expect("times");
    assert_eq!((times.min, times.p50, times.p99, times.max), (1, 500, 990, 1000));
    assert!(delivered.latency_us.is_none());
    let ratio = |figure: &str, baseline: &str| {
        let found = report.ratios.iter().find(|ratio| ratio.figure == figure && ratio.baseline.starts_with(baseline));
        found.map(|ratio| ratio.ratio)
    };
    // 10,000 calls a second; 500 µs over 100 + 100.
    assert_eq!(ratio("acknowledged, calls", "unary echo"), Some(0.25));
    assert_eq!(ratio("acknowledged, p50", "one fdatasync"), Some(2.5));
    assert_eq!(ratio("delivered, messages", "SQLite rows"), Some(0.025));
    assert_eq!(ratio("delivered, messages", "stream echo"), Some(0.05));
}

#[test]
fn the_table_tells_every_figure() {
    let text = report().text();
    for part in ["bench postbox", "20,000", "p99.9", "990", "fdatasync of 4 KiB", "ratios", "0.250", "2 cores"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120 && line.trim_end() == line), "{text}");
}
