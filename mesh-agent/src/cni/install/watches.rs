//! Noticing what others do in the two folders. Each can be removed and made again, by whoever installs a network plugin.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Wakes its reader when something in the folders changes that may be of interest.
#[derive(Debug)]
pub(super) struct Watches {
    watcher: Option<RecommendedWatcher>,
    /// Each folder, and its inode when it was last watched.
    folders: Vec<(PathBuf, Option<(u64, u64)>)>,
    changes: Arc<Notify>,
    told: bool,
}

impl Watches {
    /// Of the folders; `concerns` says of a name in them whether it is of interest.
    pub(super) fn new(folders: [&Path; 2], concerns: impl Fn(&OsStr) -> bool + Send + 'static) -> Self {
        let changes = Arc::new(Notify::new());
        let paths = folders.map(Path::to_owned);
        let (waker, watched) = (Arc::clone(&changes), paths.clone());
        let heard = move |event: notify::Result<Event>| {
            let of_interest = |path: &PathBuf| watched.contains(path) || path.file_name().is_some_and(&concerns);
            // An error may be the loss of events.
            let wake = event.map_or(true, |event| {
                !matches!(event.kind, EventKind::Access(_))
                    && (event.need_rescan() || event.paths.iter().any(of_interest))
            });
            if wake {
                waker.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(heard);
        let mut watches =
            Self { watcher: None, folders: paths.map(|path| (path, None)).to_vec(), changes, told: false };
        match watcher {
            Ok(watcher) => watches.watcher = Some(watcher),
            Err(error) => watches.tell(&error),
        }
        watches
    }

    /// Watches the folders that are there now, and says whether all are.
    pub(super) fn renew(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let (mut all, mut failed) = (true, None);
        for (folder, watched) in &mut self.folders {
            let inode = fs::metadata(&*folder).ok().map(|metadata| (metadata.dev(), metadata.ino()));
            if inode == *watched && inode.is_some() {
                continue;
            }
            // What has gone is watched no more in any case.
            watcher.unwatch(folder).ok();
            *watched = None;
            if inode.is_none() {
                all = false;
                continue;
            }
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => *watched = inode,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = &failed {
            self.tell(error);
        }
        all && failed.is_none()
    }

    /// Waits until something of interest has changed since the last wait.
    pub(super) async fn changed(&self) {
        self.changes.notified().await;
    }

    fn tell(&mut self, error: &notify::Error) {
        if !self.told {
            tracing::warn!(%error, "the folders of the CNI plugin cannot be watched; they are looked at every second instead");
            self.told = true;
        }
    }
}
