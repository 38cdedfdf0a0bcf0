//! Capture: three classifiers in the pod's network namespace. No packet is rewritten.
//!
//! ```text
//! application --- eth0 egress --[new or captured]--> lo ingress --> outbound listener or proxy socket
//! network ------- eth0 ingress -[new]--> plaintext or HBONE listener
//! ```
//!
//! "Pass" is `TC_ACT_UNSPEC`: with tcx and with clsact alike the next program of the hook, if there is one, is asked.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use mesh_common::abi::{AGENT_MARK, CAPTURED_MARK, MARK_MASK, OUTBOUND_PORT};
use mesh_common::classify::{self, Egress, Flow, Ingress};
use mesh_common::maps::{Counter, FlowKey, PodConfig};
use mesh_ebpf::act::{Listener, Owner, Then, listener, mark, owner, to_own_stack};
use mesh_ebpf::count::count;
use mesh_ebpf::packet::{Family, Packet, read};

/// 1 while debugging; 0 lets the verifier remove every log line.
#[unsafe(no_mangle)]
static LOG_LEVEL: u32 = 0;

/// `PACKET_HOST`: the packet is for this machine.
const PACKET_HOST: u32 = 0;
/// `BPF_F_NO_PREALLOC`: the map takes memory only for its entries.
const NO_PREALLOC: u32 = 1;

#[map(name = "config")]
static CONFIG: Array<PodConfig> = Array::with_max_entries(1, 0);

#[map(name = "preexisting")]
static PREEXISTING: HashMap<FlowKey, u8> = HashMap::with_max_entries(65536, NO_PREALLOC);

#[map(name = "counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

#[inline(always)]
fn logging() -> bool {
    // SAFETY: the loader writes it before the program is loaded, and nothing writes it after.
    unsafe { core::ptr::read_volatile(&raw const LOG_LEVEL) != 0 }
}

/// Packets that leave the pod.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    if mark(&ctx) & MARK_MASK == AGENT_MARK {
        return TC_ACT_UNSPEC;
    }
    let Some(config) = CONFIG.get(0) else { return TC_ACT_SHOT };
    match read(&ctx) {
        Packet::Tcp(flow, family) => leave(&ctx, config, &flow, family),
        other => pass_or_drop(&other),
    }
}

#[inline(always)]
fn leave(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    match classify::egress(config, flow) {
        Egress::Capture => capture(ctx, config, flow, family),
        Egress::Loop => to_own_stack(ctx, config.lo),
        Egress::LoopIfProxied => match owner(ctx, flow, family) {
            Owner::Connection => to_own_stack(ctx, config.lo),
            Owner::Nobody => passed(Counter::Preexisting),
        },
        Egress::LoopUnlessOlder => {
            if PREEXISTING.get_ptr(&flow.as_sender()).is_some() {
                return passed(Counter::Preexisting);
            }
            to_own_stack(ctx, config.lo)
        }
        Egress::PassProbe | Egress::Pass => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn capture(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    if logging() {
        debug!(ctx, "outbound to port {}", flow.destination_port);
    }
    // The tuple may have belonged to a connection older than the enrolment. That there is no entry is the rule.
    let _ = PREEXISTING.remove(&flow.as_sender());
    match listener(ctx, flow, family, OUTBOUND_PORT, Then::Nothing) {
        Listener::Found => {
            count(&COUNTERS, Counter::CapturedOut);
            to_own_stack(ctx, config.lo)
        }
        Listener::Missing => without_listener(config),
    }
}

/// Packets that the egress program sent round to the pod's own stack. Everything else on `lo` is the pod's own affair.
#[classifier]
pub fn lo_ingress(ctx: TcContext) -> i32 {
    if mark(&ctx) & MARK_MASK != CAPTURED_MARK {
        return TC_ACT_UNSPEC;
    }
    // The packet carries the next hop's hardware address, so the stack would take it for somebody else's.
    if ctx.skb.change_type(PACKET_HOST).is_err() {
        return TC_ACT_SHOT;
    }
    match read(&ctx) {
        Packet::Tcp(flow, family) if flow.opens() => match listener(&ctx, &flow, family, OUTBOUND_PORT, Then::Assign) {
            Listener::Found => TC_ACT_UNSPEC,
            Listener::Missing => dropped(Counter::NoListener),
        },
        Packet::Tcp(..) => TC_ACT_UNSPEC,
        other => pass_or_drop(&other),
    }
}

/// Packets that arrive for the pod.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    let Some(config) = CONFIG.get(0) else { return TC_ACT_SHOT };
    match read(&ctx) {
        Packet::Tcp(flow, family) => arrive(&ctx, config, &flow, family),
        other => pass_or_drop(&other),
    }
}

#[inline(always)]
fn arrive(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    let port = match classify::ingress(config, flow) {
        Ingress::Pass => return TC_ACT_UNSPEC,
        Ingress::PassProbe => {
            if flow.opens() {
                count(&COUNTERS, Counter::Probe);
            }
            return TC_ACT_UNSPEC;
        }
        Ingress::ListenerIfUnknown(port) => {
            if owner(ctx, flow, family) == Owner::Connection {
                return TC_ACT_UNSPEC;
            }
            port
        }
        Ingress::Listener(port) => {
            let hbone = port == mesh_common::abi::HBONE_PORT;
            count(&COUNTERS, if hbone { Counter::Hbone } else { Counter::CapturedIn });
            port
        }
    };
    if logging() {
        debug!(ctx, "inbound to port {}", flow.destination_port);
    }
    match listener(ctx, flow, family, port, Then::Assign) {
        Listener::Found => TC_ACT_UNSPEC,
        Listener::Missing => without_listener(config),
    }
}

#[inline(always)]
fn without_listener(config: &PodConfig) -> i32 {
    if config.fail_open != 0 { passed(Counter::FailedOpen) } else { dropped(Counter::NoListener) }
}

#[inline(always)]
fn pass_or_drop(packet: &Packet) -> i32 {
    match packet {
        Packet::Fragment => dropped(Counter::Fragment),
        Packet::Unreadable => dropped(Counter::Unreadable),
        Packet::Other | Packet::Tcp(..) => passed(Counter::NotTcp),
    }
}

#[inline(always)]
fn passed(counter: Counter) -> i32 {
    count(&COUNTERS, counter);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn dropped(counter: Counter) -> i32 {
    count(&COUNTERS, counter);
    TC_ACT_SHOT
}
