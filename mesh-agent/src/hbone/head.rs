//! The head of a CONNECT request: authority, baggage, forwarded, traceparent (protocol note, sections 5.2 and 5.4).

use std::fmt::Write;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method, Request, Uri};

/// Longest authority we look at; a DNS name has at most 253 bytes, a port 5.
const MAX_AUTHORITY: usize = 300;

/// As much of a wrong method as is shown.
const MAX_METHOD: usize = 32;

/// What a CONNECT asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    Address(SocketAddr),
    /// A service's host name, in lower case, and its port.
    Name(String, u16),
}

/// Why a request is not a CONNECT that we understand. All of them are answered with status 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("method {0} where CONNECT is expected")]
    NotConnect(String),
    #[error("CONNECT without an authority")]
    NoAuthority,
    #[error("authority {0:?} is not host:port")]
    BadAuthority(String),
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Authority {
    /// Parses `ip:port`, `[ip6]:port` or `name:port`. A v4-mapped address becomes the v4 one; port 0 is refused.
    pub fn parse(text: &str) -> Result<Self, BadHead> {
        let bad = || BadHead::BadAuthority(text.chars().take(MAX_AUTHORITY).collect());
        if text.len() > MAX_AUTHORITY {
            return Err(bad());
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            return if address.port() == 0 { Err(bad()) } else { Ok(Self::Address(address)) };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let name_like = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(name_like) {
            return Err(bad());
        }
        Ok(Self::Name(name.to_ascii_lowercase(), port))
    }

    /// Reads the authority of a request.
    pub fn of<B>(request: &Request<B>) -> Result<Self, BadHead> {
        if request.method() != Method::CONNECT {
            return Err(BadHead::NotConnect(request.method().as_str().chars().take(MAX_METHOD).collect()));
        }
        Self::parse(request.uri().authority().ok_or(BadHead::NoAuthority)?.as_str())
    }
}

/// What a workload says of itself to the other end, for telemetry only: it proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: String,
    pub namespace: String,
    /// As in the key: `pod`, `deployment` and the like; empty for `pod`.
    pub workload_type: &'static str,
    pub workload: String,
    pub service: String,
    pub version: String,
    pub region: String,
    pub zone: String,
}

/// Key prefix and the workload types that name a workload.
const WORKLOAD_KEYS: [&str; 4] = ["k8s.deployment.name", "k8s.cronjob.name", "k8s.pod.name", "k8s.job.name"];

const FORWARDED_NETWORK: &str = "x-forwarded-network";

/// Longest value of a key.
const MAX_VALUE: usize = 253;

/// Longest baggage we parse, over all header lines.
const MAX_BAGGAGE: usize = 8 << 10;

impl Baggage {
    /// The header value: the filled keys in the order of section 5.4.
    pub fn header(&self) -> Option<HeaderValue> {
        let key = WORKLOAD_KEYS.iter().find(|key| key.split('.').nth(1) == Some(self.workload_type));
        let pairs = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (*key.unwrap_or(&"k8s.pod.name"), &self.workload),
            ("service.name", &self.service),
            ("service.version", &self.version),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ];
        let filled: Vec<String> =
            pairs.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("{key}={value}")).collect();
        HeaderValue::from_str(&filled.join(",")).ok().filter(|value| !value.is_empty())
    }

    /// Merges all baggage lines of a message; what is malformed or too long is left out.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut baggage = Self::default();
        let mut left = MAX_BAGGAGE;
        for line in headers.get_all("baggage") {
            let Ok(text) = line.to_str() else { continue };
            let Some(rest) = left.checked_sub(text.len()) else { break };
            left = rest;
            for (key, value) in text.split(',').filter_map(|pair| pair.trim().split_once('=')) {
                baggage.set(key, value);
            }
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        // No name of Kubernetes is longer; what is longer is meant to fill memory.
        if value.len() > MAX_VALUE {
            return;
        }
        let field = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            key if WORKLOAD_KEYS.contains(&key) => &mut self.workload,
            _ => return,
        };
        value.clone_into(field);
    }
}

/// The CONNECT request of one user connection.
#[derive(Debug)]
pub struct Connect<'a> {
    /// `ip:port`, `[ip6]:port` or `host:port`.
    pub authority: String,
    /// The application's socket, for `forwarded`.
    pub client: SocketAddr,
    /// The service that was addressed, if one was.
    pub service_host: Option<&'a str>,
    /// The source's baggage, rendered once per pod.
    pub baggage: Option<HeaderValue>,
    /// The network we are on, told only inside a tunnel that came through another network's gateway (section 6.1).
    pub network: Option<&'a str>,
}

impl Connect<'_> {
    /// Builds the request; the trace id is random and serves only to find both log lines of a connection.
    pub fn request(self) -> Result<Request<()>, http::Error> {
        let uri = Uri::builder().authority(self.authority).build()?;
        let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(())?;
        let headers = request.headers_mut();
        if let Some(baggage) = self.baggage {
            headers.insert("baggage", baggage);
        }
        let mut forwarded = format!("for=\"{}\"", self.client);
        if let Some(host) = self.service_host {
            write!(forwarded, ";host={host}").ok();
        }
        headers.insert("forwarded", HeaderValue::from_str(&forwarded)?);
        if let Some(network) = self.network {
            headers.insert(FORWARDED_NETWORK, HeaderValue::from_str(network)?);
        }
        let (high, low, span) = (fastrand::u64(..), fastrand::u64(..), fastrand::u64(1..));
        headers.insert("traceparent", HeaderValue::from_str(&format!("00-{high:016x}{low:016x}-{span:016x}-00"))?);
        Ok(request)
    }
}

/// On which network the client is, if it says so.
pub fn forwarded_network(headers: &HeaderMap) -> Option<&str> {
    headers.get(FORWARDED_NETWORK)?.to_str().ok()
}

/// The `host` of a `forwarded` header, if there is one.
pub fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("forwarded")?.to_str().ok()?;
    text.split(';').find_map(|part| part.trim().strip_prefix("host="))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Authority, Baggage, Connect, forwarded_host};

    #[test]
    fn authorities() {
        let cases = [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("Web.default.svc.cluster.local:80", Some("web.default.svc.cluster.local:80")),
            ("10.0.0.1", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:70000", None),
            ("fd00::1:80", None),
            (":80", None),
            ("user@host:80", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Authority::parse(text).ok().map(|a| a.to_string()).as_deref(), expected, "{text}");
        }
        assert!(Authority::parse(&format!("{}:80", "a".repeat(400))).is_err());
    }

    #[test]
    fn trap_18_baggage_round_trip() {
        let baggage = Baggage {
            cluster: "Kubernetes".into(),
            namespace: "shop".into(),
            workload: "cart".into(),
            service: "cart".into(),
            zone: "z1".into(),
            ..Baggage::default()
        };
        let value = baggage.header().unwrap();
        assert_eq!(
            value,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=cart,service.name=cart,cloud.availability_zone=z1"
        );
        let mut headers = http::HeaderMap::new();
        headers.append("baggage", value);
        headers.append("baggage", "service.version=v2, unknown=1,garbage".parse().unwrap());
        assert_eq!(Baggage::parse(&headers), Baggage { version: "v2".into(), ..baggage });
        assert_eq!(Baggage::default().header(), None);
    }

    #[test]
    fn the_request_carries_what_the_note_lists_and_nothing_else() {
        let connect = Connect {
            authority: "[fd00::2]:8080".to_owned(),
            client: "[fd00::1]:4000".parse().unwrap(),
            service_host: Some("web.default.svc.cluster.local"),
            baggage: None,
            network: None,
        };
        let request = connect.request().unwrap();
        assert_eq!(request.uri().to_string(), "[fd00::2]:8080");
        assert_eq!(request.headers()["forwarded"], "for=\"[fd00::1]:4000\";host=web.default.svc.cluster.local");
        assert_eq!(forwarded_host(request.headers()), Some("web.default.svc.cluster.local"));
        assert_eq!(request.headers()["traceparent"].len(), 55);
        assert_eq!(request.headers().len(), 2);
    }

    proptest! {
        /// Nothing that a peer writes makes us panic, and what is taken reads back as itself.
        #[test]
        fn any_authority(text in "\\PC{0,40}|[a-z0-9.:\\[\\]-]{0,40}") {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
            }
        }

        #[test]
        fn any_baggage(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
            let mut headers = http::HeaderMap::new();
            for line in lines {
                if let Ok(value) = http::HeaderValue::from_bytes(&line) {
                    headers.append("baggage", value.clone());
                    headers.append("forwarded", value);
                }
            }
            let baggage = Baggage::parse(&headers);
            // What was understood can be told on.
            let mut again = http::HeaderMap::new();
            if let Some(value) = baggage.header() {
                again.insert("baggage", value);
                let told = Baggage::parse(&again);
                prop_assert_eq!(told.cluster.trim(), baggage.cluster.trim());
            }
            forwarded_host(&headers);
        }
    }
}
