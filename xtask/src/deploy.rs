//! `cargo xtask deploy`: what `deploy/` comes to, and whether the agent takes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::step::{say, timed};
use crate::{kube, lab};

mod container;

/// What can be applied, each a folder of `deploy/`.
const FOLDERS: [&str; 3] = ["deploy", "deploy/kubernetes/kind", "deploy/kubernetes/uninstall"];

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Have every container's arguments and configuration read by the agent itself
    #[arg(long)]
    check: bool,
    /// Only this folder
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let kubectl = kube::build::program(root, "kubectl")?;
    let folders = match &args.folder {
        Some(folder) => vec![folder.clone()],
        None => FOLDERS.map(|folder| root.join(folder)).to_vec(),
    };
    if !args.check {
        for folder in &folders {
            say(render(&kubectl, folder)?);
        }
        return Ok(());
    }
    let agent = lab::agent::build(root)?;
    for folder in &folders {
        let title = folder.strip_prefix(root).unwrap_or(folder).display().to_string();
        timed(&title, || check(&objects(&render(&kubectl, folder)?)?, &agent))?;
    }
    Ok(())
}

/// All objects, as YAML.
pub(crate) fn render(kubectl: &Path, folder: &Path) -> Result<String> {
    let output = Command::new(kubectl).arg("kustomize").arg(folder).output().context("kubectl")?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{}: {said}", folder.display());
    // Fields that are to be written otherwise are told, and still taken.
    ensure!(said.is_empty(), "{}: {said}", folder.display());
    Ok(String::from_utf8(output.stdout)?)
}

fn objects(yaml: &str) -> Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).context("what kustomize gives is no YAML")?;
    ensure!(!objects.is_empty(), "there are no objects");
    Ok(objects)
}

fn check(objects: &[Value], agent: &Path) -> Result<()> {
    let mut checked = 0;
    for object in objects {
        for container in container::of(object, objects)? {
            container.check(agent)?;
            say(format_args!("    {}: mesh-agent {}", container.name, container.arguments.join(" ")));
            checked += 1;
        }
    }
    if checked == 0 {
        bail!("no container runs the agent");
    }
    say(format_args!("    {} objects, {checked} containers", objects.len()));
    Ok(())
}
