//! How Kubernetes and istiod are to be.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::tools::Tools;

/// Settings of the control plane, for [`crate::Topology::kubernetes`].
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub(super) variables: BTreeMap<String, String>,
    pub(super) arguments: Vec<String>,
    pub(super) mesh: Map<String, Value>,
    pub(super) network: Option<String>,
    pub(crate) mesh_from: MeshFrom,
    pub(super) tools: Option<Tools>,
    /// The name of the first root of a plugged-in authority.
    pub(super) plugged_in: Option<String>,
}

/// Who tells the agents of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum MeshFrom {
    /// Their files, as in every other lab.
    #[default]
    Files,
    Istiod,
    /// This node's agent hears of it from istiod, the others from their files.
    IstiodFor(String),
}

impl Settings {
    /// One cluster without a network's name, everything as istiod has it by default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Other programs than [`Tools::find`] gives.
    #[must_use]
    pub fn tools(mut self, directory: &Path) -> Self {
        self.tools = Some(Tools::at(directory.to_owned()));
        self
    }

    /// The agents' mesh is what istiod says: their files list only the pods to enrol.
    #[must_use]
    pub fn mesh_from_istiod(mut self) -> Self {
        self.mesh_from = MeshFrom::Istiod;
        self
    }

    /// The same for one node. The others stand for another cluster, which has another control plane: their files.
    #[must_use]
    pub fn mesh_from_istiod_for(mut self, node: &str) -> Self {
        self.mesh_from = MeshFrom::IstiodFor(node.to_owned());
        self
    }

    /// istiod's authority is an intermediate one under this root, by the secret `cacerts`.
    #[must_use]
    pub fn plugged_in(mut self, root: &str) -> Self {
        self.plugged_in = Some(root.to_owned());
        self
    }

    /// A variable of istiod's environment, such as `PILOT_AUTO_ALLOW_WAYPOINT_POLICY`.
    #[must_use]
    pub fn istiod(mut self, variable: &str, value: &str) -> Self {
        self.variables.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// An argument of istiod, such as `--keepaliveMaxServerConnectionAge=1m`.
    #[must_use]
    pub fn istiod_argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A field of the mesh's configuration, such as `outboundTrafficPolicy`.
    #[must_use]
    pub fn mesh(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.mesh.insert(field.to_owned(), value.into());
        self
    }

    /// The cluster's network has this name, and istiod tells of other networks.
    #[must_use]
    pub fn network(mut self, name: &str) -> Self {
        self.network = Some(name.to_owned());
        self.istiod("AMBIENT_ENABLE_MULTI_NETWORK", "true")
    }

    pub(crate) fn mesh_is_istiods(&self, node: &str) -> bool {
        match &self.mesh_from {
            MeshFrom::Files => false,
            MeshFrom::Istiod => true,
            MeshFrom::IstiodFor(name) => name == node,
        }
    }

    pub(crate) fn find_tools(&self) -> anyhow::Result<Tools> {
        self.tools.clone().map_or_else(Tools::find, Ok)
    }
}
