//! Readers in the simulated world: they stop whenever they like, or their node does,
//! and go on behind the message they saw last.

use super::{super::goes_on, world::World};
use crate::types::uuid::Uuid;
use std::collections::BTreeSet;

/// Whoever reads the chat at one node.
#[derive(Default)]
pub struct Reader {
    pub at: usize,
    /// `None`: it is not connected.
    cursor: Option<u64>,
    last: Option<Uuid>,
    pub seen: BTreeSet<Uuid>,
    /// What streams brought, all together and the one that is open.
    streamed: BTreeSet<Uuid>,
    line: BTreeSet<Uuid>,
    pub repeats: u64,
}

impl World {
    /// A reader connects, reads on or stops.
    pub fn read(&mut self, reader: usize) {
        let stops = self.rng.chance(25);
        let most = self.rng.index(4);
        match self.readers[reader].cursor {
            None => self.connect(reader, stops),
            Some(_) if stops => {
                self.readers[reader].cursor = None;
                self.see("a reader stopped");
            }
            Some(_) => self.read_on(reader, most),
        }
    }

    fn read_on(&mut self, reader: usize, most: usize) {
        for _ in 0..most {
            let disk = &self.nodes[self.readers[reader].at].disk;
            let reader = &mut self.readers[reader];
            let Some((told, id)) = reader.cursor.and_then(|cursor| disk.told_after(cursor)) else { return };
            (reader.cursor, reader.last) = (Some(told), Some(id));
            assert!(reader.line.insert(id), "a stream tells something twice");
            reader.seen.insert(id);
            if !reader.streamed.insert(id) {
                reader.repeats += 1;
                self.see("told again");
            }
        }
    }

    /// `gives_up`: if its node does not know what it saw last, it reads the history.
    fn connect(&mut self, reader: usize, gives_up: bool) {
        let at = self.readers[reader].at;
        if !self.nodes[at].disk.known {
            return;
        }
        let Some(last) = self.readers[reader].last else { return self.begin_anew(reader) };
        if self.blurred.contains(&last) {
            self.see("blurred");
            return self.begin_anew(reader);
        }
        let disk = &self.nodes[at].disk;
        let cursor = match disk.told_of(last) {
            Some(Some(told)) => {
                let behind = disk.revision_of(last).and_then(|revision| disk.told_behind(revision));
                let cursor = goes_on(told, behind);
                if cursor < told.at {
                    self.see("further back");
                }
                cursor
            }
            Some(None) => return self.see("later"),
            None if gives_up => return self.begin_anew(reader),
            None => return self.see("unknown to a reader's node"),
        };
        self.readers[reader].open(cursor);
    }

    fn begin_anew(&mut self, reader: usize) {
        let by_id = self.rng.chance(50);
        let node = &self.nodes[self.readers[reader].at];
        let last = node.disk.log.iter().rev().find_map(|entry| entry.message.id).filter(|_| by_id);
        let end = node.topic.told().end();
        self.readers[reader].seen.extend(node.disk.known().logged);
        self.readers[reader].last = last;
        match last {
            // A moment later, behind the last of the history.
            Some(last) if !self.blurred.contains(&last) => self.see("the history, then its last"),
            _ => self.readers[reader].open(end),
        }
    }

    /// The streams of a node that stops end.
    pub fn hang_up(&mut self, at: usize) {
        self.readers.iter_mut().filter(|reader| reader.at == at).for_each(|reader| reader.cursor = None);
    }

    /// All that is there to be read.
    pub fn read_all(&mut self) {
        for reader in 0..self.readers.len() {
            // It may read the history first.
            for _ in 0..9 {
                if self.readers[reader].cursor.is_none() {
                    self.connect(reader, true);
                }
            }
            self.read_on(reader, usize::MAX);
        }
    }
}

impl Reader {
    pub fn of(at: usize) -> Self {
        Self { at, ..Self::default() }
    }

    fn open(&mut self, cursor: u64) {
        self.cursor = Some(cursor);
        self.line.clear();
    }
}
