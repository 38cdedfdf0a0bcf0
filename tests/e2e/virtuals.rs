//! Virtual machines inside of pods, whose connections are the pods': `reroute_virtual_interfaces`.
//!
//! | file | what |
//! |---|---|
//! | [`machine`] | a machine, as far as a network sees one |
//! | [`ways`] | where its connections go |
//! | [`changes`] | it comes late, the setting is changed, the agent dies, the pod leaves |

mod changes;
mod machine;
mod ways;

use mesh_e2e::{Pod, Topology};

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    Case::fresh("masqueraded", topology, ways::masqueraded),
    Case::fresh("routed", topology, ways::routed),
    Case::fresh("by_clsact", by_clsact, ways::masqueraded),
    Case::fresh("comes_late_and_again", topology, changes::late),
    Case::fresh("killed_and_back", topology, changes::killed),
    Case::fresh("turned_off_and_on", topology, changes::turned),
    Case::fresh("machine_left_without_a_trace", topology, changes::traceless),
    Case::fresh("machine_left_without_a_trace_clsact", by_clsact, changes::traceless),
];

/// Port that applications listen on.
const APP: u16 = 8080;
/// The pod's interface towards the machine.
const BRIDGE: &str = "br-vm";

/// | node | pods |
/// |---|---|
/// | `n1` | `host`, which has the machine, `near`, `plain` (outside the mesh) |
/// | `n2` | `server` |
fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("host", "n1").reroutes(&[BRIDGE]))
        .pod(Pod::new("near", "n1"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("server", "n2"))
        .node_setting("drain", "1s")
}

fn by_clsact() -> Topology {
    topology().node_setting("capture", "clsact")
}
