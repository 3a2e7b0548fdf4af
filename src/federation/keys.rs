//! Learning the keys of other servers by `AuthService/Key`.
//!
//! A stranger's call can make this node dial, so every way to overdo it is
//! bounded: one fetch a server at a time, sixteen in all, one a second for each
//! address that asks, failures remembered for a minute. A key counts only when
//! its channel was verified.

use super::remote::{CallError, Introduction, ask_key};
use crate::{
    error::Error,
    metrics::Metrics,
    net::{
        dial::{Dialer, Target},
        limits::Client,
        tls::Verified,
    },
    types::ServerId,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const AT_ONCE: usize = 16;
const FAILURE_KEPT: Duration = Duration::from_secs(60);
/// A key that was fetched a moment ago is not fetched again for a bad signature.
const SUCCESS_KEPT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// Servers and addresses remembered; beyond that the oldest are forgotten.
const REMEMBERED_MAX: usize = 10_000;

type Outcome = Option<Result<Introduction, String>>;

pub struct Keys {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    /// What it spawns is among these and ends with `stop`.
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    fetches: HashMap<ServerId, (Instant, watch::Receiver<Outcome>)>,
    asked: HashMap<Client, Instant>,
}

impl Keys {
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), state: Mutex::default(), tasks, stop }
    }

    /// The key a server shows over a verified channel. `replaces`: another key
    /// may come in its place; then plaintext does not count. `address`: who makes us ask.
    pub async fn fetch(
        &self,
        dialer: &Dialer,
        target: Target,
        replaces: bool,
        address: Option<IpAddr>,
        metrics: &Metrics,
    ) -> Result<Introduction, Error> {
        let (id, pinned) = (target.id.clone(), target.pinned);
        let (mut outcome, sender) = self.join(&id, address)?;
        if let Some(sender) = sender {
            let (dialer, places, metrics) = (dialer.clone(), self.places.clone(), metrics.clone());
            // A task of its own: the caller may hang up, others wait for the same answer.
            self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(async move {
                let result = ask(&dialer, &target, &places).await.map_err(|error| error.text);
                metrics.key_fetches.with_label_values(&[if result.is_ok() { "ok" } else { "failed" }]).inc();
                sender.send_replace(Some(result));
            }));
        }
        let unavailable = |text: String| Error::unavailable(format!("the key of {id} cannot be fetched: {text}"));
        let found = match outcome.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            Err(_) => None,
        };
        let introduction = found.unwrap_or_else(|| Err("the attempt was given up".into())).map_err(unavailable)?;
        match introduction.verified {
            Verified::WebPki => Ok(introduction),
            // The certificate speaks for the pinned key, and for that alone.
            Verified::Pinned if pinned == Some(introduction.key) => Ok(introduction),
            // Loopback, by the operator's word.
            Verified::Plaintext if !replaces => Ok(introduction),
            Verified::Pinned | Verified::Plaintext => Err(unavailable("the channel does not prove whose it is".into())),
        }
    }

    /// Joins a fetch under way or remembered, or starts one (then there is a
    /// sender for its outcome).
    fn join(
        &self,
        id: &ServerId,
        address: Option<IpAddr>,
    ) -> Result<(watch::Receiver<Outcome>, Option<watch::Sender<Outcome>>), Error> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, outcome)) = state.fetches.get(id) {
            let kept = match &*outcome.borrow() {
                None => PATIENCE * 2,
                Some(Ok(_)) => SUCCESS_KEPT,
                Some(Err(_)) => FAILURE_KEPT,
            };
            if now.saturating_duration_since(*at) < kept {
                return Ok((outcome.clone(), None));
            }
        }
        if let Some(address) = address {
            let client = Client::from(address);
            if state.asked.get(&client).is_some_and(|at| now.saturating_duration_since(*at) < ASK_EVERY) {
                return Err(Error::Exhausted {
                    message: "this address makes the server look up keys too often: one a second".into(),
                    retry_after: Some(ASK_EVERY),
                });
            }
            forget_old(&mut state.asked, |at| now.saturating_duration_since(*at) < ASK_EVERY);
            state.asked.insert(client, now);
        }
        forget_old(&mut state.fetches, |(at, _)| now.saturating_duration_since(*at) < FAILURE_KEPT);
        if state.fetches.len() >= REMEMBERED_MAX {
            return Err(Error::unavailable("too many keys are being looked up; try again"));
        }
        let (sender, receiver) = watch::channel(None);
        state.fetches.insert(id.clone(), (now, receiver.clone()));
        Ok((receiver, Some(sender)))
    }
}

/// Keeps the map bounded; walks it only when it is full.
fn forget_old<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, keep: impl Fn(&V) -> bool) {
    if map.len() >= REMEMBERED_MAX {
        map.retain(|_, value| keep(value));
    }
}

async fn ask(dialer: &Dialer, target: &Target, places: &Semaphore) -> Result<Introduction, CallError> {
    let deadline = Instant::now() + PATIENCE;
    let late = |_| CallError::transient("no answer in time");
    let _place = tokio::time::timeout_at(deadline, places.acquire())
        .await
        .map_err(late)?
        .map_err(|_| CallError::transient("stopping"))?;
    let link = dialer.dial(target, deadline).await?;
    tokio::time::timeout_at(deadline, ask_key(&link)).await.map_err(late)?
}

#[cfg(test)]
mod tests;
