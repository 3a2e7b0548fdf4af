//! Sessions and who is in them.

use super::batch::{Batch, PutSession};
use crate::{
    error::Error,
    store::{
        Store, error,
        rows::{ManyRows, Script},
    },
    types::{Millis, PartyRef, PeerId},
};
use std::{collections::HashMap, sync::LazyLock};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    pub session: String,
    /// Who announced it; `None`: nobody.
    pub owner: Option<PeerId>,
    /// An event named its parties; else they came by themselves.
    pub settled: bool,
    pub until: Millis,
    /// By server and name.
    pub parties: Vec<PartyRef>,
}

impl Store {
    /// All of them, by name. For the start.
    pub async fn sessions(&self) -> Result<Vec<SessionRow>, Error> {
        let sessions: Vec<(String, Option<i64>, bool, i64)> =
            sqlx::query_as("SELECT session, owner, settled, until FROM session ORDER BY session")
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        let parties: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT session, peer, party FROM session_party ORDER BY session, peer, party")
                .fetch_all(&self.readers)
                .await
                .map_err(error)?;
        let mut members: HashMap<String, Vec<PartyRef>> = HashMap::new();
        for (session, peer, name) in parties {
            members.entry(session).or_default().push(PartyRef { peer: PeerId(peer), name });
        }
        let row = |(session, owner, settled, until): (String, Option<i64>, bool, i64)| {
            let parties = members.remove(&session).unwrap_or_default();
            SessionRow { session, owner: owner.map(PeerId), settled, until: Millis(until), parties }
        };
        Ok(sessions.into_iter().map(row).collect())
    }
}

pub(super) fn write(script: &mut Script, batch: &Batch<'_>) {
    static TOUCH: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH touch (session, until) AS (VALUES",
            "(?, ?)",
            ") UPDATE session SET until = max(session.until, touch.until) FROM touch
             WHERE session.session = touch.session",
        )
    });
    let touched: Vec<_> =
        batch.sessions.iter().filter_map(|(session, change)| Some((session, change.touched?))).collect();
    TOUCH.write(script, &touched, |script, (session, until)| {
        script.bind((*session).clone()).bind(until.0);
    });
    let put: Vec<_> =
        batch.sessions.iter().filter_map(|(session, change)| Some((session, change.put.as_ref()?))).collect();
    write_sessions(script, &put);
    write_parties(script, &put);
}

fn write_sessions(script: &mut Script, put: &[(&String, &PutSession)]) {
    static PUT: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "INSERT INTO session (session, owner, settled, until) VALUES",
            "(?, ?, ?, ?)",
            "ON CONFLICT (session) DO UPDATE
             SET owner = coalesce(excluded.owner, session.owner),
                 settled = max(session.settled, excluded.settled), until = max(session.until, excluded.until)",
        )
    });
    PUT.write(script, put, |script, (session, put)| {
        script.bind((*session).clone()).bind(put.owner.map(|owner| owner.0)).bind(put.settled).bind(put.until.0);
    });
}

fn write_parties(script: &mut Script, put: &[(&String, &PutSession)]) {
    static CLEAR: LazyLock<ManyRows> =
        LazyLock::new(|| ManyRows::new("DELETE FROM session_party WHERE session IN (VALUES", "(?)", ")"));
    static ADD: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new("INSERT INTO session_party (session, peer, party) VALUES", "(?, ?, ?)", "ON CONFLICT DO NOTHING")
    });
    // Whoever joins while an announcement is on its way is no party after it.
    static JOIN: LazyLock<ManyRows> = LazyLock::new(|| {
        ManyRows::new(
            "WITH joined (session, peer, party) AS (VALUES",
            "(?, ?, ?)",
            ") INSERT INTO session_party (session, peer, party)
             SELECT joined.session, joined.peer, joined.party
             FROM joined CROSS JOIN session ON session.session = joined.session
             WHERE session.settled = 0 ON CONFLICT DO NOTHING",
        )
    });
    let (announced, joined): (Vec<_>, Vec<_>) = put.iter().partition(|(_, put)| put.settled);
    CLEAR.write(script, &announced, |script, (session, _)| {
        script.bind((*session).clone());
    });
    for (many, put) in [(&ADD, announced), (&JOIN, joined)] {
        let parties: Vec<_> =
            put.iter().flat_map(|(session, put)| put.parties.iter().map(move |party| (session, party))).collect();
        many.write(script, &parties, |script, (session, party)| {
            script.bind((**session).clone()).bind(party.peer.0).bind(party.name.clone());
        });
    }
}
