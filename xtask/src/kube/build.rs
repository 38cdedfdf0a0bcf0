//! `kube build`: Kubernetes' and Istio's programs from their Go modules, etcd from Debian.
//!
//! What is built is what `tests/go/go.mod` and `go.sum` pin. The result is in `target/kube`, and stays until those files
//! or the compiler change.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::Tools;
use mesh_e2e::kube::tools::PROGRAMS;

use super::go::Go;
use crate::setup;
use crate::step::say;

const ISTIO: &str = "istio.io/istio";
const GATEWAY: &str = "sigs.k8s.io/gateway-api";
const KUBERNETES: &str = "k8s.io/kubernetes";
/// Resource definitions, in the modules' own folders.
const CRDS: [(&str, &str); 2] = [(ISTIO, "manifests/charts/base/files"), (GATEWAY, "config/crd/standard")];

/// Builds what is missing or old. Gives the folder.
pub(crate) fn ensure(root: &Path) -> Result<PathBuf> {
    let target = root.join("target/kube");
    setup::provide(root, &[("etcd", "etcd-server"), ("nft", "nftables")])?;
    let (go, names) = (Go::find(&root.join("tests/go"))?, Go::find(&root.join("tests/go/dns"))?);
    let (stamp, current) = (target.join("built-from"), [go.fingerprint()?, names.fingerprint()?].concat());
    let tools = Tools::at(target.clone());
    if fs::read_to_string(&stamp).is_ok_and(|built| built == current) && tools.check().is_ok() {
        return Ok(target);
    }
    say("building Kubernetes and Istio from their Go modules: once, and for long");
    fs::create_dir_all(target.join("bin"))?;
    fs::remove_file(&stamp).ok();
    let flags = flags(&go)?;
    for (at, name) in (1..).zip(PROGRAMS) {
        let title = format!("{name} ({at} of {})", PROGRAMS.len());
        let module = if name == "coredns" { &names } else { &go };
        build((module, &flags), (&title, name), &target)?;
    }
    copy_definitions(&go, &tools.crds())?;
    tools.check()?;
    fs::write(stamp, current)?;
    Ok(target)
}

/// Builds one program of Kubernetes or Istio, for who needs no other. Gives its file.
pub(crate) fn program(root: &Path, name: &str) -> Result<PathBuf> {
    let target = root.join("target/kube");
    let program = Tools::at(target.clone()).program(name);
    if !program.is_file() {
        let go = Go::find(&root.join("tests/go"))?;
        fs::create_dir_all(program.parent().context("a folder")?)?;
        build((&go, &flags(&go)?), (name, name), &target)?;
    }
    Ok(program)
}

fn build((module, flags): (&Go, &str), (title, name): (&str, &str), target: &Path) -> Result<()> {
    let (program, log) = (Tools::at(target.to_owned()).program(name), target.join(format!("{name}.log")));
    module.build((title, package(name)), flags, (&program, &log))
}

fn package(program: &str) -> String {
    match program {
        "pilot-discovery" => format!("{ISTIO}/pilot/cmd/pilot-discovery"),
        "install-cni" | "istio-cni" => format!("{ISTIO}/cni/cmd/{program}"),
        // The module's own.
        "coredns" => ".".to_owned(),
        "echo-client" => format!("{ISTIO}/pkg/test/echo/cmd/client"),
        "echo-server" => format!("{ISTIO}/pkg/test/echo/cmd/server"),
        kubernetes => format!("{KUBERNETES}/cmd/{kubernetes}"),
    }
}

/// Without symbols, which nobody reads here; and with Kubernetes' version, by which clients judge a server.
fn flags(go: &Go) -> Result<String> {
    let version = go.module(KUBERNETES, "{{.Version}}")?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let mut flags = "-s -w".to_owned();
    for (name, value) in [("gitVersion", version.as_str()), ("gitMajor", major), ("gitMinor", minor)] {
        flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={value}"));
    }
    Ok(flags)
}

fn copy_definitions(go: &Go, to: &Path) -> Result<()> {
    // None of an earlier version's.
    fs::remove_dir_all(to).ok();
    fs::create_dir_all(to)?;
    for (module, folder) in CRDS {
        let from = PathBuf::from(go.module(module, "{{.Dir}}")?).join(folder);
        let entries = fs::read_dir(&from).with_context(|| from.display().to_string())?;
        let mut copied = 0;
        for entry in entries {
            let path = entry?.path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            // Kustomize's lists are in the same folder.
            if text.contains("\nkind: CustomResourceDefinition\n") {
                let name = path.file_name().context("a file's name")?;
                fs::write(to.join(name), text)?;
                copied += 1;
            }
        }
        ensure!(copied > 0, "{} has no resource definitions", from.display());
    }
    Ok(())
}
