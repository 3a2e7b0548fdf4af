//! What must be true of a world in which everything works again.

use super::{disk::Disk, world::World};
use crate::types::uuid::Uuid;
use std::{collections::BTreeSet, time::Duration};

impl World {
    /// Everything works again; long enough for every retry.
    pub fn heal(&mut self) {
        self.cut.clear();
        for at in 0..self.nodes.len() {
            self.crash(at);
        }
        for _ in 0..3_000 {
            for at in 0..self.nodes.len() {
                self.tell(at);
            }
            while let Some(link) = self.queues.iter().find(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link) {
                self.deliver(link);
            }
            self.now = self.now.plus(Duration::from_secs(5));
        }
    }

    /// What somebody still has, of all that was said.
    pub fn held(&self) -> BTreeSet<Uuid> {
        let ids = self.nodes.iter().flat_map(|node| node.disk.ids());
        ids.filter(|id| self.genuine.contains_key(id)).collect()
    }

    pub fn check(&self, seed: u64, held: &BTreeSet<Uuid>) {
        let genuine = |disk: &Disk| {
            let ids = disk.log.iter().filter_map(|entry| entry.message.id);
            ids.filter(|id| self.genuine.contains_key(id)).collect::<Vec<_>>()
        };
        let home = genuine(&self.nodes[0].disk);
        for (at, node) in self.nodes.iter().enumerate() {
            if !node.disk.known {
                panic!("SEED={seed}: node {at} never heard of the chat");
            }
            assert_eq!(genuine(&node.disk), home, "SEED={seed}: node {at} has another history");
            assert!(node.disk.waiting.is_empty(), "SEED={seed}: posts of node {at} still wait");
            assert_eq!(node.topic.waiting(), 0, "SEED={seed}: node {at} miscounts what waits");
            assert_eq!(node.topic.head(), node.disk.head(), "SEED={seed}: node {at}'s head");
            assert_eq!(node.disk.head().chain, self.nodes[0].disk.head().chain, "SEED={seed}: chains");
        }
        let once: BTreeSet<_> = home.iter().collect();
        let lost: Vec<_> = held.iter().filter(|id| !once.contains(id)).collect();
        assert!(lost.is_empty(), "SEED={seed}: {lost:?} were held and are not there");
        assert_eq!(once.len(), home.len(), "SEED={seed}: something is there twice");
        if self.restored.iter().all(|restored| !restored) {
            let all: BTreeSet<_> = self.said.iter().flatten().collect();
            assert_eq!(once, all, "SEED={seed}: something that was acknowledged is not there");
        }
        for (author, order) in self.order.iter().enumerate() {
            // A node that forgot what it sent does not know of it when it says more; home does,
            // if it waits for the others.
            if !self.restored[author] || (author == 0 && !self.hasty) {
                let heard: Vec<_> = home.iter().filter(|id| order.contains(id)).collect();
                let order: Vec<_> = order.iter().filter(|id| once.contains(id)).collect();
                assert_eq!(heard, order, "SEED={seed}: the words of {author} are out of order");
            }
        }
    }

    /// Whoever resumed has seen all of the history; `repeats`: before all was well.
    pub fn check_readers(&self, seed: u64, repeats: u64) {
        for (n, reader) in self.readers.iter().enumerate() {
            let history: Vec<_> = self.nodes[reader.at].disk.log.iter().filter_map(|entry| entry.message.id).collect();
            let missed: Vec<_> = history.iter().filter(|id| !reader.seen.contains(id)).collect();
            assert!(missed.is_empty(), "SEED={seed}: reader {n} at node {} never saw {missed:?}", reader.at);
        }
        if self.calm {
            assert_eq!(repeats, 0, "SEED={seed}: a reader was told something again though nobody forgot anything");
        }
    }
}
