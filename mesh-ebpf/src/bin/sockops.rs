//! Kernel facts of the enrolled pods' connections, written at every change of state. The agent reads them when it
//! closes a connection's record; nothing here is on the path of a byte.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::{map, sock_ops};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::SockOpsContext;
use mesh_common::maps::{ConnFacts, FactsKey, FlowKey, mapped};
use mesh_ebpf::lookup::{bytes, read, words};

const AF_INET: u32 = 2;
/// `BPF_TCP_ESTABLISHED` (linux/bpf.h).
const ESTABLISHED: u32 = 1;

/// Cookies of the enrolled pods' namespaces.
#[map(name = "enrolled")]
static ENROLLED: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

#[map(name = "facts")]
static FACTS: LruHashMap<FactsKey, ConnFacts> = LruHashMap::with_max_entries(16384, 0);

#[sock_ops]
pub fn connection_facts(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => watch(&ctx),
        BPF_SOCK_OPS_STATE_CB => note(&ctx),
        _ => {}
    }
    1
}

/// Asks to be called at this connection's changes of state, if its pod is enrolled.
#[inline(always)]
fn watch(ctx: &SockOpsContext) {
    let cookie = cookie(ctx);
    if ENROLLED.get_ptr(&cookie).is_none() {
        return;
    }
    // A socket that cannot be watched is reported without facts.
    let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
    // The tuple may have had an earlier connection, whose facts would be taken for this one's.
    write(ctx, cookie, ESTABLISHED, ESTABLISHED);
}

#[inline(always)]
fn note(ctx: &SockOpsContext) {
    let cookie = cookie(ctx);
    // Somebody else's program may have asked for it.
    if ENROLLED.get_ptr(&cookie).is_some() {
        write(ctx, cookie, ctx.arg(0), ctx.arg(1));
    }
}

#[inline(always)]
fn write(ctx: &SockOpsContext, cookie: u64, old_state: u32, new_state: u32) {
    let ops = ops(ctx);
    // SAFETY: the context is valid for the program's run; the verifier checks each field's offset.
    let facts = unsafe {
        ConnFacts {
            bytes_acked: (*ops).bytes_acked,
            bytes_received: (*ops).bytes_received,
            // The kernel keeps eight times the smoothed round-trip time.
            srtt_us: (*ops).srtt_us >> 3,
            retransmits: (*ops).total_retrans,
            old_state,
            new_state,
        }
    };
    let key = key(ctx, cookie);
    // In place where there is an entry: an insert takes a new one from the map's shared list each time, even for a key
    // that is there.
    if let Some(entry) = FACTS.get_ptr_mut(&key) {
        // SAFETY: a value of an LRU map stays writable while the program runs, even if it is evicted.
        unsafe { *entry = facts };
        return;
    }
    // A full map evicts its oldest; a failed insert only costs the facts.
    let _ = FACTS.insert(&key, &facts, 0);
}

#[inline(always)]
fn key(ctx: &SockOpsContext, netns: u64) -> FactsKey {
    let ops = ops(ctx);
    // Every field is read before the family is looked at: the compiler would else select a pointer into the context and
    // load through that, which the verifier refuses.
    // SAFETY: the context is valid for the program's run; the verifier checks each field's offset.
    let (local_v4, remote_v4, local_v6, remote_v6) = unsafe {
        (
            read(&raw const (*ops).local_ip4),
            read(&raw const (*ops).remote_ip4),
            words(&raw const (*ops).local_ip6),
            words(&raw const (*ops).remote_ip6),
        )
    };
    let v4 = ctx.family() == AF_INET;
    let flow = FlowKey {
        local: if v4 { mapped(local_v4.to_ne_bytes()) } else { bytes(local_v6) },
        remote: if v4 { mapped(remote_v4.to_ne_bytes()) } else { bytes(remote_v6) },
        local_port: ctx.local_port() as u16,
        // In network byte order, in the upper or lower half depending on the architecture's view of the field.
        remote_port: u32::from_be(ctx.remote_port()) as u16,
    };
    FactsKey { netns, flow, reserved: 0 }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: a plain helper call on the program's context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn ops(ctx: &SockOpsContext) -> *mut bpf_sock_ops {
    ctx.ops
}
