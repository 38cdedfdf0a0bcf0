//! What may be written under `node.same_node`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Deserialize;

/// How pods of this node talk to each other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SameNode {
    pub mode: SameNodeMode,
    /// Other modes, by namespace. Between two namespaces the stricter one holds.
    pub namespaces: BTreeMap<String, SameNodeMode>,
    /// Direct connections at once; more go by the agent.
    pub direct_connections: NonZeroU32,
}

impl Default for SameNode {
    fn default() -> Self {
        Self { mode: SameNodeMode::default(), namespaces: BTreeMap::new(), direct_connections: DIRECT }
    }
}

const DIRECT: NonZeroU32 = NonZeroU32::new(65536).expect("it is not zero");

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNodeMode {
    /// As between nodes.
    Mtls,
    /// Joined by the agent, without a tunnel.
    #[default]
    Local,
    /// Carried by the kernel, once the agent has authorised it.
    Direct,
}
