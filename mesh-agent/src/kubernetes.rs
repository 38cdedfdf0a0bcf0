//! The node's pods as the API server has them, and which of them are in the mesh (protocol note, section 11).
//!
//! The only room of the API's own types: whoever asks gets the plain values below. The agent reads pods and namespaces
//! and writes one annotation; deploy/kubernetes has the permissions for exactly that.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch::Receiver;

use crate::model::Inbound;
use crate::task::Tasks;
use connect::Http;

mod ask;
mod connect;
mod connector;
mod eligibility;
mod error;
mod held;
mod link;
mod mark;
mod object;
mod probes;
mod watch;

pub use error::{Action, ApiError, BadFile};
pub use link::{Link, LinkState};

/// One pod of this node as the API server has it, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// By which the runtime and the control groups know it.
    pub uid: Arc<str>,
    /// That of the API server's object. The two differ for a static pod, of which the kubelet shows a mirror.
    pub object: Arc<str>,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    /// The first is the pod's main one. None until the kubelet has told them.
    pub addresses: Vec<IpAddr>,
    /// Where the kubelet may connect to: of all probes and hooks of all containers, sorted, each once.
    pub probe_ports: Vec<u16>,
    /// Whether the pod's names are to be answered by the mesh, where its annotation says so.
    pub names: Option<bool>,
    /// Whether connections to it are captured.
    pub inbound: Inbound,
    /// Behind which virtual machines are.
    pub virtual_interfaces: Vec<String>,
    pub standing: Standing,
    /// The annotation by which istiod knows that the pod is captured, as it is now.
    pub mark: Option<String>,
}

impl Pod {
    /// Whether both have the same name. A uid alone is none: that of a static pod stands where anybody can write it.
    pub fn is_namesake(&self, other: &Self) -> bool {
        self.is_named(&other.namespace, &other.name)
    }

    pub fn is_named(&self, namespace: &str, name: &str) -> bool {
        (&*self.namespace, &*self.name) == (namespace, name)
    }
}

/// Whether a pod is to be in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Member,
    Outside(Outside),
}

/// Why a pod is not to be in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    NotLabelled,
    OptedOut,
    HostNetwork,
    Sidecar,
    /// Its namespace is one of those that the configuration excludes.
    Namespace,
    /// It is the proxy of a mesh itself.
    Agent,
    Ended,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLabelled => "neither the pod nor its namespace has the label istio.io/dataplane-mode=ambient",
            Self::OptedOut => "the pod has the label istio.io/dataplane-mode=none",
            Self::HostNetwork => "the pod uses the node's own network",
            Self::Sidecar => "the pod has a sidecar",
            Self::Namespace => "the pod's namespace is excluded by the configuration",
            Self::Agent => "the pod is the proxy of a mesh",
            Self::Ended => "the pod has ended",
        })
    }
}

/// All pods of this node, by uid. A pod that has not changed is the same `Arc` as in the picture before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    pub pods: BTreeMap<Arc<str>, Arc<Pod>>,
}

/// Where the API server is, who we are to it, and which pods are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `https://host:port`.
    pub address: String,
    /// PEM file with the trust anchors of its certificate; read anew for each connection.
    pub root: PathBuf,
    /// File with the bearer token; read anew for each request, since Kubernetes rotates it.
    pub token: PathBuf,
    /// The node's name.
    pub node: String,
    /// Namespaces whose pods are never in the mesh.
    pub excluded_namespaces: Vec<String>,
}

/// The API server, as much of it as the agent needs. Clones share connections.
#[derive(Clone)]
pub struct Api {
    settings: Arc<Settings>,
    http: Http,
    client: kube::Client,
}

/// What [`Api::watch`] keeps up to date.
#[derive(Clone, Debug)]
pub struct Watched {
    /// None until both first lists are complete. While the API server is away, the last picture stays.
    pub pictures: Receiver<Option<Arc<Picture>>>,
    pub link: Receiver<Link>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Api {
    /// Makes a client, which connects when it is used. The files must be usable now; a mistake in the settings is told at
    /// the start. Needs a runtime that stays.
    pub fn connect(settings: &Settings) -> Result<Self, ApiError> {
        let settings = Arc::new(settings.clone());
        let http = Http::new(&settings)?;
        let client = http.client(|| ());
        Ok(Self { settings, http, client })
    }

    /// The pods of the node, from now on until `tasks` are stopped.
    pub fn watch(&self, tasks: &Tasks) -> Watched {
        watch::start(self, tasks)
    }

    /// One pod of this node as it is now. None: there is none of that name here.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ApiError> {
        ask::pod(self, namespace, name).await
    }

    /// Writes the annotation `ambient.istio.io/redirection`, or removes it. A pod that has gone, or that another of the same
    /// name has followed, is no error: there is nothing to write then.
    pub async fn mark(&self, pod: &Pod, mark: Option<&str>) -> Result<(), ApiError> {
        mark::write(self, pod, mark).await
    }
}

#[cfg(test)]
mod tests;
