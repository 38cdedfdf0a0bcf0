//! Reading the context of a socket look-up, and words of any context.

use aya_ebpf::programs::SkLookupContext;
use mesh_common::maps::{FlowKey, mapped};

const AF_INET: u32 = 2;
const TCP: u32 = 6;

/// The connection that is looked for, as its receiver sees it; none for other protocols than TCP.
#[inline(always)]
pub fn key(ctx: &SkLookupContext) -> Option<FlowKey> {
    let lookup = ctx.lookup;
    // Every field is read before the family is looked at: the compiler would else select a pointer into the context and
    // load through that, which the verifier refuses.
    // SAFETY: the context is valid for the program's run; the verifier checks each field's offset.
    let (protocol, family, local_port, remote_port, v4, v6) = unsafe {
        (
            read(&raw const (*lookup).protocol),
            read(&raw const (*lookup).family),
            read(&raw const (*lookup).local_port),
            (&raw const (*lookup).remote_port).read_volatile(),
            (read(&raw const (*lookup).local_ip4), read(&raw const (*lookup).remote_ip4)),
            (words(&raw const (*lookup).local_ip6), words(&raw const (*lookup).remote_ip6)),
        )
    };
    if protocol != TCP {
        return None;
    }
    let is_v4 = family == AF_INET;
    Some(FlowKey {
        local: if is_v4 { mapped(v4.0.to_ne_bytes()) } else { bytes(v6.0) },
        remote: if is_v4 { mapped(v4.1.to_ne_bytes()) } else { bytes(v6.1) },
        // The local port is in host byte order, the remote one is not.
        local_port: local_port as u16,
        remote_port: u16::from_be(remote_port),
    })
}

/// Reads one word of a context, in one load of its own.
///
/// # Safety
/// `field` must be a field of the running program's context.
#[inline(always)]
pub unsafe fn read(field: *const u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { core::ptr::read_volatile(field) }
}

/// Reads an IPv6 address of a context; its words must be loaded one by one.
///
/// # Safety
/// `field` must be a field of the running program's context.
#[inline(always)]
pub unsafe fn words(field: *const [u32; 4]) -> [u32; 4] {
    let first: *const u32 = field.cast();
    // SAFETY: the caller's, for all four words.
    unsafe { [read(first), read(first.add(1)), read(first.add(2)), read(first.add(3))] }
}

/// An address from its words in network byte order.
#[inline(always)]
pub fn bytes(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}
