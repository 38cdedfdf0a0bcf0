//! The file with the authority's revocation lists: read at the start, and again whenever it changes.
//!
//! What a change says is in force as soon as the file can be read as a whole; until then, and when it never can, what
//! was read before stays in force. A file that is missing at the start revokes nothing, and the status says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::file::watch::{Edits, changes};
use crate::identity::Revocations;
use crate::identity::revocation::{Lists, State};
use crate::task::Tasks;

/// Largest file that is read. Lists of 100 MB have been seen elsewhere; workloads' are small.
const LARGEST: u64 = 256 << 20;

/// Starts following the file, if there is one. What it says now is in force when this returns.
pub(super) fn follow(path: Option<&Path>, tasks: &Tasks) -> Revocations {
    let Some(path) = path else { return Revocations::default() };
    // Watched before it is read, so that no edit falls between.
    let edits = changes(path);
    let first = State { path: path.to_owned(), lists: Arc::default(), loaded: None, rejected: None };
    let states = watch::Sender::new(first);
    take(&states, read(path));
    let revocations = Revocations::of(states.subscribe());
    match edits {
        Ok(edits) => tasks.spawn(keep(path.to_owned(), edits, states)),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the revocation list cannot be watched: it stays as it is now");
            tasks.spawn(async move { states.closed().await });
        }
    }
    revocations
}

async fn keep(path: PathBuf, mut edits: Edits, states: watch::Sender<State>) {
    while edits.next().await.is_some() {
        let path = path.clone();
        // Parsing a large list takes its time.
        if let Ok(result) = tokio::task::spawn_blocking(move || read(&path)).await {
            take(&states, result);
        }
    }
}

fn read(path: &Path) -> Result<Lists, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > LARGEST {
        return Err(format!("has {size} bytes, at most {LARGEST} are read"));
    }
    let text = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    Lists::parse(&text).map_err(|error| error.to_string())
}

fn take(states: &watch::Sender<State>, result: Result<Lists, String>) {
    let now = SystemTime::now();
    states.send_modify(|state| {
        let file = state.path.display();
        match result {
            Ok(lists) => {
                tracing::info!(%file, entries = lists.entries(), "revocation list loaded");
                (state.lists, state.loaded, state.rejected) = (Arc::new(lists), Some(now), None);
            }
            Err(reason) => {
                let kept = if state.loaded.is_some() { "the old one stays in force" } else { "nothing is revoked" };
                tracing::error!(%file, reason, "revocation list rejected, {kept}");
                state.rejected = Some((now, reason));
            }
        }
    });
}

#[cfg(test)]
mod tests;
