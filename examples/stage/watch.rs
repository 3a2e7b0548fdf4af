//! Between a protocol and the router: sees which rounds a party has sent and
//! whom it has heard, and reports it. Changes no message.
//!
//! In the run of the outage it holds the party back before one round, until
//! node C is gone.

use super::{Report, Standing, party::report, short};
use ::round_based::{Incoming, MpcParty, Outgoing, ProtocolMessage};
use futures_util::{Sink, future::BoxFuture};
use pillarbox::client::round_based::{DeliveryError, Incomings, Outgoings};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::sync::watch::Receiver;
use tokio_stream::Stream;

/// A party whose messages are seen.
pub type Watched<M> = MpcParty<M, (Ins<M>, Outs<M>)>;

/// What one party has sent and heard in one run.
pub struct Board {
    run: String,
    names: Vec<String>,
    own: usize,
    /// The round before which it holds.
    holds: Option<u16>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    heard: HashSet<(u16, usize)>,
    last: Option<Standing>,
}

impl Board {
    pub fn new(run: String, names: &[String], own: u16, holds: Option<u16>) -> Self {
        let names = names.iter().map(|name| short(name).to_owned()).collect();
        Self { run, names, own: usize::from(own), holds, told: Mutex::default() }
    }

    fn tell(&self, told: &mut Told, standing: Standing) {
        if told.last.as_ref() != Some(&standing) {
            report(&Report::Standing { run: self.run.clone(), standing: standing.clone() });
            told.last = Some(standing);
        }
    }

    fn with(&self, look: impl FnOnce(&Self, &mut Told)) {
        look(self, &mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn says(&self, standing: Standing) {
        self.with(|board, told| board.tell(told, standing));
    }

    fn waits(&self, told: &mut Told, round: u16) {
        let others = self.names.iter().enumerate().filter(|(at, _)| *at != self.own);
        let whom = others.filter(|(at, _)| !told.heard.contains(&(round, *at))).map(|(_, name)| name.clone());
        let standing = Standing::Waits { round, whom: whom.collect() };
        self.tell(told, standing);
    }

    fn sent(&self, round: u16) {
        self.with(|board, told| board.waits(told, round));
    }

    fn heard(&self, round: u16, sender: u16) {
        self.with(|board, told| {
            told.heard.insert((round, usize::from(sender)));
            if let Some(Standing::Waits { round, .. }) = told.last {
                board.waits(told, round);
            }
        });
    }
}

pub fn watch<M>(delivery: (Incomings<M>, Outgoings<M>), board: Arc<Board>, gate: Receiver<bool>) -> (Ins<M>, Outs<M>) {
    let (ins, outs) = delivery;
    let ins = Ins { inner: ins, board: board.clone() };
    (ins, Outs { inner: outs, board, gate, held: None, under_way: None })
}

pub struct Ins<M> {
    inner: Incomings<M>,
    board: Arc<Board>,
}

impl<M: ProtocolMessage + DeserializeOwned> Stream for Ins<M> {
    type Item = Result<Incoming<M>, DeliveryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.inner).poll_next(cx));
        if let Some(Ok(incoming)) = &next {
            self.board.heard(incoming.msg.round(), incoming.sender);
        }
        Poll::Ready(next)
    }
}

pub struct Outs<M> {
    inner: Outgoings<M>,
    board: Arc<Board>,
    gate: Receiver<bool>,
    /// Waits for the director's word.
    held: Option<(Outgoing<M>, BoxFuture<'static, ()>)>,
    /// The round of what the node does not have yet.
    under_way: Option<u16>,
}

impl<M> Unpin for Outs<M> {}

impl<M: ProtocolMessage + Serialize> Outs<M> {
    /// Hands on what was held, once it may go.
    fn release(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        if let Some((_, opened)) = &mut self.held {
            ready!(opened.as_mut().poll(cx));
        }
        if let Some((message, _)) = self.held.take() {
            self.board.says(Standing::Sends { round: message.msg.round() });
            Pin::new(&mut self.inner).start_send(message)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<M: ProtocolMessage + Serialize> Sink<Outgoing<M>> for Outs<M> {
    type Error = DeliveryError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        ready!(self.release(cx))?;
        Pin::new(&mut self.inner).poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Outgoing<M>) -> Result<(), DeliveryError> {
        let round = message.msg.round();
        self.under_way = Some(round);
        if self.board.holds == Some(round) && !*self.gate.borrow() {
            self.board.says(Standing::Holds { round });
            let mut gate = self.gate.clone();
            let opened = async move {
                // If the director is gone this process is about to end.
                let _ = gate.wait_for(|open| *open).await;
            };
            self.held = Some((message, Box::pin(opened)));
            return Ok(());
        }
        self.board.says(Standing::Sends { round });
        Pin::new(&mut self.inner).start_send(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        ready!(self.release(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        if let Some(round) = self.under_way.take() {
            self.board.sent(round);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        ready!(self.release(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
