//! The pod proxy: three listeners per pod and shard, and a pipeline behind each.
//!
//! [`shard`] starts the threads and takes pods; [`pod`] is one pod on one shard; [`accept`] feeds the pipelines
//! [`outbound`], [`inbound`] (HBONE) and [`plaintext`]; [`copy`] moves bytes; [`record`] writes the books.
//! Every pipeline reads from top to bottom: each step's result is what the next step needs, so none can be skipped.
//!
//! Rank 4: it sees the model, identities and HBONE, never protobuf, Kubernetes, YAML or BPF.

mod accept;
mod copy;
mod demand;
mod dial;
pub mod direct;
mod error;
mod far;
mod inbound;
mod joined;
mod locals;
mod names;
mod outbound;
mod placement;
mod plaintext;
mod pod;
mod proxy_protocol;
pub mod record;
mod revoke;
pub mod shard;
mod source;
mod tunnels;
