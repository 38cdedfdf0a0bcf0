//! `cargo xtask tidy`.

use std::path::Path;

use anyhow::{Result, bail};

pub(crate) fn run(_root: &Path) -> Result<()> {
    bail!("being written")
}
