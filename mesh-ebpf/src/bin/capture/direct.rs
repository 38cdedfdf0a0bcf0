//! Connections between two pods of the node whose packets go from one to the other, without the agent: see
//! [`mesh_common::direct`]. The maps are the node's: all pods' programs have the same.

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use mesh_common::classify::Flow;
use mesh_common::direct::{
    DirectFlow, EVENTS_BYTES, Event, Grant, GrantKey, Happened, MAX_FLOWS, MAX_GRANTS, Passed, Slot, ended, holds,
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
pub fn vouch(config: &PodConfig, flow: &Flow) -> Vouched {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Vouched::No };
    // SAFETY: nobody else has it while the program runs.
    let Scratch { key, asked, entry: fresh, .. } = unsafe { &mut *scratch };
    *key = flow.as_sender();
    let key = &*key;
    if let Some(entry) = FLOWS.get_ptr(key) {
        // SAFETY: a value stays readable while the program runs.
        let (client, slot, answered) =
            unsafe { (read_volatile(&raw const (*entry).client), slot(entry), (*entry).server_flags) };
        if client == config.netns && answered == 0 && in_force(slot) {
            return Vouched::Yes;
        }
    }
    *asked = GrantKey {
        client: config.netns,
        source: flow.source,
        destination: flow.destination,
        port: flow.destination_port,
        reserved: [0; 3],
    };
    let Some(grant) = GRANTS.get_ptr(&*asked) else { return Vouched::No };
    // SAFETY: a value stays readable while the program runs.
    let Grant { server, slot } = unsafe { *grant };
    if !in_force(slot) {
        return Vouched::No;
    }
    // SAFETY: a plain helper call.
    let opened = unsafe { bpf_ktime_get_ns() };
    *fresh = DirectFlow {
        client: config.netns,
        server,
        opened,
        slot,
        to_server: Passed { bytes: 0, packets: 1 },
        to_client: Passed { bytes: 0, packets: 0 },
        client_flags: flow.flags as u32,
        server_flags: 0,
    };
    if FLOWS.insert(key, &*fresh, 0).is_err() {
        return Vouched::Full;
    }
    if tell(key, Happened::Opened, opened, slot) { Vouched::Yes } else { unwritten(key) }
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
pub fn carry(config: &PodConfig, flow: &Flow, payload: u32) -> Carried {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Carried::Cut };
    // SAFETY: nobody else has it while the program runs.
    let key = unsafe { &mut (*scratch).key };
    *key = flow.as_sender();
    if let Some(entry) = FLOWS.get_ptr_mut(&*key) {
        // SAFETY: a value stays readable and writable while the program runs; counters are added to atomically.
        unsafe {
            if read_volatile(&raw const (*entry).client) == config.netns {
                let sent = (&raw mut (*entry).to_server, &raw mut (*entry).client_flags);
                return pass(entry, key, sent, flow.flags, payload);
            }
        }
    }
    *key = flow.as_receiver();
    if let Some(entry) = FLOWS.get_ptr_mut(&*key) {
        // SAFETY: as above.
        unsafe {
            if read_volatile(&raw const (*entry).server) == config.netns {
                let sent = (&raw mut (*entry).to_client, &raw mut (*entry).server_flags);
                return pass(entry, key, sent, flow.flags, payload);
            }
        }
    }
    Carried::No
}

/// # Safety
/// `entry` must be a value of `flows`, and `sent` parts of it.
#[inline(always)]
unsafe fn pass(
    entry: *mut DirectFlow,
    key: &FlowKey,
    (passed, flags): (*mut Passed, *mut u32),
    sent: u8,
    payload: u32,
) -> Carried {
    // SAFETY: the caller's.
    unsafe {
        if !in_force(slot(entry)) {
            return Carried::Cut;
        }
        add(&raw mut (*passed).bytes, u64::from(payload));
        add(&raw mut (*passed).packets, 1);
        let known = read_volatile(flags);
        let now = known | u32::from(sent);
        if now != known {
            let before = is_over(entry);
            write_volatile(flags, now);
            if !before && is_over(entry) {
                // Lost with a full ring: the agent looks through the map from time to time.
                tell(key, Happened::Closed, read_volatile(&raw const (*entry).opened), slot(entry));
            }
        }
    }
    Carried::Yes
}

/// Adds atomically: a connection's packets may leave on two processors at once. (`core` has no such addition for targets
/// without compare-and-swap, which BPF had for long.)
///
/// # Safety
/// `counter` must be in a value of a map.
#[inline(always)]
unsafe fn add(counter: *mut u64, number: u64) {
    // SAFETY: the caller's; the instruction reads and writes the eight bytes at `counter`, nothing else.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) number, options(nostack)) }
}

/// # Safety
/// `entry` must be a value of `flows`.
#[inline(always)]
unsafe fn is_over(entry: *const DirectFlow) -> bool {
    // SAFETY: the caller's.
    unsafe { ended(read_volatile(&raw const (*entry).client_flags), read_volatile(&raw const (*entry).server_flags)) }
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

/// Tells the agent, which looks from time to time and is not woken.
#[inline(always)]
fn tell(flow: &FlowKey, happened: Happened, opened: u64, slot: Slot) -> bool {
    let Some(mut place) = EVENTS.reserve::<Event>(0) else { return false };
    place.write(Event { flow: *flow, kind: happened as u32, opened, slot });
    place.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}
