//! Reading a packet's headers: Ethernet, IPv4 with options, IPv6 with extension headers, TCP and UDP. Every read goes through
//! `bpf_skb_load_bytes`, which checks bounds and reads non-linear packets too.

use aya_ebpf::programs::TcContext;
use mesh_common::classify::Flow;
use mesh_common::direct::Segment;
use mesh_common::maps::mapped;

const ETHERNET: usize = 14;
const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMP_V6: u8 = 58;
const SCTP: u8 = 132;

/// What a packet is to the capture.
pub enum Packet {
    Tcp(Flow, Family, Segment),
    /// A whole datagram. Fragments of one are [`Packet::Other`]: none of them can be told from another protocol's.
    Udp(Flow, Family),
    /// A fragment of a TCP packet: without its header it cannot be attributed, so it is not let through.
    Fragment,
    /// Another protocol.
    Other,
    /// IP whose headers end too early or nest too deep.
    Unreadable,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Reads the packet.
#[inline(always)]
pub fn read(ctx: &TcContext) -> Packet {
    let ethertype = u16::from_be(ctx.skb.protocol() as u16);
    match ethertype {
        ETHERTYPE_V4 => read_v4(ctx).unwrap_or(Packet::Unreadable),
        ETHERTYPE_V6 => read_v6(ctx).unwrap_or(Packet::Unreadable),
        // A tag that the stack would take off again would hide a packet from us.
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Packet::Unreadable,
        _ => Packet::Other,
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_length: u8,
    _tos: u8,
    _total: u16,
    _id: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

#[inline(always)]
fn read_v4(ctx: &TcContext) -> Option<Packet> {
    let ip: Ipv4 = ctx.load(ETHERNET).ok()?;
    if ip.protocol != TCP && ip.protocol != UDP {
        return Some(Packet::Other);
    }
    // More fragments, or an offset.
    let fragment = u16::from_be(ip.fragment) & 0x3fff != 0;
    let length = usize::from(ip.version_length & 0x0f) * 4;
    if ip.protocol == UDP {
        if fragment || length < 20 {
            return Some(Packet::Other);
        }
        return Some(read_udp(ctx, ETHERNET + length, mapped(ip.source), mapped(ip.destination), Family::V4));
    }
    if fragment {
        return Some(Packet::Fragment);
    }
    if length < 20 {
        return None;
    }
    let at = ETHERNET + length;
    let tcp = read_tcp(ctx, at)?;
    Some(Packet::Tcp(tcp.flow(mapped(ip.source), mapped(ip.destination)), Family::V4, tcp.segment(ctx, at)))
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    _version: u32,
    _length: u16,
    next: u8,
    _hops: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

const IPV6: usize = 40;
/// Extension headers of this many are followed; no ordinary packet has more.
const MAX_EXTENSIONS: usize = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

#[inline(always)]
fn read_v6(ctx: &TcContext) -> Option<Packet> {
    let ip: Ipv6 = ctx.load(ETHERNET).ok()?;
    let mut next = ip.next;
    let mut at = ETHERNET + IPV6;
    let mut i = 0;
    while i < MAX_EXTENSIONS {
        match next {
            TCP => {
                let tcp = read_tcp(ctx, at)?;
                return Some(Packet::Tcp(tcp.flow(ip.source, ip.destination), Family::V6, tcp.segment(ctx, at)));
            }
            UDP => return Some(read_udp(ctx, at, ip.source, ip.destination, Family::V6)),
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let extension: [u8; 2] = ctx.load(at).ok()?;
                next = extension[0];
                at += (usize::from(extension[1]) + 1) * 8;
            }
            FRAGMENT => {
                // What follows may be further extensions and TCP after them: only what is surely not TCP is let through.
                let protocol: u8 = ctx.load(at).ok()?;
                let not_tcp = matches!(protocol, UDP | ICMP_V6 | SCTP | ESP);
                return Some(if not_tcp { Packet::Other } else { Packet::Fragment });
            }
            _ => return Some(Packet::Other),
        }
        i += 1;
    }
    None
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    source: u16,
    destination: u16,
    sequence: u32,
    _acknowledgement: u32,
    offset: u8,
    flags: u8,
}

impl Tcp {
    /// What is behind the header, which is at `at`.
    #[inline(always)]
    fn segment(&self, ctx: &TcContext, at: usize) -> Segment {
        let header = u32::from(self.offset >> 4) * 4;
        // The header was read, so there is as much. (Saturating, every way here would leave other bounds to verify.)
        let bytes = ctx.len().wrapping_sub(at as u32 + header);
        Segment { sequence: u32::from_be(self.sequence), bytes }
    }

    #[inline(always)]
    fn flow(&self, source: [u8; 16], destination: [u8; 16]) -> Flow {
        Flow {
            source,
            destination,
            source_port: u16::from_be(self.source),
            destination_port: u16::from_be(self.destination),
            flags: self.flags,
        }
    }
}

#[inline(always)]
fn read_tcp(ctx: &TcContext, at: usize) -> Option<Tcp> {
    // 14 bytes are read as 16 because of the struct's alignment; a TCP header has at least 20.
    ctx.load::<Tcp>(at).ok()
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Udp {
    source: u16,
    destination: u16,
}

/// A datagram whose header ends too early is no concern of ours.
#[inline(always)]
fn read_udp(ctx: &TcContext, at: usize, source: [u8; 16], destination: [u8; 16], family: Family) -> Packet {
    let Ok(udp) = ctx.load::<Udp>(at) else { return Packet::Other };
    let (source_port, destination_port) = (u16::from_be(udp.source), u16::from_be(udp.destination));
    Packet::Udp(Flow { source, destination, source_port, destination_port, flags: 0 }, family)
}
