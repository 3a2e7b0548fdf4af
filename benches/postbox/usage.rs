//! What a process has used, as the system counts it.
//!
//! Time on a core is worth more than the clock where others compute, too.

use crate::Failure;
use std::fs;

/// `field` of /proc/PID/status in MiB: VmRSS is now, VmHWM the most so far.
pub fn memory(process: u32, field: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field in /proc/PID/status")?;
    let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Seconds on a core so far, of all its threads.
pub fn cpu(process: u32) -> Result<f64, Failure> {
    // USER_HZ is 100 on every Linux a program sees.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before may hold anything; then utime and stime are the 12th and 13th.
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc/PID/stat has another form")?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
}
