//! The pod proxy: three listeners per pod and shard, and a pipeline behind each.
//!
//! Rank 4: it sees the model, identities and HBONE, never protobuf, Kubernetes, YAML or BPF.

pub mod record;
pub mod shard;
