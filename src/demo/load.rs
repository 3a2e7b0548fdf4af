//! The load: numbered events to one server, and the ledger of what was
//! acknowledged.
//!
//! An event's serial is its user id, so that the receiver's log tells which
//! one it is. Never sends one twice: what fails ends the demo.

use super::verdict::Letter;
use crate::{
    admin::client::Client,
    proto::{
        pillarbox::postbox::v1::SendRequest,
        protocol::sync::v1::{
            Event,
            event::{Kind, UserAddedToGuild},
        },
    },
    types::{Millis, ServerId},
};
use prost::Message;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

/// Events a second to each server, sent as bursts of [`BURST`].
pub const PER_SECOND: u32 = 500;
const BURST: u64 = 5;
/// Calls that wait for their acknowledgement, to each server.
const IN_FLIGHT: usize = 16;
const CALL: Duration = Duration::from_secs(30);
const GUILD: u64 = 1;

/// What one server's events were acknowledged as; clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Letter>>>);

impl Ledger {
    fn note(&self, letter: Letter) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
    }

    pub fn letters(&self) -> Vec<Letter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there are, and how many of them up to a number.
    pub fn count(&self, through: u64) -> (u64, u64) {
        let letters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = letters.iter().filter(|letter| letter.number <= through).count();
        (letters.len() as u64, reached as u64)
    }
}

/// Sends the serials 1 to `events`, several in flight; those above `gate` wait
/// until it was raised. Returns when all are acknowledged.
pub async fn send(
    node: Client,
    to: ServerId,
    events: u64,
    mut gate: watch::Receiver<u64>,
    ledger: Ledger,
) -> Result<(), String> {
    let mut pace = interval(Duration::from_secs(BURST) / PER_SECOND);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut calls = JoinSet::new();
    for serial in 1..=events {
        gate.wait_for(|open| serial <= *open).await.map_err(|_| "the demo ended".to_owned())?;
        if serial % BURST == 1 {
            pace.tick().await;
        }
        while calls.len() >= IN_FLIGHT {
            settle(calls.join_next().await)?;
        }
        calls.spawn(send_one(node.clone(), to.clone(), serial, ledger.clone()));
    }
    while !calls.is_empty() {
        settle(calls.join_next().await)?;
    }
    Ok(())
}

fn settle(ended: Option<Result<Result<(), String>, JoinError>>) -> Result<(), String> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(cause)) => Err(cause.to_string()),
    }
}

async fn send_one(mut node: Client, to: ServerId, serial: u64, ledger: Ledger) -> Result<(), String> {
    let event = Event { kind: Some(Kind::UserAddedToGuild(UserAddedToGuild { user_id: serial, guild_id: GUILD })) };
    let request = SendRequest { to: to.to_string(), events: vec![event.encode_to_vec().into()] };
    let sent_at = Millis::now().0;
    match timeout(CALL, node.send_event(request)).await {
        Ok(Ok(answer)) => {
            ledger.note(Letter { serial, number: answer.into_inner().first_number, sent_at });
            Ok(())
        }
        Ok(Err(status)) => Err(format!("A refused event {serial} for {to}: {}", status.message())),
        Err(_) => Err(format!("A did not acknowledge event {serial} for {to} within {} s", CALL.as_secs())),
    }
}

/// The serial in an event's bytes; `None` if it is none of this demo.
pub fn serial(body: &[u8]) -> Option<u64> {
    match Event::decode(body).ok()?.kind? {
        Kind::UserAddedToGuild(UserAddedToGuild { user_id, guild_id: GUILD }) => Some(user_id),
        _ => None,
    }
}
