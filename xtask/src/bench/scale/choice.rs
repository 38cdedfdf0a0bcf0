//! How long the choice of a route takes: an example of the agent's library measures it, without any network.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step::timed;

/// Nanoseconds by size.
pub(super) fn measure(root: &Path) -> Result<BTreeMap<String, f64>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["run", "--release", "--quiet", "--package", "mesh-agent", "--example", "choice"]);
    let output = timed("choosing routes", || {
        let output = cargo.output().context("cargo")?;
        ensure!(output.status.success(), "the example failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(output.stdout)
    })?;
    read(&String::from_utf8_lossy(&output))
}

/// Lines of `NAME VALUE`.
fn read(text: &str) -> Result<BTreeMap<String, f64>> {
    let line = |line: &str| {
        let (name, value) = line.split_once(' ').with_context(|| format!("the example said {line:?}"))?;
        Ok((name.to_owned(), value.parse().with_context(|| format!("the example said {line:?}"))?))
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn figures_by_name() {
        let figures = read("route-10 120.5\nblocks-10000 80.0\n").unwrap();
        assert_eq!((figures["route-10"], figures["blocks-10000"]), (120.5, 80.0));
        assert!(read("thread panicked").is_err());
    }
}
