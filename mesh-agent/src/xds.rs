//! istiod's configuration, as it comes: a client of delta xDS (protocol note, section 1).
//!
//! ```text
//!  istiod ==TLS, gRPC==> client::Client --- one message ---> session::Session --- Response ---> Apply (the reader of bodies)
//!                          |   ^                                   |
//!         status, counters-'   '------- acks, subscriptions -------'
//! ```
//!
//! [`session::Session`] is the protocol without I/O: what is subscribed, what is held in which version, what is to be
//! sent. A response goes to an [`Apply`], which says what of it cannot be used; only then is it acknowledged. [`Mesh`] is
//! the one there is: it decodes the bodies into the model's store and publishes pictures of the mesh. [`Client`] keeps a stream open, whatever happens to it, and says how
//! that goes; while there is none, everything that was applied stays in force.
//!
//! A response is kept in one buffer, and its resources are decoded one after the other, on the runtime that runs the
//! client. No thread of the data path does anything for it.

mod apply;
mod asked;
mod backoff;
mod client;
mod config;
mod connect;
mod decode;
mod demand;
mod frames;
mod held;
mod intern;
mod kind;
mod nack;
mod response;
pub mod session;
mod status;

pub use apply::Mesh;
pub use asked::Asking;
pub use client::{Client, Handle};
pub use config::{BadConfig, Config, Node, Security};
pub use connect::ConnectError;
pub use demand::{Demand, NotAnswered};
pub use kind::{Kind, PerKind};
pub use response::{Apply, Rejected, Resource, Response};
pub use session::Mode;
pub use status::{Counters, KindStatus, Link, Refusal, Status, Termination};

#[cfg(test)]
mod tests;
