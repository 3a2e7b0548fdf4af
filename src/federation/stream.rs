//! What a receiver applies of a stream, and what it remembers of it.
//!
//! Pure: the rule `after = mark < number` within the latest epoch, whatever
//! lane brought the rows. The mark and the effect are committed together by
//! who calls this; nothing is stored here.

pub use crate::types::Mark;

/// Where a row says it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub epoch: u64,
    pub number: u64,
    pub id: u64,
    /// The number the receiver's mark must be at.
    pub after: u64,
}

/// The verdict on a run of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Apply `rows[skip..skip + take]`; `mark` is what is reached then. With
    /// `take` 0 nothing changes.
    Apply { skip: usize, take: usize, mark: Mark },
    /// Another row stands at our mark than the one we applied: the sender came
    /// from a backup and has not noticed. Nothing is applied.
    Forked,
}

/// Judges a run of rows (one Push, one Pull answer, one batch) against what was
/// applied so far. Rows at or below the mark were applied before; a row whose
/// `after` is another number than the mark is not applied, nor what follows it.
///
/// An `after` below the mark is no better than one above it: the sender does not
/// know our row at the mark. It dropped that row, then our state sets it right; or
/// it came from a backup and the row is of its lost life, then applying this one
/// would pass over what the sender has between `after` and the mark.
pub fn judge(mark: Mark, rows: &[Position]) -> Verdict {
    let mut reached = mark;
    let mut skip = 0;
    let mut take = 0;
    for row in rows {
        if row.epoch > reached.epoch && take == 0 {
            reached = Mark { epoch: row.epoch, number: 0, id: 0 };
        }
        if row.epoch != reached.epoch {
            if take > 0 {
                break;
            }
            skip += 1;
        } else if row.number == reached.number && row.id != reached.id {
            return Verdict::Forked;
        } else if row.number <= reached.number {
            if take > 0 {
                break; // numbers fall within one run: stop at what is in order
            }
            skip += 1;
        } else if row.after != reached.number {
            break;
        } else {
            reached = Mark { epoch: row.epoch, number: row.number, id: row.id };
            take += 1;
        }
    }
    if take == 0 {
        reached = mark;
    }
    Verdict::Apply { skip, take, mark: reached }
}

#[cfg(test)]
mod tests;
