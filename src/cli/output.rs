//! What is printed on stdout: lines, JSON objects, aligned columns, times.
//!
//! Text that came from other servers passes [`plain`], so that nobody can send
//! control characters to the operator's terminal.

use super::Failure;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use std::{
    borrow::Cow,
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

/// Stdout. Each line leaves at once, so that a reader of a live stream sees it.
#[derive(Debug)]
pub struct Out {
    json: bool,
    stdout: io::Stdout,
}

impl Out {
    pub fn new(json: bool) -> Self {
        Self { json, stdout: io::stdout() }
    }

    pub fn json(&self) -> bool {
        self.json
    }

    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = self.stdout.lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    pub fn object(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::Failed(format!("cannot print: {error}")))?;
        self.line(&text)
    }

    /// The object, or with `--json` absent the text.
    pub fn either(&mut self, object: &impl Serialize, text: &str) -> Result<(), Failure> {
        if self.json { self.object(object) } else { self.line(text) }
    }
}

/// Aligned columns. For a list that streams, widths are stated beforehand; a
/// longer cell moves its own line only.
#[derive(Debug)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    pub fn streaming(out: &mut Out, columns: &[(&str, usize)]) -> Result<Self, Failure> {
        let table = Self { widths: columns.iter().map(|(_, width)| *width).collect() };
        table.row(out, &columns.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>())?;
        Ok(table)
    }

    pub fn row(&self, out: &mut Out, cells: &[String]) -> Result<(), Failure> {
        out.line(&join(&self.widths, cells))
    }

    /// All of it at once, each column as wide as its widest cell.
    pub fn whole(out: &mut Out, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut lines = vec![header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        lines.extend(rows);
        let width = |column: usize| lines.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<_> = (0..header.len()).map(|column| width(column).unwrap_or(0)).collect();
        lines.iter().try_for_each(|cells| out.line(&join(&widths, cells)))
    }
}

fn join(widths: &[usize], cells: &[String]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(cell);
        let used = cell.chars().count();
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(used) + 2));
    }
    line.truncate(line.trim_end().len());
    line
}

/// Names and values, one pair a line, the values aligned.
pub fn pairs(out: &mut Out, pairs: &[(&str, String)]) -> Result<(), Failure> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().try_for_each(|(name, value)| out.line(format!("{name:width$}  {value}").trim_end()))
}

/// `text` with control and bidirectional characters escaped, safe on a terminal.
pub fn plain(text: &str) -> Cow<'_, str> {
    let unsafe_char = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(unsafe_char) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if unsafe_char(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.into()
}

/// Padded base64.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Unix milliseconds in RFC 3339, UTC; 0 and before: "never".
pub fn moment(millis: i64) -> String {
    match u64::try_from(millis) {
        Ok(millis) if millis > 0 => match UNIX_EPOCH.checked_add(Duration::from_millis(millis)) {
            // Beyond the year 9999 the format has no words.
            Some(time) if millis < 253_402_300_800_000 => humantime::format_rfc3339_millis(time).to_string(),
            _ => format!("{millis} ms"),
        },
        _ => "never".into(),
    }
}

/// How long before or after `now` a moment is: "3 s ago", "in 5 min"; 0 and
/// before: "never". Both in Unix milliseconds.
pub fn ago(millis: i64, now: i64) -> String {
    if millis <= 0 {
        return "never".into();
    }
    let seconds = now.abs_diff(millis) / 1000;
    let span = match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    };
    if millis > now { format!("in {span}") } else { format!("{span} ago") }
}

#[cfg(test)]
mod tests;
