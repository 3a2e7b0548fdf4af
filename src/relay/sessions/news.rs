//! What of a view its watcher does not have yet.
//!
//! Pure.

use crate::proto::pillarbox::relay::v1 as wire;
use std::{collections::HashMap, hash::Hash};

/// What makes `view` of what was `told`; `None`: they say the same. A party or
/// round that is gone cannot be said but by the whole.
pub fn news(told: Option<&wire::View>, view: &wire::View) -> Option<wire::View> {
    let changed = told.and_then(|told| {
        let parties = changed(&told.parties, &view.parties, |party| &*party.party)?;
        Some((parties, changed(&told.rounds, &view.rounds, |round| round.round)?))
    });
    let (whole, parties, rounds) = match (told, changed) {
        (Some(told), Some((parties, rounds))) => {
            if parties.is_empty() && rounds.is_empty() && state(told) == state(view) {
                return None;
            }
            (false, parties, rounds)
        }
        _ => (true, view.parties.clone(), view.rounds.clone()),
    };
    Some(wire::View {
        session_id: view.session_id.clone(),
        whole,
        owner: view.owner.clone(),
        settled: view.settled,
        messages: view.messages,
        cut: view.cut,
        now: view.now,
        expires_at: view.expires_at,
        parties,
        rounds,
        equivocations: view.equivocations.clone(),
        equivocation_count: view.equivocation_count,
    })
}

/// What is worth a view of its own. The clock is not.
fn state(view: &wire::View) -> impl PartialEq {
    (view.owner.clone(), view.settled, view.messages, view.cut, view.equivocation_count)
}

/// The rows that are new or other than before; `None`: one is gone.
fn changed<'a, T: Clone + PartialEq, K: Eq + Hash>(
    before: &'a [T],
    now: &'a [T],
    key: impl Fn(&'a T) -> K,
) -> Option<Vec<T>> {
    let mut old: HashMap<K, &T> = before.iter().map(|row| (key(row), row)).collect();
    let mut other = Vec::new();
    for row in now {
        if old.remove(&key(row)) != Some(row) {
            other.push(row.clone());
        }
    }
    old.is_empty().then_some(other)
}

#[cfg(test)]
mod tests;
