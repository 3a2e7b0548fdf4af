//! Where the picture goes: drawn in place on a terminal, else line by line.
//!
//! Owns the terminal's state and puts it back, however the demo ends. Plain
//! ANSI (ECMA-48): a frame is one write over the last one, nothing is cleared
//! first, so nothing flickers.

use super::picture::{Picture, Style};
use std::{
    env,
    io::{self, Write},
    time::Duration,
};

/// Hides the cursor; long lines are cut, not wrapped.
const ENTER: &str = "\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h";
/// Without news, a line each.
const QUIET: Duration = Duration::from_secs(1);

pub struct Screen {
    out: Box<dyn Write + Send>,
    mode: Mode,
}

enum Mode {
    Live { style: Style, height: usize },
    Lines { notes: usize, last: Option<Duration> },
}

impl Screen {
    /// `terminal`: whether `out` is one.
    pub fn new(out: Box<dyn Write + Send>, terminal: bool) -> Self {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let term = named("TERM");
        let mode = match terminal && term.as_deref().is_some_and(|term| term != "dumb") {
            false => Mode::Lines { notes: 0, last: None },
            true => {
                // The first that is set counts (POSIX, "Environment Variables").
                let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(named).unwrap_or_default();
                let locale = locale.to_ascii_lowercase();
                let unicode = locale.contains("utf-8") || locale.contains("utf8");
                Mode::Live { style: Style { colour: named("NO_COLOR").is_none(), unicode }, height: 0 }
            }
        };
        Self { out, mode }
    }

    pub fn show(&mut self, picture: &Picture) -> io::Result<()> {
        let mut text = String::new();
        match &mut self.mode {
            Mode::Live { style, height } => {
                let frame = picture.frame(*style);
                match *height {
                    0 => text.push_str(ENTER),
                    height => text.push_str(&format!("\x1b[{height}A")),
                }
                for line in &frame {
                    // Only what the last frame left beyond the line's end.
                    text.push_str(&format!("\r{line}\x1b[K\n"));
                }
                *height = frame.len();
            }
            Mode::Lines { notes, last } => {
                for note in picture.notes.iter().skip(*notes) {
                    text.push_str(&format!("{}\n", note.line()));
                }
                *notes = picture.notes.len();
                if last.is_none_or(|last| picture.elapsed.saturating_sub(last) >= QUIET) {
                    text.push_str(&format!("{}\n", picture.line()));
                    *last = Some(picture.elapsed);
                }
            }
        }
        self.write(&text)
    }

    /// Gives the terminal back; what was drawn stays.
    pub fn leave(&mut self) -> io::Result<()> {
        match &mut self.mode {
            Mode::Live { height, .. } if *height > 0 => {
                *height = 0;
                self.write(LEAVE)
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = self.leave();
    }
}
