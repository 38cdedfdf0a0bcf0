//! The numbers of fields, against those that the protocol note gives: what we write down wrong, a round trip cannot find.

use prost::Message;

use super::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};
use super::security::{Authorization, Clause, Match, Rule, ServiceAccountMatch, StringMatch, string_match::MatchType};
use super::workload::{
    Address, ApplicationTunnel, GatewayAddress, NetworkAddress, PortList, Service, Workload, address,
};

/// The number of the one field that is set.
fn number(message: &impl Message) -> u32 {
    let bytes = message.encode_to_vec();
    let (key, _) = prost::encoding::decode_key(&mut &bytes[..]).unwrap();
    key
}

macro_rules! numbers {
    ($type:ty: $($number:literal $field:ident = $value:expr),* $(,)?) => {$(
        let mut message = <$type>::default();
        message.$field = $value;
        assert_eq!(number(&message), $number, "{}.{}", stringify!($type), stringify!($field));
    )*};
}

fn text() -> String {
    "x".to_owned()
}

#[test]
fn discovery() {
    numbers!(DeltaDiscoveryRequest: 1 node = Some(Node::default()), 2 type_url = text(),
        3 resource_names_subscribe = vec![text()], 4 resource_names_unsubscribe = vec![text()],
        5 initial_resource_versions = [(text(), text())].into(), 6 response_nonce = text(),
        7 error_detail = Some(Status::default()));
    numbers!(DeltaDiscoveryResponse: 1 system_version_info = text(), 2 resources = vec!["x".into()],
        4 type_url = text(), 5 nonce = text(), 6 removed_resources = vec![text()]);
    numbers!(Resource: 1 version = text(), 2 resource = Some(Default::default()), 3 name = text(), 4 aliases = vec![text()]);
    numbers!(Node: 1 id = text(), 2 cluster = text(), 3 metadata = Some(Default::default()), 4 locality = Some(Default::default()));
    numbers!(Status: 1 code = 1, 2 message = text());
}

#[test]
fn service() {
    numbers!(Address: 1 r#type = Some(address::Type::Workload(Workload::default())),
        2 r#type = Some(address::Type::Service(Service::default())));
    numbers!(Service: 1 name = text(), 2 namespace = text(), 3 hostname = text(),
        4 addresses = vec![NetworkAddress::default()], 5 ports = vec![Default::default()],
        6 subject_alt_names = vec![text()], 7 waypoint = Some(Default::default()),
        8 load_balancing = Some(Default::default()), 9 ip_families = 1, 10 extensions = vec![Default::default()],
        11 canonical = true, 12 ingress_use_waypoint = true, 13 weighted_waypoints = vec![Default::default()],
        14 visibility = 1);
    numbers!(NetworkAddress: 1 network = text(), 2 address = "x".into(), 3 length = Some(0));
    numbers!(GatewayAddress: 3 hbone_mtls_port = 1);
}

#[test]
fn workload() {
    numbers!(Workload: 1 name = text(), 2 namespace = text(), 3 addresses = vec!["x".into()], 4 network = text(),
        5 tunnel_protocol = 1, 6 trust_domain = text(), 7 service_account = text(), 8 waypoint = Some(Default::default()),
        9 node = text(), 10 canonical_name = text(), 11 canonical_revision = text(), 12 workload_type = 1,
        13 workload_name = text(), 14 native_tunnel = true, 16 authorization_policies = vec![text()], 17 status = 1,
        18 cluster_id = text(), 19 network_gateway = Some(Default::default()), 20 uid = text(), 21 hostname = text(),
        22 services = [(text(), PortList::default())].into(), 23 application_tunnel = Some(Default::default()),
        24 locality = Some(Default::default()), 25 network_mode = 1, 26 extensions = vec![Default::default()],
        27 capacity = Some(0));
    numbers!(ApplicationTunnel: 1 protocol = 1, 2 port = 1);
}

#[test]
fn trap_8_policies() {
    numbers!(Authorization: 1 name = text(), 2 namespace = text(), 3 scope = 1, 4 action = 1,
        5 rules = vec![Rule::default()], 6 dry_run = true, 7 extensions = vec![Default::default()]);
    numbers!(Rule: 1 clauses = vec![Clause::default()]);
    numbers!(Clause: 2 matches = vec![Match::default()]);
    let texts = || vec![StringMatch::default()];
    numbers!(Match: 1 namespaces = texts(), 2 not_namespaces = texts(), 3 principals = texts(),
        4 not_principals = texts(), 5 source_ips = vec![Default::default()], 6 not_source_ips = vec![Default::default()],
        7 destination_ips = vec![Default::default()], 8 not_destination_ips = vec![Default::default()],
        9 destination_ports = vec![1], 10 not_destination_ports = vec![1],
        11 service_accounts = vec![ServiceAccountMatch::default()],
        12 not_service_accounts = vec![ServiceAccountMatch::default()], 13 extensions = vec![Default::default()]);
    numbers!(ServiceAccountMatch: 1 namespace = text(), 2 service_account = text());
    numbers!(StringMatch: 1 match_type = Some(MatchType::Exact(text())), 2 match_type = Some(MatchType::Prefix(text())),
        3 match_type = Some(MatchType::Suffix(text())), 4 match_type = Some(MatchType::Presence(())));
}
