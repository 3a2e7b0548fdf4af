//! What was measured, as an object and as a table.

use super::{baselines::Baselines, drive::Meter, usage::Machine};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write;

/// The result; the field names are those of `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// "postbox", "router", "chat" or "push".
    pub bench: &'static str,
    /// The nodes were started for it.
    pub started: bool,
    pub peers: u16,
    pub connections: usize,
    pub in_flight: usize,
    /// Messages in a call.
    pub batch: u64,
    /// Bytes of a message.
    pub size: usize,
    pub figures: Vec<Figure>,
    /// Calls that were made again because the node had no room.
    pub refused: u64,
    /// All a second; of the machine that this ran on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baselines: Option<Baselines>,
    pub ratios: Vec<Ratio>,
    pub machine: Machine,
}

/// One stage of a message's way.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub messages: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    pub bytes_per_second: f64,
    /// None: nobody saw the single message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// Of the node that did it, on a core, a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
}

/// Microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    pub min: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    fn of(times: &Histogram<u64>) -> Option<Self> {
        let at = |part| times.value_at_quantile(part);
        (!times.is_empty()).then(|| Self {
            min: times.min(),
            mean: times.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: times.max(),
        })
    }
}

/// A figure over what it is held against.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    pub figure: String,
    pub baseline: String,
    pub ratio: f64,
}

impl Figure {
    pub fn new(name: &'static str, meter: &Meter, seconds: f64, size: usize) -> Self {
        Self::counted(name, meter.done(), seconds, size, Latency::of(&meter.times()))
    }

    /// One of which only the number is known.
    pub fn counted(name: &'static str, messages: u64, seconds: f64, size: usize, latency_us: Option<Latency>) -> Self {
        let rate = if seconds > 0.0 { messages as f64 / seconds } else { 0.0 };
        Self {
            name,
            messages,
            seconds,
            messages_per_second: rate,
            bytes_per_second: rate * size as f64,
            latency_us,
            cpu_us: None,
        }
    }

    /// Seconds on a core, for all of them.
    pub fn cpu(mut self, seconds: Option<f64>) -> Self {
        self.cpu_us = seconds.filter(|_| self.messages > 0).map(|seconds| seconds * 1e6 / self.messages as f64);
        self
    }
}

impl Report {
    /// Holds the figures against the baselines, where there are some.
    pub fn compare(&mut self) {
        let Some(base) = self.baselines.clone() else { return };
        let calls = format!("unary echo, {} in flight", self.in_flight);
        let stream = format!("stream echo, {} on their way", self.in_flight);
        for figure in &self.figures {
            let mut add = |of: &str, baseline: &str, ratio: f64| {
                let figure = format!("{}, {of}", figure.name);
                self.ratios.push(Ratio { figure, baseline: baseline.to_owned(), ratio });
            };
            let rate = figure.messages_per_second;
            match figure.name {
                super::ACKNOWLEDGED => add("calls", &calls, rate / self.batch as f64 / base.unary_echo),
                _ => add("messages", &stream, rate / base.stream_echo),
            }
            add("messages", "SQLite rows at 1,024 a commit", rate / base.sqlite_rows);
            if let Some(latency) = &figure.latency_us {
                let floor = 1e6 / base.fdatasync + 1e6 / base.unary_echo_one;
                add("p50", "one fdatasync + one unary echo", latency.p50 as f64 / floor);
            }
        }
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: std::fmt::Arguments<'_>| {
            let _ = text.write_fmt(cells);
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        };
        let Self { bench, peers, connections, in_flight, size, batch, .. } = self;
        let nodes = if self.started { "nodes of its own" } else { "a running node" };
        line(format_args!(
            "bench {bench}: {nodes}, peers {peers}, in flight {in_flight} on {connections} conn., {batch} a call, {size} bytes"
        ));
        line(format_args!(""));
        line(format_args!(
            "{:<13}{:>11}{:>11}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "", "messages", "/s", "MB/s", "p50 µs", "p90", "p99", "p99.9", "max", "CPU µs"
        ));
        for figure in &self.figures {
            let times = figure.latency_us.as_ref().map_or_else(Default::default, |latency| {
                [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(|time| number(time as f64))
            });
            let [p50, p90, p99, p999, max]: [String; 5] = times;
            line(format_args!(
                "{:<13}{:>11}{:>11}{:>9.1}{p50:>9}{p90:>9}{p99:>9}{p999:>9}{max:>9}{:>9}",
                figure.name,
                whole(figure.messages as f64),
                whole(figure.messages_per_second),
                figure.bytes_per_second / 1e6,
                figure.cpu_us.map_or_else(String::new, number),
            ));
        }
        if self.refused > 0 {
            line(format_args!("\n{} calls were refused for want of room and made again", whole(self.refused as f64)));
        }
        if let Some(base) = &self.baselines {
            line(format_args!("\nwhat this machine gives by itself, a second"));
            for (name, value) in [
                ("fdatasync of 4 KiB", base.fdatasync),
                ("SQLite, commits of one row", base.sqlite_commits),
                ("SQLite, rows at 1,024 a commit", base.sqlite_rows),
                ("unary echo over TLS, 1 in flight", base.unary_echo_one),
                (&format!("unary echo over TLS, {in_flight} in flight"), base.unary_echo),
                (&format!("stream echo over TLS, {in_flight} on their way"), base.stream_echo),
                ("Ed25519 signatures made", base.ed25519_sign),
                ("Ed25519 signatures verified", base.ed25519_verify),
            ] {
                // With one in flight two of them are the same.
                if *in_flight > 1 || value != base.unary_echo {
                    line(format_args!("  {name:<45}{:>11}", whole(value)));
                }
            }
            line(format_args!("\nratios"));
            for Ratio { figure, baseline, ratio } in &self.ratios {
                line(format_args!("  {:<56}{ratio:>9.3}", format!("{figure} : {baseline}")));
            }
        }
        line(format_args!("\nmachine: {}", self.machine.text()));
        text.truncate(text.trim_end().len());
        text
    }
}

/// Three digits say all that is known.
pub fn number(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.1}") } else { whole(value) }
}

/// In groups of three digits.
pub fn whole(value: f64) -> String {
    let mut digits = format!("{value:.0}");
    let mut at = digits.len();
    while at > 3 {
        at -= 3;
        digits.insert(at, ',');
    }
    digits
}

#[cfg(test)]
mod tests;
