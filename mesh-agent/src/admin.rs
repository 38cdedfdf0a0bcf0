//! What the agent serves to people and machines that look after it: pages over HTTP.
//!
//! [`server`] serves a [`router::Router`] on a TCP port or a Unix socket; the composition root registers the routes, so
//! nothing here knows what a page contains. [`ready`] collects what must have happened before the node is ready;
//! [`documents`] are the JSON documents that `ctl` reads. Deliberately absent: anything that changes the mesh.

pub mod documents;
pub mod ready;
pub mod router;
pub mod server;
