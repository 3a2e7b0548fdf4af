//! Runs what the HTTP library spawns, so that it has an owner and an end.

use hyper::rt::Executor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Tasks are tracked, and end when `cut` is cancelled.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    pub(crate) tracker: TaskTracker,
    pub(crate) cut: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        // Boxed: what is wrapped around it would hold room for it three times, for as long as a stream or
        // connection lasts.
        self.tracker.spawn(self.cut.clone().run_until_cancelled_owned(Box::pin(future)));
    }
}
