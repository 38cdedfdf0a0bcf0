//! The other mesh: what it is, by its own word.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use mesh_e2e::Process;

/// How long a binary may take to tell its version.
const ANSWER: Duration = Duration::from_secs(5);

/// Meshes that the lab knows how to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Another build of this project's agent
    MeshAgent,
    /// A node proxy that is told its pods as Istio's ztunnel is, and relies on iptables rules in them
    Ztunnel,
}

impl Kind {
    /// Its name on the command line and in JSON.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::MeshAgent => "mesh-agent",
            Self::Ztunnel => "ztunnel",
        }
    }
}

/// A binary to compare with.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) binary: PathBuf,
    pub(super) kind: Kind,
    /// What it says of its version; for people.
    pub(super) version: String,
}

impl Peer {
    /// Finds out what `binary` is, unless `told`.
    pub(super) fn ask(binary: &Path, told: Option<Kind>) -> Result<Self> {
        let binary = binary.canonicalize().with_context(|| binary.display().to_string())?;
        ensure!(binary.is_file(), "{} is no file", binary.display());
        let answer = version(&binary);
        let Some(kind) = told.or_else(|| kind(answer.as_deref().unwrap_or_default())) else {
            let said = answer.map_or_else(|error| format!("{error:#}"), |answer| first_line(&answer));
            bail!("{} does not say what it is ({said:?}): name it with --peer-kind", binary.display());
        };
        Ok(Self { binary, kind, version: answer.map(|answer| first_line(&answer)).unwrap_or_default() })
    }
}

/// What `binary --version` says, wherever it says it.
pub(super) fn version(binary: &Path) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let mut process =
        Process::spawn("the peer", Command::new(binary).arg("--version"), &directory.path().join("version"))?;
    // Its exit code does not matter: one that knows no such flag explains itself, too.
    process.wait(ANSWER)?;
    Ok(process.log().text())
}

fn kind(answer: &str) -> Option<Kind> {
    if answer.starts_with("mesh-agent ") {
        Some(Kind::MeshAgent)
    } else if answer.to_lowercase().contains("ztunnel") {
        Some(Kind::Ztunnel)
    } else {
        None
    }
}

/// The first line with the name in it, or simply the first one.
pub(super) fn first_line(answer: &str) -> String {
    let lines = || answer.lines().map(str::trim).filter(|line| !line.is_empty());
    let named = lines().find(|line| line.to_lowercase().contains("ztunnel"));
    named.or_else(|| lines().next()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_known_by_what_they_say() {
        let ztunnel = "unknown command: --version\n\nIstio Ztunnel (version.BuildInfo{Version:\"1\"})\n\nCommands:\n";
        assert_eq!(kind("mesh-agent 0.1.0\n"), Some(Kind::MeshAgent));
        assert_eq!(kind(ztunnel), Some(Kind::Ztunnel));
        assert_eq!(kind("envoy 1.30\n"), None);
        assert_eq!(first_line(ztunnel), "Istio Ztunnel (version.BuildInfo{Version:\"1\"})");
        assert_eq!(first_line("\nmesh-agent 0.1.0\n"), "mesh-agent 0.1.0");
    }

    #[test]
    fn a_binary_that_says_nothing_known_needs_its_kind() {
        let error = Peer::ask(Path::new("/bin/true"), None).unwrap_err().to_string();
        assert!(error.contains("--peer-kind"), "{error}");
        assert_eq!(Peer::ask(Path::new("/bin/true"), Some(Kind::Ztunnel)).unwrap().kind, Kind::Ztunnel);
        assert!(Peer::ask(Path::new("/nonexistent"), None).is_err());
    }
}
