//! What a mesh is: identities, workloads, services, policies, and the two pure decisions made on them.
//!
//! [`route::route`] says where an outbound connection goes, [`authorize::authorize`] says whether an inbound one may
//! reach its application. Both read an immutable [`World`]; a new configuration is a new `World`, made by one
//! [`store::Store`] and read by many. Deliberately absent: sockets, async code, protobuf, Kubernetes and YAML types.

pub mod accepted;
pub mod addr;
pub mod authorize;
pub mod balance;
mod blocks;
mod cow;
pub mod endpoints;
pub mod gateway;
pub mod identity;
mod matching;
pub mod pod;
pub mod policy;
pub mod route;
mod rules;
mod ruling;
pub mod same_node;
pub mod service;
pub mod store;
pub mod workload;
pub mod world;

pub use addr::{NextHop, OrigDst, Peer};
pub use authorize::{Denied, Permit};
pub use identity::{BadIdentity, Identity};
pub use pod::{Captured, Inbound, Older, PodNetns, PodSpec, Programs, WhenDown};
pub use policy::{Policy, PolicyName};
pub use route::{NoRoute, Route};
pub use same_node::{SameNode, SameNodeModes};
pub use service::Service;
pub use store::Store;
pub use workload::Workload;
pub use world::World;
