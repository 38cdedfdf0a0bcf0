//! The operating system's room: namespaces, socket options, netlink. One of the two rooms where `unsafe` may live.

pub mod caps;
pub mod cores;
pub mod datagram;
pub mod grace;
pub mod kernel;
pub mod limits;
pub mod memory;
pub mod mounts;
pub mod netlink;
pub mod netns;
mod packet;
pub mod signal;
pub mod socket;
pub mod thread;
