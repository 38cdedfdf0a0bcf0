//! Connections between two pods of the node whose packets go from one to the other, without the agent: see
//! [`mesh_common::direct`]. The maps are the node's: all pods' programs have the same.

use core::ptr::read_volatile;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::TcContext;
use mesh_common::classify::{Flow, SYN};
use mesh_common::direct::{
    Destination, DirectFlow, EVENTS_BYTES, Event, Grant, GrantKey, Happened, MAX_FLOWS, MAX_GRANTS, MAX_TRANSLATED,
    Passed, Segment, Slot, ended, holds,
};
use mesh_common::maps::{FlowKey, PodConfig};

use crate::NO_PREALLOC;

#[map(name = "grants")]
static GRANTS: HashMap<GrantKey, Grant> = HashMap::with_max_entries(MAX_GRANTS, NO_PREALLOC);

#[map(name = "slots")]
static SLOTS: Array<u32> = Array::with_max_entries(MAX_GRANTS, 0);

/// The one entry says until when the agent has promised to live.
#[map(name = "lease")]
static LEASE: Array<u64> = Array::with_max_entries(1, 0);

#[map(name = "flows")]
static FLOWS: HashMap<FlowKey, DirectFlow> = HashMap::with_max_entries(MAX_FLOWS, NO_PREALLOC);

#[map(name = "flow_events")]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Where sockets wanted to go that were given an endpoint instead: written by the `connect` programs.
#[map(name = "translated")]
static TRANSLATED: LruHashMap<u64, Destination> = LruHashMap::with_max_entries(MAX_TRANSLATED, 0);

/// Room that the stack has not: programs that are entered by packets have it for themselves while they run.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scratch {
    key: FlowKey,
    padding: u32,
    asked: GrantKey,
    entry: DirectFlow,
}

#[map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// `BPF_NOEXIST`.
const NEW: u64 = 1;

/// What becomes of a connection that its pod opens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Vouched {
    Yes,
    /// Nobody has granted it.
    No,
    /// It was granted, and there is no room for it.
    Full,
}

/// Writes a new connection down, if it is granted. A packet that is sent again finds it written.
#[inline(never)]
pub fn vouch(ctx: &TcContext, config: &PodConfig, flow: &Flow, segment: Segment) -> Vouched {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Vouched::No };
    // SAFETY: nobody else has it while the program runs.
    let Scratch { key, asked, entry: fresh, .. } = unsafe { &mut *scratch };
    *key = flow.as_sender();
    let key = &*key;
    *asked = GrantKey {
        client: config.netns,
        source: flow.source,
        destination: flow.destination,
        port: flow.destination_port,
        reserved: [0; 3],
    };
    let Some(grant) = GRANTS.get_ptr(&*asked) else { return forgotten(key, config, Vouched::No) };
    // SAFETY: a value stays readable while the program runs.
    let Grant { server, slot } = unsafe { *grant };
    if !in_force(slot) {
        return forgotten(key, config, Vouched::No);
    }
    // SAFETY: a plain helper call.
    let opened = unsafe { bpf_ktime_get_ns() };
    *fresh = DirectFlow {
        client: config.netns,
        server,
        opened,
        slot,
        to_server: Passed::first(flow.flags, segment),
        to_client: Passed { bytes: 0, packets: 0, next: 0, flags: 0 },
    };
    if FLOWS.insert(key, &*fresh, NEW).is_err() {
        if is_repeated(key, config, fresh.to_server.next) {
            return Vouched::Yes;
        }
        // Another connection had the addresses, or there is no room.
        if FLOWS.insert(key, &*fresh, 0).is_err() {
            return Vouched::Full;
        }
    }
    // SAFETY: a plain helper call on the program's context.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if tell(key, (Happened::Opened, opened, slot), socket) { Vouched::Yes } else { unwritten(key) }
}

/// Whether the packet opens a connection that is written down already: it is sent again.
#[inline(always)]
fn is_repeated(key: &FlowKey, config: &PodConfig, next: u32) -> bool {
    let Some(entry) = FLOWS.get_ptr(key) else { return false };
    // SAFETY: a value stays readable while the program runs.
    let (client, known, slot, over) = unsafe {
        (
            read_volatile(&raw const (*entry).client),
            read_volatile(&raw const (*entry).to_server.next),
            slot(entry),
            is_over(entry),
        )
    };
    client == config.netns && known == next && !over && in_force(slot)
}

/// A connection that goes another way must not meet what was written of an earlier one with its addresses.
#[inline(always)]
fn forgotten(key: &FlowKey, config: &PodConfig, vouched: Vouched) -> Vouched {
    if let Some(entry) = FLOWS.get_ptr(key) {
        // SAFETY: a value stays readable while the program runs.
        if unsafe { read_volatile(&raw const (*entry).client) } == config.netns {
            let _ = FLOWS.remove(key);
        }
    }
    vouched
}

/// The same for one that nobody asks about.
#[inline(never)]
pub fn forget(config: &PodConfig, flow: &Flow) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: nobody else has it while the program runs.
    let key = unsafe { &mut (*scratch).key };
    *key = flow.as_sender();
    forgotten(key, config, Vouched::No);
}

/// Whether a packet answers a connection of the pod's that its server has not answered: somebody else has got what was meant
/// for the server.
#[inline(never)]
pub fn is_foreign_answer(config: &PodConfig, flow: &Flow) -> bool {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return true };
    // SAFETY: nobody else has it while the program runs.
    let key = unsafe { &mut (*scratch).key };
    *key = flow.as_receiver();
    let Some(entry) = FLOWS.get_ptr(&*key) else { return false };
    // SAFETY: a value stays readable while the program runs.
    let (client, answer) =
        unsafe { (read_volatile(&raw const (*entry).client), read_volatile(&raw const (*entry).to_client.flags)) };
    client == config.netns && answer & SYN as u32 == 0
}

/// Nobody would make a record of it.
#[inline(always)]
fn unwritten(key: &FlowKey) -> Vouched {
    let _ = FLOWS.remove(key);
    Vouched::Full
}

/// What becomes of a later packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    Yes,
    /// Its connection has lost its permission.
    Cut,
    /// It belongs to no connection of this kind.
    No,
}

/// Counts a packet that the pod sends in a connection that was vouched for, its own or one to it.
#[inline(never)]
pub fn carry(config: &PodConfig, flow: &Flow, segment: Segment) -> Carried {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Carried::Cut };
    // SAFETY: nobody else has it while the program runs.
    let key = unsafe { &mut (*scratch).key };
    *key = flow.as_sender();
    if let Some(entry) = FLOWS.get_ptr_mut(&*key) {
        // SAFETY: a value stays readable and writable while the program runs.
        unsafe {
            if read_volatile(&raw const (*entry).client) == config.netns {
                return pass(entry, key, &raw mut (*entry).to_server, (flow.flags, segment));
            }
        }
    }
    *key = flow.as_receiver();
    if let Some(entry) = FLOWS.get_ptr_mut(&*key) {
        // SAFETY: as above.
        unsafe {
            if read_volatile(&raw const (*entry).server) == config.netns {
                return pass(entry, key, &raw mut (*entry).to_client, (flow.flags, segment));
            }
        }
    }
    Carried::No
}

/// # Safety
/// `entry` must be a value of `flows`, and `passed` the part of it that is the sender's.
#[inline(always)]
unsafe fn pass(entry: *mut DirectFlow, key: &FlowKey, passed: *mut Passed, (flags, segment): (u8, Segment)) -> Carried {
    // SAFETY: the caller's.
    unsafe {
        if !in_force(slot(entry)) {
            return Carried::Cut;
        }
        let now = (*passed).after(flags, segment);
        let before = now.flags == (*passed).flags || is_over(entry);
        *passed = now;
        if !before && is_over(entry) {
            // Lost with a full ring: the agent looks through the map from time to time.
            tell(key, (Happened::Closed, read_volatile(&raw const (*entry).opened), slot(entry)), 0);
        }
    }
    Carried::Yes
}

/// # Safety
/// `entry` must be a value of `flows`.
#[inline(always)]
unsafe fn is_over(entry: *const DirectFlow) -> bool {
    // SAFETY: the caller's.
    unsafe {
        ended(read_volatile(&raw const (*entry).to_server.flags), read_volatile(&raw const (*entry).to_client.flags))
    }
}

/// Whether the client's own program has vouched for a connection to this pod.
#[inline(never)]
pub fn vouched(config: &PodConfig, flow: &Flow) -> bool {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
    // SAFETY: nobody else has it while the program runs.
    let key = unsafe { &mut (*scratch).key };
    *key = flow.as_sender();
    let Some(entry) = FLOWS.get_ptr(&*key) else { return false };
    // SAFETY: a value stays readable while the program runs.
    unsafe { read_volatile(&raw const (*entry).server) == config.netns && in_force(slot(entry)) }
}

/// # Safety
/// `entry` must be a value of `flows`.
#[inline(always)]
unsafe fn slot(entry: *const DirectFlow) -> Slot {
    // SAFETY: the caller's.
    unsafe {
        Slot {
            index: read_volatile(&raw const (*entry).slot.index),
            generation: read_volatile(&raw const (*entry).slot.generation),
        }
    }
}

#[inline(always)]
fn in_force(slot: Slot) -> bool {
    let (Some(found), Some(until)) = (SLOTS.get(slot.index), LEASE.get(0)) else { return false };
    // SAFETY: a plain helper call, and two values that stay readable while the program runs.
    unsafe { holds(slot, read_volatile(found), bpf_ktime_get_coarse_ns(), read_volatile(until)) }
}

/// Tells the agent, which looks from time to time and is not woken. `socket`: the client's cookie, or 0.
#[inline(always)]
fn tell(flow: &FlowKey, (happened, opened, slot): (Happened, u64, Slot), socket: u64) -> bool {
    let Some(mut place) = EVENTS.reserve::<Event>(0) else { return false };
    let mut wanted = Destination { address: [0; 16], port: 0, reserved: [0; 3] };
    if socket != 0
        && let Some(known) = TRANSLATED.get_ptr(&socket)
    {
        // SAFETY: a value of an LRU map stays readable while the program runs, even if it is evicted.
        wanted = unsafe { *known };
    }
    place.write(Event { flow: *flow, kind: happened as u32, opened, slot, wanted });
    place.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}
