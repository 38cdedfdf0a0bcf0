//! Pods that are reached without the mesh, and reach others by it: `bypass_inbound_capture`.
//!
//! | file | what |
//! |---|---|
//! | [`reached`] | who gets to such a pod and how; what such a pod opens |
//! | [`changes`] | the setting is changed, the agent dies, the pod leaves |

mod changes;
mod reached;

use mesh_e2e::{Pod, Topology};
use serde_json::json;

use crate::runner::{Case, Fixture};

pub(crate) const CASES: &[Case] = &[
    Case::shared("reached_from_outside_the_mesh", &GATE, reached::from_outside),
    Case::shared("reached_by_tunnels", &GATE, reached::by_tunnels),
    Case::shared("what_it_opens_is_captured", &GATE, reached::opens),
    Case::shared("much_in_both_directions", &GATE, reached::bulk),
    Case::shared("nobody_listens", &GATE, reached::refused),
    Case::shared("the_agents_ports_stay_closed", &GATE, reached::own_ports),
    Case::shared("syn_cookies", &GATE, reached::cookies),
    Case::shared("shown_in_the_status", &GATE, reached::shown),
    Case::shared("by_clsact", &CLSACT, reached::from_outside),
    Case::shared("tunnels_by_clsact", &CLSACT, reached::by_tunnels),
    Case::shared("carried_directly", &DIRECT, reached::directly),
    Case::shared("from_outside_beside_direct_ones", &DIRECT, reached::from_outside),
    Case::fresh("without_an_agent", topology, changes::without_an_agent),
    Case::fresh("changed_while_it_runs", changes::captured, changes::changed),
    Case::fresh("older_connections_survive", changes::not_yet, changes::older),
    Case::fresh("left_without_a_trace", changes::not_started, changes::traceless),
];

/// Port that applications listen on.
const APP: u16 = 8080;

static GATE: Fixture = Fixture { name: "mesh with a gate", topology };
static CLSACT: Fixture =
    Fixture { name: "mesh with a gate, by clsact", topology: || topology().node_setting("capture", "clsact") };
static DIRECT: Fixture = Fixture {
    name: "mesh with a gate, direct",
    topology: || topology().node_setting("same_node", json!({"mode": "direct"})),
};

/// Plaintext is denied everywhere, and `gate` does not care.
///
/// | node | pods |
/// |---|---|
/// | `n1` | `client`, `plain` (outside the mesh) |
/// | `n2` | `gate`, `near`, `guarded` |
fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("gate", "n2").bypasses_inbound())
        .pod(Pod::new("near", "n2"))
        .pod(Pod::new("guarded", "n2"))
        .peer_authentication("- {name: strict, namespace: default, mode: STRICT}")
}
