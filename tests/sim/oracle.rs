//! What must hold: the ledger of acknowledged events, and the rules that are
//! checked while a world runs and at its end.

use super::disk::Serial;

/// Things that must really happen somewhere among the seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    Crash,
    CrashMidAction,
    CommittedUnheard,
    CommitLost,
    CutSilent,
    CutRefusing,
    Loss,
    Duplicate,
    SlowLink,
    SenderRestoredNewEpoch,
    ReceiverRestoredHole,
    Forked,
    Removed,
    AddedAgain,
    Queued,
    QueuedByPull,
    DrainedByPages,
    PushWaited,
    PushRefusedWhilePulling,
    StateCrossedPush,
    AppliedBefore,
    GapRefused,
    SettledByState,
    StockPushed,
    StockPage,
    StockRepeat,
    AnswerBroken,
    AnswerSettled,
    Held,
    OperatorEndedQueued,
    Dropped,
    Empty,
    PushTimedOut,
    PullTimedOut,
    RefusedByPeer,
    Batch,
    WindowUsed,
    PartialReceipt,
    GrantUsedUp,
    BatchWaited,
    StreamDied,
    SessionEnded,
    SessionToldToEnd,
    SessionDropped,
    NoSession,
}

impl Sight {
    pub const ALL: [Self; 45] = [
        Self::Crash,
        Self::CrashMidAction,
        Self::CommittedUnheard,
        Self::CommitLost,
        Self::CutSilent,
        Self::CutRefusing,
        Self::Loss,
        Self::Duplicate,
        Self::SlowLink,
        Self::SenderRestoredNewEpoch,
        Self::ReceiverRestoredHole,
        Self::Forked,
        Self::Removed,
        Self::AddedAgain,
        Self::Queued,
        Self::QueuedByPull,
        Self::DrainedByPages,
        Self::PushWaited,
        Self::PushRefusedWhilePulling,
        Self::StateCrossedPush,
        Self::AppliedBefore,
        Self::GapRefused,
        Self::SettledByState,
        Self::StockPushed,
        Self::StockPage,
        Self::StockRepeat,
        Self::AnswerBroken,
        Self::AnswerSettled,
        Self::Held,
        Self::OperatorEndedQueued,
        Self::Dropped,
        Self::Empty,
        Self::PushTimedOut,
        Self::PullTimedOut,
        Self::RefusedByPeer,
        Self::Batch,
        Self::WindowUsed,
        Self::PartialReceipt,
        Self::GrantUsedUp,
        Self::BatchWaited,
        Self::StreamDied,
        Self::SessionEnded,
        Self::SessionToldToEnd,
        Self::SessionDropped,
        Self::NoSession,
    ];
}

/// A set of [`Sight`]s.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sights(u64);

impl Sights {
    pub fn add(&mut self, sight: Sight) {
        self.0 |= 1 << sight as u32;
    }

    pub fn merge(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub fn has(self, sight: Sight) -> bool {
        self.0 & (1 << sight as u32) != 0
    }
}

/// An event as its client knows it.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub from: usize,
    pub to: usize,
    /// Its row's number, once it was committed.
    pub number: u64,
    /// The client was told that it is safe; the millisecond.
    pub acknowledged: Option<u64>,
    pub in_backup: bool,
    /// It was a dead letter at some time …
    pub died: bool,
    /// … because the operator dropped it while its peer stayed.
    pub dropped: bool,
}

/// The one restore of a world.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    pub node: usize,
    pub at: u64,
    /// The first serial after it.
    pub serial: Serial,
}

/// All that clients were told, and the first rule that was broken.
#[derive(Debug, Default)]
pub struct Oracle {
    pub events: Vec<Event>,
    pub restore: Option<Restore>,
    /// (sender, receiver, when) of peers that were added again.
    pub added_again: Vec<(usize, usize, u64)>,
    pub sights: Sights,
    pub broken: Option<String>,
}

impl Oracle {
    pub fn see(&mut self, sight: Sight) {
        self.sights.add(sight);
    }

    /// The first broken rule is the one that counts.
    pub fn break_rule(&mut self, rule: impl FnOnce() -> String) {
        self.broken.get_or_insert_with(rule);
    }

    pub fn new_event(&mut self, from: usize, to: usize) -> Serial {
        self.events.push(Event {
            from,
            to,
            number: 0,
            acknowledged: None,
            in_backup: false,
            died: false,
            dropped: false,
        });
        self.next_serial() - 1
    }

    pub fn next_serial(&self) -> Serial {
        Serial::try_from(self.events.len()).expect("a world has few events")
    }

    pub fn event(&mut self, serial: Serial) -> &mut Event {
        &mut self.events[serial as usize]
    }

    pub fn backup(&mut self, node: usize) {
        for event in self.events.iter_mut().filter(|event| event.from == node) {
            event.in_backup = event.acknowledged.is_some();
        }
    }

    /// What was acknowledged after the backup is gone, as the operator chose.
    pub fn restored(&mut self, node: usize, at: u64) {
        for event in self.events.iter_mut().filter(|event| event.from == node && !event.in_backup) {
            event.acknowledged = None;
        }
        self.restore = Some(Restore { node, at, serial: self.next_serial() });
    }

    fn of_restored_sender(&self, serial: Serial) -> bool {
        let from = self.events[serial as usize].from;
        self.restore.is_some_and(|restore| restore.node == from && serial < restore.serial)
    }

    /// `serials` are applied at `to`, after `log`. A stock peer cannot know a repeat.
    pub fn applied(&mut self, to: usize, log: &mut Vec<Serial>, serials: &[Serial], stock: bool) {
        for &serial in serials {
            let event = self.events[serial as usize];
            if event.to != to {
                self.break_rule(|| format!("event {serial} of {} was for {}, not {to}", event.from, event.to));
            }
            if log.contains(&serial) {
                match stock {
                    true => self.see(Sight::StockRepeat),
                    false if self.of_restored_sender(serial) => {}
                    false => self.break_rule(|| format!("event {serial} was applied twice at {to}")),
                }
            } else if log.iter().any(|&before| before > serial) {
                // A dead letter, or what a restored sender knows nothing of any more, may
                // be on its way still; a dead letter may be alive again in a backup.
                let disowned = self.of_restored_sender(serial) && (stock || !event.in_backup);
                let excused = event.died || disowned;
                if !excused {
                    self.break_rule(|| format!("event {serial} was first applied at {to} after a later one"));
                }
            }
            log.push(serial);
        }
    }

    /// Was this event, neither applied nor dead, lost by a restore in a way its
    /// sender wrote down or cannot know?
    pub fn excused(&self, event: &Event, holes: &[(u64, u64)]) -> bool {
        let Some(restore) = self.restore else { return false };
        if restore.node == event.from {
            // The backup undid the operator's word, but the stream had gone past the row.
            return event.dropped;
        }
        if restore.node != event.to {
            return false;
        }
        let acknowledged = event.acknowledged.unwrap_or(u64::MAX);
        if acknowledged > restore.at {
            return false;
        }
        let hole = holes.iter().any(|&(from, through)| from < event.number && event.number <= through);
        // A peer that was removed took its stream's memory with it.
        let forgotten =
            self.added_again.iter().any(|&(from, to, at)| (from, to) == (event.from, event.to) && acknowledged <= at);
        hole || forgotten
    }
}
