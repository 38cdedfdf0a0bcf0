//! What everything else of the control plane stands on: a host on the lab's fabric, files, and the programs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::tools::Tools;
use crate::namespace::Namespace;
use crate::place::open;
use crate::sweep::Claim;
use crate::topology::node_addresses;
use crate::wiring;

/// The name of the host: its namespace is called `LAB-kube`. Also of the folder of the files that belong to no program.
pub const NAME: &str = "kube";

/// The host. Like all of a lab it hangs on the lab's name: whoever removes the lab removes it and all that runs on it.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) host: Namespace,
    /// The lab's: each program has a folder in it.
    pub(super) directory: PathBuf,
    pub(super) tools: Tools,
}

impl Ground {
    /// Makes the host and joins it to the fabric of a lab of `nodes` nodes.
    pub(crate) fn new(claim: &Claim, fabric: &Namespace, nodes: usize, tools: Tools) -> Result<Self> {
        claim.add_namespaces([NAME].into_iter())?;
        let host = open(claim, NAME)?;
        wiring::guest(fabric, NAME, &host, wiring::KUBE, u8::try_from(nodes)?)?;
        let directory = claim.directory();
        std::fs::create_dir_all(directory.join(NAME)).with_context(|| directory.display().to_string())?;
        Ok(Self { host, directory, tools })
    }

    /// The lab's name.
    pub(super) fn lab(&self) -> &str {
        // Its folder has it.
        self.directory.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Its address on the fabric, as nodes and pods reach it.
    pub(super) fn address() -> IpAddr {
        node_addresses(wiring::KUBE).0.into()
    }

    pub(super) fn at(port: u16) -> SocketAddr {
        SocketAddr::new(Self::address(), port)
    }

    /// A file that belongs to no program.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(NAME).join(name)
    }
}
