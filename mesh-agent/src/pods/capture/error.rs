//! Why a pod could not be enrolled or withdrawn.

use std::io;
use std::net::IpAddr;

use crate::bpf::BpfError;
use crate::model::PodNetns;

/// Why a pod could not be enrolled or withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("network namespace {place}: {cause}{hint}")]
    Namespace { place: PodNetns, cause: io::Error, hint: &'static str },
    #[error("the pod shares the agent's own network namespace (host network); such pods cannot be enrolled")]
    HostNetwork,
    #[error("network namespace {place} is pod {other}'s")]
    OthersNamespace { place: PodNetns, other: String },
    #[error("network namespace {place} has no interface {interface}: {cause}")]
    NoInterface { interface: String, place: PodNetns, cause: io::Error },
    #[error(
        "none of the pod's addresses {addresses:?} is in network namespace {place}, maybe it is another pod's or not set up yet"
    )]
    NoAddress { place: PodNetns, addresses: Vec<IpAddr> },
    #[error("opening the listener on port {port}: {cause}, maybe the pod itself uses the port")]
    Listen { port: u16, cause: io::Error },
    #[error("{what}: {cause}")]
    System { what: &'static str, cause: io::Error },
    #[error("the pod is redirected by somebody else's rules, and this agent captures pods by its own programs")]
    Redirected,
    #[error("the pod is to be captured by programs, and this agent serves pods that somebody else's rules redirect")]
    NotRedirected,
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

pub(in crate::pods) fn entering(place: &PodNetns) -> impl FnOnce(io::Error) -> CaptureError {
    let place = place.clone();
    move |cause| CaptureError::Namespace {
        place,
        cause,
        hint: ", it cannot be entered, maybe it is no network namespace",
    }
}

pub(in crate::pods) fn system(what: &'static str) -> impl Fn(io::Error) -> CaptureError {
    move |cause| CaptureError::System { what, cause }
}
