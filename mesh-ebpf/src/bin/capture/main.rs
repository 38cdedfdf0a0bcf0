//! Capture: classifiers in the pod's network namespace. No packet is rewritten.
//!
//! ```text
//! application --- eth0 egress --[new or captured]--> lo ingress --> outbound listener or proxy socket
//!                           \----[DNS queries]------> lo ingress --> DNS sockets
//! network ------- eth0 ingress -[new]--> plaintext or HBONE listener
//! virtual machine in the pod --[new]---> outbound listener
//! ```
//!
//! Between pods of the node that have been granted it, packets go their way uncaptured: [`direct`].
//!
//! "Pass" is `TC_ACT_UNSPEC`: with tcx and with clsact alike the next program of the hook, if there is one, is asked.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, map, sk_lookup};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, SockMap};
use aya_ebpf::programs::{SkLookupContext, TcContext};
use aya_log_ebpf::debug;
use mesh_common::abi::{AGENT_MARK, BYPASSED_MARK, CAPTURED_MARK, DNS_PORT, HBONE_PORT, MARK_MASK, OUTBOUND_PORT};
use mesh_common::classify::{self, ACK, Egress, Flow, Ingress, SYN};
use mesh_common::direct::Segment;
use mesh_common::maps::{Counter, FlowKey, ListenerIndex, PodConfig};
use mesh_ebpf::act::{Listener, Owner, Then, datagrams, listener, mark, owner, set_mark, to_own_stack};
use mesh_ebpf::count::count;
use mesh_ebpf::lookup;
use mesh_ebpf::packet::{Family, Packet, read};

mod direct;
mod virtuals;

use direct::{Carried, Vouched};

/// 1 while debugging; 0 lets the verifier remove every log line.
#[unsafe(no_mangle)]
static LOG_LEVEL: u32 = 0;

/// 1 where pods may talk directly; 0 lets the verifier remove all that is about it.
#[unsafe(no_mangle)]
static DIRECT: u32 = 0;

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

/// The first shard's listeners; the kernel spreads connections over those that share the port.
#[map(name = "listeners")]
static LISTENERS: SockMap = SockMap::with_max_entries(ListenerIndex::COUNT, 0);

/// New connections whose addresses an old one still occupies, and the listener each is for.
#[map(name = "reopened")]
static REOPENED: LruHashMap<FlowKey, u32> = LruHashMap::with_max_entries(4096, 0);

#[inline(always)]
fn logging() -> bool {
    // SAFETY: the loader writes it before the program is loaded, and nothing writes it after.
    unsafe { core::ptr::read_volatile(&raw const LOG_LEVEL) != 0 }
}

#[inline(always)]
fn goes_directly(config: &PodConfig) -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const DIRECT) != 0 && config.direct == 1 }
}

/// Packets that leave the pod.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    if mark(&ctx) & MARK_MASK == AGENT_MARK {
        return TC_ACT_UNSPEC;
    }
    let Some(config) = CONFIG.get(0) else { return TC_ACT_SHOT };
    match read(&ctx) {
        Packet::Tcp(flow, family, segment) => leave(&ctx, config, (&flow, family), segment),
        Packet::Udp(flow, family) if classify::asks_name_server(config, &flow) => ask(&ctx, config, &flow, family),
        other => pass_or_drop(&other),
    }
}

#[inline(always)]
fn leave(ctx: &TcContext, config: &PodConfig, (flow, family): (&Flow, Family), segment: Segment) -> i32 {
    if goes_directly(config) && !flow.opens() {
        match direct::carry(config, flow, segment) {
            Carried::Yes => return TC_ACT_UNSPEC,
            Carried::Cut => return dropped(Counter::DirectCut),
            Carried::No => {}
        }
    }
    match classify::egress(config, flow, mark(ctx)) {
        Egress::Capture => match directly(ctx, config, flow, segment) {
            Vouched::Yes => passed(Counter::Direct),
            Vouched::Full | Vouched::No => capture(ctx, config, flow, family),
        },
        Egress::Ask => connect_to_ask(ctx, config, flow, family),
        Egress::Loop => to_own_stack(ctx, config.lo),
        Egress::LoopIfProxied => match owner(ctx, flow, family) {
            Owner::Connection => to_own_stack(ctx, config.lo),
            Owner::Nobody => passed(Counter::Preexisting),
        },
        Egress::ResetIfProxied => match owner(ctx, flow, family) {
            Owner::Connection => to_own_stack(ctx, config.lo),
            Owner::Nobody => TC_ACT_UNSPEC,
        },
        Egress::LoopUnlessOlder => {
            // A listed connection may have ended, and the agent's own socket may have got its addresses: then the packet
            // is meant for that.
            let older = PREEXISTING.get_ptr(&flow.as_sender()).is_some();
            if older && owner(ctx, flow, family) == Owner::Nobody {
                return passed(Counter::Preexisting);
            }
            to_own_stack(ctx, config.lo)
        }
        Egress::Pass => {
            if goes_directly(config) {
                direct::forget(config, flow);
            }
            TC_ACT_UNSPEC
        }
        Egress::PassProbe | Egress::PassBypassed => TC_ACT_UNSPEC,
    }
}

/// Whether a new connection goes to its pod without the agent.
#[inline(always)]
fn directly(ctx: &TcContext, config: &PodConfig, flow: &Flow, segment: Segment) -> Vouched {
    if !goes_directly(config) {
        return Vouched::No;
    }
    let vouched = direct::vouch(ctx, config, flow, segment);
    match vouched {
        Vouched::Yes => forget_older(&flow.as_sender()),
        Vouched::Full => count(&COUNTERS, Counter::DirectFull),
        Vouched::No => {}
    }
    vouched
}

#[inline(always)]
fn capture(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    if logging() {
        debug!(ctx, "outbound to port {}", flow.destination_port);
    }
    // The tuple may have belonged to a connection older than the enrolment. That there is no entry is the rule.
    forget_older(&flow.as_sender());
    match listener(ctx, flow, family, OUTBOUND_PORT, Then::Nothing) {
        Listener::Found => {
            count(&COUNTERS, Counter::CapturedOut);
            to_own_stack(ctx, config.lo)
        }
        Listener::Missing => without_listener(config, &flow.as_sender()),
    }
}

/// A DNS query over UDP. Each stands alone: without an agent it goes to the name server that it is addressed to.
#[inline(always)]
fn ask(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    match datagrams(ctx, flow, family, Then::Nothing) {
        Listener::Found => {
            count(&COUNTERS, Counter::DnsUdp);
            to_own_stack(ctx, config.lo)
        }
        Listener::Missing => passed(Counter::DnsPassed),
    }
}

/// The first packet of DNS over TCP. Without an agent the connection goes to the name server, and stays there.
#[inline(always)]
fn connect_to_ask(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    forget_older(&flow.as_sender());
    match listener(ctx, flow, family, DNS_PORT, Then::Nothing) {
        Listener::Found => {
            count(&COUNTERS, Counter::DnsTcp);
            to_own_stack(ctx, config.lo)
        }
        Listener::Missing => {
            pass_to_its_end(&flow.as_sender());
            passed(Counter::DnsPassed)
        }
    }
}

/// Packets that the egress program sent round to the pod's own stack. Everything else on `lo` is the pod's own affair,
/// but for the agent's mark on what it sends to applications: where sockets take over the mark of who connects
/// ([`bypass`]), theirs would pass for the agent's.
#[classifier]
pub fn lo_ingress(ctx: TcContext) -> i32 {
    match mark(&ctx) & MARK_MASK {
        CAPTURED_MARK => {}
        AGENT_MARK => {
            set_mark(&ctx, 0);
            return TC_ACT_UNSPEC;
        }
        _ => return TC_ACT_UNSPEC,
    }
    // The packet carries the next hop's hardware address, so the stack would take it for somebody else's.
    if ctx.skb.change_type(PACKET_HOST).is_err() {
        return TC_ACT_SHOT;
    }
    let Some(config) = CONFIG.get(0) else { return TC_ACT_SHOT };
    match read(&ctx) {
        Packet::Tcp(flow, family, _) if flow.opens() => {
            let owner = owner(&ctx, &flow, family);
            // As the egress program decided, unless the configuration has just changed: either listener is the agent's.
            let port = if classify::asks_name_server(config, &flow) { DNS_PORT } else { OUTBOUND_PORT };
            taken(give(&ctx, &flow, family, port, owner))
        }
        Packet::Tcp(..) => TC_ACT_UNSPEC,
        Packet::Udp(flow, family) => taken(datagrams(&ctx, &flow, family, Then::Assign)),
        other => pass_or_drop(&other),
    }
}

/// A packet that came round finds its listener, or the agent has just gone and the packet is sent again.
#[inline(always)]
fn taken(listener: Listener) -> i32 {
    match listener {
        Listener::Found => TC_ACT_UNSPEC,
        Listener::Missing => dropped(Counter::NoListener),
    }
}

/// Packets that arrive for the pod.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    let Some(config) = CONFIG.get(0) else { return TC_ACT_SHOT };
    match read(&ctx) {
        Packet::Tcp(flow, family, _) => arrive(&ctx, config, &flow, family),
        other => pass_or_drop(&other),
    }
}

#[inline(always)]
fn arrive(ctx: &TcContext, config: &PodConfig, flow: &Flow, family: Family) -> i32 {
    if goes_directly(config) && flow.flags & (SYN | ACK) == SYN | ACK && direct::is_foreign_answer(config, flow) {
        return dropped(Counter::DirectCut);
    }
    let may_be_direct = goes_directly(config) && flow.destination_port != HBONE_PORT;
    let port = match classify::ingress(config, flow) {
        Ingress::Pass => return TC_ACT_UNSPEC,
        Ingress::PassProbe => {
            if flow.opens() {
                count(&COUNTERS, Counter::Probe);
            }
            return TC_ACT_UNSPEC;
        }
        Ingress::Bypass => return bypass(ctx, flow, may_be_direct && direct::vouched(config, flow)),
        Ingress::ListenerIfUnknown(port) => {
            // The last of a handshake with the application may be all that tells of it: SYN cookies.
            if owner(ctx, flow, family) == Owner::Connection || (may_be_direct && direct::vouched(config, flow)) {
                return TC_ACT_UNSPEC;
            }
            port
        }
        Ingress::Listener(_) if may_be_direct && direct::vouched(config, flow) => {
            forget_older(&flow.as_receiver());
            return TC_ACT_UNSPEC;
        }
        Ingress::Listener(port) => {
            count(&COUNTERS, if port == HBONE_PORT { Counter::Hbone } else { Counter::CapturedIn });
            port
        }
    };
    if logging() {
        debug!(ctx, "inbound to port {}", flow.destination_port);
    }
    let owner = if flow.opens() { owner(ctx, flow, family) } else { Owner::Nobody };
    if flow.opens() && owner == Owner::Nobody {
        // While an older connection is there, nobody's SYN may end it.
        forget_older(&flow.as_receiver());
    }
    match give(ctx, flow, family, port, owner) {
        Listener::Found => TC_ACT_UNSPEC,
        Listener::Missing => without_listener(config, &flow.as_receiver()),
    }
}

/// Lets a packet go to the application with a mark that the socket which accepts the connection takes over: by that the
/// egress program knows the answers. (All packets have it, because with SYN cookies it is the last of the handshake that
/// counts.) Connections that the kernel carries for the agent are known otherwise, and must not outlive its permission.
#[inline(always)]
fn bypass(ctx: &TcContext, flow: &Flow, vouched: bool) -> i32 {
    if !vouched {
        if flow.opens() {
            count(&COUNTERS, Counter::Bypassed);
        }
        set_mark(ctx, BYPASSED_MARK);
    }
    TC_ACT_UNSPEC
}

/// Gives a packet to the agent's listener on `port`.
///
/// A SYN whose addresses belong to a socket already, mostly one in TIME_WAIT, must meet that socket first: given to a
/// listener directly it would be dropped without a word for as long as the old socket lives (the kernel refuses a
/// second request with the same addresses). The stack decides as it does for any SYN, and when it then looks for a
/// listener, [`reopen`] names the right one.
#[inline(always)]
fn give(ctx: &TcContext, flow: &Flow, family: Family, port: u16, owner: Owner) -> Listener {
    if flow.opens() && owner == Owner::Connection {
        reopens(&flow.as_receiver(), ListenerIndex::of(port) as u32);
        return listener(ctx, flow, family, port, Then::Nothing);
    }
    listener(ctx, flow, family, port, Then::Assign)
}

/// Notes who is to get a connection that [`give`] leaves to the stack. A full map evicts its oldest; the peer repeats a
/// SYN that is lost by that. (A function of its own, as are the two below: inlined, the compiler splits the key over
/// registers in ways that the verifier refuses.)
#[inline(never)]
fn reopens(key: &FlowKey, listener: u32) {
    let _ = REOPENED.insert(key, &listener, 0);
}

/// Forgets an older connection, if the addresses had one. That there is no entry is the rule.
#[inline(never)]
fn forget_older(key: &FlowKey) {
    let _ = PREEXISTING.remove(key);
}

/// Lets a connection pass to its end, like one older than the enrolment. With a full map it does not, and is reset.
#[inline(never)]
fn pass_to_its_end(key: &FlowKey) {
    let _ = PREEXISTING.insert(key, &1, 0);
}

/// Finds the listener for connections that [`give`] left to the stack. All other look-ups are the pod's own affair.
#[sk_lookup]
pub fn reopen(ctx: SkLookupContext) -> u32 {
    let Some(key) = lookup::key(&ctx) else { return SK_PASS };
    let Some(index) = REOPENED.get_ptr(&key) else { return SK_PASS };
    // SAFETY: a value of an LRU map stays readable while the program runs, even if it is evicted.
    let index = unsafe { *index };
    let _ = REOPENED.remove(&key);
    // Without the agent's listener there must be no other: an application's own would get what is not meant for it.
    if LISTENERS.redirect_sk_lookup(&ctx, index, 0).is_ok() { SK_PASS } else { SK_DROP }
}

/// `enum sk_action` (linux/bpf.h).
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

#[inline(always)]
fn without_listener(config: &PodConfig, flow: &FlowKey) -> i32 {
    if config.fail_open == 0 {
        return dropped(Counter::NoListener);
    }
    pass_to_its_end(flow);
    passed(Counter::FailedOpen)
}

#[inline(always)]
fn pass_or_drop(packet: &Packet) -> i32 {
    match packet {
        Packet::Fragment => dropped(Counter::Fragment),
        Packet::Unreadable => dropped(Counter::Unreadable),
        Packet::Other | Packet::Udp(..) | Packet::Tcp(..) => passed(Counter::NotTcp),
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
