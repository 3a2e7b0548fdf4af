//! Pages of the log, read once for all streams that are at the same place.
//!
//! Few are read at a time, whatever the number of gateways: the readers of the
//! database are there for others, too.

use super::Push;
use crate::{error::Error, proto::galaxy::backend::push::v1 as proto, store::push::Row, types::Cursor};
use proto::push_event::Kind;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Semaphore;

/// Rows and bytes of one page.
const ROWS: usize = 512;
const BYTES: usize = 128 << 10;
/// Pages that are kept for others.
const KEPT: usize = 8;
/// Pages that are read at the same time.
const READS: usize = 2;

pub struct Pages {
    kept: Mutex<VecDeque<Arc<Page>>>,
    reads: Semaphore,
}

impl Default for Pages {
    fn default() -> Self {
        Self { kept: Mutex::default(), reads: Semaphore::new(READS) }
    }
}

/// A run of the log.
pub struct Page {
    after: u64,
    last: u64,
    rows: Vec<Row>,
}

impl Page {
    /// The cursor of its last event, if there may be more behind it.
    pub fn goes_on(&self) -> Option<u64> {
        let is_full = self.rows.len() == ROWS || self.rows.iter().map(Row::size).sum::<usize>() > BYTES / 2;
        is_full.then_some(self.last)
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Something behind the cursor is in it, and nothing is left out before.
    pub fn is_behind(&self, cursor: u64) -> bool {
        self.after <= cursor && cursor < self.last
    }
}

impl Pages {
    fn find(&self, after: u64) -> Option<Arc<Page>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|page| page.is_behind(after)).cloned()
    }

    fn keep(&self, page: Arc<Page>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // One that goes further from the same place is as good.
        kept.retain(|older| older.after != page.after);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(page);
    }
}

impl Push {
    /// What is behind a cursor, as much of it as one page holds; it may be empty.
    pub(super) async fn page(&self, after: u64) -> Result<Arc<Page>, Error> {
        let pages = &self.0.pages;
        if let Some(page) = pages.find(after) {
            return Ok(page);
        }
        let _turn = pages.reads.acquire().await.map_err(Error::internal)?;
        // Somebody may have read it meanwhile.
        if let Some(page) = pages.find(after) {
            return Ok(page);
        }
        let rows = self.0.store.push_page(after, ROWS, BYTES).await?;
        let last = rows.last().map_or(after, |row| row.cursor);
        let page = Arc::new(Page { after, last, rows });
        if page.last > after {
            pages.keep(page.clone());
        }
        Ok(page)
    }
}

/// A place in a page.
pub struct Place {
    page: Arc<Page>,
    row: usize,
    /// Bytes of the row's users that are behind it.
    offset: usize,
    /// The cursor of the next user of the row.
    next: u64,
}

impl Place {
    /// The first behind a cursor.
    pub fn behind(page: Arc<Page>, cursor: u64) -> Self {
        let row = page.rows.partition_point(|row| row.cursor <= cursor);
        let next = page.rows.get(row).map_or(0, Row::first);
        let mut place = Self { page, row, offset: 0, next };
        while place.row < place.page.rows.len() && place.next <= cursor {
            place.step();
        }
        place
    }

    /// The next event, and its cursor.
    pub fn event(&mut self) -> Option<(u64, proto::PushEvent)> {
        let row = self.page.rows.get(self.row)?;
        let user = row.users[self.offset..].split(' ').next().unwrap_or_default();
        let event = (self.next, event(row, user, self.next));
        self.step();
        Some(event)
    }

    fn step(&mut self) {
        let Some(row) = self.page.rows.get(self.row) else { return };
        match row.users[self.offset..].find(' ') {
            Some(space) => (self.offset, self.next) = (self.offset + space + 1, self.next + 1),
            None => {
                (self.row, self.offset) = (self.row + 1, 0);
                self.next = self.page.rows.get(self.row).map_or(0, Row::first);
            }
        }
    }
}

/// What one user is told by a row.
fn event(row: &Row, user: &str, cursor: u64) -> proto::PushEvent {
    use crate::store::push::What;
    let (user_id, device_session_id) = (user.to_owned(), row.session.clone());
    let kind = match &row.what {
        What::Event { kind, payload, event_id, request_id, trace_id } => Kind::ClientEvent(proto::ClientEvent {
            user_id,
            device_session_id,
            kind: kind.clone(),
            payload: payload.clone(),
            event_id: event_id.clone(),
            request_id: request_id.clone(),
            trace_id: trace_id.clone(),
        }),
        What::Ended(reason) => {
            Kind::SessionInvalidation(proto::SessionInvalidation { device_session_id, user_id, reason: reason.clone() })
        }
    };
    proto::PushEvent { kind: Some(kind), cursor: Cursor(cursor).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::push::What;

    fn row(cursor: u64, users: &str) -> Row {
        let what = What::Ended("revoked".into());
        Row { cursor, users: users.into(), session: "s".into(), what }
    }

    fn all(after: u64, cursor: u64) -> Vec<(u64, String)> {
        let rows = vec![row(10, "a"), row(14, "b c d"), row(20, "e"), row(22, "f g")];
        let mut place = Place::behind(Arc::new(Page { after, last: 22, rows }), cursor);
        let next = || {
            let (cursor, event) = place.event()?;
            assert_eq!(event.cursor, Cursor(cursor).to_string());
            match event.kind? {
                Kind::SessionInvalidation(told) => Some((cursor, told.user_id)),
                Kind::ClientEvent(_) => None,
            }
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn every_user_of_a_row_is_an_event_and_a_place_may_be_between_them() {
        let whole = [(10, "a"), (12, "b"), (13, "c"), (14, "d"), (20, "e"), (21, "f"), (22, "g")];
        for (cursor, skipped) in
            [(0, 0), (9, 0), (10, 1), (11, 1), (12, 2), (13, 3), (14, 4), (19, 4), (21, 6), (22, 7)]
        {
            let expected: Vec<_> =
                whole[skipped..].iter().map(|(cursor, user)| (*cursor, (*user).to_owned())).collect();
            assert_eq!(all(0, cursor), expected, "after {cursor}");
        }
    }

    #[test]
    fn a_page_is_found_by_those_inside_of_it_only() {
        let pages = Pages::default();
        for n in 0..20 {
            pages.keep(Arc::new(Page { after: n * 10, last: n * 10 + 5, rows: vec![] }));
        }
        assert!(pages.find(20).is_none(), "only the last ones are kept");
        for (after, there) in [(190, true), (194, true), (195, false), (189, false)] {
            assert_eq!(pages.find(after).is_some(), there, "{after}");
        }
    }
}
