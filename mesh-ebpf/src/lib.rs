//! The kernel's half of the agent: thin entry points in `bin/`, packet reading in [`packet`], socket look-ups and packet
//! actions in [`act`], the key of a socket look-up in [`lookup`], counting in [`count`]. What to do is decided by `mesh_common::classify`.
#![no_std]

pub mod act;
pub mod count;
pub mod lookup;
pub mod packet;

/// BPF programs cannot unwind; the verifier proves that this is never reached.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers used here are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
