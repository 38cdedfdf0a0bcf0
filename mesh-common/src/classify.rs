//! The capture decision, in two steps: from a packet's headers alone ([`egress`], [`ingress`]), and, where that is not
//! enough, from what a socket lookup found. Pure: the kernel runs it per packet, the tests run it on the host.
//!
//! The rules close by themselves: in phase strict, what is neither known to be older than the enrolment nor meant to
//! pass is captured, and what is captured and finds no proxy socket is answered by a reset from inside the pod. What
//! is asked of name servers is the exception: without an agent it goes its way.

use crate::abi::{BYPASSED_MARK, DNS_PORT, HBONE_PORT, MARK_MASK, NAME_SERVER_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use crate::maps::{Address, FlowKey, MAX_NODE_ADDRESSES, Phase, PodConfig};

/// TCP header flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// A TCP or UDP packet's headers. Ports in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// TCP's; 0 for UDP.
    pub flags: u8,
}

impl Flow {
    /// Whether the packet opens a connection.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// The connection as the packet's sender sees it.
    #[inline(always)]
    pub const fn as_sender(&self) -> FlowKey {
        FlowKey {
            local: self.source,
            remote: self.destination,
            local_port: self.source_port,
            remote_port: self.destination_port,
        }
    }

    /// The connection as the packet's receiver sees it.
    #[inline(always)]
    pub const fn as_receiver(&self) -> FlowKey {
        FlowKey {
            local: self.destination,
            remote: self.source,
            local_port: self.destination_port,
            remote_port: self.source_port,
        }
    }
}

/// What to do with a packet that leaves the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// A new connection: to the outbound listener.
    Capture,
    /// A new connection to a name server: to the DNS listener; on its way if there is none.
    Ask,
    /// Part of a captured connection, or of none that may leave: to the pod's own stack.
    Loop,
    /// To the pod's own stack if a proxy socket exists there, else on its way.
    LoopIfProxied,
    /// As [`Egress::LoopIfProxied`], for a reset: it carries nothing, and is no sign of an older connection.
    ResetIfProxied,
    /// To the pod's own stack unless the flow is listed as older than the enrolment.
    LoopUnlessOlder,
    /// An answer to a kubelet probe.
    PassProbe,
    /// Part of an inbound connection that the pod has left to itself.
    PassBypassed,
    /// Not ours to take.
    Pass,
}

/// Decides for a TCP packet on its way out of the pod that does not carry the agent's mark.
///
/// A connection that bypassed the capture on its way in is known by its mark: the socket that accepted it has that of the
/// packets that opened it, for its whole life and whatever the pod's setting is by then. What the pod opens itself is
/// captured with any mark. Only the reset of a connection that nobody has accepted has none.
#[inline(always)]
pub fn egress(config: &PodConfig, flow: &Flow, mark: u32) -> Egress {
    if flow.opens() {
        return match takes_new(config) {
            false => Egress::Pass,
            true if asks_name_server(config, flow) => Egress::Ask,
            true => Egress::Capture,
        };
    }
    if is_probe(config, &flow.destination, flow.source_port) {
        return Egress::PassProbe;
    }
    if mark & MARK_MASK == BYPASSED_MARK {
        return Egress::PassBypassed;
    }
    if bypasses(config) && flow.flags & RST != 0 {
        return Egress::ResetIfProxied;
    }
    if config.phase == Phase::Strict as u32 { Egress::LoopUnlessOlder } else { Egress::LoopIfProxied }
}

/// Whether connections to the pod reach it uncaptured.
#[inline(always)]
const fn bypasses(config: &PodConfig) -> bool {
    config.bypass_inbound == 1
}

/// Whether new connections are captured.
#[inline(always)]
const fn takes_new(config: &PodConfig) -> bool {
    config.phase != Phase::Draining as u32 && config.phase != Phase::Attaching as u32
}

/// Whether a packet on its way out of the pod (a UDP datagram, or the first one of a TCP connection) is meant for a name
/// server whose place the agent takes.
#[inline(always)]
pub fn asks_name_server(config: &PodConfig, flow: &Flow) -> bool {
    config.dns == 1
        && takes_new(config)
        && flow.destination_port == NAME_SERVER_PORT
        && is_one_routed_host(&flow.destination)
}

/// Whether an answer in the name of this address would be delivered as any other: not for multicast and broadcast, which
/// several may answer, nor for IPv6 link-local addresses, whose sockets are bound to the link.
#[inline(always)]
fn is_one_routed_host(address: &Address) -> bool {
    let a = address;
    let mapped = u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]) == 0
        && u32::from_ne_bytes([a[8], a[9], a[10], a[11]]) == u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let special_v4 = a[12] >= 224;
    let special_v6 = a[0] == 0xff || (a[0] == 0xfe && a[1] & 0xc0 == 0x80);
    if mapped { !special_v4 } else { !special_v6 }
}

/// What to do with a packet that arrives for the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// A new connection: to this listener of the agent.
    Listener(u16),
    /// To this listener, unless a connection exists that the packet belongs to. A bare ACK without a connection may
    /// complete a SYN-cookie handshake; it must reach the listener that sent the cookie, never the application's.
    ListenerIfUnknown(u16),
    /// A kubelet probe: straight to the application.
    PassProbe,
    /// Straight to the application, because the pod wants it so: with [`BYPASSED_MARK`], so that the answers are known.
    Bypass,
    Pass,
}

/// Decides for a TCP packet that arrives for the pod.
#[inline(always)]
pub fn ingress(config: &PodConfig, flow: &Flow) -> Ingress {
    if is_probe(config, &flow.source, flow.destination_port) {
        return Ingress::PassProbe;
    }
    if bypasses(config) && !is_agents(flow.destination_port) {
        return Ingress::Bypass;
    }
    if flow.opens() {
        if !takes_new(config) {
            return Ingress::Pass;
        }
        let hbone = flow.destination_port == HBONE_PORT;
        return Ingress::Listener(if hbone { HBONE_PORT } else { PLAINTEXT_PORT });
    }
    // The HBONE port needs no lookup: the only listener there is the agent's.
    if config.phase != Phase::Strict as u32 || flow.destination_port == HBONE_PORT {
        return Ingress::Pass;
    }
    Ingress::ListenerIfUnknown(PLAINTEXT_PORT)
}

/// Whether the agent listens on this port of the pod. All but the one for HBONE are reached by capture only.
#[inline(always)]
const fn is_agents(port: u16) -> bool {
    matches!(port, OUTBOUND_PORT | PLAINTEXT_PORT | HBONE_PORT | DNS_PORT)
}

/// What to do with a packet that a virtual machine inside the pod sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entering {
    /// A new connection: to the outbound listener.
    Capture,
    /// To the pod's own stack if a proxy socket exists there, else on its way: where that leaves the pod, [`egress`]
    /// decides.
    LoopIfProxied,
    Pass,
}

/// Decides for a TCP packet that enters the pod from within, by an interface behind which a virtual machine is.
#[inline(always)]
pub fn entering(config: &PodConfig, flow: &Flow) -> Entering {
    match (flow.opens(), takes_new(config)) {
        (true, true) => Entering::Capture,
        (true, false) => Entering::Pass,
        (false, _) => Entering::LoopIfProxied,
    }
}

/// Whether a packet between a node address and this port of the pod belongs to a kubelet probe.
#[inline(always)]
fn is_probe(config: &PodConfig, node: &Address, port: u16) -> bool {
    if !config.probe_ports.contains(port) {
        return false;
    }
    let mut known = false;
    let mut i = 0;
    while i < MAX_NODE_ADDRESSES {
        known |= (i as u32) < config.node_count && equal(&config.node_addresses[i], node);
        i += 1;
    }
    known
}

/// Compares two addresses without the memcmp that BPF has no call for.
#[inline(always)]
fn equal(a: &Address, b: &Address) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

#[cfg(test)]
mod tests;
