//! Kernel facts from the sockops program's map, in the words of the records.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::maps::ConnFacts;

use crate::bpf::facts::Facts;
use crate::proxy::record::{self, KernelFacts};

/// Reads the map for the records.
pub(super) struct Source {
    facts: Arc<Facts>,
}

impl Source {
    pub(super) fn new(facts: Arc<Facts>) -> Self {
        Self { facts }
    }
}

impl KernelFacts for Source {
    fn read(&self, cookie: u64, local: SocketAddr, remote: SocketAddr) -> Option<record::Facts> {
        let found = self.facts.read(cookie, local, remote)?;
        Some(record::Facts {
            srtt_us: found.srtt_us,
            retransmits: found.retransmits,
            bytes_acked: found.bytes_acked,
            bytes_received: found.bytes_received,
            close: close(&found),
        })
    }
}

/// States of a TCP socket (`BPF_TCP_*`, linux/bpf.h).
mod tcp {
    pub(super) const ESTABLISHED: u32 = 1;
    pub(super) const FIN_WAIT1: u32 = 4;
    pub(super) const FIN_WAIT2: u32 = 5;
    pub(super) const TIME_WAIT: u32 = 6;
    pub(super) const CLOSE: u32 = 7;
    pub(super) const CLOSE_WAIT: u32 = 8;
    pub(super) const LAST_ACK: u32 = 9;
    pub(super) const CLOSING: u32 = 11;
}

/// How the application's socket closed, from its last change of state.
fn close(facts: &ConnFacts) -> &'static str {
    use tcp::{CLOSE, CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, TIME_WAIT};
    match (facts.old_state, facts.new_state) {
        (_, ESTABLISHED) => "open",
        (ESTABLISHED | CLOSE_WAIT | FIN_WAIT1, CLOSE) => "reset",
        (FIN_WAIT2, CLOSE | TIME_WAIT) | (_, FIN_WAIT1 | FIN_WAIT2) => "application",
        (_, CLOSE_WAIT | LAST_ACK) | (LAST_ACK, CLOSE) => "peer",
        (_, CLOSING) | (CLOSING, _) => "both",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::maps::ConnFacts;

    use super::close;

    #[test]
    fn who_closed() {
        let cases = [
            (2, 1, "open"),
            (1, 7, "reset"),
            (8, 7, "reset"),
            (1, 4, "application"),
            (4, 5, "application"),
            (5, 7, "application"),
            (1, 8, "peer"),
            (8, 9, "peer"),
            (9, 7, "peer"),
            (4, 11, "both"),
            (11, 7, "both"),
        ];
        for (old_state, new_state, expected) in cases {
            let facts = ConnFacts { old_state, new_state, ..ConnFacts::default() };
            assert_eq!(close(&facts), expected, "{old_state} -> {new_state}");
        }
    }
}
