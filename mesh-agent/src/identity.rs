//! Who we are and how we prove it: one certificate per service account in use on the node.
//!
//! [`certs`] is a writer and many readers: pipelines ask for an identity and wait, within a limit, for its first
//! certificate; a task per identity keeps it fresh by [`renew`]'s schedule through an authority ([`ca`]). [`tls`]
//! turns certificates into rustls configurations with [`verify`] as the only judge of peers, who asks [`revocation`] what
//! was taken back. [`proven`] is what a handshake leaves behind, or an [`acquaint`]ance of two identities of this node. Keys stay in memory.

mod acquaint;
pub mod ca;
pub mod certs;
pub mod csr;
pub mod proven;
pub mod renew;
pub mod revocation;
pub mod tls;
pub mod verify;

pub use certs::{CertError, Certs};
pub use proven::Proven;
pub use revocation::Revocations;
pub use tls::{Credentials, TLS_HANDSHAKE_LIMIT};
pub use verify::{TlsFailure, TlsKind, peer_identity};

#[cfg(test)]
mod tests;
