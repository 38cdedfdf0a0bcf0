//! Service addresses of direct connections. A pod that connects to a service all of whose endpoints it may talk to directly
//! gets one of them at once, so that no packet needs to be rewritten; to the application its peer is the service.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie};
use aya_ebpf::macros::{cgroup_sock_addr, map};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::direct::{Destination, MAX_SERVICES, MAX_TRANSLATED, Served, ServiceKey};
use mesh_common::maps::{Address, mapped};
use mesh_ebpf::lookup::{bytes, read, words};

/// `BPF_F_NO_PREALLOC`: the map takes memory only for its entries.
const NO_PREALLOC: u32 = 1;
const SOCK_STREAM: u32 = 1;
const TCP: u32 = 6;
/// Whatever becomes of the address, the call goes on.
const GO_ON: i32 = 1;

#[map(name = "services")]
static SERVICES: HashMap<ServiceKey, Served> = HashMap::with_max_entries(MAX_SERVICES, NO_PREALLOC);

/// Where sockets wanted to go, by their cookies.
#[map(name = "translated")]
static TRANSLATED: LruHashMap<u64, Destination> = LruHashMap::with_max_entries(MAX_TRANSLATED, 0);

#[cgroup_sock_addr(connect4)]
pub fn connect_v4(ctx: SockAddrContext) -> i32 {
    if let Some(to) = translate(&ctx, asked_v4(&ctx)) {
        set_v4(ctx.sock_addr, &to);
    }
    GO_ON
}

/// Of addresses in their v4-mapped form, too.
#[cgroup_sock_addr(connect6)]
pub fn connect_v6(ctx: SockAddrContext) -> i32 {
    if let Some(to) = translate(&ctx, asked_v6(&ctx)) {
        set_v6(ctx.sock_addr, &to);
    }
    GO_ON
}

#[cgroup_sock_addr(getpeername4)]
pub fn peer_v4(ctx: SockAddrContext) -> i32 {
    if let Some(wanted) = wanted(&ctx) {
        set_v4(ctx.sock_addr, &wanted);
    }
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn peer_v6(ctx: SockAddrContext) -> i32 {
    if let Some(wanted) = wanted(&ctx) {
        set_v6(ctx.sock_addr, &wanted);
    }
    GO_ON
}

#[inline(always)]
fn asked_v4(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context is valid for the program's run.
    mapped(unsafe { read(&raw const (*ctx.sock_addr).user_ip4) }.to_ne_bytes())
}

#[inline(always)]
fn asked_v6(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context is valid for the program's run.
    bytes(unsafe { words(&raw const (*ctx.sock_addr).user_ip6) })
}

/// The endpoint that a socket gets instead of what it asks for, if it is one of those.
#[inline(always)]
fn translate(ctx: &SockAddrContext, address: Address) -> Option<Destination> {
    let asked = ctx.sock_addr;
    // SAFETY: the context is valid for the program's run.
    let (kind, protocol, port) = unsafe {
        (read(&raw const (*asked).type_), read(&raw const (*asked).protocol), read(&raw const (*asked).user_port))
    };
    if kind != SOCK_STREAM || protocol != TCP {
        return None;
    }
    // SAFETY: a plain helper call on the program's context.
    let client = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let key = ServiceKey { client, address, port: u16::from_be(port as u16), reserved: [0; 3] };
    let Some(served) = SERVICES.get_ptr(&key) else { return untranslated(ctx) };
    // SAFETY: a value stays readable while the program runs; two plain helper calls.
    let to = unsafe { (*served).draw(bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
    let wanted = Destination { address, port: key.port, reserved: [0; 3] };
    // SAFETY: a plain helper call on the program's context.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // A full map evicts its oldest, which costs a record its service's name.
    let _ = TRANSLATED.insert(&socket, &wanted, 0);
    Some(to)
}

/// A socket that connects anew, to somewhere else, has that for its peer.
#[inline(always)]
fn untranslated(ctx: &SockAddrContext) -> Option<Destination> {
    // SAFETY: a plain helper call on the program's context.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // That there is no entry is the rule.
    let _ = TRANSLATED.remove(&socket);
    None
}

#[inline(always)]
fn wanted(ctx: &SockAddrContext) -> Option<Destination> {
    // SAFETY: a plain helper call on the program's context.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let wanted = TRANSLATED.get_ptr(&socket)?;
    // SAFETY: a value of an LRU map stays readable while the program runs, even if it is evicted.
    Some(unsafe { *wanted })
}

#[inline(always)]
fn set_v4(to: *mut bpf_sock_addr, destination: &Destination) {
    let [.., a, b, c, d] = destination.address;
    // SAFETY: the context is valid for the program's run, and these fields may be written.
    unsafe {
        (*to).user_ip4 = u32::from_ne_bytes([a, b, c, d]);
        (*to).user_port = u32::from(destination.port.to_be());
    }
}

/// Word by word: the verifier takes no other writes to a context.
#[inline(always)]
fn set_v6(to: *mut bpf_sock_addr, destination: &Destination) {
    let address = &destination.address;
    let word = |at: usize| u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]]);
    // SAFETY: the context is valid for the program's run, and these fields may be written.
    unsafe {
        let first: *mut u32 = (&raw mut (*to).user_ip6).cast();
        first.write_volatile(word(0));
        first.add(1).write_volatile(word(4));
        first.add(2).write_volatile(word(8));
        first.add(3).write_volatile(word(12));
        (*to).user_port = u32::from(destination.port.to_be());
    }
}
