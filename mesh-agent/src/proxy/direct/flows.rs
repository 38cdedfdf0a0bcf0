//! The connections that the kernel carries: their records, made from what its programs tell and count.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::direct::{DirectFlow, Event, Happened, Passed, Slot};
use mesh_common::maps::FlowKey;

use super::grant::Granted;
use super::{Kernel, Shortcuts};
use crate::proxy::copy::Broken;
use crate::proxy::error::{self, Error};
use crate::proxy::pod::Pod;
use crate::proxy::record::{Ends, Outcome, Record, Reporter};
use crate::sys::netlink::{Connection, destroy};

/// How often counters are read, and what has been missed is looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long the last packets of a connection may be sent again.
const LAST_PACKETS: Duration = Duration::from_secs(2);
/// How long a client tries to connect (Linux gives up after 127 s).
const CONNECTING: Duration = Duration::from_secs(130);

/// An open connection.
#[derive(Debug)]
pub(super) struct Carried {
    opened: u64,
    since: Instant,
    granted: Rc<Granted>,
    source: Rc<Record>,
    destination: Rc<Record>,
    /// Bytes that are in the records.
    to_server: u64,
    to_client: u64,
}

/// What is to be forgotten.
#[derive(Debug)]
pub(super) struct Ended {
    at: Instant,
    flow: FlowKey,
    opened: u64,
}

impl Carried {
    fn open(granted: &Rc<Granted>, event: &Event) -> Self {
        let (client, target) = (event.flow.local(), granted.target);
        let (wanted, service) = granted.wanted(event).unzip();
        let of = |pod: &Pod, ends: &Ends, socket: (SocketAddr, SocketAddr)| {
            let mut ends = Ends { src_addr: client, app_socket: Some(socket), ..ends.clone() };
            if let Some(service) = &service {
                ends.service = Some(Arc::clone(service));
            }
            if let (Some(wanted), Reporter::Source) = (wanted, ends.reporter) {
                ends.original = wanted;
            }
            Record::open(&pod.books, ends)
        };
        let [source, destination] = &granted.ends;
        let source = of(&granted.client, source, (client, target));
        let destination = of(&granted.server, destination, (target, client));
        destination.allowed_by(granted.policy.as_ref());
        granted.used.set(true);
        granted.open.send_modify(|open| *open += 1);
        let since = Instant::now();
        Self {
            opened: event.opened,
            since,
            granted: Rc::clone(granted),
            source,
            destination,
            to_server: 0,
            to_client: 0,
        }
    }

    fn count(&mut self, now: &DirectFlow) {
        let (to_server, to_client) = (now.to_server.bytes, now.to_client.bytes);
        for record in [&self.source, &self.destination] {
            record.received(to_server.saturating_sub(self.to_server));
            record.sent(to_client.saturating_sub(self.to_client));
        }
        (self.to_server, self.to_client) = (to_server, to_client);
    }

    fn finish(self, outcome: &Outcome) {
        self.source.finish(outcome.clone());
        self.destination.finish(outcome.clone());
        self.granted.open.send_modify(|open| *open -= 1);
    }

    /// How it ended, by what went over it.
    fn outcome(&self, last: &DirectFlow) -> Outcome {
        let reset = |by: fn(io::Error) -> Broken| Err(by(io::ErrorKind::ConnectionReset.into()).into());
        let to = self.granted.target;
        let by_client = DirectFlow { to_client: Passed::default(), ..*last }.reset();
        error::outcome(&match last.reset() {
            false => Ok(()),
            true if by_client => reset(Broken::Local),
            true if last.answered() => reset(Broken::Onward),
            true => Err(Error::Connect { to, cause: io::ErrorKind::ConnectionRefused.into(), hint: "" }),
        })
    }

    /// Both applications hear at once that it is over, instead of waiting for packets that are let through no more.
    fn destroy(&self, flow: &FlowKey) {
        let (client, server) = (flow.local(), flow.remote());
        let ends = [(&self.granted.client, client, server), (&self.granted.server, server, client)];
        for (pod, local, remote) in ends {
            let ended = pod.local.netns.run(|| destroy(Connection { local, remote }));
            if let Err(error) | Ok(Err(error)) = ended {
                tracing::warn!(pod = %pod.local.spec.uid, %local, %remote, %error, "a connection that was cut hangs");
            }
        }
    }
}

impl Shortcuts {
    /// Takes what the programs tell, in its order.
    pub(in crate::proxy) fn take(&self, events: &[Event]) {
        let Some(kernel) = &self.kernel else { return };
        for event in events {
            if event.kind == Happened::Opened as u32 {
                self.opened(kernel, event);
            } else {
                self.closed(kernel, event);
            }
        }
    }

    fn granted(&self, slot: Slot) -> Option<Rc<Granted>> {
        self.grants.borrow().get(&slot.index).filter(|granted| granted.slot == slot).cloned()
    }

    fn opened(&self, kernel: &Arc<dyn Kernel>, event: &Event) {
        let Some(granted) = self.granted(event.slot) else {
            // Its grant ended so long ago that its packets are let through no more.
            return kernel.forget(&event.flow, event.opened);
        };
        let carried = Carried::open(&granted, event);
        let over = granted.over.borrow().clone();
        if let Some(outcome) = over {
            return self.end(kernel, event.flow, carried, &outcome);
        }
        let former = self.flows.borrow_mut().insert(event.flow, carried);
        if let Some(former) = former {
            // Its end was not told, and its place in the map has been taken.
            former.finish(&error::outcome(&Ok(())));
        }
    }

    fn closed(&self, kernel: &Arc<dyn Kernel>, event: &Event) {
        let mut flows = self.flows.borrow_mut();
        if flows.get(&event.flow).is_none_or(|carried| carried.opened != event.opened) {
            return;
        }
        if let Some(carried) = flows.remove(&event.flow) {
            drop(flows);
            self.settle(kernel, event.flow, carried);
        }
    }

    /// It has ended by itself.
    fn settle(&self, kernel: &Arc<dyn Kernel>, flow: FlowKey, mut carried: Carried) {
        let last = kernel.flow(&flow).filter(|last| last.opened == carried.opened).unwrap_or_default();
        carried.count(&last);
        let outcome = carried.outcome(&last);
        self.ended.borrow_mut().push_back(Ended { at: Instant::now(), flow, opened: carried.opened });
        carried.finish(&outcome);
    }

    /// It is ended.
    fn end(&self, kernel: &Arc<dyn Kernel>, flow: FlowKey, mut carried: Carried, outcome: &Outcome) {
        if let Some(last) = kernel.flow(&flow).filter(|last| last.opened == carried.opened) {
            carried.count(&last);
        }
        carried.destroy(&flow);
        kernel.forget(&flow, carried.opened);
        carried.finish(outcome);
    }

    /// Ends all connections of a grant that was cut.
    pub(super) fn cut(&self, granted: &Rc<Granted>, outcome: &Outcome) {
        let Some(kernel) = &self.kernel else { return };
        let all: Vec<_> =
            self.flows.borrow_mut().extract_if(|_, carried| Rc::ptr_eq(&carried.granted, granted)).collect();
        for (flow, carried) in all {
            self.end(kernel, flow, carried, outcome);
        }
    }

    /// Keeps the records up to date, for ever.
    pub(in crate::proxy) async fn follow(self: Rc<Self>) {
        let Some(kernel) = &self.kernel else { return };
        loop {
            tokio::time::sleep(SWEEP).await;
            self.look(kernel);
            self.forget(kernel);
        }
    }

    fn look(&self, kernel: &Arc<dyn Kernel>) {
        let timed_out = |to| error::outcome(&Err(Error::ConnectTimeout { to, hint: ", the server did not answer" }));
        let (mut over, mut given_up) = (Vec::new(), Vec::new());
        for (flow, carried) in &mut *self.flows.borrow_mut() {
            let Some(now) = kernel.flow(flow).filter(|now| now.opened == carried.opened) else {
                over.push(*flow);
                continue;
            };
            carried.count(&now);
            if now.ended() {
                over.push(*flow);
            } else if !now.answered() && carried.since.elapsed() > CONNECTING {
                given_up.push(*flow);
            }
        }
        let remove = |flow: &FlowKey| self.flows.borrow_mut().remove(flow);
        for flow in over {
            if let Some(carried) = remove(&flow) {
                self.settle(kernel, flow, carried);
            }
        }
        for flow in given_up {
            if let Some(carried) = remove(&flow) {
                let outcome = timed_out(carried.granted.target);
                self.end(kernel, flow, carried, &outcome);
            }
        }
    }

    fn forget(&self, kernel: &Arc<dyn Kernel>) {
        let mut ended = self.ended.borrow_mut();
        while ended.front().is_some_and(|ended| ended.at.elapsed() >= LAST_PACKETS) {
            if let Some(Ended { flow, opened, .. }) = ended.pop_front() {
                kernel.forget(&flow, opened);
            }
        }
    }
}
