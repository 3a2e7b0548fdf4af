//! The rows of the push log from many ops, and how they are written together.
//!
//! Pure but for the statements it makes. A row gets the cursors of all its
//! users, also one that turns out to be there already: cursors may have gaps.

use super::{Change, Log, change::NewEvent, log};
use crate::{
    store::rows::{ManyRows, Script, bits},
    types::Millis,
};
use bytes::Bytes;
use std::sync::LazyLock;

#[derive(Debug, Default)]
pub(in crate::store) struct Batch {
    rows: Vec<NewRow>,
}

/// A row with its cursor.
#[derive(Debug)]
pub(super) struct NewRow {
    pub(super) cursor: u64,
    pub(super) total: u64,
    pub(super) users: String,
    pub(super) session: String,
    /// Kind and id; `None`: a session ended.
    pub(super) event: Option<(String, String)>,
    pub(super) request_id: String,
    pub(super) trace_id: String,
    pub(super) payload: Bytes,
    pub(super) stored_at: Millis,
}

impl Batch {
    /// Takes a grouped change.
    pub(in crate::store) fn take(&mut self, change: &Change, log: &mut Log) {
        let Change::Event(event) = change else { return };
        let NewEvent { users, session, kind, payload, event_id, request_id, trace_id, stored_at } = &**event;
        if !log.open || users.is_empty() {
            return;
        }
        let recipients = users.len() as u64;
        log.next += recipients;
        log.total += recipients;
        self.rows.push(NewRow {
            cursor: log.next - 1,
            total: log.total,
            users: users.join(" "),
            session: session.clone(),
            event: Some((kind.clone(), event_id.clone())),
            request_id: request_id.clone(),
            trace_id: trace_id.clone(),
            payload: payload.clone(),
            stored_at: *stored_at,
        });
    }

    /// Adds that one session ended.
    pub(super) fn end(&mut self, user: String, session: String, reason: &'static str, at: Millis, log: &mut Log) {
        log.next += 1;
        log.total += 1;
        self.rows.push(NewRow {
            cursor: log.next - 1,
            total: log.total,
            users: user,
            session,
            event: None,
            request_id: String::new(),
            trace_id: String::new(),
            payload: Bytes::from_static(reason.as_bytes()),
            stored_at: at,
        });
    }

    pub(in crate::store) fn write(&self, script: &mut Script, log: Log) {
        static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
            ManyRows::new(
                "INSERT INTO push (cursor, users, total, stored_at, session, kind, event_id, request_id, trace_id,
                 payload) VALUES",
                "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                "ON CONFLICT (event_id, users) DO NOTHING",
            )
        });
        if self.rows.is_empty() {
            return;
        }
        INSERT.write_counted(script, &self.rows, |script, row| {
            let (kind, event_id) = row.event.clone().unzip();
            script.bind(bits(row.cursor)).bind(row.users.clone()).bind(bits(row.total)).bind(row.stored_at.0);
            script.bind(row.session.clone()).bind(kind).bind(event_id);
            script.bind(row.request_id.clone()).bind(row.trace_id.clone()).bind(row.payload.to_vec());
        });
        log::put(script, log);
    }
}
