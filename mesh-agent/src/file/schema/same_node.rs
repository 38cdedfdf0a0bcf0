//! What may be written under `node.same_node`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// How pods of this node talk to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SameNode {
    pub mode: SameNodeMode,
    /// Other modes, by namespace. Between two namespaces the stricter one holds.
    pub namespaces: BTreeMap<String, SameNodeMode>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNodeMode {
    /// As between nodes.
    Mtls,
    /// Joined by the agent, without a tunnel.
    #[default]
    Local,
}
