//! What two identities of one node prove to each other where no handshake takes place: each shows its certificate, which is
//! judged as in a handshake. That each has its key need not be shown: both keys are in this process.

use std::io;

use rustls_pki_types::UnixTime;

use super::proven::Proven;
use super::tls::Credentials;
use super::verify::{Expected, TlsFailure};
use crate::model::Identity;
use crate::telemetry::reporter::Reporter;

impl Credentials {
    /// Judges a client: anybody of our trust domain.
    pub fn meet_client(&self, client: &Self) -> Result<Proven, TlsFailure> {
        let domain = Expected::TrustDomain(self.identity.trust_domain().into());
        self.meet(client, domain, Reporter::Destination)
    }

    /// Judges a server, which must be one of `accepted`.
    pub fn meet_server(&self, server: &Self, accepted: &[Identity]) -> Result<Proven, TlsFailure> {
        self.meet(server, Expected::OneOf(accepted.into()), Reporter::Source)
    }

    /// `side`: ours.
    fn meet(&self, other: &Self, expected: Expected, side: Reporter) -> Result<Proven, TlsFailure> {
        let refused = |error| TlsFailure::of(&io::Error::other(error));
        let [leaf, intermediates @ ..] = other.certificates() else {
            return Err(refused(rustls::Error::NoCertificatesPresented));
        };
        self.verifier(expected).verify(leaf, intermediates, UnixTime::now(), side).map_err(refused)?;
        Ok(Proven::to(self, side, Some(other.certificates())))
    }
}

#[cfg(test)]
mod tests;
