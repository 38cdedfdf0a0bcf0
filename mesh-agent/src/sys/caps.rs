//! What the process must be allowed to do, checked before anything is changed.

use rustix::process::geteuid;

/// A missing permission, with what it is needed for.
#[derive(Debug, thiserror::Error)]
#[error("the node agent must run as root: it enters pod namespaces, loads eBPF and opens transparent sockets")]
pub struct NotRoot;

/// Fails early and clearly instead of late and obscurely.
pub fn require_root() -> Result<(), NotRoot> {
    if geteuid().is_root() { Ok(()) } else { Err(NotRoot) }
}
