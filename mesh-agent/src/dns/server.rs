//! The sockets of a pod, and what the pods of one shard share.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::abi::DNS_PORT;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::forward::Outlet;
use super::lookup::{Directory, PodName};
use super::pod::Pod;
use super::resolv::NodeServers;
use super::udp::Desk;
use super::{Settings, tcp, udp};
use crate::sys::datagram::{self, Answers};
use crate::sys::socket::listen;
use crate::task::Tasks;
use crate::telemetry::dns::{Names, Table};

/// The largest query that is taken over UDP. Real ones have a few hundred bytes.
const LARGEST_QUERY: usize = 4096;

/// What every shard is given.
#[derive(Clone, Debug)]
pub struct Deps {
    pub settings: Arc<Settings>,
    pub metrics: Names,
}

/// One shard's part of one pod's DNS sockets.
#[derive(Debug)]
pub struct Sockets {
    datagrams: Vec<UdpSocket>,
    listener: TcpListener,
    answers: Answers,
}

impl Sockets {
    /// Opens them in the thread's namespace; see [`listen`] for `home`.
    pub fn open(home: Option<usize>) -> io::Result<Self> {
        Ok(Self { datagrams: datagram::bind(DNS_PORT)?, listener: listen(DNS_PORT, home)?, answers: Answers::open()? })
    }

    /// Where connections to name servers are accepted.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }
}

/// A pod to be served. `D` is what the mesh knows.
pub struct Local<D> {
    pub name: PodName,
    pub worlds: watch::Receiver<Arc<D>>,
    /// Where name servers are asked from: the pod's namespace.
    pub outlet: Box<dyn Outlet>,
    pub life: Life,
}

/// When a pod's service ends.
#[derive(Clone, Debug)]
pub struct Life {
    pub tasks: Tasks,
    /// Nothing more is taken; what was asked is answered.
    pub stop: CancellationToken,
    /// Everything ends.
    pub cut: CancellationToken,
}

/// One shard's service.
#[derive(Debug)]
pub struct Shard {
    pub(super) settings: Arc<Settings>,
    pub(super) table: Table,
    /// Where datagrams are read: each is dealt with before the next one is taken.
    pub(super) scratch: RefCell<Vec<u8>>,
    servers: RefCell<NodeServers>,
}

impl Shard {
    pub fn new(deps: &Deps) -> Self {
        let servers = NodeServers::new(deps.settings.resolv_conf.clone());
        Self {
            settings: Arc::clone(&deps.settings),
            table: deps.metrics.table(),
            scratch: RefCell::new(vec![0; LARGEST_QUERY]),
            servers: RefCell::new(servers),
        }
    }

    /// Starts answering a pod's queries.
    pub fn serve<D: Directory + 'static>(self: &Rc<Self>, local: Local<D>, sockets: Sockets) -> io::Result<()> {
        let Local { name, worlds, outlet, life } = local;
        let listener = tokio::net::TcpListener::from_std(sockets.listener)?;
        let pod = Rc::new(Pod::new(Rc::clone(self), name, worlds, outlet));
        life.tasks.spawn_local(tcp::serve(Rc::clone(&pod), listener, life.clone()));
        let tasks = life.tasks.clone();
        let desk = Rc::new(Desk { shard: Rc::clone(self), pod, answers: sockets.answers, life });
        for socket in sockets.datagrams {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tasks.spawn_local(udp::serve(Rc::clone(&desk), socket));
        }
        Ok(())
    }

    pub(super) fn node_servers(&self) -> Rc<[SocketAddr]> {
        self.servers.borrow_mut().current(Instant::now())
    }
}

impl<D> fmt::Debug for Local<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("name", &self.name).finish_non_exhaustive()
    }
}
