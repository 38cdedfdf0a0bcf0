//! Delta discovery and `istio.workload.Address`, with no more fields than a server of a made-up mesh fills in (protocol note,
//! sections 1 and 2).

use std::collections::BTreeMap;

use prost::Message;
use prost::bytes::Bytes;

pub(super) const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// `Workload.tunnel_protocol`.
pub(super) const HBONE: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "2")]
    pub(super) type_url: String,
    #[prost(string, tag = "6")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub(super) error_detail: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, repeated, tag = "2")]
    pub(super) resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<Any>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Address {
    #[prost(message, optional, tag = "1")]
    pub(super) workload: Option<Workload>,
    #[prost(message, optional, tag = "2")]
    pub(super) service: Option<Service>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Workload {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) addresses: Vec<Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub(super) tunnel_protocol: i32,
    #[prost(string, tag = "7")]
    pub(super) service_account: String,
    #[prost(string, tag = "9")]
    pub(super) node: String,
    #[prost(string, tag = "10")]
    pub(super) canonical_name: String,
    #[prost(string, tag = "11")]
    pub(super) canonical_revision: String,
    #[prost(string, tag = "13")]
    pub(super) workload_name: String,
    #[prost(string, tag = "18")]
    pub(super) cluster_id: String,
    #[prost(string, tag = "20")]
    pub(super) uid: String,
    #[prost(btree_map = "string, message", tag = "22")]
    pub(super) services: BTreeMap<String, Ports>,
    #[prost(message, optional, tag = "24")]
    pub(super) locality: Option<Locality>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Service {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) hostname: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) addresses: Vec<Place>,
    #[prost(message, repeated, tag = "5")]
    pub(super) ports: Vec<Port>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Place {
    #[prost(bytes = "vec", tag = "2")]
    pub(super) address: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ports {
    #[prost(message, repeated, tag = "1")]
    pub(super) ports: Vec<Port>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Port {
    #[prost(uint32, tag = "1")]
    pub(super) service_port: u32,
    #[prost(uint32, tag = "2")]
    pub(super) target_port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Locality {
    #[prost(string, tag = "1")]
    pub(super) region: String,
    #[prost(string, tag = "2")]
    pub(super) zone: String,
}
