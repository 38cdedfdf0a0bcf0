//! The life of a pod on this node: enrolled, reconfigured, withdrawn.
//!
//! [`plan`] is pure: desired against observed gives steps. [`capture`] executes one step against the kernel, from inside
//! the pod's namespace; [`redirected`] does so for pods that somebody else's rules redirect. [`driver`] is the one task that
//! owns all pods: it runs the steps, retries what failed, hands listeners to the shards, and reports. [`record`] remembers
//! on disk what was changed, so that a withdrawal restores it even after the agent that changed it was killed.
//!
//! Which pods are desired is the file's to say, or a CNI agent's, or, for pods of Kubernetes, that of [`source`]: it runs
//! [`members`], which is pure, and has running pods found by [`find`].

pub mod capture;
mod cgroup;
pub mod driver;
pub mod find;
pub mod listeners;
pub mod members;
mod namespace;
mod owners;
pub mod plan;
mod record;
pub mod redirected;
pub mod source;
