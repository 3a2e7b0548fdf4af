//! The verdict: what was acknowledged against what was applied. Pure.
//!
//! The ledger says what a sender was promised, the log what a receiver has on
//! disk. Knows no clock, no store, no wire type.

use serde::Serialize;
use std::{collections::HashMap, ops::Range};

/// One acknowledged event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letter {
    /// Names the event; given once.
    pub serial: u64,
    /// The number it was acknowledged under: the order in which it must arrive.
    pub number: u64,
    /// Unix milliseconds, before the call that sent it.
    pub sent_at: i64,
}

/// One row of the receiver's log, in the order of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub serial: u64,
    /// Unix milliseconds.
    pub received_at: i64,
}

/// What became of one peer's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub acknowledged: u64,
    /// Acknowledged events that were applied, each counted once.
    pub applied: u64,
    /// Acknowledged and not applied.
    pub lost: u64,
    /// Applications of an event beyond its first.
    pub repeated: u64,
    /// First applications after that of an event with a higher number.
    pub out_of_order: u64,
    /// Applications of what nobody was promised.
    pub unknown: u64,
}

impl Verdict {
    pub fn of(ledger: &[Letter], log: &[Arrival]) -> Self {
        let numbers: HashMap<u64, u64> = ledger.iter().map(|letter| (letter.serial, letter.number)).collect();
        let mut times: HashMap<u64, u64> = HashMap::with_capacity(log.len());
        let (mut highest, mut out_of_order, mut repeated, mut unknown) = (0, 0, 0, 0);
        for arrival in log {
            let Some(number) = numbers.get(&arrival.serial) else {
                unknown += 1;
                continue;
            };
            let times = times.entry(arrival.serial).or_default();
            *times += 1;
            if *times > 1 {
                repeated += 1;
            } else if *number < highest {
                out_of_order += 1;
            } else {
                highest = *number;
            }
        }
        let (acknowledged, applied) = (numbers.len() as u64, times.len() as u64);
        Self { acknowledged, applied, lost: acknowledged - applied, repeated, out_of_order, unknown }
    }

    /// Nothing lost, repeated, out of order or from nowhere.
    pub fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.out_of_order + self.unknown == 0
    }
}

/// How a peer fared in one span of time: how it shows that the outage of
/// another one did not touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Span {
    /// Acknowledged events that were sent within the span.
    pub sent: u64,
    /// Acknowledged events that were applied within it, and how many a second.
    pub applied: u64,
    pub applied_per_second: u64,
    /// From the call that sent an event until its application, over those
    /// that were sent within the span and applied whenever.
    pub median_ms: i64,
    pub worst_ms: i64,
}

impl Span {
    /// `during`: Unix milliseconds.
    pub fn of(ledger: &[Letter], log: &[Arrival], during: &Range<i64>) -> Self {
        let mut arrivals: HashMap<u64, i64> = HashMap::with_capacity(log.len());
        for arrival in log {
            arrivals.entry(arrival.serial).or_insert(arrival.received_at);
        }
        let arrived = |letter: &Letter| arrivals.get(&letter.serial).copied();
        let sent: Vec<_> = ledger.iter().filter(|letter| during.contains(&letter.sent_at)).collect();
        let delay = |letter: &&Letter| Some((arrived(letter)? - letter.sent_at).max(0));
        let mut delays: Vec<_> = sent.iter().copied().filter_map(|letter| delay(&letter)).collect();
        delays.sort_unstable();
        let applied = ledger.iter().filter_map(arrived).filter(|at| during.contains(at)).count() as u64;
        let millis = u64::try_from(during.end - during.start).unwrap_or(0);
        Self {
            sent: sent.len() as u64,
            applied,
            applied_per_second: (applied * 1000).checked_div(millis).unwrap_or(0),
            median_ms: delays.get(delays.len() / 2).copied().unwrap_or(0),
            worst_ms: delays.last().copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests;
