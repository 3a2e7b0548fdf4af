//! What the picture shows of the past: how deep a queue was, how fast it goes.
//! Pure: the time comes in.

use std::{collections::VecDeque, time::Duration};

/// One column of a [`Depths`] is at least this long.
const COLUMN: Duration = Duration::from_millis(500);
/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_secs(1);

/// The depth of a queue over time.
#[derive(Debug, Clone, Default)]
pub struct Depths {
    /// The deepest of each [`COLUMN`] since the start.
    columns: Vec<u64>,
}

impl Depths {
    /// `at`: since the start, never going back.
    pub fn note(&mut self, at: Duration, depth: u64) {
        let column = usize::try_from(at.as_millis() / COLUMN.as_millis()).unwrap_or(usize::MAX);
        while self.columns.len() < column {
            // Nobody looked meanwhile.
            self.columns.push(self.columns.last().copied().unwrap_or(depth));
        }
        match self.columns.get_mut(column) {
            Some(deepest) => *deepest = depth.max(*deepest),
            None => self.columns.push(depth),
        }
    }

    pub fn deepest(&self) -> u64 {
        self.columns.iter().copied().max().unwrap_or(0)
    }

    /// At most `width` columns, all of one length, the deepest of each.
    pub fn columns(&self, width: usize) -> Vec<u64> {
        let mut each = 1;
        while self.columns.len().div_ceil(each) > width.max(1) {
            each *= 2;
        }
        self.columns.chunks(each).map(|chunk| chunk.iter().copied().max().unwrap_or(0)).collect()
    }
}

/// How fast a count grows.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    seen: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// `at`: since the start, never going back.
    pub fn note(&mut self, at: Duration, count: u64) {
        self.seen.push_back((at, count));
        // The first that stays is the last one outside of the window.
        while self.seen.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= WINDOW) {
            self.seen.pop_front();
        }
    }

    pub fn per_second(&self) -> u64 {
        let (Some((from, before)), Some((to, now))) = (self.seen.front(), self.seen.back()) else { return 0 };
        let millis = u64::try_from(to.saturating_sub(*from).as_millis()).unwrap_or(u64::MAX);
        (now.saturating_sub(*before) * 1000).checked_div(millis).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
