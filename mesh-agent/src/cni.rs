//! The CNI plugin: by it a new pod is in the mesh before its first container starts.
//!
//! The container runtime calls [`plugin()`] for each pod, after the plugins that gave the pod its interface. It asks the
//! node's agent over a Unix socket and waits until the pod is captured; a pod that cannot be captured is not started, and
//! the kubelet tries again. [`serve`] is the agent's end of that socket, [`wire`] what is said on it. [`install`] puts the
//! plugin where the runtime finds it, and keeps it there. Deliberately absent: whatever decides which pods are in the mesh.

pub mod install;
pub mod wire;

mod ask;
mod call;
mod conflist;
mod plugin;
mod server;
mod spec;

pub use plugin::{is_plugin, plugin};
pub use server::{Asked, serve};
pub use wire::{Answer, Request, Sandbox};

/// What the runtime knows the plugin as: its type in a network's configuration, and the name of its program.
pub const PROGRAM: &str = "mesh-agent-cni";
