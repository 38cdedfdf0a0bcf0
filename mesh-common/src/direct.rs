//! Connections between two pods of one node whose packets the kernel carries from one to the other, without the agent.
//!
//! The agent grants a client and a port of a server once it has authorised them. The client's own egress program, which
//! knows its pod from the interface that it is on, then vouches for each of their connections: it writes them into a map
//! of the node, where the server's ingress program looks for them. What is not there is captured as everything else. Each
//! packet is let out only while the grant that its connection began under is in force, and the agent lives.

use core::net::SocketAddr;

use crate::classify::{ACK, FIN, RST, SYN};
use crate::maps::{Address, FlowKey, ip};

/// Most grants at once.
pub const MAX_GRANTS: u32 = 16384;
/// Most connections at once.
pub const MAX_FLOWS: u32 = 65536;
/// Most services of clients at once.
pub const MAX_SERVICES: u32 = 16384;
/// Sockets of which is remembered where they wanted to go.
pub const MAX_TRANSLATED: u32 = 16384;
/// Most columns of a service: with more endpoints it is left to the agent.
pub const MAX_COLUMNS: usize = 16;
/// Bytes of the ring of events: ten thousand and more of them.
pub const EVENTS_BYTES: u32 = 1 << 20;

/// Key of `grants`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrantKey {
    /// Cookie of the client's namespace.
    pub client: u64,
    pub source: Address,
    pub destination: Address,
    /// The server's, in host byte order.
    pub port: u16,
    pub reserved: [u16; 3],
}

/// A place in `slots`, with what must be found there: the agent takes a grant back by changing that.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    pub index: u32,
    pub generation: u32,
}

/// Value of `grants`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Cookie of the server's namespace.
    pub server: u64,
    pub slot: Slot,
}

/// What went one way. Bytes are those of the application: what is sent again counts once, while packets are counted as
/// they come. (One end's packets leave one after the other, under the lock of its socket.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub bytes: u64,
    pub packets: u64,
    /// The sequence number after the last byte that was counted.
    pub next: u32,
    /// All TCP flags that the sender has used.
    pub flags: u32,
}

impl Passed {
    /// What a connection's first packet of a sender leaves.
    #[inline(always)]
    pub const fn first(flags: u8, segment: Segment) -> Self {
        let next = segment.sequence.wrapping_add(1).wrapping_add(segment.bytes);
        Self { bytes: segment.bytes as u64, packets: 1, next, flags: flags as u32 }
    }

    /// The same after one more packet.
    #[inline(always)]
    pub const fn after(self, flags: u8, segment: Segment) -> Self {
        let opens = flags & SYN != 0;
        if opens && self.flags & SYN as u32 == 0 {
            return Self { packets: self.packets + 1, ..Self::first(flags, segment) };
        }
        let end = segment.sequence.wrapping_add(opens as u32).wrapping_add(segment.bytes);
        let fresh = end.wrapping_sub(self.next);
        // Half of all numbers lie before any other.
        let fresh = if (fresh as i32) > 0 && segment.bytes > 0 { fresh } else { 0 };
        Self {
            bytes: self.bytes + fresh as u64,
            packets: self.packets + 1,
            next: self.next.wrapping_add(fresh),
            flags: self.flags | flags as u32,
        }
    }
}

/// Where a packet's bytes are in the stream of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub sequence: u32,
    pub bytes: u32,
}

/// Value of `flows`; its key is the connection as the client sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectFlow {
    /// Cookies of both namespaces.
    pub client: u64,
    pub server: u64,
    /// When it was vouched for (`bpf_ktime_get_ns`): tells it from another one with the same addresses.
    pub opened: u64,
    pub slot: Slot,
    pub to_server: Passed,
    pub to_client: Passed,
}

impl DirectFlow {
    /// Whether nothing more is to come: both have said so, or one will not have more.
    #[inline(always)]
    pub const fn ended(&self) -> bool {
        ended(self.to_server.flags, self.to_client.flags)
    }

    /// Whether the server has taken it.
    pub const fn answered(&self) -> bool {
        let both = (SYN | ACK) as u32;
        self.to_client.flags & both == both
    }

    pub const fn reset(&self) -> bool {
        (self.to_server.flags | self.to_client.flags) & RST as u32 != 0
    }
}

/// [`DirectFlow::ended`] of the flags alone.
#[inline(always)]
pub const fn ended(client_flags: u32, server_flags: u32) -> bool {
    (client_flags | server_flags) & RST as u32 != 0 || client_flags & server_flags & FIN as u32 != 0
}

/// Key of `services`: a service as one client sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Cookie of the client's namespace.
    pub client: u64,
    pub address: Address,
    pub port: u16,
    pub reserved: [u16; 3],
}

/// Where to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    pub address: Address,
    /// In host byte order.
    pub port: u16,
    pub reserved: [u16; 3],
}

impl Destination {
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(ip(self.address), self.port)
    }
}

/// One column of the weighted draw among a service's endpoints (Vose's alias method).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub address: Address,
    pub port: u16,
    /// The column to which the rest belongs.
    pub alias: u16,
    /// Of 2^32: how much of the column is its own.
    pub own: u32,
}

/// Value of `services`: the endpoints, all of which the client may talk to directly.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// How many of the columns there are; at least one.
    pub count: u32,
    pub reserved: u32,
    pub columns: [Column; MAX_COLUMNS],
}

impl Served {
    /// One of the endpoints, by two uniformly random numbers.
    #[inline(always)]
    pub const fn draw(&self, which: u32, part: u32) -> Destination {
        // The mask changes nothing, and shows the verifier so.
        let index = ((which as u64 * self.count as u64) >> 32) as usize & (MAX_COLUMNS - 1);
        let column = &self.columns[index];
        let column = if part < column.own { column } else { &self.columns[column.alias as usize & (MAX_COLUMNS - 1)] };
        Destination { address: column.address, port: column.port, reserved: [0; 3] }
    }
}

/// What happened to a connection.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Opened = 0,
    Closed = 1,
}

/// What the programs tell of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// As the client sees it.
    pub flow: FlowKey,
    /// A [`Happened`].
    pub kind: u32,
    pub opened: u64,
    pub slot: Slot,
    /// Where its client wanted to go, if that was a service: then the port is not 0.
    pub wanted: Destination,
}

impl Event {
    /// Reads what a program wrote on this machine.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let whole: &[u8; size_of::<Self>()] = bytes.first_chunk()?;
        let (local, rest) = whole.split_first_chunk()?;
        let (remote, rest) = rest.split_first_chunk()?;
        let (local_port, rest) = rest.split_first_chunk()?;
        let (remote_port, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (opened, rest) = rest.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (address, rest) = rest.split_first_chunk()?;
        let (port, _) = rest.split_first_chunk()?;
        let wanted = Destination { address: *address, port: u16::from_ne_bytes(*port), reserved: [0; 3] };
        Some(Self {
            flow: FlowKey {
                local: *local,
                remote: *remote,
                local_port: u16::from_ne_bytes(*local_port),
                remote_port: u16::from_ne_bytes(*remote_port),
            },
            kind: u32::from_ne_bytes(*kind),
            opened: u64::from_ne_bytes(*opened),
            slot: Slot { index: u32::from_ne_bytes(*index), generation: u32::from_ne_bytes(*generation) },
            wanted,
        })
    }
}

/// Whether what was granted holds: `found` is what its place in `slots` says now, `until` what the agent last promised to
/// live (`CLOCK_MONOTONIC`, like `now`).
#[inline(always)]
pub const fn holds(slot: Slot, found: u32, now: u64, until: u64) -> bool {
    found == slot.generation && now < until
}

const _: () = assert!(size_of::<GrantKey>() == 48);
const _: () = assert!(size_of::<Grant>() == 16);
const _: () = assert!(size_of::<DirectFlow>() == 80);
const _: () = assert!(size_of::<ServiceKey>() == 32);
const _: () = assert!(size_of::<Destination>() == 24);
const _: () = assert!(size_of::<Served>() == 8 + MAX_COLUMNS * 24);
const _: () = assert!(size_of::<Event>() == 80);

#[cfg(test)]
mod tests {
    use super::{Column, Destination, DirectFlow, Event, Passed, Segment, Served, Slot, holds};
    use crate::classify::{ACK, FIN, RST, SYN};
    use crate::maps::FlowKey;

    #[test]
    fn a_grant_holds_while_nobody_takes_it_back_and_the_agent_lives() {
        let slot = Slot { index: 3, generation: 7 };
        for (found, now, until, expected) in [
            (7, 9, 10, true),
            (7, 10, 10, false),
            (7, 11, 10, false),
            (8, 9, 10, false),
            (6, 9, 10, false),
            (7, 0, 0, false),
        ] {
            assert_eq!(holds(slot, found, now, until), expected, "{found} {now} {until}");
        }
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let flow = FlowKey::of("10.0.0.1:4000".parse().unwrap(), "[fd00::2]:80".parse().unwrap());
        let wanted = Destination { address: flow.remote, port: 8080, reserved: [0; 3] };
        let slot = Slot { index: 9, generation: 10 };
        let event = Event { flow, kind: 1, opened: 0x0102_0304_0506_0708, slot, wanted };
        let mut bytes = [0; size_of::<Event>()];
        let mut at = 0;
        let parts: [&[u8]; 11] = [
            &flow.local,
            &flow.remote,
            &flow.local_port.to_ne_bytes(),
            &flow.remote_port.to_ne_bytes(),
            &event.kind.to_ne_bytes(),
            &event.opened.to_ne_bytes(),
            &event.slot.index.to_ne_bytes(),
            &event.slot.generation.to_ne_bytes(),
            &event.wanted.address,
            &event.wanted.port.to_ne_bytes(),
            &[0; 6],
        ];
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        assert_eq!(at, bytes.len(), "no byte between the fields");
        assert_eq!(Event::read(&bytes), Some(event));
        assert_eq!(Event::read(&bytes[1..]), None);
    }

    #[test]
    fn a_draw_goes_by_weight() {
        let to = |last: u8, alias, own| Column { address: [last; 16], port: 80 + u16::from(last), alias, own };
        let mut served = Served { count: 2, ..Served::default() };
        // Three quarters and one quarter.
        served.columns[..2].copy_from_slice(&[to(1, 0, u32::MAX), to(2, 0, u32::MAX / 2)]);
        let half = u32::MAX / 2;
        let cases =
            [(0, 0, 1), (half, u32::MAX - 1, 1), (half + 1, 0, 2), (u32::MAX, half - 1, 2), (u32::MAX, half, 1)];
        for (which, part, expected) in cases {
            let to = Destination { address: [expected; 16], port: 80 + u16::from(expected), reserved: [0; 3] };
            assert_eq!(served.draw(which, part), to, "{which} {part}");
        }
    }

    #[test]
    fn every_byte_counts_once() {
        let at = |sequence: u32, bytes| Segment { sequence, bytes };
        let start = u32::MAX - 10;
        let mut sent = Passed::first(SYN, at(start, 0));
        // Sent again, acknowledged, sent, sent again, with a part of it new, out of order, and ended.
        let packets = [
            (SYN, at(start, 0), 0),
            (ACK, at(start.wrapping_add(1), 0), 0),
            (ACK, at(start.wrapping_add(1), 8), 8),
            (ACK, at(start.wrapping_add(1), 8), 8),
            (ACK, at(start.wrapping_add(5), 8), 12),
            (ACK, at(start.wrapping_add(21), 10), 30),
            (ACK, at(start.wrapping_add(13), 8), 30),
            (ACK | FIN, at(start.wrapping_add(31), 0), 30),
            (ACK, at(start, 0), 30),
        ];
        for (count, (flags, segment, bytes)) in (2..).zip(packets) {
            sent = sent.after(flags, segment);
            assert_eq!((sent.bytes, sent.packets), (bytes, count), "{segment:?}");
        }
        assert_eq!(sent.flags, u32::from(SYN | ACK | FIN));
        let answer = Passed::default().after(SYN | ACK, at(77, 0)).after(ACK, at(78, 5));
        assert_eq!((answer.bytes, answer.packets), (5, 2));
    }

    #[test]
    fn how_far_a_connection_is() {
        let flow = |client: u8, server: u8| DirectFlow {
            to_server: Passed { flags: client.into(), ..Passed::default() },
            to_client: Passed { flags: server.into(), ..Passed::default() },
            ..DirectFlow::default()
        };
        let cases = [
            (flow(SYN, 0), false, false),
            (flow(SYN, SYN | ACK), false, true),
            (flow(SYN, RST | ACK), true, false),
            (flow(SYN | ACK | FIN, SYN | ACK), false, true),
            (flow(SYN | ACK, SYN | ACK | FIN), false, true),
            (flow(SYN | ACK | FIN, SYN | ACK | FIN), true, true),
            (flow(SYN | ACK | RST, SYN | ACK), true, true),
        ];
        for (flow, ended, answered) in cases {
            assert_eq!((flow.ended(), flow.answered()), (ended, answered), "{flow:?}");
        }
        assert!(flow(SYN, RST).reset() && !flow(FIN, FIN).reset());
    }
}
