//! The push channel: what the users of this node are told through gateways
//! (floor 4).
//!
//! [`Push`] is the handle. The log is rows, written by whoever causes something
//! to be told, in the transaction of the cause; a gateway's stream is woken and
//! reads them. Where a stream begins and when it has fallen out of the window is
//! decided by `window.rs`, which is pure. Rows are written only while a gateway
//! is there or was there lately.

mod config;
mod gateways;
pub mod harmony;
mod keeper;
mod page;
mod publisher;
mod reader;
mod service;
mod sessions;
pub mod window;

pub use config::Config;
pub use publisher::{PAYLOAD_MAX, Publisher};
pub use service::Service;
pub use sessions::Sessions;

use crate::{
    error::Error,
    metrics::Metrics,
    store::{
        Store,
        push::{Bounds, Change as Row},
    },
    types::{Millis, unix_micros},
};
use gateways::Gateways;
use page::Pages;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Acquire},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The handle; clones are the same log.
#[derive(Clone)]
pub struct Push(Arc<Inner>);

struct Inner {
    config: Config,
    store: Store,
    metrics: Metrics,
    gateways: Gateways,
    pages: Pages,
    /// The lowest cursor that can be gone on from. Raised before rows go.
    floor: AtomicU64,
    /// Held while the log is opened or closed.
    seen: tokio::sync::Mutex<Seen>,
    trimming: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// When a gateway was there last.
struct Seen {
    /// As it is on disk.
    at: Millis,
    /// One was there in this life of the node.
    here: bool,
    /// When that was; before, when this life began.
    since: Instant,
}

impl Push {
    /// Reads what is kept. Ends when `stop` is cancelled; then wait for
    /// [`Push::ended`].
    pub async fn open_on(
        config: Config,
        store: Store,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        // Cursors of this run are above those that a database had which was
        // lost: one that a gateway still holds is unknown here.
        store.submit(Row::StartAt { least: unix_micros() }).await?;
        let Bounds { floor, seen_at, .. } = store.push_bounds().await?;
        let push = Self(Arc::new(Inner {
            config,
            store,
            gateways: Gateways::new(metrics.push_gateways.clone()),
            metrics,
            pages: Pages::default(),
            floor: AtomicU64::new(floor),
            seen: tokio::sync::Mutex::new(Seen { at: seen_at, here: false, since: Instant::now() }),
            trimming: tokio::sync::Mutex::default(),
            stop,
            tasks: TaskTracker::new(),
        }));
        push.0.tasks.spawn(push.clone().keep());
        Ok(push)
    }

    /// Whether what happens now is kept for gateways. Asking spares work; who
    /// does not ask does no harm.
    pub fn wanted(&self) -> bool {
        self.0.store.push_wanted()
    }

    /// Returns when every task has ended, after `stop`.
    pub async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn floor(&self) -> u64 {
        self.0.floor.load(Acquire)
    }
}
