//! Where an outbound connection goes (protocol note, section 7): a pure function of the world, the source and the
//! original destination.

use std::sync::Arc;

use super::addr::{NextHop, OrigDst};
use super::service::Service;
use super::workload::Workload;
use super::{Identity, World};

/// How to reach the destination.
#[derive(Clone, Debug)]
pub enum Route {
    /// HBONE to `next_hop`, CONNECT to `authority`, to a peer that proves one of `accepted`.
    Tunnel {
        next_hop: NextHop,
        /// `ip:port` as CONNECT carries it.
        authority: std::net::SocketAddr,
        accepted: Vec<Identity>,
        workload: Arc<Workload>,
        service: Option<Arc<Service>>,
    },
    /// Plain TCP to a known workload that is outside the mesh.
    Plain { next_hop: NextHop, workload: Arc<Workload>, service: Option<Arc<Service>> },
    /// Plain TCP to an address the mesh does not know.
    Passthrough { next_hop: NextHop },
}

/// Why there is no way to the destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("service {service} has no port {port}")]
    NoSuchPort { service: String, port: u16 },
    #[error("service {service} has no healthy endpoint for port {port}")]
    NoHealthyUpstream { service: String, port: u16 },
    #[error("the chosen endpoint {workload} has no usable address")]
    NoAddress { workload: String },
}

/// Decides the route. `draw` is a uniformly random number that picks among equal endpoints.
pub fn route(_world: &World, _source: &Workload, to: OrigDst, _draw: u64) -> Result<Route, NoRoute> {
    Ok(Route::Passthrough { next_hop: NextHop(to.0) })
}
