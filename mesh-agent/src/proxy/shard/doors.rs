//! What shards are told, by the agent and by each other; where a shard settles, and how it takes what is handed over.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::direct::Event;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::{Leave, LocalPod, PodListeners, Shared};
use crate::proxy::copy::{Broken, reset_on_close};
use crate::proxy::error::Error;
use crate::proxy::placement::{Moving, Placement, Seats};
use crate::proxy::pod::{Pod, serve_weighed};
use crate::proxy::record::{Books, Reporter, refuse};
use crate::sys::cores::{Homes, roam, stay_on};
use crate::sys::thread::{be_nicer, in_slices};
use crate::task::Lane;

/// How long a shard may work before others of its core do, and they before it. The kernel takes no less.
const SLICE: Duration = Duration::from_micros(100);
/// ... and its lane: a shard that has something to do interrupts it, since it asks for less...
const LANE_SLICE: Duration = Duration::from_micros(200);
/// ... and since it is hardly ever ahead of its share, of which lanes have a third.
const LANE_NICE: i32 = 5;

pub(super) type Ask = Box<dyn FnOnce(&Rc<Books>) + Send>;

pub(super) enum Order {
    /// A connection of the pod, from the shard of the number.
    Take(Arc<str>, Moving, usize),
    Serve(LocalPod, PodListeners, oneshot::Sender<io::Result<()>>),
    Retire(Arc<str>, Leave, oneshot::Sender<()>),
    Ask(Ask),
    /// The token is let go when they have been taken.
    Carried(Vec<Event>, Arc<()>),
    Stop,
}

/// The way to another shard.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Door(pub(super) mpsc::WeakUnboundedSender<Order>);

impl Door {
    /// Gives a connection of a pod to the shard; `from` is where it gets back to if the shard does not know the pod. A shard
    /// that has ended takes none.
    pub(in crate::proxy) fn hand_over(&self, pod: &Arc<str>, moving: Moving, from: usize) -> Result<(), Moving> {
        let Some(door) = self.0.upgrade() else { return Err(moving) };
        match door.send(Order::Take(Arc::clone(pod), moving, from)) {
            Err(mpsc::error::SendError(Order::Take(_, moving, _))) => Err(moving),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

pub(super) fn send(door: &mpsc::UnboundedSender<Order>, order: Order) -> io::Result<()> {
    door.send(order).map_err(|_| shard_is_gone())
}

pub(super) fn shard_is_gone() -> io::Error {
    io::Error::other("the shard has ended")
}

/// Without its home a shard does the same from wherever it is.
pub(super) fn settle(shard: usize, homes: &Homes, seats: Arc<Seats>) -> Placement {
    let home = homes.iter().nth(shard).flatten();
    if let Some(Err(error)) = home.map(stay_on) {
        tracing::warn!(shard, core = home, %error, "a shard does not stay on its core");
    }
    seats.take(shard);
    in_short_slices(shard, SLICE);
    let around = homes.clone();
    let begin = move || {
        // It would stay on the shard's core, which may have enough to do.
        roam(&around).ok();
        be_nicer(LANE_NICE).ok();
        in_short_slices(shard, LANE_SLICE);
    };
    let lane = Lane::start(&format!("lane-{shard}"), Arc::clone(seats.to_lanes()), begin);
    let lane = lane.unwrap_or_else(|error| {
        tracing::warn!(shard, %error, "no lane: connections that carry much make others wait");
        Lane::none()
    });
    Placement::new(seats, shard, home.map(|core| (core, homes.clone())), lane)
}

/// Without, whoever uses a core to the full makes others wait for milliseconds each time.
fn in_short_slices(shard: usize, slice: Duration) {
    if let Err(error) = in_slices(slice) {
        tracing::debug!(shard, %error, "a shard or its lane has no short slices of time");
    }
}

/// Serves what another shard has handed over. A pod that comes or goes is not on all shards at the same time; its connection
/// then goes back to where it came from.
pub(super) fn welcome(shared: &Shared, (uid, pod): (Arc<str>, Option<Rc<Pod>>), moving: Moving, from: usize) {
    match pod {
        Some(pod) => arrive(&pod, moving),
        None => {
            let back = shared.doors.get(from).filter(|_| from != shared.placement.own);
            let lost = match back {
                Some(door) => door.hand_over(&uid, moving.turned_to(from), from),
                None => Err(moving),
            };
            if let Err(Moving { tcp, client, .. }) = lost {
                reset_on_close(&tcp);
                refuse(Reporter::Source, client, None, &Error::Cut.to_string());
            }
        }
    }
}

/// Serves it on this shard.
pub(in crate::proxy) fn arrive(pod: &Rc<Pod>, Moving { tcp, client, weight, busy }: Moving) {
    let tcp = match TcpStream::from_std(tcp) {
        Ok(tcp) => tcp,
        // The client hears of an end; a reset would need the socket, which is gone.
        Err(cause) => return refuse(Reporter::Source, client, None, &Error::Broken(Broken::Local(cause)).to_string()),
    };
    pod.tasks.spawn_local(serve_weighed(Rc::clone(pod), tcp, client, weight));
    drop(busy);
}
