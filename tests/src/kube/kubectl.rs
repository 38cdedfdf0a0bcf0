//! Kubernetes as its users see it: kubectl, as an administrator.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::namespace::Namespace;

/// Longest that the deletion of objects is waited for.
const GONE: &str = "--timeout=30s";

/// kubectl with everything it needs to find the API server.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    config: PathBuf,
    host: Namespace,
}

/// Objects that are there as long as this is.
#[derive(Debug)]
pub struct Applied<'a> {
    kubectl: &'a Kubectl,
    yaml: String,
}

impl Kubectl {
    pub(super) fn new(program: PathBuf, config: PathBuf, host: &Namespace) -> Self {
        Self { program, config, host: host.clone() }
    }

    /// To be given further arguments.
    pub fn command(&self) -> Command {
        let mut command = self.host.command(&self.program);
        let cache = self.config.parent().unwrap_or(Path::new("/")).join("cache");
        command.arg("--kubeconfig").arg(&self.config).arg("--cache-dir").arg(cache);
        command
    }

    /// Runs it and gives what it printed; its failure is an error with all it said.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let mut command = self.command();
        command.args(arguments);
        finished(command, "")
    }

    /// The same, and gives it `input`.
    pub fn pipe(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command();
        command.args(arguments);
        finished(command, input)
    }

    /// What it prints with `--output=json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(arguments.iter().chain(&["--output=json"]))?;
        serde_json::from_str(&text).context("what kubectl printed")
    }

    /// Creates or changes objects: YAML documents, or JSON.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.pipe(&["apply", "--server-side", "--force-conflicts", "--filename=-"], yaml).map(drop)
    }

    /// Changes the status of objects, which are there: what their controllers or kubelets do.
    pub fn apply_status(&self, yaml: &str) -> Result<()> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "--subresource=status", "--filename=-"];
        self.pipe(&arguments, yaml).map(drop)
    }

    /// Creates objects for as long as the value that this gives lives.
    pub fn applied(&self, yaml: &str) -> Result<Applied<'_>> {
        let applied = Applied { kubectl: self, yaml: yaml.to_owned() };
        self.apply(yaml)?;
        Ok(applied)
    }

    /// Deletes objects, and waits until they are gone. Those that are not there are as well.
    pub fn delete(&self, yaml: &str) -> Result<()> {
        self.pipe(&["delete", "--ignore-not-found", GONE, "--filename=-"], yaml).map(drop)
    }
}

impl Applied<'_> {
    /// Deletes them now, and tells when that fails.
    pub fn delete(mut self) -> Result<()> {
        self.kubectl.delete(&std::mem::take(&mut self.yaml))
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        if !self.yaml.is_empty() {
            // A case that failed has said more; and what is left is gone with the lab.
            self.kubectl.delete(&self.yaml).ok();
        }
    }
}

fn finished(mut command: Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("nsenter")?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that has ended before it read all says why.
        pipe.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let arguments: Vec<_> = command.get_args().skip(7).map(|argument| argument.to_string_lossy()).collect();
    ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), err.trim());
    Ok(out.into_owned())
}
