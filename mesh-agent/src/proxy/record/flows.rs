//! The table of live flows, as another thread may read it.
//!
//! A shard only copies pointers and counters ([`Books::snapshot`]); texts and kernel facts are made by the reader
//! ([`documents`]), so that somebody who watches ten thousand flows does not slow them down.

use std::net::SocketAddr;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use super::{Books, Ends, KernelFacts, Record, Reporter, Security};
use crate::admin::documents::{self, Direction, End, Flow};
use crate::model::{Identity, PolicyName, Workload};

/// The live flows of one shard at one moment.
#[derive(Debug)]
pub struct Snapshot {
    shard: u32,
    flows: Vec<Live>,
}

#[derive(Debug)]
struct Live {
    ends: Arc<Ends>,
    number: u64,
    age: Duration,
    received: u64,
    sent: u64,
    policy: Option<PolicyName>,
    app_socket: Option<(SocketAddr, SocketAddr)>,
}

impl Books {
    /// Copies what is needed to show the live flows.
    pub fn snapshot(&self) -> Snapshot {
        let live = self.live.borrow();
        let flows = live.iter().filter_map(Weak::upgrade).map(|record| Live::of(&record)).collect();
        Snapshot { shard: self.shard, flows }
    }

    /// Open connections: outbound, inbound.
    pub fn counts(&self) -> (usize, usize) {
        let live = self.live.borrow();
        let of_source = |record: &Weak<Record>| record.upgrade().is_some_and(|r| r.ends.reporter == Reporter::Source);
        let outbound = live.iter().filter(|record| of_source(record)).count();
        (outbound, live.len() - outbound)
    }
}

impl Live {
    fn of(record: &Record) -> Self {
        Self {
            ends: Arc::clone(&record.ends),
            number: record.number,
            age: record.opened.elapsed(),
            received: record.received.get(),
            sent: record.sent.get(),
            policy: record.policy.borrow().clone(),
            app_socket: record.app_socket.get(),
        }
    }
}

/// Turns the shards' snapshots into the admin socket's form, oldest flow first.
pub fn documents(snapshots: &[Snapshot], facts: Option<&dyn KernelFacts>) -> Vec<Flow> {
    let each = |snapshot: &Snapshot| -> Vec<Flow> {
        snapshot.flows.iter().map(|live| flow(snapshot.shard, live, facts)).collect()
    };
    let mut flows: Vec<Flow> = snapshots.iter().flat_map(each).collect();
    flows.sort_by_key(|flow| (std::cmp::Reverse(flow.age_ms), flow.shard, flow.number));
    flows
}

fn flow(shard: u32, live: &Live, facts: Option<&dyn KernelFacts>) -> Flow {
    let ends = &*live.ends;
    let (source, destination) = ends.proven();
    let read = |(local, remote)| facts?.read(ends.netns_cookie, local, remote);
    let facts = live.app_socket.and_then(read);
    Flow {
        shard,
        number: live.number,
        direction: match ends.reporter {
            Reporter::Source => Direction::Outbound,
            Reporter::Destination => Direction::Inbound,
        },
        source: end(ends.src_addr, ends.source.as_deref(), source),
        destination: end(ends.dst_addr, ends.destination.as_deref(), destination),
        original: ends.original.to_string(),
        hbone: ends.hbone_addr.clone(),
        service: ends.service.as_ref().map(|service| service.key.hostname.to_string()),
        security: match ends.security {
            Security::MutualTls => documents::Security::MutualTls,
            Security::Local => documents::Security::Local,
            Security::Direct => documents::Security::Direct,
            Security::Plain => documents::Security::Plain,
        },
        policy: live.policy.as_ref().map(ToString::to_string),
        age_ms: u64::try_from(live.age.as_millis()).unwrap_or(u64::MAX),
        to_server: live.received,
        to_client: live.sent,
        rtt_us: facts.map(|facts| facts.srtt_us),
        retransmits: facts.map(|facts| facts.retransmits),
    }
}

fn end(address: SocketAddr, workload: Option<&Workload>, proven: Option<&Identity>) -> End {
    End {
        address: address.to_string(),
        workload: workload.map(|workload| workload.name.to_string()),
        namespace: workload.map(|workload| workload.namespace().to_owned()),
        identity: proven.map(ToString::to_string),
    }
}
