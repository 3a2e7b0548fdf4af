//! The inbound half of the delivery machine: when the peer is pulled.
//!
//! Pure, as all of it is.

use super::{Delivery, Failure, Heard, Kind, Pull, State};
use std::time::{Duration, Instant};

/// Two Pulls that find nothing are never closer than this, whatever the peer
/// claims to have waiting.
pub(super) const PULL_GAP: Duration = Duration::from_secs(1);

impl Delivery {
    /// A verified call proves the peer alive: no back-off any longer, and a
    /// Pull at once if the last one failed or none ever went well.
    pub(super) fn on_call_of_peer(&mut self, now: Instant) {
        let failed = self.pull_failures > 0 || !self.pulled_once;
        self.retried = false;
        self.pull_failures = 0;
        self.pull_failing_since = None;
        if failed {
            self.pull_soon(now);
        }
    }

    pub(super) fn pull_soon(&mut self, now: Instant) {
        let earliest = self.last_empty_pull.map_or(now, |at| at + PULL_GAP).max(now);
        if let Pull::Idle { next } = &mut self.pull {
            *next = (*next).min(earliest);
            self.pull_urgent = true;
        }
    }

    /// A peer that pushes has nothing waiting: our next Pull is an interval away.
    pub(super) fn on_push_taken(&mut self, now: Instant) {
        self.push_waits = false;
        self.on_call_of_peer(now);
        if let (Pull::Idle { next }, false) = (&mut self.pull, self.pull_urgent) {
            *next = now + self.retry.pull_wait(&mut self.random);
        }
    }

    pub(super) fn on_pulled(&mut self, now: Instant, heard: Option<Heard>, rows: bool) {
        let Pull::Pulling { settles } = self.pull else { return };
        let was_attempt = std::mem::take(&mut self.pull_is_attempt);
        self.retried = false;
        self.pull_failures = 0;
        self.pull_failing_since = None;
        self.pulled_once = true;
        self.last_empty_pull = (!rows).then_some(now);
        let wait = if rows { Duration::ZERO } else { self.retry.pull_wait(&mut self.random) };
        self.pull = Pull::Idle { next: now + wait };
        match heard {
            Some(heard) => {
                self.kind = Kind::Ours;
                self.hear(heard, settles == self.settles);
            }
            None => {
                self.kind = Kind::Stock;
                self.heard = true;
            }
        }
        if was_attempt {
            self.on_attempt_well();
        }
    }

    pub(super) fn on_pull_failed(&mut self, now: Instant, failure: Failure) {
        if !matches!(self.pull, Pull::Pulling { .. }) {
            return;
        }
        let was_attempt = std::mem::take(&mut self.pull_is_attempt);
        self.pull_failures = self.pull_failures.saturating_add(1);
        let since = *self.pull_failing_since.get_or_insert(now);
        let failing_for = now.saturating_duration_since(since);
        let wait = self.retry.pull_back_off(self.pull_failures, failing_for, &mut self.random);
        self.pull = Pull::Idle { next: now + wait };
        if was_attempt {
            self.on_attempt_failed(now, failure);
        }
    }

    pub(super) fn on_retry_now(&mut self, now: Instant, push: bool) {
        self.retried = self.failing();
        self.last_empty_pull = None;
        self.pull_failures = 0;
        self.pull_failing_since = None;
        self.pull_soon(now);
        match self.state {
            State::Retrying { failed, .. } => self.state = State::Retrying { failed, at: now },
            State::Queued if push => self.go_live(),
            State::Queued | State::Live => {}
        }
    }
}
