//! Layouts of map keys and values. Padding is explicit, so that every byte of a key is defined.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Names of the maps, as the loader finds them.
pub mod names {
    pub const CONFIG: &str = "config";
    pub const PREEXISTING: &str = "preexisting";
    pub const COUNTERS: &str = "counters";
    pub const LISTENERS: &str = "listeners";
    pub const REOPENED: &str = "reopened";
    pub const ENROLLED: &str = "enrolled";
    pub const FACTS: &str = "facts";
    pub const GRANTS: &str = "grants";
    pub const SLOTS: &str = "slots";
    pub const LEASE: &str = "lease";
    pub const FLOWS: &str = "flows";
    pub const EVENTS: &str = "flow_events";
    pub const SERVICES: &str = "services";
    pub const TRANSLATED: &str = "translated";
}

/// Most node addresses that a pod's configuration holds.
pub const MAX_NODE_ADDRESSES: usize = 8;

/// An address as 16 bytes; IPv4 in its v4-mapped form.
pub type Address = [u8; 16];

/// The v4-mapped form of an IPv4 address.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// An address of either family.
pub const fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What a pod's programs are to do with its flows.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// New flows are captured; flows without a proxy socket may be older than the enrolment and pass.
    Learning = 0,
    /// Older flows are listed in the `preexisting` map; everything else is captured.
    Strict = 1,
    /// New flows pass; captured ones go on until they end.
    Draining = 2,
    /// New flows pass: some of the programs are not attached yet.
    Attaching = 3,
}

/// A set of ports, one bit for each: a look into it is one load, whatever a pod declares.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ports([u64; Self::WORDS]);

impl Ports {
    const WORDS: usize = (u16::MAX as usize + 1) / u64::BITS as usize;
    pub const NONE: Self = Self([0; Self::WORDS]);

    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        let (word, bit) = Self::place(port);
        self.0[word] & bit != 0
    }

    pub const fn insert(&mut self, port: u16) {
        let (word, bit) = Self::place(port);
        self.0[word] |= bit;
    }

    #[inline(always)]
    const fn place(port: u16) -> (usize, u64) {
        (port as usize / u64::BITS as usize, 1 << (port as u32 % u64::BITS))
    }
}

impl core::fmt::Debug for Ports {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries((0..=u16::MAX).filter(|port| self.contains(*port))).finish()
    }
}

/// The one entry of the `config` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodConfig {
    /// A [`Phase`].
    pub phase: u32,
    /// 0: a flow without a listener is dropped; 1: it passes.
    pub fail_open: u32,
    /// Interface index of `lo` in the pod's namespace.
    pub lo: u32,
    pub node_count: u32,
    /// 1: what the pod asks name servers is captured; 0: it goes its way.
    pub dns: u32,
    /// 1: the pod's connections to others of its node may go directly.
    pub direct: u32,
    /// 1: connections to the pod reach the application without the agent, but for those to the agent's ports.
    pub bypass_inbound: u32,
    pub reserved: u32,
    /// Cookie of the pod's namespace.
    pub netns: u64,
    pub node_addresses: [Address; MAX_NODE_ADDRESSES],
    pub probe_ports: Ports,
}

impl PodConfig {
    pub const EMPTY: Self = Self {
        phase: Phase::Learning as u32,
        fail_open: 0,
        lo: 1,
        node_count: 0,
        dns: 0,
        direct: 0,
        bypass_inbound: 0,
        reserved: 0,
        netns: 0,
        node_addresses: [[0; 16]; MAX_NODE_ADDRESSES],
        probe_ports: Ports::NONE,
    };
}

/// A connection as its local end sees it: key of `preexisting`. Ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub local: Address,
    pub remote: Address,
    pub local_port: u16,
    pub remote_port: u16,
}

impl FlowKey {
    pub const fn of(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local: address(local.ip()),
            remote: address(remote.ip()),
            local_port: local.port(),
            remote_port: remote.port(),
        }
    }

    /// The local end.
    pub const fn local(&self) -> SocketAddr {
        SocketAddr::new(ip(self.local), self.local_port)
    }

    pub const fn remote(&self) -> SocketAddr {
        SocketAddr::new(ip(self.remote), self.remote_port)
    }
}

/// What [`address`] was made of.
pub const fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from_octets(address).to_canonical()
}

/// Key of `facts`: a connection of one network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FactsKey {
    /// The namespace's cookie (`SO_NETNS_COOKIE`).
    pub netns: u64,
    pub flow: FlowKey,
    pub reserved: u32,
}

/// What the kernel knows of a connection at its last change of state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnFacts {
    /// Bytes that the peer has acknowledged.
    pub bytes_acked: u64,
    pub bytes_received: u64,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    pub retransmits: u32,
    /// TCP states (`BPF_TCP_*`) before and after the last change.
    pub old_state: u32,
    pub new_state: u32,
}

/// Index of a pod's listener in the `listeners` map, and value of `reopened`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerIndex {
    Outbound = 0,
    Plaintext = 1,
    Hbone = 2,
    Dns = 3,
}

impl ListenerIndex {
    pub const COUNT: u32 = 4;

    /// The listener on this port of the agent.
    #[inline(always)]
    pub const fn of(port: u16) -> Self {
        match port {
            crate::abi::OUTBOUND_PORT => Self::Outbound,
            crate::abi::HBONE_PORT => Self::Hbone,
            crate::abi::DNS_PORT => Self::Dns,
            _ => Self::Plaintext,
        }
    }
}

/// Index of a counter in the `counters` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// New outbound connections taken.
    CapturedOut = 0,
    /// New inbound connections taken in plaintext.
    CapturedIn = 1,
    /// New inbound connections to the HBONE port.
    Hbone = 2,
    /// Kubelet probes let straight to the application.
    Probe = 3,
    /// Packets of flows older than the enrolment.
    Preexisting = 4,
    /// Packets that are neither TCP nor captured DNS.
    NotTcp = 5,
    /// TCP fragments, dropped.
    Fragment = 6,
    /// Packets whose headers could not be read, dropped.
    Unreadable = 7,
    /// New flows dropped because the agent has no listener.
    NoListener = 8,
    /// New flows passed because the agent has no listener and the pod is set to fail open.
    FailedOpen = 9,
    /// Packets answered by a reset because neither a proxy socket nor an older flow explains them.
    Orphan = 10,
    /// DNS queries over UDP taken.
    DnsUdp = 11,
    /// New DNS connections over TCP taken.
    DnsTcp = 12,
    /// DNS queries and connections passed because the agent has no socket for them.
    DnsPassed = 13,
    /// New connections to pods of the node that the kernel carries.
    Direct = 14,
    /// Packets of such connections that may not go on, dropped.
    DirectCut = 15,
    /// New connections that could have been carried so, and went to the agent because a map was full.
    DirectFull = 16,
    /// New inbound connections that the pod has left to itself.
    Bypassed = 17,
}

impl Counter {
    pub const COUNT: u32 = 18;
    pub const ALL: [(Self, &'static str); Self::COUNT as usize] = [
        (Self::CapturedOut, "captured_outbound"),
        (Self::CapturedIn, "captured_inbound"),
        (Self::Hbone, "hbone"),
        (Self::Probe, "probe"),
        (Self::Preexisting, "preexisting"),
        (Self::NotTcp, "not_tcp"),
        (Self::Fragment, "fragment"),
        (Self::Unreadable, "unreadable"),
        (Self::NoListener, "no_listener"),
        (Self::FailedOpen, "failed_open"),
        (Self::Orphan, "orphan"),
        (Self::DnsUdp, "dns_udp"),
        (Self::DnsTcp, "dns_tcp"),
        (Self::DnsPassed, "dns_passed"),
        (Self::Direct, "direct"),
        (Self::DirectCut, "direct_cut"),
        (Self::DirectFull, "direct_full"),
        (Self::Bypassed, "inbound_bypassed"),
    ];
}

const _: () = assert!(size_of::<PodConfig>() == 40 + 128 + 8192);
const _: () = assert!(size_of::<FlowKey>() == 36);
const _: () = assert!(size_of::<FactsKey>() == 48);
const _: () = assert!(size_of::<ConnFacts>() == 32);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya's marker for plain data")]
mod plain {
    use super::{ConnFacts, FactsKey, FlowKey, PodConfig};
    use crate::direct::{DirectFlow, Grant, GrantKey, Served, ServiceKey};

    // SAFETY: integers only, repr(C), no implicit padding (the size assertions above), any bit pattern is valid.
    unsafe impl aya::Pod for PodConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FactsKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ConnFacts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GrantKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Grant {}
    // SAFETY: as above.
    unsafe impl aya::Pod for DirectFlow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ServiceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Served {}
}

#[cfg(test)]
mod tests {
    use super::{Counter, FlowKey, ListenerIndex, Ports, mapped};

    #[test]
    fn a_port_is_in_the_set_that_it_was_put_into() {
        let mut ports = Ports::NONE;
        let some = [0, 1, 63, 64, 80, 8080, 15008, u16::MAX];
        some.iter().for_each(|port| ports.insert(*port));
        for port in 0..=u16::MAX {
            assert_eq!(ports.contains(port), some.contains(&port), "{port}");
        }
    }

    #[test]
    fn counters_are_where_their_index_says_and_have_names_of_their_own() {
        for (index, (counter, name)) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index, "{name}");
            assert!(Counter::ALL[..index].iter().all(|(_, other)| other != name), "{name}");
        }
    }

    #[test]
    fn ports_have_their_listeners() {
        use ListenerIndex::{Dns, Hbone, Outbound, Plaintext};
        let cases = [(15001, Outbound), (15006, Plaintext), (15008, Hbone), (15053, Dns), (80, Plaintext)];
        for (port, expected) in cases {
            assert_eq!(ListenerIndex::of(port), expected, "{port}");
        }
        assert!([Outbound, Plaintext, Hbone, Dns].iter().all(|index| (*index as u32) < ListenerIndex::COUNT));
    }

    #[test]
    fn a_connection_is_found_again_in_its_key() {
        for (local, remote) in [("10.0.0.1:80", "192.0.2.1:4000"), ("[fd00::1]:80", "[fd00::2]:4000")] {
            let key = FlowKey::of(local.parse().unwrap(), remote.parse().unwrap());
            assert_eq!((key.local(), key.remote()), (local.parse().unwrap(), remote.parse().unwrap()));
        }
    }

    #[test]
    fn an_ipv4_address_is_kept_in_its_mapped_form() {
        assert_eq!(mapped([10, 0, 0, 1]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
    }
}
