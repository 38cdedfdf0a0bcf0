//! The life of a pod on this node: enrolled, reconfigured, withdrawn.
//!
//! [`plan`] is pure: desired against observed gives steps. [`capture`] executes one step against the kernel, from inside
//! the pod's namespace. [`driver`] is the one task that owns all pods: it runs the steps, retries what failed, hands
//! listeners to the shards, and reports. [`record`] remembers on disk what was changed, so that a withdrawal restores
//! it even after the agent that changed it was killed.

pub mod capture;
pub mod driver;
mod namespace;
pub mod plan;
mod record;
