//! Connections between two pods of one node whose packets the kernel carries from one to the other, without the agent.
//!
//! The agent grants a client and a port of a server once it has authorised them. The client's own egress program, which
//! knows its pod from the interface that it is on, then vouches for each of their connections: it writes them into a map
//! of the node, where the server's ingress program looks for them. What is not there is captured as everything else. Each
//! packet is let out only while the grant that its connection began under is in force, and the agent lives.

use crate::classify::{ACK, FIN, RST, SYN};
use crate::maps::{Address, FlowKey};

/// Most grants at once.
pub const MAX_GRANTS: u32 = 16384;
/// Most connections at once.
pub const MAX_FLOWS: u32 = 65536;
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

/// What went one way. Bytes are those of applications, and what is sent again counts again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub bytes: u64,
    pub packets: u64,
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
    /// All TCP flags that either has sent.
    pub client_flags: u32,
    pub server_flags: u32,
}

impl DirectFlow {
    /// Whether nothing more is to come: both have said so, or one will not have more.
    #[inline(always)]
    pub const fn ended(&self) -> bool {
        ended(self.client_flags, self.server_flags)
    }

    /// Whether the server has taken it.
    pub const fn answered(&self) -> bool {
        let both = (SYN | ACK) as u32;
        self.server_flags & both == both
    }

    pub const fn reset(&self) -> bool {
        (self.client_flags | self.server_flags) & RST as u32 != 0
    }
}

/// [`DirectFlow::ended`] of the flags alone.
#[inline(always)]
pub const fn ended(client_flags: u32, server_flags: u32) -> bool {
    (client_flags | server_flags) & RST as u32 != 0 || client_flags & server_flags & FIN as u32 != 0
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
}

impl Event {
    /// Reads what a program wrote on this machine.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (local, rest) = bytes.split_first_chunk()?;
        let (remote, rest) = rest.split_first_chunk()?;
        let (local_port, rest) = rest.split_first_chunk()?;
        let (remote_port, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (opened, rest) = rest.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (generation, _) = rest.split_first_chunk()?;
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
const _: () = assert!(size_of::<DirectFlow>() == 72);
const _: () = assert!(size_of::<Event>() == 56);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya's marker for plain data")]
mod plain {
    use super::{DirectFlow, Grant, GrantKey};

    // SAFETY: integers only, repr(C), no implicit padding (the size assertions above), any bit pattern is valid.
    unsafe impl aya::Pod for GrantKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Grant {}
    // SAFETY: as above.
    unsafe impl aya::Pod for DirectFlow {}
}

#[cfg(test)]
mod tests {
    use super::{DirectFlow, Event, Slot, holds};
    use crate::classify::{ACK, FIN, RST, SYN};
    use crate::maps::FlowKey;

    #[test]
    fn a_grant_holds_while_nobody_takes_it_back_and_the_agent_lives() {
        let slot = Slot { index: 3, generation: 7 };
        for (found, now, until, expected) in
            [(7, 9, 10, true), (7, 10, 10, false), (7, 11, 10, false), (8, 9, 10, false), (6, 9, 10, false), (7, 0, 0, false)]
        {
            assert_eq!(holds(slot, found, now, until), expected, "{found} {now} {until}");
        }
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let flow = FlowKey::of("10.0.0.1:4000".parse().unwrap(), "[fd00::2]:80".parse().unwrap());
        let event = Event { flow, kind: 1, opened: 0x0102_0304_0506_0708, slot: Slot { index: 9, generation: 10 } };
        let mut bytes = [0; size_of::<Event>()];
        let mut at = 0;
        let parts: [&[u8]; 8] = [
            &flow.local,
            &flow.remote,
            &flow.local_port.to_ne_bytes(),
            &flow.remote_port.to_ne_bytes(),
            &event.kind.to_ne_bytes(),
            &event.opened.to_ne_bytes(),
            &event.slot.index.to_ne_bytes(),
            &event.slot.generation.to_ne_bytes(),
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
    fn how_far_a_connection_is() {
        let flow = |client: u8, server: u8| DirectFlow {
            client_flags: client.into(),
            server_flags: server.into(),
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
