//! What a handshake has proven about the peer.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::revocation::Tracked;
use super::tls::Credentials;
use super::verify::{peer_expiry, peer_identity};
use crate::model::Identity;
use crate::telemetry::reporter::Reporter;

/// A peer that has completed the handshake.
#[derive(Debug)]
pub struct Proven {
    pub identity: Option<Identity>,
    /// When its certificate ends.
    pub expires: Option<SystemTime>,
    /// Where revocation lists are kept: what to wait on for as long as the peer is relied on.
    pub tracked: Option<Tracked>,
}

impl Proven {
    /// From the certificates that the peer has shown to `credentials`.
    pub fn to(credentials: &Credentials, side: Reporter, certificates: Option<&[CertificateDer<'_>]>) -> Self {
        Self {
            identity: certificates.and_then(peer_identity),
            expires: certificates.and_then(peer_expiry),
            tracked: credentials.track(side, certificates),
        }
    }
}
