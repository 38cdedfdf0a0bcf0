//! Noticing edits. The directory is watched, not the file: editors replace files, and ConfigMaps swap a link beside them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::{Config, LoadState, read};

/// An edit is often several events; they are taken as one when they come within this time.
const SETTLE: Duration = Duration::from_millis(30);

/// The edits of a file, from now on.
#[derive(Debug)]
pub struct Edits {
    events: mpsc::UnboundedReceiver<()>,
    _watcher: RecommendedWatcher,
}

/// Starts watching `path`.
pub fn changes(path: &Path) -> notify::Result<Edits> {
    let (door, events) = mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let changed = event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)));
        if changed {
            // The reader is gone when the process ends.
            door.send(()).ok();
        }
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(Edits { events, _watcher: watcher })
}

impl Edits {
    /// Waits for the next edit, or for what may be one.
    pub async fn next(&mut self) -> Option<()> {
        self.events.recv().await?;
        tokio::time::sleep(SETTLE).await;
        while self.events.try_recv().is_ok() {}
        Some(())
    }
}

/// Follows the node's file: publishes each good configuration, keeps the old one when an edit is bad, and says which.
pub async fn follow(mut edits: Edits, configs: watch::Sender<Arc<Config>>, states: watch::Sender<LoadState>) {
    let path = states.borrow().path.clone();
    let mut last = std::fs::read(&path).unwrap_or_default();
    while edits.next().await.is_some() {
        let text = std::fs::read(&path).unwrap_or_default();
        if text == last {
            continue;
        }
        last = text;
        let result = read(&path);
        let rejected = result.as_ref().err().map(ToString::to_string);
        match result {
            Ok(config) => {
                report(&configs.borrow(), &config);
                configs.send_replace(Arc::new(config));
            }
            Err(problems) => tracing::error!(%problems, "configuration rejected, the old one stays in force"),
        }
        states.send_modify(|state| {
            state.at = SystemTime::now();
            state.rejected = rejected;
        });
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
