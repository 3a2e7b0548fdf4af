//! What the demo found, as an object and as text.

use super::{
    picture::thousands,
    verdict::{Span, Verdict},
};
use serde::Serialize;
use std::path::PathBuf;

/// The result; the field names are those of `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Nothing lost, repeated, out of order or from nowhere, at any peer.
    pub ok: bool,
    pub seconds: f64,
    pub peers: Vec<Peer>,
    pub outage: Outage,
    /// Where the data directories are, if they were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

/// One receiver, by its store and the ledger.
#[derive(Debug, Clone, Serialize)]
pub struct Peer {
    pub name: String,
    pub server_id: String,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The most that waited for it at A.
    pub deepest_queue: u64,
}

/// B's outage, and what C felt of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outage {
    /// From the kill until B was ready again.
    pub seconds: f64,
    /// From then until A pushed to B again, its queue drained; absent if it never was.
    pub drained_after_seconds: Option<f64>,
    /// C before the kill, and during the outage.
    pub c_before: Span,
    pub c_during: Span,
}

impl Report {
    /// Lines for people.
    pub fn text(&self) -> String {
        let mut lines = vec![
            String::new(),
            " verdict, from the stores of the stopped nodes".to_owned(),
            row("", ["acknowledged", "applied", "lost", "repeated", "out of order"].map(str::to_owned)),
        ];
        for peer in &self.peers {
            let Verdict { acknowledged, applied, lost, repeated, out_of_order, unknown } = peer.verdict;
            let name = format!("{}  {}", peer.name, peer.server_id);
            lines.push(row(&name, [acknowledged, applied, lost, repeated, out_of_order].map(thousands)));
            if unknown > 0 {
                lines.push(format!("      and {} that nobody sent", thousands(unknown)));
            }
        }
        let Outage { seconds, drained_after_seconds, c_before, c_during } = &self.outage;
        let drained = match drained_after_seconds {
            Some(seconds) => format!("drained {seconds:.1} s after its return"),
            None => "not drained".to_owned(),
        };
        let deepest = self.peers.first().map_or(0, |peer| peer.deepest_queue);
        lines.push(String::new());
        lines.push(format!(" B was away for {seconds:.1} s; up to {} events waited, {drained}", thousands(deepest)));
        lines.push(format!(" C meanwhile {}", span(c_during)));
        lines.push(format!("   before    {}", span(c_before)));
        if let Some(kept) = &self.kept {
            lines.push(format!(" data and logs of the nodes: {}", kept.display()));
        }
        lines.push(String::new());
        lines.push(match self.ok {
            true => " OK: nothing lost, nothing repeated, nothing out of order".to_owned(),
            false => " FAILED: see the table".to_owned(),
        });
        lines.join("\n")
    }
}

fn row(name: &str, cells: [String; 5]) -> String {
    let [acknowledged, applied, lost, repeated, out_of_order] = cells;
    format!("   {name:<20} {acknowledged:>12} {applied:>9} {lost:>6} {repeated:>9} {out_of_order:>13}")
}

fn span(span: &Span) -> String {
    let Span { applied, applied_per_second, median_ms, worst_ms, .. } = span;
    let (applied, rate) = (thousands(*applied), thousands(*applied_per_second));
    format!("applied {applied:>6} ({rate}/s), {median_ms} ms after they were sent, {worst_ms} ms at worst")
}
