//! Names: the mesh's services answered on the spot, everything else asked of a name server on the pod's behalf (protocol
//! note, section 9).
//!
//! The capture gives a pod's queries to port 53, over UDP and TCP, to the sockets of [`server::Sockets`]; answers go out in
//! the name of the server that was asked. [`pod`] takes a message from its bytes to its answer: [`query`] reads it,
//! [`names`] and [`lookup`] find the service that it means, [`local`] and [`answer`] write what the mesh says;
//! [`forward`] and [`upstream`] ask name servers. [`udp`] and [`tcp`] move the messages.
//!
//! The decisions are pure, over the narrow view [`lookup::Directory`]; [`directory`] gives the model that view. The format
//! is hickory's: this module reads no label and no pointer.

mod answer;
pub mod directory;
pub mod forward;
mod local;
pub mod lookup;
mod names;
mod pod;
mod query;
mod resolv;
pub mod server;
mod tcp;
mod udp;
mod upstream;

use std::path::PathBuf;

pub use local::Ipv6;
pub use lookup::Realm;

/// Who is asked what the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// The server that the application asked: a pod with name servers of its own keeps them.
    #[default]
    Original,
    /// The node's own, as its `resolv.conf` names them.
    Node,
}

/// How names are answered on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub realm: Realm,
    pub upstream: Upstream,
    /// The node's `resolv.conf`.
    pub resolv_conf: PathBuf,
    pub ipv6: Ipv6,
}
