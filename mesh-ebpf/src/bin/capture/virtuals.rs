//! What comes from virtual machines inside the pod, on whatever interfaces they are behind.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use mesh_common::abi::{CAPTURED_MARK, OUTBOUND_PORT};
use mesh_common::classify::{self, Entering, Flow};
use mesh_common::maps::{Counter, PodConfig};
use mesh_ebpf::act::{Listener, Owner, owner, packet_type, set_mark};
use mesh_ebpf::count::count;
use mesh_ebpf::packet::{Family, Packet, read};

use crate::{CONFIG, COUNTERS, PACKET_HOST, give, without_listener};

/// Packets that enter the pod from a virtual machine inside of it: what it opens is the pod's. They are taken here, before the
/// pod's own rules can give them another source; the mark has the stack deliver them.
#[classifier]
pub fn virtual_ingress(ctx: TcContext) -> i32 {
    // A bridge also sees what its ports say to each other.
    if packet_type(&ctx) != PACKET_HOST {
        return TC_ACT_UNSPEC;
    }
    let Some(config) = CONFIG.get(0) else { return TC_ACT_SHOT };
    match read(&ctx) {
        Packet::Tcp(flow, family, _) => enter(&ctx, config, &flow, family),
        // What of it leaves the pod is looked at there.
        _ => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn enter(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    let owner = match classify::entering(config, flow) {
        Entering::Pass => return TC_ACT_UNSPEC,
        Entering::Capture | Entering::LoopIfProxied => owner(ctx, flow, family),
    };
    if !flow.opens() {
        if owner == Owner::Connection {
            set_mark(ctx, CAPTURED_MARK);
        }
        return TC_ACT_UNSPEC;
    }
    match give(ctx, flow, family, OUTBOUND_PORT, owner) {
        Listener::Found => {
            count(&COUNTERS, Counter::CapturedOut);
            set_mark(ctx, CAPTURED_MARK);
            TC_ACT_UNSPEC
        }
        Listener::Missing => without_listener(config, &flow.as_sender()),
    }
}
