//! Where a node's configuration comes from: a file that may be edited, or the environment.

use std::path::PathBuf;

use anyhow::Context;

use crate::control::issuer::write_private;
use crate::file::environment::Written;
use crate::file::given::Given;
use crate::file::watch::Edits;
use crate::file::{self, Config};

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, which may be edited, with the values that it leaves open.
    File(PathBuf, Given),
    /// The environment, as it was translated.
    Environment(Written),
}

/// What was found there.
pub(super) struct Read {
    /// What the source is called when it is told of.
    pub(super) path: PathBuf,
    /// None for a source that does not change.
    pub(super) edits: Option<(Edits, Given)>,
    pub(super) config: Config,
}

impl Source {
    pub(super) fn read(&self) -> anyhow::Result<Read> {
        match self {
            Self::File(path, given) => {
                // Watched before it is read, so that no edit falls between.
                let edits = file::watch::changes(path);
                let config = file::read(path, given)?;
                let edits = edits.with_context(|| format!("watching {}", path.display()))?;
                Ok(Read { path: path.clone(), edits: Some((edits, given.clone())), config })
            }
            Self::Environment(written) => {
                Ok(Read { path: "environment".into(), edits: None, config: environment(written)? })
            }
        }
    }
}

/// The configuration that the environment says; what it says beside that is told.
fn environment(written: &Written) -> anyhow::Result<Config> {
    for (path, text) in &written.files {
        let directory = path.parent().unwrap_or(path);
        let write = || {
            std::fs::create_dir_all(directory)?;
            write_private(path, text)
        };
        write().with_context(|| format!("writing {}", path.display()))?;
    }
    if !written.unused.is_empty() {
        tracing::warn!(variables = written.unused.join(", "), "set, and without a meaning for this agent");
    }
    Ok(file::environment::config(written)?)
}
