//! Where the programs of the control plane are. `cargo xtask kube build` puts them there.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Names the folder when it is not `target/kube` of this repository.
pub const VARIABLE: &str = "MESH_KUBE_TOOLS";

/// The programs in `bin`: Kubernetes' own, its name server, istiod, Istio's CNI agent and its plugin, and Istio's echo client and server.
pub const PROGRAMS: [&str; 12] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "coredns",
    "pilot-discovery",
    "install-cni",
    "istio-cni",
    "echo-client",
    "echo-server",
];

/// A folder with `bin` (the programs) and `crds` (YAML files of Istio's and the Gateway API's resources).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    directory: PathBuf,
}

impl Tools {
    /// The folder that `MESH_KUBE_TOOLS` names, or else `target/kube`; fails unless all that is needed is there.
    pub fn find() -> Result<Self> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("")).join("target/kube");
        let tools = Self::at(named.unwrap_or_else(own));
        tools.check()?;
        Ok(tools)
    }

    /// This folder, whatever is in it.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Fails unless all that is needed is there.
    pub fn check(&self) -> Result<()> {
        let programs = PROGRAMS.map(|name| self.program(name));
        for path in programs.iter().chain([&self.crds()]) {
            ensure!(path.exists(), "{} does not exist; `cargo xtask kube build` makes it", path.display());
        }
        Ok(())
    }

    /// One of [`PROGRAMS`].
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    /// The folder of the resource definitions.
    pub fn crds(&self) -> PathBuf {
        self.directory.join("crds")
    }
}

#[cfg(test)]
mod tests {
    use super::Tools;

    #[test]
    fn what_is_missing_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let error = Tools::at(empty.path().to_owned()).check().unwrap_err().to_string();
        assert!(error.contains("bin/kube-apiserver") && error.contains("xtask kube build"), "{error}");
    }
}
