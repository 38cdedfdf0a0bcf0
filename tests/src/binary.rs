//! Where the agent's binary is.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// Names the binary when it is not where cargo puts it.
pub const VARIABLE: &str = "MESH_AGENT_BIN";

/// The binary that `MESH_AGENT_BIN` names, or the one that cargo built in the profile of the running program.
pub fn find() -> Result<PathBuf> {
    let path = match std::env::var_os(VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => beside()?,
    };
    ensure!(
        path.is_file(),
        "{} does not exist; build it with `cargo build -p mesh-agent`, or name it in {VARIABLE}",
        path.display()
    );
    Ok(path)
}

/// Programs are in `target/<profile>`, tests in `deps` below it.
fn beside() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the running program's path")?;
    let directory = own.parent().context("the running program's directory")?;
    let profile = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    Ok(profile.join("mesh-agent"))
}
