//! The plugin on the node: its program in the runtime's folder of programs, and its place in the network that the runtime
//! takes. Others write there as well, and the installer repairs what they undo.
//!
//! The program comes first and goes last: a runtime that finds a plugin in its network and no program starts no pod.
//! Nothing is removed when the agent stops. New pods then wait for the next one, instead of starting outside the mesh.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::PROGRAM;
use super::conflist::Entry;
use crate::task::Tasks;
use files::{Configuration, Stamp};
use pace::Pace;
use plan::{Files, Found, Left, Waiting, Write};
use watches::Watches;

mod files;
mod pace;
mod plan;
mod watches;

/// What is copied: the program that runs now, which is all roles in one.
const OWN: &str = "/proc/self/exe";
const PROGRAM_MODE: u32 = 0o755;
/// How often everything is looked at, whatever the watches say; and without watches.
const POLL: Duration = Duration::from_secs(10);
const UNWATCHED_POLL: Duration = Duration::from_secs(1);
/// A change is often several events; they are taken as one when they come within this time.
const SETTLE: Duration = Duration::from_millis(50);
/// How often a file may change under our hands before that is an error.
const TRIES: usize = 10;

/// Where the plugin goes, and what it is told there.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The runtime's folder of programs.
    pub programs: PathBuf,
    /// The runtime's folder of networks.
    pub networks: PathBuf,
    /// The file in it that the plugin is added to; else the one that the runtime takes, the first by name.
    pub network: Option<String>,
    /// The agent's socket as the plugin sees it.
    pub socket: PathBuf,
    /// Namespaces whose pods start without the agent.
    pub excluded_namespaces: Vec<String>,
}

/// How the plugin stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in the network of this file.
    Chained(String),
    /// There is no network that it could be in, for this reason.
    Waiting(String),
    /// It cannot be installed, for this reason.
    Failed(String),
}

/// What cannot be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {cause}{}", path.display(), hint(cause))]
pub struct InstallError {
    what: &'static str,
    path: PathBuf,
    cause: io::Error,
}

fn hint(cause: &io::Error) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "an open set; these have a likely cause")]
    match cause.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "; is it mounted into the agent's container for reading only?",
        io::ErrorKind::PermissionDenied => {
            "; the agent must be root on the node, and may need another security context"
        }
        io::ErrorKind::StorageFull => "; the node's disk is full",
        _ => "",
    }
}

/// Installs the plugin, and keeps it installed. Clones are the same installer.
#[derive(Clone, Debug)]
pub struct Installer {
    settings: Arc<Settings>,
    /// What is copied.
    own: PathBuf,
    /// What it is told in a network.
    entry: Arc<Entry>,
    /// Held during a pass: passes do not overlap.
    state: Arc<Mutex<State>>,
    repairs: Arc<AtomicU64>,
}

/// What earlier passes have seen.
#[derive(Debug, Default)]
struct State {
    /// The program as it was when its bytes were compared.
    program: Option<Stamp>,
    placed: Before,
    chained: Before,
    /// What was last told of why it cannot be.
    told: Option<Standing>,
    /// Whether leftovers of killed agents have been removed.
    swept: bool,
}

/// Whether a part has been in order in this agent's time. From then on, whatever is wrong with it is somebody else's doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Before {
    #[default]
    Unknown,
    InOrder,
}

impl Installer {
    pub fn new(settings: Settings) -> Self {
        Self::of(settings, OWN.into())
    }

    fn of(settings: Settings, own: PathBuf) -> Self {
        let socket = settings.socket.to_string_lossy().into_owned();
        let entry = Entry { socket, excluded: settings.excluded_namespaces.clone() };
        Self {
            settings: Arc::new(settings),
            own,
            entry: Arc::new(entry),
            state: Arc::default(),
            repairs: Arc::default(),
        }
    }

    /// How often something was repaired that had been in order before.
    pub fn repairs(&self) -> u64 {
        self.repairs.load(Ordering::Relaxed)
    }

    /// One pass: whatever is not as it should be is put right. It blocks.
    pub fn install(&self) -> Result<Standing, InstallError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in [&self.settings.programs, &self.settings.networks] {
            fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
            if !state.swept {
                files::sweep(folder);
            }
        }
        state.swept = true;
        self.place_program(&mut state)?;
        for _ in 0..TRIES {
            if let Some(standing) = self.chain(&mut state)? {
                return Ok(standing);
            }
        }
        let cause = io::Error::other("it is being changed all the time");
        Err(failed("add the plugin to a network in", &self.settings.networks)(cause))
    }

    /// The program. Its bytes are compared only when the file is another one than before.
    fn place_program(&self, state: &mut State) -> Result<(), InstallError> {
        let path = self.settings.programs.join(PROGRAM);
        let failed = failed("write the CNI plugin's program", &path);
        let seen = Stamp::of(&path).map_err(&failed)?;
        if seen.is_none() || seen != state.program {
            // What is written now is compared by the next pass, whoever has written it.
            state.program = None;
            match self.wrong_program(&path, seen).map_err(&failed)? {
                None => state.program = seen,
                Some(found) => {
                    let own = |file: &mut fs::File| files::copy(&self.own, file);
                    if files::replace(&path, seen, PROGRAM_MODE, own).map_err(&failed)? {
                        self.report(state.placed, found, &path);
                    }
                }
            }
        }
        state.placed = Before::InOrder;
        Ok(())
    }

    fn wrong_program(&self, path: &Path, seen: Option<Stamp>) -> io::Result<Option<&'static str>> {
        Ok(match seen {
            None => Some("there was no program"),
            Some(_) if !files::is_executable(path)? => Some("it could not be executed"),
            Some(_) if !files::same(&self.own, path)? => Some("it was another program"),
            Some(_) => None,
        })
    }

    /// The network. Nothing is given when it has changed meanwhile.
    fn chain(&self, state: &mut State) -> Result<Option<Standing>, InstallError> {
        let folder = &self.settings.networks;
        let read = files::configurations(folder).map_err(failed("read the networks in", folder))?;
        let texts: Files = read.iter().map(|file| (file.name.clone(), file.text.clone())).collect();
        let plan = plan::plan(&texts, self.settings.network.as_deref(), &self.entry);
        if let Some(write) = &plan.write {
            let path = folder.join(&write.file);
            if !write_network(&path, &read, write).map_err(failed("add the plugin to the network", &path))? {
                return Ok(None);
            }
            self.report(state.chained, write.found, &path);
        }
        for file in &plan.stale {
            let path = folder.join(file);
            files::remove(&path).map_err(failed("remove the list of a network that has gone", &path))?;
            tracing::info!(file = %path.display(), "the network has gone, and so has the list with the CNI plugin");
        }
        let standing = match plan.chained {
            Ok(file) => Standing::Chained(file),
            Err(waiting) => Standing::Waiting(format!("{}: {waiting}", folder.display())),
        };
        if matches!(standing, Standing::Chained(_)) {
            state.chained = Before::InOrder;
        }
        state.tell(&standing);
        Ok(Some(standing))
    }

    fn report(&self, before: Before, found: impl fmt::Display, path: &Path) {
        let file = path.display();
        if before == Before::InOrder {
            self.repairs.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%file, %found, "the CNI plugin is repaired; somebody else has changed it");
        } else {
            tracing::info!(%file, %found, "the CNI plugin is installed");
        }
    }

    /// Keeps it installed until the group of tasks is stopped, and says how it stands. Nothing is removed then.
    pub fn keep(&self, tasks: &Tasks) -> watch::Receiver<Standing> {
        let (standing, reader) = watch::channel(Standing::Waiting("it is about to be installed".to_owned()));
        tasks.spawn(self.clone().look(standing));
        reader
    }

    async fn look(self, standing: watch::Sender<Standing>) {
        let own = |name: &OsStr| name == PROGRAM || name.to_str().is_some_and(files::is_configuration);
        let mut watches = Watches::new([&self.settings.programs, &self.settings.networks], own);
        let mut pace = Pace::default();
        loop {
            // Before the pass: what happens during it is seen by the next one.
            let watched = watches.renew();
            let before = self.repairs();
            let seen = self.pass().await;
            standing.send_if_modified(|old| std::mem::replace(old, seen.clone()) != seen);
            if self.repairs() != before || matches!(seen, Standing::Failed(_)) {
                sleep(pace.repaired(Instant::now())).await;
            }
            let poll = if watched { POLL } else { UNWATCHED_POLL };
            if timeout(poll, watches.changed()).await.is_ok() {
                sleep(SETTLE).await;
            }
        }
    }

    async fn pass(&self) -> Standing {
        let installer = self.clone();
        match tokio::task::spawn_blocking(move || installer.install()).await {
            Ok(Ok(standing)) => standing,
            Ok(Err(error)) => {
                let standing = Standing::Failed(error.to_string());
                self.state.lock().unwrap_or_else(PoisonError::into_inner).tell(&standing);
                standing
            }
            Err(error) => Standing::Failed(format!("the pass did not end: {error}")),
        }
    }

    /// Takes the plugin out of every network, and its program away: for good, when the mesh is uninstalled. The program stays
    /// when a network still has the plugin.
    pub fn remove(&self) -> Result<(), InstallError> {
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = &self.settings.networks;
        for _ in 0..TRIES {
            let read = match files::configurations(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                other => other.map_err(failed("read the networks in", folder))?,
            };
            let undone: Result<Vec<bool>, _> = read.iter().map(|file| self.undo(file)).collect();
            if undone?.into_iter().all(|done| done) {
                let path = self.settings.programs.join(PROGRAM);
                return files::remove(&path).map_err(failed("remove the CNI plugin's program", &path));
            }
        }
        let cause = io::Error::other("it is being changed all the time");
        Err(failed("take the plugin out of the networks in", folder)(cause))
    }

    /// Whether the file has nothing of ours now; it may have changed meanwhile.
    fn undo(&self, file: &Configuration) -> Result<bool, InstallError> {
        let path = self.settings.networks.join(&file.name);
        let done = match plan::undo(&file.name, &file.text) {
            Left::AsItIs => return Ok(true),
            Left::Nothing => files::remove(&path).map(|()| true),
            Left::Text(text) => {
                files::replace(&path, Some(file.stamp), file.mode, |fresh| io::Write::write_all(fresh, text.as_bytes()))
            }
        };
        let done = done.map_err(failed("take the plugin out of the network", &path))?;
        tracing::info!(file = %path.display(), done, "the CNI plugin is taken out of the network");
        Ok(done)
    }
}

/// Writes a network's file as it was planned, if it and the one that it follows are still as they were read.
fn write_network(path: &Path, read: &[Configuration], write: &Write) -> io::Result<bool> {
    let named: BTreeMap<_, _> = read.iter().map(|file| (file.name.as_str(), file)).collect();
    let Some(like) = named.get(write.like.as_str()) else { return Ok(false) };
    let seen = named.get(write.file.as_str()).map(|file| file.stamp);
    files::replace(path, seen, like.mode, |file| io::Write::write_all(file, write.text.as_bytes()))
}

impl State {
    /// Tells why the plugin is not in a network, once, and when it is again.
    fn tell(&mut self, standing: &Standing) {
        if self.told.as_ref() == Some(standing) {
            return;
        }
        match standing {
            Standing::Chained(file) => tracing::info!(file, "the CNI plugin is in the network that the runtime takes"),
            Standing::Waiting(reason) => tracing::warn!(reason, "the CNI plugin waits for a network that it can be in"),
            Standing::Failed(error) => tracing::error!(error, "the CNI plugin cannot be installed"),
        }
        self.told = Some(standing.clone());
    }
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> InstallError + 'a {
    move |cause| InstallError { what, path: path.to_owned(), cause }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotChained => "the network that the runtime takes was without the plugin",
            Self::Otherwise => "the plugin was in the network in another way",
            Self::NoList => "there was no list with the plugin for the network of a single plugin",
            Self::OldList => "the list with the plugin was not that of the network as it is now",
        })
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => {
                f.write_str("there is no network yet; the network plugin's agent writes it when it has started")
            }
            Self::Missing(file) => write!(f, "there is no {file} yet, the network that is configured"),
            Self::Unusable(files) => {
                let each: Vec<_> = files.iter().map(|(file, reason)| format!("{file}: {reason}")).collect();
                f.write_str(&each.join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
