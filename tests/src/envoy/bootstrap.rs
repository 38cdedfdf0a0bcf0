//! Envoy's configuration, made of the few parts that waypoints and gateways consist of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

use super::{Listener, MARK, Tunnel, Way};
use crate::authority::Issued;

pub(super) const HBONE_PORT: u16 = crate::wire::HBONE_PORT;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Parts, as they are found to be needed.
struct Parts<'a> {
    name: &'a str,
    credentials: &'a Issued,
    access: &'a Path,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
}

/// All of it.
pub(super) fn of(name: &str, credentials: &Issued, access: &Path, listeners: &[Listener]) -> Value {
    let mut parts = Parts { name, credentials, access, listeners: Vec::new(), clusters: Vec::new() };
    for listener in listeners {
        match listener {
            Listener::Hbone(ways) => parts.hbone(ways),
            Listener::Announced { port, to } => parts.announced(*port, *to),
        }
    }
    json!({
        "node": {"id": name, "cluster": name},
        "bootstrap_extensions": [{
            "name": "internal",
            "typed_config": {"@type": format!("{TYPES}.bootstrap.internal_listener.v3.InternalListener")},
        }],
        "static_resources": {"listeners": parts.listeners, "clusters": parts.clusters},
    })
}

impl Parts<'_> {
    /// Mutual TLS, HTTP/2, and a way for each authority.
    fn hbone(&mut self, ways: &[(String, Way)]) {
        let hosts = ways.iter().enumerate().map(|(at, (authority, way))| {
            let cluster = self.way(at, way);
            json!({"name": cluster, "domains": [authority], "routes": [{
                "match": {"connect_matcher": {}},
                "route": {
                    "cluster": cluster,
                    "timeout": "0s",
                    "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                },
            }]})
        });
        let hosts: Vec<Value> = hosts.collect();
        let mut manager = self.http_manager("hbone", &hosts);
        manager["http2_protocol_options"] = json!({"allow_connect": true});
        manager["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
        let tls = json!({
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": self.tls(&json!({"prefix": "spiffe://"})),
        });
        self.listeners.push(json!({
            "name": "hbone",
            "address": socket(SocketAddr::from((Ipv6Addr::UNSPECIFIED, HBONE_PORT))),
            "filter_chains": [{
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [{"name": "http", "typed_config": manager}],
            }],
        }));
    }

    /// HTTP after a PROXY header, whose identity is logged.
    fn announced(&mut self, port: u16, to: SocketAddr) {
        self.cluster("plain", socket(to));
        self.one_request("plain");
        let manager = self.http_manager("announced", &[self.to_cluster("plain")]);
        let proxy = json!({
            "@type": format!("{TYPES}.filters.listener.proxy_protocol.v3.ProxyProtocol"),
            "rules": [{
                "tlv_type": 0xD0,
                "on_tlv_present": {"metadata_namespace": "announced", "key": "identity"},
            }],
        });
        self.listeners.push(json!({
            "name": "announced",
            "address": socket(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            "listener_filters": [{"name": "proxy", "typed_config": proxy}],
            // What the header says is known to the connection, not to its requests.
            "access_log": [self.log("announced")],
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }));
    }

    /// Makes what a way needs; gives its cluster's name.
    fn way(&mut self, at: usize, way: &Way) -> String {
        match way {
            Way::Onward(to) => {
                let name = format!("onward-{at}");
                self.cluster(&name, socket(*to));
                name
            }
            Way::Bytes(tunnel) => self.tunnel(at, tunnel),
            Way::Http(tunnel) => {
                let tunnel = self.tunnel(at, tunnel);
                let name = format!("http-{at}");
                let manager = self.http_manager("http", &[self.to_cluster(&tunnel)]);
                self.internal(&name, &json!({"name": "http", "typed_config": manager}));
                self.one_request(&tunnel);
                name
            }
        }
    }

    /// A listener within Envoy that puts what it gets into a tunnel.
    fn tunnel(&mut self, at: usize, tunnel: &Tunnel) -> String {
        let (name, outer) = (format!("tunnel-{at}"), format!("tunnel-{at}-outer"));
        let proxy = json!({
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": name,
            "cluster": outer,
            "tunneling_config": {
                "hostname": tunnel.authority,
                "headers_to_add": [{"header": {"key": "x-istio-source", "value": "waypoint"}}],
            },
        });
        self.internal(&name, &json!({"name": "tcp", "typed_config": proxy}));
        self.cluster(&outer, socket(tunnel.to));
        let tls = json!({
            "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
            "common_tls_context": self.tls(&json!({"exact": tunnel.identity})),
        });
        let http2 = json!({
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}},
        });
        if let Some(cluster) = self.clusters.last_mut() {
            cluster["transport_socket"] = json!({"name": "tls", "typed_config": tls});
            cluster["typed_extension_protocol_options"] =
                json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2});
        }
        name
    }

    /// A listener within Envoy and the cluster that leads to it, of one name.
    fn internal(&mut self, name: &str, filter: &Value) {
        self.listeners.push(json!({
            "name": name,
            "internal_listener": {},
            "filter_chains": [{"filters": [filter]}],
        }));
        self.cluster(name, json!({"envoy_internal_address": {"server_listener_name": name}}));
    }

    /// A connection is not kept after its request.
    fn one_request(&mut self, cluster: &str) {
        let cluster = self.clusters.iter_mut().find(|found| found["name"] == cluster);
        if let Some(cluster) = cluster {
            let http1 = json!({
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "common_http_protocol_options": {"max_requests_per_connection": 1},
                "explicit_http_config": {"http_protocol_options": {}},
            });
            cluster["typed_extension_protocol_options"] =
                json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http1});
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is made for this")]
    fn cluster(&mut self, name: &str, address: Value) {
        self.clusters.push(json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }));
    }

    /// A host that takes every request to `cluster`.
    fn to_cluster(&self, cluster: &str) -> Value {
        json!({
            "name": "all",
            "domains": ["*"],
            "response_headers_to_add": [{"header": {"key": MARK, "value": self.name}}],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
        })
    }

    fn http_manager(&self, listener: &str, hosts: &[Value]) -> Value {
        let router = json!({"@type": format!("{TYPES}.filters.http.router.v3.Router")});
        json!({
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": listener,
            "stream_idle_timeout": "0s",
            "route_config": {"virtual_hosts": hosts},
            "http_filters": [{"name": "router", "typed_config": router}],
            "access_log": [self.log(listener)],
        })
    }

    fn log(&self, listener: &str) -> Value {
        let file = json!({
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
            "path": self.access,
            "log_format": {"omit_empty_values": true, "json_format": {
                "listener": listener,
                "authority": "%REQ(:AUTHORITY)%",
                "path": "%REQ(:PATH)%",
                "code": "%RESPONSE_CODE%",
                "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                "from": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "to": "%DOWNSTREAM_LOCAL_ADDRESS%",
                "forwarded": "%REQ(FORWARDED)%",
                "network": "%REQ(X-FORWARDED-NETWORK)%",
                "baggage": "%REQ(BAGGAGE)%",
                "announced": "%DYNAMIC_METADATA(announced:identity)%",
            }},
        });
        json!({"name": "file", "typed_config": file})
    }

    /// Both sides' part of TLS: our certificate, and a peer whose SPIFFE id is as `name` says.
    fn tls(&self, name: &Value) -> Value {
        let file = |path: &Path| json!({"filename": path});
        json!({
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            "tls_certificates": [{
                "certificate_chain": file(&self.credentials.certificate),
                "private_key": file(&self.credentials.key),
            }],
            "validation_context": {
                "trusted_ca": file(&self.credentials.root),
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": name}],
            },
        })
    }
}

/// An address; the unspecified one of IPv6 takes IPv4, too.
fn socket(address: SocketAddr) -> Value {
    let both = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
        "ipv4_compat": both,
    }})
}
