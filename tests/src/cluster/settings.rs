//! What differs between clusters.

use std::path::Path;

use crate::kube::{self, Tools};

/// Settings of a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) name: String,
    pub(super) nodes: Vec<String>,
    pub(super) proxy: Proxy,
    pub(super) istiod: Option<kube::Settings>,
    tools: Option<Tools>,
}

/// How the nodes' kube-proxies work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    Iptables,
    Nftables,
    /// There are none.
    None,
}

impl Proxy {
    pub(super) fn mode(self) -> Option<&'static str> {
        match self {
            Self::Iptables => Some("iptables"),
            Self::Nftables => Some("nftables"),
            Self::None => None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings {
    /// Two nodes, `n1` and `n2`, kube-proxies with iptables, and an istiod with its defaults.
    pub fn new() -> Self {
        Self {
            name: format!("mc{}", std::process::id()),
            nodes: ["n1", "n2"].map(str::to_owned).to_vec(),
            proxy: Proxy::Iptables,
            istiod: Some(kube::Settings::new()),
            tools: None,
        }
    }

    /// A name by which others find the cluster. Two of one name cannot run at a time.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Other nodes than `n1` and `n2`.
    #[must_use]
    pub fn nodes(mut self, names: &[&str]) -> Self {
        self.nodes = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    #[must_use]
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }

    /// An istiod with these settings, or none.
    #[must_use]
    pub fn istiod(mut self, settings: Option<kube::Settings>) -> Self {
        self.istiod = settings;
        self
    }

    /// Other programs than [`Tools::find`] gives.
    #[must_use]
    pub fn tools(mut self, directory: &Path) -> Self {
        self.tools = Some(Tools::at(directory.to_owned()));
        self
    }

    pub(super) fn find_tools(&self) -> anyhow::Result<Tools> {
        self.tools.clone().map_or_else(Tools::find, Ok)
    }
}
