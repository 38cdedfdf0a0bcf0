//! What the agent and its eBPF programs agree on.
//!
//! Only integers, `repr(C)` structs and pure functions live here: the crate is compiled for the host and for BPF.
#![no_std]

pub mod abi;
