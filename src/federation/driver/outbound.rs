//! The driver towards the peer: Pushes, and the answers to its Pulls.
//!
//! Sends rows as the machine says and reports how they fared.

use super::{Driver, Finished, NextPage, OpenAnswer};
use crate::{
    error::Error,
    federation::{
        delivery::{Call, Failure, Heard, Input},
        peers::{Evidence, Page, PullAsked},
        remote::{CallError, Method},
        stream::{Mark, Position},
        wire,
    },
    store::OutRow,
};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const PUSH_PATIENCE: Duration = Duration::from_secs(30);
/// Bodies in one answer to a Pull, unless a single one is larger.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ROWS: usize = 16_384;
/// How long a page that was read ahead is kept.
const NEXT_PAGE: Duration = Duration::from_secs(5);
/// Rows read ahead of the Push in flight.
const AHEAD_ROWS: usize = 128;
const AHEAD_BYTES: usize = 256 << 10;

impl Driver {
    pub(super) async fn push(&mut self, after: Mark) {
        let row = match self.next_row(after.number).await {
            Ok(Some(row)) => row,
            Ok(None) => return self.inputs.push_back(Input::Empty),
            Err(error) => {
                tracing::warn!(peer = %self.peer.server_id(), %error, "the queue cannot be read");
                return self.inputs.push_back(Input::PushFailed(Failure::Local));
            }
        };
        let position = Position { epoch: after.epoch, number: row.number, id: row.id, after: after.number };
        let request = wire::push_request(position, row.body.clone());
        self.inner.metrics.events_sent.with_label_values(&["push"]).inc();
        let remote = self.remote.clone();
        let (number, id) = (row.number, row.id);
        self.pushing = true;
        self.jobs.spawn(async move {
            let result = remote.call(Method::Push, request, PUSH_PATIENCE).await;
            let result = result.and_then(|answer| wire::push_response(answer).map_err(CallError::transient));
            Finished::Pushed { number, id, result }
        });
    }

    /// The first row after `number`, from what was read ahead if that is of use.
    pub(super) async fn next_row(&mut self, number: u64) -> Result<Option<OutRow>, Error> {
        if self.ahead_of != number || self.ahead.is_empty() {
            self.ahead = self.inner.store.outbox_page(self.row_id, number, AHEAD_ROWS, AHEAD_BYTES).await?.into();
            self.ahead_of = number;
        }
        Ok(self.ahead.front().cloned())
    }

    pub(super) async fn on_pushed(&mut self, number: u64, id: u64, result: Result<Option<Mark>, CallError>) {
        self.pushing = false;
        self.called(&self.inner.metrics.pushes, result.as_ref().err());
        let input = match result {
            Err(error) => Input::PushFailed(error.failure),
            Ok(None) => Input::Pushed { number, id, heard: None },
            Ok(Some(mark)) if mark.number == number => {
                Input::Pushed { number, id, heard: Some(Heard { mark, id_here: Some(id) }) }
            }
            Ok(Some(mark)) => match self.heard(mark).await {
                Ok(heard) => Input::Pushed { number, id, heard: Some(heard) },
                Err(_) => Input::PushFailed(Failure::Local),
            },
        };
        self.give(input).await;
    }

    /// What we know of the row at a mark the peer told.
    pub(super) async fn heard(&self, mark: Mark) -> Result<Heard, Error> {
        let id_here = match mark.number {
            0 => None,
            number => self.inner.store.sent_id(self.row_id, number).await?,
        };
        Ok(Heard { mark, id_here })
    }

    /// Rows that were read ahead may be gone.
    pub(super) fn drop_ahead(&mut self) {
        self.ahead.clear();
        self.next_page = None;
        self.reading += 1;
    }

    pub(super) async fn look_again(&mut self) {
        self.drop_ahead();
        match self.inner.store.outbox_total(self.row_id).await {
            Ok(total) => {
                self.peer.recount(total.map_or((0, 0), |total| (total.rows, total.bytes)));
                self.give(Input::Dropped { newest: total.map_or(0, |total| total.newest) }).await;
            }
            Err(error) => tracing::warn!(peer = %self.peer.server_id(), %error, "the queue cannot be read"),
        }
    }

    pub(super) async fn on_pull_asked(&mut self, asked: PullAsked, reply: oneshot::Sender<Result<Page, Error>>) {
        if let Some(evidence) = &asked.evidence {
            // It used the connection of earlier answers again, so those that were written arrived.
            let connection = evidence.connection;
            let arrived = |open: &mut OpenAnswer| open.connection == connection && open.sent.is_written();
            let arrived: Vec<Call> = self.open_answers.extract_if(.., arrived).map(|open| open.call).collect();
            for call in arrived {
                self.give(Input::AnswerSettled { call }).await;
            }
        }
        let heard = match asked.state {
            None => None,
            Some(mark) => match self.heard(mark).await {
                Ok(heard) => Some(heard),
                Err(error) => {
                    let _ = reply.send(Err(error));
                    return;
                }
            },
        };
        self.calls += 1;
        let waiting = asked.waiting;
        self.asked = Some((asked, reply));
        self.give(Input::PullAsked { call: self.calls, heard, waiting }).await;
    }

    pub(super) async fn answer_pull(&mut self, call: Call, after: Option<Mark>) {
        let Some((asked, reply)) = self.asked.take() else { return };
        let mut page = Page { rows: vec![], state: self.applied };
        // A peer that has not heard of our new id gets nothing under it: it is told first.
        let Some(after) = after.filter(|_| self.peer.known_as().is_none()) else {
            let _ = reply.send(Ok(page));
            return;
        };
        // Read before the page: what is committed since is not "all there was".
        let newest = *self.newest.borrow();
        let rows = match self.page(after.number).await {
            Ok(rows) => rows,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let Some((number, id)) = rows.last().map(|row| (row.number, row.id)) else {
            let _ = reply.send(Ok(page));
            return self.inputs.push_back(Input::Empty);
        };
        let mut before = after.number;
        for row in rows {
            let position = Position { epoch: after.epoch, number: row.number, id: row.id, after: before };
            before = row.number;
            page.rows.push((position, row.body));
        }
        let all = number >= newest;
        self.inputs.push_back(Input::Offered { call, number, id, all });
        if !all && asked.state.is_some() {
            self.read_ahead(number);
        }
        let gone = reply.send(Ok(page)).is_err();
        if asked.state.is_none() {
            self.watch_answer(call, asked.evidence, gone);
        }
    }

    async fn page(&mut self, after: u64) -> Result<Vec<OutRow>, Error> {
        match self.next_page.take() {
            Some(page) if page.after == after => Ok(page.rows),
            _ => self.inner.store.outbox_page(self.row_id, after, PAGE_ROWS, PAGE_BYTES).await,
        }
    }

    /// Reads the page that the peer will ask for when it has applied the one
    /// before.
    fn read_ahead(&mut self, after: u64) {
        let (inner, row_id, reading) = (self.inner.clone(), self.row_id, self.reading);
        self.jobs.spawn(async move {
            match inner.store.outbox_page(row_id, after, PAGE_ROWS, PAGE_BYTES).await {
                Ok(rows) if !rows.is_empty() => {
                    Finished::ReadAhead(NextPage { after, rows, reading, until: Instant::now() + NEXT_PAGE })
                }
                // Whoever asks for it hears what is wrong.
                _ => Finished::Noted,
            }
        });
    }

    /// Towards a stock peer only the connection tells whether an answer arrived.
    pub(super) fn watch_answer(&mut self, call: Call, evidence: Option<Evidence>, gone: bool) {
        match evidence {
            Some(evidence) if !gone => {
                self.open_answers.push(OpenAnswer { call, connection: evidence.connection, sent: evidence.sent() });
                let settle = self.inner.config.stock_settle;
                self.jobs.spawn(async move { Finished::Fate { call, arrived: evidence.arrived(settle).await } });
            }
            _ => self.inputs.push_back(Input::AnswerBroken { call }),
        }
    }
}
