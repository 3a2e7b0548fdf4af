//! The postbox's messages to and from what this floor works with.
//!
//! Pure. An event's bytes pass through untouched; whatever a peer sends that is
//! not as it should be comes out as an error text, never a panic.

use super::{
    inbox::Row,
    peers::Page,
    stream::{Mark, Position},
};
use crate::proto::{
    pillarbox::federation::v1 as ours,
    protocol::sync::v1::{PullRequest, PullResponse, PushRequest, PushResponse},
};
use bytes::Bytes;
use prost::Message;

/// No clock gives a later one; beyond it nothing could ever be newer.
pub(super) const EPOCH_MAX: u64 = 1 << 62;

/// The answer to a Pull as it is taken.
#[derive(Debug)]
pub struct PullAnswer {
    /// Absent from a stock peer.
    pub state: Option<Mark>,
    pub rows: Vec<Row>,
}

impl From<Mark> for ours::State {
    fn from(mark: Mark) -> Self {
        Self { epoch: mark.epoch, mark: mark.number, id: mark.id }
    }
}

impl From<Position> for ours::Position {
    fn from(position: Position) -> Self {
        let Position { epoch, number, id, after } = position;
        Self { epoch, number, id, after }
    }
}

pub(super) fn mark(state: Option<ours::State>) -> Result<Option<Mark>, String> {
    let Some(ours::State { epoch, mark: number, id }) = state else { return Ok(None) };
    if epoch > EPOCH_MAX {
        return Err("state.epoch lies beyond any clock".into());
    }
    Ok(Some(Mark { epoch, number, id }))
}

fn position(position: ours::Position) -> Result<Position, String> {
    let ours::Position { epoch, number, id, after } = position;
    if epoch == 0 || epoch > EPOCH_MAX || number == 0 || number > EPOCH_MAX || after >= number {
        return Err("a position whose epoch, number or after cannot be".into());
    }
    Ok(Position { epoch, number, id, after })
}

pub fn push_request(position: Position, event: Bytes) -> Bytes {
    PushRequest { event, position: Some(position.into()) }.encode_to_vec().into()
}

/// A Push as it came.
pub fn read_push(body: Bytes) -> Result<Row, String> {
    let request = PushRequest::decode(body).map_err(|error| format!("not a PushRequest: {error}"))?;
    Ok(Row { position: request.position.map(position).transpose()?, body: request.event })
}

pub fn push_answer(state: Mark) -> Bytes {
    PushResponse { state: Some(state.into()) }.encode_to_vec().into()
}

/// The state of a peer of ours.
pub fn push_response(body: Bytes) -> Result<Option<Mark>, String> {
    let response = PushResponse::decode(body).map_err(|error| format!("not a PushResponse: {error}"))?;
    mark(response.state)
}

pub fn pull_request(state: Mark, waiting: u64) -> Bytes {
    PullRequest { state: Some(state.into()), waiting }.encode_to_vec().into()
}

/// A Pull as it came: state, and whether rows wait there.
pub fn read_pull(body: Bytes) -> Result<(Option<Mark>, bool), String> {
    let request = PullRequest::decode(body).map_err(|error| format!("not a PullRequest: {error}"))?;
    Ok((mark(request.state)?, request.waiting > 0))
}

pub fn pull_answer(page: Page) -> Bytes {
    let (positions, event_queue) =
        page.rows.into_iter().map(|(position, body)| (ours::Position::from(position), body)).unzip();
    PullResponse { event_queue, state: Some(page.state.into()), positions }.encode_to_vec().into()
}

pub fn pull_response(body: Bytes) -> Result<PullAnswer, String> {
    let response = PullResponse::decode(body).map_err(|error| format!("not a PullResponse: {error}"))?;
    let (events, positions) = (response.event_queue, response.positions);
    if !positions.is_empty() && positions.len() != events.len() {
        return Err(format!("{} positions for {} events", positions.len(), events.len()));
    }
    let mut positions = positions.into_iter().map(position);
    let rows = events
        .into_iter()
        .map(|body| Ok(Row { position: positions.next().transpose()?, body }))
        .collect::<Result<_, String>>()?;
    Ok(PullAnswer { state: mark(response.state)?, rows })
}

#[cfg(test)]
mod tests;
