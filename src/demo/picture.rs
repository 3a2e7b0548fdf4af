//! The demo's state as text: a frame for a terminal of 80 by 24, or one line.
//! Pure: knows no clock and no terminal.

use super::gauge::{Depths, Rate};
use std::time::Duration;

/// No line of a frame is longer, no frame higher.
const WIDTH: usize = 79;
#[cfg(test)]
const HEIGHT: usize = 23;
const NOTES: usize = 6;
const BAR: usize = WIDTH - 5;
const GRAPH: usize = WIDTH - 30;

/// What the terminal can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
    pub unicode: bool,
}

/// All there is to see.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Since the start.
    pub elapsed: Duration,
    /// Id of the node that sends.
    pub sender: String,
    /// Events to each peer.
    pub events: u64,
    pub lanes: [Lane; 2],
    /// What happened, the oldest first.
    pub notes: Vec<Note>,
}

#[derive(Debug, Clone)]
pub struct Note {
    pub at: Duration,
    pub text: String,
}

/// One receiving node, and how the sender sees it.
#[derive(Debug, Clone)]
pub struct Lane {
    pub name: String,
    pub server_id: String,
    /// Its process runs.
    pub up: bool,
    /// "live", "retrying" or "queued", as the sender says.
    pub state: String,
    /// Until the sender's next attempt, if one is planned.
    pub next_attempt: Option<Duration>,
    pub acknowledged: u64,
    /// Of the acknowledged ones, as the receiver says.
    pub applied: u64,
    /// Rows in the sender's queue.
    pub queued: u64,
    pub rate: Rate,
    pub depths: Depths,
}

#[derive(Debug, Clone, Copy)]
enum Ink {
    Plain,
    Bold,
    Faint,
    Good,
    Warn,
    Bad,
}

impl Ink {
    /// Select Graphic Rendition (ECMA-48).
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
        }
    }
}

/// Pieces of one line; the colour of each is put on last, so that it has no width.
#[derive(Default)]
struct Line(Vec<(Ink, String)>);

impl Line {
    fn with(mut self, ink: Ink, text: impl Into<String>) -> Self {
        self.0.push((ink, text.into()));
        self
    }

    fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// The rest at the right margin.
    fn right(self, ink: Ink, text: &str) -> Self {
        let gap = WIDTH.saturating_sub(self.width() + text.chars().count()).max(1);
        self.with(Ink::Plain, " ".repeat(gap)).with(ink, text)
    }

    fn text(self, style: Style) -> String {
        let (mut out, mut left) = (String::new(), WIDTH);
        for (ink, text) in self.0 {
            let cut: String = text.chars().take(left).collect();
            left -= cut.chars().count();
            match ink.code() {
                code if style.colour && !code.is_empty() => out.push_str(&format!("\x1b[{code}m{cut}\x1b[0m")),
                _ => out.push_str(&cut),
            }
        }
        out
    }
}

impl Picture {
    /// The lines of one frame; always as many, so that it can be drawn in place.
    pub fn frame(&self, style: Style) -> Vec<String> {
        let title = "three real nodes over TLS, with pinned keys";
        let mut lines = vec![
            Line::default()
                .with(Ink::Bold, " pillarbox demo")
                .with(Ink::Plain, format!("  {title}"))
                .right(Ink::Bold, &seconds(self.elapsed)),
            Line::default(),
            Line::default()
                .with(Ink::Bold, " A")
                .with(Ink::Faint, format!("  {}", self.sender))
                .with(Ink::Plain, format!("  sends {0} events to B and {0} to C", thousands(self.events))),
        ];
        for lane in &self.lanes {
            lines.push(Line::default());
            lines.extend(lane.lines(self.events, style));
        }
        lines.push(Line::default());
        lines.push(Line::default().with(Ink::Bold, " events waiting at A"));
        let most = self.lanes.iter().map(|lane| lane.depths.deepest()).max().unwrap_or(0);
        lines.extend(self.lanes.iter().map(|lane| lane.graph(most, style)));
        lines.push(Line::default());
        lines.push(Line::default().with(Ink::Bold, " what happened"));
        let shown = &self.notes[self.notes.len().saturating_sub(NOTES)..];
        for at in 0..NOTES {
            lines.push(shown.get(at).map_or_else(Line::default, |note| {
                Line::default()
                    .with(Ink::Faint, format!("{:>9}", seconds(note.at)))
                    .with(Ink::Plain, format!("  {}", note.text))
            }));
        }
        lines.into_iter().map(|line| line.text(style)).collect()
    }

    /// The same in one line, for logs.
    pub fn line(&self) -> String {
        let lanes = self.lanes.iter().map(|lane| {
            format!(
                "{} {:<4} {:<8}  applied {:>6}  queue {:>6}  {:>5}/s",
                lane.name,
                if lane.up { "up" } else { "DOWN" },
                lane.state,
                thousands(lane.applied),
                thousands(lane.queued),
                thousands(lane.rate.per_second()),
            )
        });
        format!("{:>9}  {}", seconds(self.elapsed), lanes.collect::<Vec<_>>().join("   "))
    }
}

impl Note {
    pub fn line(&self) -> String {
        format!("{:>9}  {}", seconds(self.at), self.text)
    }
}

impl Lane {
    fn lines(&self, events: u64, style: Style) -> [Line; 3] {
        let (process, ink) = if self.up { ("up", Ink::Good) } else { ("DOWN", Ink::Bad) };
        let state = match self.next_attempt.filter(|_| self.state == "retrying") {
            Some(wait) => format!("A says: {}, next in {}", self.state, seconds(wait)),
            None => format!("A says: {}", self.state),
        };
        let state_ink = match self.state.as_str() {
            "live" => Ink::Good,
            "retrying" => Ink::Warn,
            _ => Ink::Bad,
        };
        let head = Line::default()
            .with(Ink::Bold, format!(" {}", self.name))
            .with(Ink::Faint, format!("  {}  ", self.server_id))
            .with(ink, process)
            .right(state_ink, &state);

        let to_come = events.saturating_sub(self.acknowledged);
        let [done, waits, rest] = bar(events, self.applied, self.acknowledged);
        let [full, half, free] = if style.unicode { ["█", "▒", "·"] } else { ["#", "=", "."] };
        let progress = Line::default()
            .with(Ink::Good, format!("    {}", full.repeat(done)))
            .with(Ink::Warn, half.repeat(waits))
            .with(Ink::Faint, free.repeat(rest));

        let numbers = Line::default()
            .with(Ink::Plain, format!("    applied {:>7}", thousands(self.applied)))
            .with(Ink::Plain, format!("   queue {:>7}", thousands(self.queued)))
            .with(Ink::Faint, format!("   to come {:>7}", thousands(to_come)))
            .right(Ink::Plain, &format!("{} applied/s", thousands(self.rate.per_second())));
        [head, progress, numbers]
    }

    /// The depth of the queue over time; `most`: what a full column means.
    fn graph(&self, most: u64, style: Style) -> Line {
        let levels: Vec<char> = if style.unicode { "▁▂▃▄▅▆▇█" } else { "_.-=+*%#" }.chars().collect();
        let top = levels.len() as u64 - 1;
        let level = |depth: u64| (depth * top + most / 2) / most.max(1);
        let graph = self.depths.columns(GRAPH).into_iter();
        let graph = graph.filter_map(|depth| levels.get(usize::try_from(level(depth)).ok()?)).collect::<String>();
        let ink = if self.state == "live" { Ink::Good } else { Ink::Warn };
        Line::default()
            .with(Ink::Plain, format!("    for {}  ", self.name))
            .with(ink, graph)
            .right(Ink::Faint, &format!("at most {}", thousands(self.depths.deepest())))
    }
}

/// Columns of what is applied, of what waits, and of the rest. What is not
/// nothing has a column, as long as there are any.
fn bar(events: u64, applied: u64, acknowledged: u64) -> [usize; 3] {
    let width = BAR as u64;
    let columns = |count: u64| (count.min(events) * width / events.max(1)).min(width);
    let done = columns(applied);
    let sent = columns(acknowledged).max(done);
    let waits = (sent - done).max(u64::from(acknowledged > applied && done < width));
    [done, waits, width - done - waits].map(|columns| usize::try_from(columns).unwrap_or(0))
}

pub fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// 10000 as "10,000".
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;
