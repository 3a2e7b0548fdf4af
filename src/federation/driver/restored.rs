//! The driver when one of the two came from a backup: who is told.
//!
//! Decides nothing: the machine has found it out, and goes on by itself.

use super::Driver;
use crate::federation::delivery::Because;

impl Driver {
    pub(super) fn tell(&self, because: Because) {
        let peer = self.peer.server_id();
        self.inner.letters.restored(self.row_id);
        match because {
            Because::PeerRestored { from, through } => {
                self.inner.metrics.restores.with_label_values(&["peer"]).inc();
                tracing::error!(%peer, from, through,
                    "the peer lost events it had applied (restored from a backup?); those in this range are gone for it");
            }
            Because::WeWereRestored => {
                self.inner.metrics.restores.with_label_values(&["us"]).inc();
                tracing::error!(%peer,
                    "the peer knows events this node does not: this node was restored from a backup; what waits is sent again");
            }
        }
    }
}
