//! `cargo xtask test`.

use std::path::Path;

use anyhow::{Result, bail};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_root: &Path, _args: &Args) -> Result<()> {
    bail!("being written")
}
