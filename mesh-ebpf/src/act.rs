//! Socket look-ups and what is done with a packet.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_sk_assign, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
};
use aya_ebpf::programs::TcContext;
use mesh_common::abi::{AGENT_MARK, CAPTURED_MARK, DNS_PORT, MARK_MASK};
use mesh_common::classify::Flow;

use crate::packet::Family;

/// The namespace of the packet (`BPF_F_CURRENT_NETNS`).
const CURRENT_NETNS: u64 = u64::MAX;
const TCP_LISTEN: u32 = 10;

/// Whether a socket of the pod's stack waits for this packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A connection, open or opening or just closed.
    Connection,
    /// None, or only a listener.
    Nobody,
}

/// Looks for the connection that would receive this very packet in the pod's own stack.
#[inline(always)]
pub fn owner(ctx: &TcContext, flow: &Flow, family: Family) -> Owner {
    let (mut tuple, size) = tuple(flow, family);
    // SAFETY: `tuple` lives on the stack and `size` is the size of its part for this family.
    let found = unsafe { bpf_skc_lookup_tcp(skb(ctx).cast(), &raw mut tuple, size, CURRENT_NETNS, 0) };
    if found.is_null() {
        return Owner::Nobody;
    }
    // SAFETY: checked not to be null; `state` is readable in every kind of TCP socket.
    let state = unsafe { (*found).state };
    // SAFETY: the reference taken by the look-up is given back exactly once.
    unsafe { bpf_sk_release(found.cast()) };
    if state == TCP_LISTEN { Owner::Nobody } else { Owner::Connection }
}

/// Whether the agent listens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Found,
    Missing,
}

/// Looks for the agent's TCP listener on `port` and, for `Then::Assign`, gives the packet to it.
#[inline(always)]
pub fn listener(ctx: &TcContext, flow: &Flow, family: Family, port: u16, then: Then) -> Listener {
    let (mut tuple, size) = towards(flow, family, port);
    // SAFETY: `tuple` lives on the stack and `size` is the size of its part for this family.
    let found = unsafe { bpf_sk_lookup_tcp(skb(ctx).cast(), &raw mut tuple, size, CURRENT_NETNS, 0) };
    if found.is_null() {
        return Listener::Missing;
    }
    // SAFETY: checked not to be null. A port taken by the pod itself while the agent is away has another mark.
    let ours = unsafe { (*found).state == TCP_LISTEN && (*found).mark & MARK_MASK == AGENT_MARK };
    settle(ctx, found, ours, then)
}

/// Looks for the agent's socket for DNS datagrams and, for `Then::Assign`, gives the packet to it.
#[inline(always)]
pub fn datagrams(ctx: &TcContext, flow: &Flow, family: Family, then: Then) -> Listener {
    let (mut tuple, size) = towards(flow, family, DNS_PORT);
    // SAFETY: `tuple` lives on the stack and `size` is the size of its part for this family.
    let found = unsafe { bpf_sk_lookup_udp(skb(ctx).cast(), &raw mut tuple, size, CURRENT_NETNS, 0) };
    if found.is_null() {
        return Listener::Missing;
    }
    // SAFETY: checked not to be null. A port taken by the pod itself while the agent is away has another mark.
    let ours = unsafe { (*found).mark & MARK_MASK == AGENT_MARK };
    settle(ctx, found, ours, then)
}

/// Assigns the packet if that is wanted and the socket is ours, and gives the socket back.
#[inline(always)]
fn settle(ctx: &TcContext, found: *mut bpf_sock, ours: bool, then: Then) -> Listener {
    let mut result = if ours { Listener::Found } else { Listener::Missing };
    if ours && then == Then::Assign {
        // SAFETY: both pointers are valid for the call; the socket is one of this namespace that waits for anybody.
        let error = unsafe { bpf_sk_assign(skb(ctx).cast(), found.cast(), 0) };
        if error != 0 {
            result = Listener::Missing;
        }
    }
    // SAFETY: the reference taken by the look-up is given back exactly once.
    unsafe { bpf_sk_release(found.cast()) };
    result
}

/// What to do with a listener that was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Assign,
}

/// The tuple by which a socket of the agent on `port` is found. The packet's own source spreads flows over those that
/// share the port; the destination is loopback, so that no connection can be meant.
#[inline(always)]
fn towards(flow: &Flow, family: Family, port: u16) -> (bpf_sock_tuple, u32) {
    let mut towards = *flow;
    towards.destination = match family {
        Family::V4 => mesh_common::maps::mapped([127, 0, 0, 1]),
        Family::V6 => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    };
    towards.destination_port = port;
    tuple(&towards, family)
}

/// The tuple in the form of its family. Both forms are written as the longer one, so that all of it is defined: the compiler
/// joins the two ways, and the verifier refuses what it then puts in a part that one of them leaves out.
#[inline(always)]
fn tuple(flow: &Flow, family: Family) -> (bpf_sock_tuple, u32) {
    let (sport, dport) = (flow.source_port.to_be(), flow.destination_port.to_be());
    let (ipv6, size) = match family {
        Family::V4 => {
            // The ports follow the addresses at once. The target is little-endian.
            let ports = u32::from(sport) | u32::from(dport) << 16;
            let saddr = [word(&flow.source, 3), word(&flow.destination, 3), ports, 0];
            let shorter = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>();
            (bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr: [0; 4], sport: 0, dport: 0 }, shorter)
        }
        Family::V6 => {
            let (saddr, daddr) = (words(&flow.source), words(&flow.destination));
            let longer = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>();
            (bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr, sport, dport }, longer)
        }
    };
    (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, size as u32)
}

#[inline(always)]
fn word(address: &[u8; 16], index: usize) -> u32 {
    let at = index * 4;
    u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    [word(address, 0), word(address, 1), word(address, 2), word(address, 3)]
}

/// Marks the packet as captured and hands it to the pod's own stack by way of `lo`.
#[inline(always)]
pub fn to_own_stack(ctx: &TcContext, lo: u32) -> i32 {
    set_mark(ctx, CAPTURED_MARK);
    // SAFETY: a plain helper call.
    let action = unsafe { bpf_redirect(lo, u64::from(BPF_F_INGRESS)) };
    i32::try_from(action).unwrap_or(TC_ACT_SHOT)
}

/// Writes the mesh's bits of the packet's mark.
#[inline(always)]
pub fn set_mark(ctx: &TcContext, bits: u32) {
    ctx.set_mark((mark(ctx) & !MARK_MASK) | bits);
}

#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: the context pointer is valid for the program's run.
    unsafe { (*skb(ctx)).mark }
}

/// For whom the link layer takes the packet (`PACKET_HOST` and others).
#[inline(always)]
pub fn packet_type(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*skb(ctx)).pkt_type }
}

#[inline(always)]
fn skb(ctx: &TcContext) -> *mut __sk_buff {
    use aya_ebpf::EbpfContext;
    ctx.as_ptr().cast()
}
