//! What a pod's programs are told of it.

use mesh_common::maps::{MAX_NODE_ADDRESSES, Phase, PodConfig, address};

use super::{Before, Names};
use crate::model::{Inbound, Programs, WhenDown};

/// The phase that a pod which is captured already starts from.
pub(super) fn phase_of(config: &PodConfig, before: Before) -> Phase {
    let is = |phase| config.phase == phase as u32;
    // A former agent that died before it had listed the older connections leaves that to us. One that died while it
    // withdrew the pod is overruled: the pod is wanted again, and of the connections that have lost their agent nothing must
    // leave. If that was this agent, none has: those that passed meanwhile are listed and go on.
    let unlisted = is(Phase::Learning) || is(Phase::Attaching) || is(Phase::Draining) && before == Before::Ours;
    if unlisted { Phase::Learning } else { Phase::Strict }
}

/// `direct`: the cookie of the pod's namespace, if its connections may go directly to others of the node.
pub(super) fn config(programs: &Programs, phase: Phase, names: Names, direct: Option<u64>) -> PodConfig {
    let dns = u32::from(names == Names::Captured);
    let mut config = PodConfig { phase: phase as u32, lo: crate::sys::netlink::LO, dns, ..PodConfig::EMPTY };
    (config.direct, config.netns) = (u32::from(direct.is_some()), direct.unwrap_or_default());
    config.bypass_inbound = u32::from(programs.inbound == Inbound::Bypassed);
    config.fail_open = u32::from(programs.when_down == WhenDown::Pass);
    programs.probe_ports.iter().for_each(|port| config.probe_ports.insert(*port));
    for (slot, ip) in config.node_addresses.iter_mut().zip(programs.node_addresses.iter().take(MAX_NODE_ADDRESSES)) {
        *slot = address(*ip);
        config.node_count += 1;
    }
    config
}

#[cfg(test)]
mod tests {
    use mesh_common::maps::{Phase, PodConfig};

    use super::{Before, phase_of};

    #[test]
    fn what_passed_while_a_pod_was_leaving_is_listed_if_nothing_was_orphaned() {
        use Phase::{Attaching, Draining, Learning, Strict};
        let cases = [
            (Strict, Before::Captured, Strict),
            (Learning, Before::Captured, Learning),
            (Draining, Before::Captured, Strict),
            (Strict, Before::Ours, Strict),
            (Draining, Before::Ours, Learning),
            (Attaching, Before::Captured, Learning),
        ];
        for (is, before, expected) in cases {
            let config = PodConfig { phase: is as u32, ..PodConfig::EMPTY };
            assert_eq!(phase_of(&config, before), expected, "{is:?} {before:?}");
        }
    }
}
