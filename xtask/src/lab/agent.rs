//! The agent that labs run: the release build.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{setup, step};

/// Builds it, having seen to what the build needs.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    mesh_e2e::require_root()?;
    setup::ensure(root)?;
    let mut cargo = step::cargo(root);
    cargo.args(["build", "--release", "--package", "mesh-agent"]);
    step::run("building the agent (release)", &mut cargo)?;
    path()
}

/// Where the build is.
pub(crate) fn path() -> Result<PathBuf> {
    beside("mesh-agent")
}

/// A program of the release build: beside the profile that this one was built in.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path")?;
    let target = own.parent().and_then(Path::parent).context("cargo's target directory")?;
    let program = target.join("release").join(name);
    ensure!(program.is_file(), "{} is not there; build it with `cargo build --release`", program.display());
    Ok(program)
}
