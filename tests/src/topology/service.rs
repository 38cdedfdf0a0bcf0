//! A service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    /// Assigned when the lab starts, unless [`Service::headless`].
    pub addresses: Vec<IpAddr>,
    /// Port and target port.
    pub ports: Vec<(u16, u16)>,
    pub selector: BTreeMap<String, String>,
    /// Endpoints by name, as `namespace/name`.
    pub endpoints: Vec<String>,
    /// Further fields of its entry.
    pub more: Map<String, Value>,
    pub(crate) headless: Headless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headless {
    Yes,
    No,
}

impl Service {
    /// A service of namespace `default` with addresses of both families.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            addresses: Vec::new(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
            endpoints: Vec::new(),
            more: Map::new(),
            headless: Headless::No,
        }
    }

    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        name.clone_into(&mut self.namespace);
        self
    }

    #[must_use]
    pub fn port(mut self, port: u16, target_port: u16) -> Self {
        self.ports.push((port, target_port));
        self
    }

    /// Pods of its namespace with this label are endpoints.
    #[must_use]
    pub fn selects(mut self, key: &str, value: &str) -> Self {
        self.selector.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A pod that is an endpoint whatever its labels, as `namespace/name`.
    #[must_use]
    pub fn endpoint(mut self, name: &str) -> Self {
        self.endpoints.push(name.to_owned());
        self
    }

    /// No addresses of its own.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.headless = Headless::Yes;
        self
    }

    /// A further field of its entry, such as `publish_not_ready`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.more.insert(field.to_owned(), value.into());
        self
    }
}
