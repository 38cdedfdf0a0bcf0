//! Noticing edits. The directory is watched, not the file: editors replace files, and ConfigMaps swap a link beside them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::given::Given;
use super::{Config, LoadState, read};

/// An edit is often several events; they are taken as one when they come within this time.
const SETTLE: Duration = Duration::from_millis(30);

/// The edits of a file, from now on.
#[derive(Debug)]
pub struct Edits {
    path: PathBuf,
    /// What was last seen: many events mean no edit.
    text: Vec<u8>,
    events: mpsc::UnboundedReceiver<()>,
    _watcher: RecommendedWatcher,
}

/// Starts watching `path`.
pub fn changes(path: &Path) -> notify::Result<Edits> {
    let (door, events) = mpsc::unbounded_channel();
    let name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| concerns(&event, &name)) {
            // The reader is gone when the process ends.
            door.send(()).ok();
        }
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(Edits { path: path.to_owned(), text: text_of(path), events, _watcher: watcher })
}

/// Whether the event may be an edit of the file: it names it, or a link like those that a ConfigMap's volume swaps.
fn concerns(event: &Event, name: &OsStr) -> bool {
    let near = |path: &PathBuf| {
        path.file_name().is_some_and(|file| file == name || file.as_encoded_bytes().starts_with(b".."))
    };
    !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(near)
}

/// A file that cannot be read has no text; reading it again then says why.
fn text_of(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

impl Edits {
    /// Waits until the file's text has changed.
    pub async fn next(&mut self) -> Option<()> {
        loop {
            self.events.recv().await?;
            tokio::time::sleep(SETTLE).await;
            while self.events.try_recv().is_ok() {}
            let text = text_of(&self.path);
            if text != self.text {
                self.text = text;
                return Some(());
            }
        }
    }
}

/// Follows the node's file: publishes each good configuration, keeps the old one when an edit is bad, and says which.
pub async fn follow(
    (mut edits, given): (Edits, Given),
    configs: watch::Sender<Arc<Config>>,
    states: watch::Sender<LoadState>,
) {
    let path = states.borrow().path.clone();
    while edits.next().await.is_some() {
        match read(&path, &given) {
            Ok(config) => {
                report(&configs.borrow(), &config);
                configs.send_replace(Arc::new(config));
                states.send_replace(LoadState::good(&path));
            }
            Err(problems) => {
                tracing::error!(%problems, "configuration rejected, the old one stays in force");
                states.send_modify(|state| {
                    state.read = SystemTime::now();
                    state.rejected = Some(problems);
                });
            }
        }
    }
}

fn report(old: &Config, new: &Config) {
    let (workloads, services, policies) = new.world.size();
    tracing::info!(pods = new.pods.len(), workloads, services, policies, "configuration loaded");
    for warning in &new.warnings {
        tracing::warn!("{warning}");
    }
    if old.node != new.node {
        tracing::warn!("settings under `node` changed; they take effect at the next start");
    }
}

#[cfg(test)]
mod tests;
