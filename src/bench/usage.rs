//! What a process has used, as the system counts it.
//!
//! Time on a core is worth more than the clock where others compute, too.

use super::Error;
use serde::Serialize;
use std::fs;

/// `field` of /proc/PID/status in MiB: VmRSS is now, VmHWM the most so far.
pub fn memory(process: u32, field: &str) -> Result<f64, Error> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field in /proc/PID/status")?;
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>();
    Ok(kib.map_err(|_| "/proc/PID/status has another form")? / 1024.0)
}

/// Seconds on a core so far, of all its threads.
pub fn cpu(process: u32) -> Result<f64, Error> {
    // USER_HZ is 100 on every Linux a program sees.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before may hold anything; then utime and stime are the 12th and 13th.
    let form = "/proc/PID/stat has another form";
    let (_, rest) = stat.rsplit_once(')').ok_or(form)?;
    let ticks: Option<Vec<f64>> = rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse().ok()).collect();
    Ok(ticks.ok_or(form)?.iter().sum::<f64>() / TICKS_A_SECOND)
}

/// Cores and load, so that a reader knows what figures are worth.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cores: usize,
    /// Over the last 1, 5 and 15 minutes; empty where the system does not tell.
    pub load_average: Vec<f64>,
}

impl Machine {
    pub fn now() -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self { cores, load_average: load.split(' ').take(3).filter_map(|part| part.parse().ok()).collect() }
    }

    pub fn text(&self) -> String {
        let load: Vec<_> = self.load_average.iter().map(|part| format!("{part:.2}")).collect();
        format!("{} cores, load average {}", self.cores, load.join(" "))
    }
}
