//! Sessions as those see them who wait for something: how far everybody is, what
//! was accepted, who said what to everybody.
//!
//! Reads rows, bounded, when somebody asks; who watches is woken by what changes
//! and reads at most four times a second. Writes nothing.

mod news;
mod service;
mod watch;
mod watchers;

pub use service::{Service, operator_service};
pub(super) use watchers::Watchers;

use super::{
    Relay,
    evidence::{self, Proof, Slot, TRANSCRIPT},
    names,
    router::Members,
};
use crate::{
    error::Error,
    identity::principal::Principal,
    proto::pillarbox::relay::v1 as wire,
    store::relay::{SlotRow, chain::Head},
    types::{Millis, PartyRef, PeerId},
};
use bytes::Bytes;
use std::{collections::HashSet, time::Duration};
use tokio::time::sleep;

/// Sessions, slots and equivocations in one answer.
const PAGE_ROWS: usize = 1_000;
const LISTED: usize = 100;
/// Payloads in one answer of Evidence, and records of each.
const PAYLOADS: usize = 64;
const RECORDS: usize = 4;
/// Equivocations that come closely together are looked for together.
const GATHER: Duration = Duration::from_millis(50);

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Over the operator's socket.
    Operator,
    Principal(Principal),
}

impl Relay {
    /// What is known of a session, if the caller may see it: anybody trusted,
    /// and its parties.
    fn visible(&self, caller: &Caller, session: &str) -> Result<Members, Error> {
        let members = self.router().members(session);
        match caller {
            Caller::Principal(Principal::Party(own)) => {
                let denied =
                    || Error::Denied(format!("session_id: party:{own} is no party of the session {session:?}"));
                members
                    .filter(|members| self.own_party(own).is_some_and(|me| members.parties.contains(&me)))
                    .ok_or_else(denied)
            }
            Caller::Operator | Caller::Principal(Principal::Service(_) | Principal::Admin(_)) => {
                members.ok_or_else(|| Error::NotFound(format!("session_id: no session {session:?} is kept here")))
            }
            Caller::Principal(other) => Err(Error::Denied(format!("{other} may not see sessions"))),
        }
    }

    /// The party of this node that a principal's name stands for.
    fn own_party(&self, own: &str) -> Option<PartyRef> {
        let name = self.name("principal", own).ok().filter(|name| name.server.is_none())?.name;
        Some(PartyRef { peer: PeerId::SELF, name })
    }

    async fn list(&self, caller: &Caller, request: wire::ListRequest) -> Result<wire::ListResponse, Error> {
        let limit = match request.limit as usize {
            0 => LISTED,
            limit => limit.min(PAGE_ROWS),
        };
        let of = match caller {
            Caller::Principal(Principal::Party(own)) => {
                Some(self.own_party(own).ok_or_else(|| Error::Denied(format!("party:{own} is of another server")))?)
            }
            Caller::Principal(other @ (Principal::User(_) | Principal::Gateway(_))) => {
                return Err(Error::Denied(format!("{other} may not see sessions")));
            }
            _ => None,
        };
        let found = self.router().page(&request.after, limit, of.as_ref());
        let mut sessions = Vec::with_capacity(found.len());
        for (session_id, members) in found {
            let last = self.0.store.last_slot(&session_id).await?;
            let equivocations = self.0.store.equivocation_count(&session_id).await?;
            let slot = last.as_ref().and_then(|row| Slot::read(&row.session, &row.entry, row.digest));
            sessions.push(wire::Session {
                owner: self.owner(members.owner).await?,
                settled: members.settled,
                parties: number(members.parties.len() as u64),
                messages: last.as_ref().map_or(0, |row| row.position),
                round: slot.map_or(0, |slot| slot.round),
                active_at: last.and_then(|row| row.accepted_at).map_or(0, |at| at.0),
                expires_at: members.until.0,
                equivocations: number(equivocations),
                session_id,
            });
        }
        Ok(wire::ListResponse { sessions })
    }

    async fn owner(&self, owner: Option<PeerId>) -> Result<String, Error> {
        match owner {
            None => Ok(String::new()),
            Some(PeerId::SELF) => Ok(self.federation()?.own_id().to_string()),
            Some(peer) => Ok(self.federation()?.name_of(peer).await?.to_string()),
        }
    }

    async fn transcript(
        &self,
        caller: &Caller,
        request: wire::TranscriptRequest,
    ) -> Result<wire::TranscriptResponse, Error> {
        let session = request.session_id;
        self.visible(caller, &session)?;
        let limit = match request.limit as usize {
            0 => PAGE_ROWS,
            limit => limit.min(PAGE_ROWS),
        };
        let rows = self.0.store.slots(&session, request.after, limit).await?;
        // After the slots, so that it is not behind them.
        let head = self.0.store.last_slot(&session).await?.map_or_else(Head::default, |row| row.head());
        let read = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let twice = self.0.store.claimed_twice(&session, read.iter().filter_map(Slot::claim)).await?;
        let slots = rows.iter().zip(read).map(|(row, slot)| shown(row, slot, &twice)).collect();
        let bytes = evidence::head_bytes(&session, head.position, &head.link);
        let signature = self.0.key.sign(TRANSCRIPT, &bytes);
        let head = wire::Head {
            session_id: session,
            position: head.position,
            link: Bytes::copy_from_slice(&head.link),
            server_id: self.federation()?.own_id().to_string(),
            key: Bytes::copy_from_slice(self.0.key.public().as_bytes()),
            signature: Bytes::copy_from_slice(&signature),
        };
        Ok(wire::TranscriptResponse { slots, head: Some(head) })
    }

    async fn evidence(&self, caller: &Caller, request: wire::EvidenceRequest) -> Result<wire::EvidenceResponse, Error> {
        let wire::EvidenceRequest { session_id: session, round_number: round, message_type: kind, sender } = request;
        self.visible(caller, &session)?;
        if round == 0 && kind.is_empty() {
            let text = "message_type: a broadcast of round 0 without a type claims nothing; its signature is in the transcript";
            return Err(Error::invalid(text));
        }
        let (mut records, mut equivocation) = (Vec::new(), false);
        for sender in self.senders(&sender)? {
            let claim = evidence::claim(round, &kind, &sender);
            let rows = self.0.store.claimed(&session, &claim, PAYLOADS, RECORDS).await?;
            // Each name is a slot of its own: what was signed for two slots contradicts nothing.
            equivocation |= rows.windows(2).any(|pair| pair[0].digest != pair[1].digest);
            for row in &rows {
                records.push(record(row)?);
            }
        }
        Ok(wire::EvidenceResponse { records, equivocation })
    }

    /// What a party's name may stand as in transcripts: with the id its server
    /// has, and with those it had.
    fn senders(&self, text: &str) -> Result<Vec<String>, Error> {
        let federation = self.federation()?;
        let name = self.name("sender", text)?;
        let ids = match &name.server {
            None => [vec![federation.own_id()], federation.former_ids()].concat(),
            Some(server) => match federation.peer(server) {
                Ok(peer) => [vec![peer.server_id()], federation.former_ids_of(&peer)].concat(),
                Err(_) => vec![server.clone()],
            },
        };
        Ok(ids.iter().map(|id| names::show(&name.name, Some(id))).collect())
    }

    /// A message was accepted: watchers hear of it. `claims`: it is a broadcast
    /// of which there should be one.
    pub(super) fn accepted(&self, session: &str, claims: bool) {
        self.0.watchers.changed(session);
        if claims {
            self.0.comparing.notify_one();
        }
    }

    /// Says aloud which claims were made twice, until the node stops.
    pub(super) async fn compare(self, mut after: u64) {
        while self.0.stop.run_until_cancelled(self.0.comparing.notified()).await.is_some() {
            if self.0.stop.run_until_cancelled(sleep(GATHER)).await.is_none() {
                return;
            }
            match self.0.store.equivocations(None, after, PAGE_ROWS).await {
                Ok(rows) => {
                    for row in &rows {
                        after = row.number;
                        self.equivocated(&row.session, &row.entry);
                    }
                    if rows.len() >= PAGE_ROWS {
                        self.0.comparing.notify_one();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "equivocations could not be looked for; with the next broadcast again");
                }
            }
        }
    }

    fn equivocated(&self, session: &str, entry: &[u8]) {
        self.0.metrics.equivocations.inc();
        if let Some(slot) = Slot::read(session, entry, [0; 32]) {
            let Slot { round, kind, sender, .. } = slot;
            tracing::warn!(
                session,
                round,
                kind,
                sender,
                "two payloads were broadcast for one round, type and sender; `pillarbox mpc evidence` shows them"
            );
        }
        self.0.watchers.changed(session);
    }
}

fn number(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn read(row: &SlotRow) -> Result<Slot, Error> {
    Slot::read(&row.session, &row.entry, row.digest).ok_or_else(|| Error::internal("a slot cannot be read back"))
}

/// Key and signature, or nothing.
fn proof(row: &SlotRow) -> (Bytes, Bytes) {
    let proof = row.proof.as_ref().map(Proof::of_bytes);
    proof.map_or_else(Default::default, |proof| {
        (Bytes::copy_from_slice(&proof.key), Bytes::copy_from_slice(&proof.signature))
    })
}

fn shown(row: &SlotRow, slot: Slot, twice: &HashSet<[u8; 16]>) -> wire::Slot {
    let (key, signature) = proof(row);
    wire::Slot {
        position: row.position,
        equivocation: slot.claim().is_some_and(|claim| twice.contains(&claim)),
        round_number: slot.round,
        message_type: slot.kind,
        sender: slot.sender,
        message_id: slot.message_id,
        broadcast: slot.broadcast,
        payload_sha256: Bytes::copy_from_slice(&row.digest),
        before: Bytes::copy_from_slice(&row.before),
        link: Bytes::copy_from_slice(&row.link()),
        key,
        signature,
        repeated: row.message.is_none(),
        accepted_at: row.accepted_at.unwrap_or(Millis(0)).0,
    }
}

fn record(row: &SlotRow) -> Result<wire::Record, Error> {
    let slot = read(row)?;
    let (key, signature) = proof(row);
    Ok(wire::Record {
        session_id: slot.session,
        round_number: slot.round,
        message_type: slot.kind,
        sender: slot.sender,
        message_id: slot.message_id,
        payload_sha256: Bytes::copy_from_slice(&row.digest),
        key,
        signature,
    })
}
