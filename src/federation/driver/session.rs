//! The driver while a Push is a session: what the machine orders, and what the peer
//! says.
//!
//! The session's own task sends and hears; nothing is settled there.

use super::{Driver, Finished, courier};
use crate::federation::{
    courier::{Session, Told},
    delivery::{Failure, Heard, Input},
    remote::CallError,
    stream::Mark,
};
use std::future::pending;

impl Driver {
    /// A peer of ours may take batches; whether it does, the session finds out.
    pub(super) fn open_session(&mut self) {
        let (session, task) = courier::start(self.inner.clone(), &self.peer, self.remote.clone());
        self.session = Some(session);
        self.jobs.spawn(async move {
            task.await;
            Finished::Noted
        });
    }

    pub(super) fn begin_session(&mut self, after: Mark) {
        if let Some(session) = &self.session {
            session.orders.send_modify(|orders| orders.from = Some(after));
        }
    }

    /// What is in flight gets its receipts.
    pub(super) fn end_session(&mut self) {
        if let Some(session) = &self.session {
            session.orders.send_modify(|orders| orders.end = true);
        }
    }

    pub(super) async fn on_told(&mut self, told: Told) {
        match told {
            Told::NoCourier => {
                self.session = None;
                self.no_session = true;
                self.give(Input::NoSession).await;
            }
            Told::Opened(state) => {
                let heard = self.heard(state).await;
                self.on_heard(heard.map(|heard| Input::Opened { heard }).ok()).await;
            }
            Told::Receipt { last, state } => {
                self.called_well();
                let heard = match state.number == last.number {
                    true => Ok(Heard { mark: state, id_here: Some(last.id) }),
                    false => self.heard(state).await,
                };
                let number = last.number;
                self.on_heard(heard.map(|heard| Input::Receipt { number, heard }).ok()).await;
            }
            Told::Ended(result) => {
                self.session = None;
                self.called(&self.inner.metrics.streams, result.as_ref().err());
                let input = match result {
                    Ok(()) => Input::Closed,
                    Err(CallError { failure, .. }) => Input::PushFailed(failure),
                };
                self.give(input).await;
            }
        }
    }

    async fn on_heard(&mut self, input: Option<Input>) {
        let input = input.unwrap_or_else(|| {
            self.session = None;
            Input::PushFailed(Failure::Local)
        });
        self.give(input).await;
    }
}

/// The next word of the session; never, without one.
pub(super) async fn told(session: &mut Option<Session>) -> Told {
    let Some(session) = session else { return pending().await };
    match session.told.recv().await {
        Some(told) => *told,
        // Its last word is always that it ended.
        None => Told::Ended(Err(CallError::transient("the session is gone"))),
    }
}
