//! Certificates that their authority has taken back (protocol note, section 5.9): every peer is looked up in the lists
//! when it proves itself, and again whenever the lists change, for as long as what it has proven is relied on.
//!
//! [`Lists`] is what one file says. The lists in force come by a watch, whose writer also says how the last reading went;
//! the writer is elsewhere, for it watches a file. A chain of which no list knows anything is good.

mod list;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio::sync::watch;

pub use list::{BadList, Lists};

use crate::telemetry::reporter::Reporter;

/// The peer's certificate, or one that it rests on, is revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's certificate was revoked by its authority (serial {serial})")]
pub struct Revoked {
    /// Of the revoked certificate, hexadecimal.
    pub serial: String,
}

/// The lists in force, and how the last reading of the file went.
#[derive(Clone, Debug)]
pub struct State {
    pub path: PathBuf,
    /// Empty until the file was first found good.
    pub lists: Arc<Lists>,
    /// When they were read.
    pub loaded: Option<SystemTime>,
    /// Why what was last read is not in force, and when that was.
    pub rejected: Option<(SystemTime, String)>,
}

/// What was done because of the lists.
#[derive(Debug, Default)]
pub struct Tally {
    rejections: [AtomicU64; 2],
    untracked: [AtomicU64; 2],
}

impl Tally {
    /// Peers that were refused, and connections that were ended.
    pub fn rejections(&self, side: Reporter) -> u64 {
        self.rejections[side as usize].load(Relaxed)
    }

    /// Connections that will not be looked at again when the lists change.
    pub fn untracked(&self, side: Reporter) -> u64 {
        self.untracked[side as usize].load(Relaxed)
    }
}

/// Readers' handle. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    /// None where no lists are kept: then nothing is looked up and nothing is waited for.
    states: Option<watch::Receiver<State>>,
    tally: Arc<Tally>,
}

impl Revocations {
    pub fn of(states: watch::Receiver<State>) -> Self {
        Self { states: Some(states), tally: Arc::default() }
    }

    pub fn state(&self) -> Option<State> {
        self.states.as_ref().map(|states| states.borrow().clone())
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Looks a verified chain up, at a handshake of ours as `side`.
    pub(super) fn check<'a>(
        &self,
        side: Reporter,
        chain: impl IntoIterator<Item = &'a CertificateDer<'a>>,
        roots: &[TrustAnchor<'_>],
    ) -> Result<(), Revoked> {
        let Some(states) = &self.states else { return Ok(()) };
        let lists = Arc::clone(&states.borrow().lists);
        match lists.revoked(chain, roots) {
            None => Ok(()),
            Some(serial) => {
                self.tally.rejections[side as usize].fetch_add(1, Relaxed);
                Err(Revoked { serial })
            }
        }
    }

    /// Keeps an eye on a peer that has just proven itself.
    pub(super) fn track(
        &self,
        side: Reporter,
        chain: Option<&[CertificateDer<'_>]>,
        roots: &Arc<[TrustAnchor<'static>]>,
    ) -> Option<Tracked> {
        self.states.as_ref()?;
        let Some(chain) = chain else {
            self.tally.untracked[side as usize].fetch_add(1, Relaxed);
            return None;
        };
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Some(Tracked { side, chain, roots: Arc::clone(roots), revocations: self.clone() })
    }
}

/// A peer whose certificates are looked up again whenever the lists change.
#[derive(Debug)]
pub struct Tracked {
    side: Reporter,
    chain: Vec<CertificateDer<'static>>,
    roots: Arc<[TrustAnchor<'static>]>,
    revocations: Revocations,
}

impl Tracked {
    /// Waits until one of them is revoked.
    pub async fn until_revoked(self) -> Revoked {
        let Some(mut states) = self.revocations.states.clone() else { return std::future::pending().await };
        loop {
            states.borrow_and_update();
            if let Err(revoked) = self.revocations.check(self.side, &self.chain, &self.roots) {
                return revoked;
            }
            if states.changed().await.is_err() {
                // Shutting down: what was proven holds while connections drain.
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
