//! The delivery machine while a Push is a session: a window of batches under
//! one attempt.
//!
//! Pure, as all of it is. Knows nothing of batches and grants: receipts come as
//! states that move the mark. Nothing else about order, retries and Queued
//! changes: a session is in flight as long as it lasts.

use super::{Action, Delivery, Failure, Heard};

/// An open session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Session {
    /// A receipt moved the mark.
    progress: bool,
    /// It was told to end.
    ending: bool,
}

const FAILED: Failure = Failure::Transient { retry_after: None };

impl Delivery {
    /// What the peer said when it opened draws the same conclusions as the answer to
    /// a Push. The window begins at the mark that stands then.
    pub(super) fn on_opened(&mut self, heard: Heard) {
        let Some(settles) = self.push.filter(|_| self.session.is_none()) else { return };
        self.hear(heard, settles == self.settles);
        if self.epoch_unsaved || self.held {
            self.push = None;
            self.actions.push_back(Action::DropSession);
            return;
        }
        // Whatever was concluded holds: what the batches bring is asked for after it.
        self.push = Some(self.settles);
        self.session = Some(Session::default());
        self.actions.push_back(Action::Deliver { after: self.settled });
    }

    /// `number`: the last row of the batches it is for.
    pub(super) fn on_receipt(&mut self, now: std::time::Instant, number: u64, heard: Heard) {
        let (Some(settles), Some(_)) = (self.push, self.session) else { return };
        self.retried = false;
        let before = self.settled;
        self.hear(heard, settles == self.settles);
        // A Pull of the peer may have settled the rows while the receipt was on its way.
        let applied = self.settled.number >= number;
        if self.settled == before && !applied {
            self.drop_session();
            self.on_attempt_failed(now, FAILED);
            return;
        }
        if let Some(session) = &mut self.session {
            session.progress = true;
        }
        self.on_attempt_well();
    }

    /// One that ended without having brought anything, though rows waited, would
    /// be opened again and again.
    pub(super) fn on_closed(&mut self, now: std::time::Instant) {
        let Some(Session { progress, ending }) = self.session.take() else { return };
        self.push = None;
        if progress || ending || !self.has_rows() {
            self.on_attempt_well();
        } else {
            self.on_attempt_failed(now, FAILED);
        }
    }

    pub(super) fn on_hold(&mut self, held: bool) {
        self.held = held;
        if let Some(session) = self.session.as_mut().filter(|session| held && !session.ending) {
            session.ending = true;
            self.actions.push_back(Action::EndSession);
        }
    }

    /// Its window does not begin where the stream stands now.
    pub(super) fn drop_session(&mut self) {
        if self.session.take().is_some() {
            self.push = None;
            self.actions.push_back(Action::DropSession);
        }
    }
}
