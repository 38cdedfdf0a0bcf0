//! Delta discovery, `istio.workload.Address` and `istio.security.Authorization` by hand (protocol note, sections 1 to 3): a
//! stand-in for either end, which shares nothing with the agent's own. No more fields than somebody here looks at or fills in.

use std::collections::BTreeMap;

use prost::Message;
use prost::bytes::Bytes;
use prost_types::Struct;

pub const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// `Workload.tunnel_protocol`.
pub const HBONE: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    #[prost(string, tag = "2")]
    pub type_url: String,
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Address {
    #[prost(message, optional, tag = "1")]
    pub workload: Option<Workload>,
    #[prost(message, optional, tag = "2")]
    pub service: Option<Service>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Workload {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub addresses: Vec<Vec<u8>>,
    #[prost(string, tag = "4")]
    pub network: String,
    #[prost(int32, tag = "5")]
    pub tunnel_protocol: i32,
    #[prost(string, tag = "7")]
    pub service_account: String,
    #[prost(string, tag = "9")]
    pub node: String,
    #[prost(string, tag = "10")]
    pub canonical_name: String,
    #[prost(string, tag = "11")]
    pub canonical_revision: String,
    #[prost(string, tag = "13")]
    pub workload_name: String,
    #[prost(bool, tag = "14")]
    pub native_tunnel: bool,
    #[prost(string, repeated, tag = "16")]
    pub authorization_policies: Vec<String>,
    #[prost(int32, tag = "17")]
    pub status: i32,
    #[prost(string, tag = "18")]
    pub cluster_id: String,
    #[prost(string, tag = "20")]
    pub uid: String,
    #[prost(message, optional, tag = "19")]
    pub network_gateway: Option<Gateway>,
    #[prost(btree_map = "string, message", tag = "22")]
    pub services: BTreeMap<String, Ports>,
    #[prost(message, optional, tag = "24")]
    pub locality: Option<Locality>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Service {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub hostname: String,
    #[prost(message, repeated, tag = "4")]
    pub addresses: Vec<Place>,
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<Port>,
    #[prost(message, optional, tag = "7")]
    pub waypoint: Option<Gateway>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Gateway {
    #[prost(message, optional, tag = "1")]
    pub hostname: Option<Hostname>,
    #[prost(message, optional, tag = "2")]
    pub address: Option<Place>,
    #[prost(uint32, tag = "3")]
    pub hbone_mtls_port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Hostname {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub hostname: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Place {
    #[prost(bytes = "vec", tag = "2")]
    pub address: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ports {
    #[prost(message, repeated, tag = "1")]
    pub ports: Vec<Port>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Port {
    #[prost(uint32, tag = "1")]
    pub service_port: u32,
    #[prost(uint32, tag = "2")]
    pub target_port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Authorization {
    #[prost(int32, tag = "3")]
    pub scope: i32,
    #[prost(int32, tag = "4")]
    pub action: i32,
    #[prost(message, repeated, tag = "5")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rule {
    #[prost(message, repeated, tag = "1")]
    pub clauses: Vec<Clause>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Clause {
    #[prost(message, repeated, tag = "2")]
    pub matches: Vec<Match>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Match {
    #[prost(message, repeated, tag = "3")]
    pub principals: Vec<Text>,
    #[prost(uint32, repeated, tag = "9")]
    pub destination_ports: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Text {
    #[prost(string, optional, tag = "1")]
    pub exact: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Locality {
    #[prost(string, tag = "1")]
    pub region: String,
    #[prost(string, tag = "2")]
    pub zone: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `google.protobuf.Any`; the body is a slice of the message it came in.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}
