//! Host names of workloads that have no address of their own: looked up when they are connected to (protocol note, section
//! 7.5). The machine's resolver is asked; its answers are kept for a while, within a bound.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Error;
use super::record::labels;
use crate::model::Workload;
use crate::telemetry::lookups::Lookups;

/// How long an answer is used. The machine's resolver does not tell how long it holds.
const KEEP: Duration = Duration::from_secs(30);

/// Names kept at once on one shard.
const MOST: usize = 1024;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The names that one shard knows.
#[derive(Debug)]
pub(super) struct Names {
    lookups: Lookups,
    known: RefCell<HashMap<Arc<str>, Answer>>,
}

#[derive(Debug)]
struct Answer {
    addresses: Vec<IpAddr>,
    until: Instant,
}

impl Names {
    pub(super) fn new(lookups: Lookups) -> Self {
        Self { lookups, known: RefCell::default() }
    }

    /// The addresses of `host`, if they are known.
    pub(super) fn known(&self, host: &str) -> Option<Vec<IpAddr>> {
        let known = self.known.borrow();
        known.get(host).filter(|answer| Instant::now() < answer.until).map(|answer| answer.addresses.clone())
    }

    /// Asks for the addresses of `host` on behalf of `source`; afterwards they are known.
    pub(super) async fn look_up(&self, host: &Arc<str>, source: &Workload) -> Result<(), Error> {
        let [labels @ .., _region, _zone] = labels::of(source, source.identity.uri());
        self.lookups.count(labels, host);
        let asking = tokio::net::lookup_host((&**host, 0));
        let failed = |cause| Error::Name { host: Arc::clone(host), cause };
        let found = match tokio::time::timeout(LIMIT, asking).await {
            Ok(found) => found.map_err(failed)?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
        };
        let addresses: Vec<_> = found.map(|address| address.ip().to_canonical()).collect();
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST {
            let now = Instant::now();
            known.retain(|_, answer| now < answer.until);
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(Arc::clone(host), Answer { addresses, until: Instant::now() + KEEP });
        Ok(())
    }
}
