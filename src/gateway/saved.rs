//! How far the gateway has come, in a small file, written after handing on.
//!
//! Written whole or not at all: beside it, to the disk, then renamed. Never
//! more often than [`PAUSE`] says: what a crash forgets is told again by the
//! backend, and clients that resume are not told again.

use crate::{error::Error, types::Cursor};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a gateway stands in the backend's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// After this, events were kept for clients that come back.
    pub start: Cursor,
    /// The last one handed on.
    pub cursor: Cursor,
}

/// The file; of one gateway and one backend.
#[derive(Debug, Clone)]
pub struct Saved {
    pub path: PathBuf,
    pub backend: String,
    pub gateway: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    backend: String,
    gateway: String,
    start: String,
    cursor: String,
}

impl Saved {
    /// `None`: there is no file, or it is of another backend or gateway.
    /// [`Error::Precondition`] when it is not what this program writes.
    pub fn read(&self) -> Result<Option<Mark>, Error> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(Error::Precondition(format!("{}: {cause}", self.path.display()))),
        };
        let bad = || {
            let path = self.path.display();
            Error::Precondition(format!("{path} is no cursor of a gateway; remove it to begin with what comes now"))
        };
        let content: Content = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let cursor = |text: &str| text.parse().map_err(|_| bad());
        let mark = Mark { start: cursor(&content.start)?, cursor: cursor(&content.cursor)? };
        if mark.start > mark.cursor {
            return Err(bad());
        }
        if (&content.backend, &content.gateway) != (&self.backend, &self.gateway) {
            tracing::warn!(
                backend = content.backend,
                gateway = content.gateway,
                "the cursor in the file is of another backend or gateway; beginning with what comes now"
            );
            return Ok(None);
        }
        Ok(Some(mark))
    }

    fn write(&self, mark: Mark) -> io::Result<()> {
        let content = Content {
            backend: self.backend.clone(),
            gateway: self.gateway.clone(),
            start: mark.start.to_string(),
            cursor: mark.cursor.to_string(),
        };
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let mut file = File::create(&fresh)?;
        serde_json::to_writer(&mut file, &content)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Writes what comes until whoever sends it is gone, and then the last.
    pub async fn keep(self, mut marks: watch::Receiver<Option<Mark>>) {
        let mut failing = false;
        loop {
            let ended = marks.changed().await.is_err();
            let mark = *marks.borrow_and_update();
            if let Some(mark) = mark {
                let this = self.clone();
                let written = match spawn_blocking(move || this.write(mark)).await {
                    Ok(written) => written,
                    Err(cause) => Err(io::Error::other(cause)),
                };
                match written {
                    Ok(()) => failing = false,
                    Err(cause) if !failing => {
                        failing = true;
                        tracing::error!(file = %self.path.display(), %cause, "the cursor is not saved; trying on");
                    }
                    Err(_) => {}
                }
            }
            if ended {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;
