//! What one request holds of its address's room.

use super::{Client, Limits, Refusal};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Everything that came of it until it is answered, and of its stream from then
/// on the message that is not whole. Dropped, it gives all back.
#[derive(Debug)]
pub struct Held {
    limits: Limits,
    client: Client,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    /// Of them, those of a message that is not whole.
    unfinished: u64,
    answered: bool,
}

impl Held {
    pub(super) fn new(limits: Limits, client: Client) -> Self {
        Self { limits, client, state: Mutex::default() }
    }

    /// `bytes` came; of all that came so many are of a message that is not whole.
    pub fn came(&self, bytes: u64, unfinished: u64) -> Result<(), Refusal> {
        let mut state = self.state();
        let wanted = if state.answered { unfinished } else { state.bytes + bytes };
        if wanted > state.bytes {
            self.limits.table().hold(self.client, wanted - state.bytes, Instant::now())?;
        } else if wanted < state.bytes {
            self.limits.table().release(self.client, state.bytes - wanted);
        }
        (state.bytes, state.unfinished) = (wanted, unfinished);
        Ok(())
    }

    /// Its answer begins: whatever was whole has been dealt with.
    pub fn answered(&self) {
        let mut state = self.state();
        state.answered = true;
        let done = state.bytes.saturating_sub(state.unfinished);
        if done > 0 {
            self.limits.table().release(self.client, done);
        }
        state.bytes -= done;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers only: nothing in there is half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.state().bytes;
        if bytes > 0 {
            self.limits.table().release(self.client, bytes);
        }
    }
}
