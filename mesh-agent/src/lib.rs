//! The mesh-agent library: one module per concern, listed from the lowest rank to the highest.
//!
//! A module imports only modules of a lower rank (`cargo xtask tidy` checks it); ARCHITECTURE.md has the map.

// Rank 0: the machine.
pub mod admin;
pub mod sys;
pub mod task;
pub mod telemetry;
// Rank 1: what a mesh is.
pub mod model;
// Rank 2: wire formats.
pub mod hbone;
pub mod proto;
pub mod tls;
// Rank 3: where configuration, certificates and the answers to names come from.
pub mod cni;
pub mod dns;
pub mod file;
pub mod identity;
pub mod kubernetes;
pub mod xds;
pub mod zds;
// Rank 4: the data path and the kernel's part of it.
pub mod bpf;
pub mod proxy;
// Rank 5: life cycles.
pub mod control;
pub mod pods;
// Rank 6: composition.
pub mod cli;
pub mod ctl;
pub mod node;
