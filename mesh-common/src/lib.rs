//! What the agent and its eBPF programs agree on.
//!
//! Only integers, `repr(C)` structs and pure functions live here: the crate is compiled for the host and for BPF, and
//! [`classify`] is run by the kernel, by unit tests and by property tests alike. Feature `user` marks the map types as
//! plain data for aya; nothing else depends on it.
#![no_std]

pub mod abi;
pub mod classify;
pub mod direct;
pub mod maps;
