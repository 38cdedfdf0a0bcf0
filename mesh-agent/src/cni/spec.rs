//! The documents of the CNI specification (1.1.0): what comes in on stdin, what goes out on stdout.
//!
//! Versions from 0.3.0 on, the first with chained plugins, are taken. One of the 1.x after 1.1 is taken as well: within a
//! major version documents stay compatible, and a node whose runtime is newer than its agent must go on starting pods.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// The versions that are told when asked; all that have come out.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST];
const NEWEST: &str = "1.1.0";

/// Well-known error codes (section 5 of the specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    IncompatibleVersion = 1,
    Variables = 4,
    InputOutput = 5,
    Decoding = 6,
    Configuration = 7,
    TryAgainLater = 11,
}

/// What the runtime is told when something failed. It shows `msg` and `details` one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) msg: String,
    pub(super) details: String,
}

/// The plugin's configuration, as a runtime passes it.
#[derive(Debug, Deserialize)]
pub(super) struct Config<'a> {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    /// The network's.
    name: Option<String>,
    /// Where the agent answers.
    socket: Option<PathBuf>,
    /// Namespaces whose pods are started without asking the agent.
    #[serde(default, rename = "excludeNamespaces")]
    excluded: Vec<String>,
    #[serde(borrow, rename = "prevResult")]
    previous: Option<&'a RawValue>,
    #[serde(rename = "cni.dev/valid-attachments")]
    attachments: Option<Vec<Attachment>>,
    /// What the specification called it at first.
    #[serde(rename = "cni.dev/attachments")]
    former_attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container: String,
}

/// What is read of the result of the plugins before this one; in all versions the same.
#[derive(Debug, Deserialize)]
struct Previous {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: Option<String>,
    /// Empty or absent for one of the node.
    sandbox: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Ip {
    /// With the length of its prefix.
    address: String,
    /// Which of the interfaces has it.
    interface: Option<i64>,
}

impl Fault {
    pub(super) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The document for stdout.
    pub(super) fn document(&self, version: &str) -> String {
        let code = self.code as u32;
        json!({"cniVersion": version, "code": code, "msg": self.msg, "details": self.details}).to_string()
    }
}

/// The answer to VERSION.
pub(super) fn versions(version: &str) -> String {
    json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string()
}

/// The version that the configuration is of, if it can be made out and is taken; else the newest.
pub(super) fn version_of(config: &str) -> String {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(rename = "cniVersion")]
        version: String,
    }
    let told = serde_json::from_str::<Versioned>(config).ok().map(|config| config.version);
    told.filter(|version| is_supported(version)).unwrap_or_else(|| NEWEST.to_owned())
}

/// Whether documents of this version are understood.
pub(super) fn is_supported(version: &str) -> bool {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Result<Vec<u32>, _> = numbers.split('.').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([0, minor, _]) => *minor >= 3,
        Ok([major, _, _]) => *major == 1,
        Ok(_) | Err(_) => false,
    }
}

impl<'a> Config<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Fault> {
        let config: Self = serde_json::from_str(text).map_err(|error| {
            Fault::new(Code::Decoding, "the network configuration on stdin cannot be read", error.to_string())
        })?;
        // Without one it is of the first version (section 1 of the specification as it was then).
        let version = config.version.as_deref().unwrap_or("0.1.0");
        if !is_supported(version) {
            let details = format!("the configuration is of version {version}; supported are {}", VERSIONS.join(", "));
            return Err(Fault::new(Code::IncompatibleVersion, "incompatible CNI version", details));
        }
        if config.name.as_deref().unwrap_or_default().is_empty() {
            return Err(Fault::new(Code::Configuration, "the network has no name", "the key \"name\" is missing"));
        }
        Ok(config)
    }

    pub(super) fn socket(&self) -> Result<&PathBuf, Fault> {
        self.socket.as_ref().ok_or_else(|| {
            let details = "the key \"socket\" says where the agent answers, such as /run/mesh-agent/cni.sock";
            Fault::new(Code::Configuration, "mesh-agent-cni has no socket in its configuration", details)
        })
    }

    pub(super) fn excludes(&self, namespace: &str) -> bool {
        self.excluded.iter().any(|excluded| excluded == namespace)
    }

    /// The result of the plugins before, to the byte.
    pub(super) fn previous(&self) -> Result<&'a str, Fault> {
        self.previous.map(RawValue::get).ok_or_else(|| {
            let details = "it must be chained after a plugin that makes the pod's interface: there is no prevResult";
            Fault::new(Code::Configuration, "mesh-agent-cni is the first plugin of the network", details)
        })
    }

    /// The containers that there are, once each; nothing when the runtime does not say. It may write null for none at all,
    /// which is not told apart: the agent finds out by itself what has gone.
    pub(super) fn valid_containers(&self) -> Option<Vec<String>> {
        let attachments = self.attachments.as_ref().or(self.former_attachments.as_ref())?;
        let mut containers: Vec<_> = attachments.iter().map(|valid| valid.container.clone()).collect();
        containers.sort();
        containers.dedup();
        Some(containers)
    }
}

/// The pod's addresses in a result: those of interfaces in the sandbox, `interface` being the name of the one that the
/// runtime asked for. An address without an interface is the pod's.
pub(super) fn addresses(result: &str, interface: &str) -> Result<Vec<IpAddr>, Fault> {
    let bad = |details: String| Fault::new(Code::Decoding, "prevResult cannot be read", details);
    let previous: Previous = serde_json::from_str(result).map_err(|error| bad(error.to_string()))?;
    let interfaces = previous.interfaces.unwrap_or_default();
    let inside = |index: i64| {
        let found = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
        // Not every plugin tells the sandbox.
        found.map_or(interfaces.is_empty(), |found| {
            found.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty())
                || found.name.as_deref() == Some(interface)
        })
    };
    let mut addresses = Vec::new();
    for ip in previous.ips.unwrap_or_default() {
        let text = ip.address.split('/').next().unwrap_or_default();
        let address: IpAddr = text.parse().map_err(|_| bad(format!("{:?} is not an address", ip.address)))?;
        let address = address.to_canonical();
        if ip.interface.is_none_or(inside) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests;
