//! What a pod's programs are told of it.

use mesh_common::maps::{MAX_NODE_ADDRESSES, MAX_PROBE_PORTS, Phase, PodConfig};

use super::{CaptureError, Names};
use crate::bpf::facts::address;
use crate::model::{Programs, WhenDown};

pub(super) fn phase_of(config: &PodConfig) -> Phase {
    // A former agent that died before it had listed the older connections leaves that to us. One that died while it
    // withdrew the pod is overruled: the pod is wanted again.
    if config.phase == Phase::Learning as u32 { Phase::Learning } else { Phase::Strict }
}

pub(super) fn config(programs: &Programs, phase: Phase, names: Names) -> Result<PodConfig, CaptureError> {
    let dns = u32::from(names == Names::Captured);
    let mut config = PodConfig { phase: phase as u32, lo: crate::sys::netlink::LO, dns, ..PodConfig::EMPTY };
    if programs.probe_ports.len() > MAX_PROBE_PORTS {
        return Err(CaptureError::TooManyProbes(programs.probe_ports.len()));
    }
    config.fail_open = u32::from(programs.when_down == WhenDown::Pass);
    for (slot, port) in config.probe_ports.iter_mut().zip(&programs.probe_ports) {
        *slot = *port;
        config.probe_count += 1;
    }
    for (slot, ip) in config.node_addresses.iter_mut().zip(programs.node_addresses.iter().take(MAX_NODE_ADDRESSES)) {
        *slot = address(*ip);
        config.node_count += 1;
    }
    Ok(config)
}
