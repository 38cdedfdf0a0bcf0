//! From the wire's messages to the model (protocol note, sections 2.6 and 3). Whatever the model cannot express is an error
//! that says what is wrong, and the resource it is in is rejected.

mod address;
mod policy;
mod service;
mod workload;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::intern::Texts;
use crate::model::policy::{PolicyName, Scope};
use crate::model::{Policy, Service, Workload};
use crate::proto::{security, workload as wire};

/// Why a resource cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("not a protobuf message of this type: {0}")]
    Garbage(#[from] prost::DecodeError),
    #[error("neither a workload nor a service")]
    Empty,
    #[error("{field} has the unknown value {value}")]
    UnknownValue { field: &'static str, value: i32 },
    #[error("{field}: an address of {length} bytes; 4 or 16 are expected")]
    AddressLength { field: &'static str, length: usize },
    #[error("{field}: prefix length {length} is too long for {address}")]
    PrefixLength { field: &'static str, address: std::net::IpAddr, length: u32 },
    #[error("{field} is empty")]
    Missing { field: &'static str },
    #[error("{field}: {text:?} is not of the form namespace/name")]
    NotQualified { field: &'static str, text: String },
    #[error("tunnel_protocol LEGACY_ISTIO_MTLS is not supported")]
    LegacyTunnel,
    #[error("routing_preference has an entry without a scope")]
    NoScope,
    #[error("{field} names no destination")]
    NoDestination { field: &'static str },
    #[error(transparent)]
    Identity(#[from] crate::model::BadIdentity),
}

/// What an Address resource is.
#[derive(Debug)]
pub(super) enum Address {
    Workload(Workload),
    Service(Service),
}

/// Decodes an `istio.workload.Address`.
pub(super) fn address(body: Bytes, texts: &mut Texts) -> Result<Address, Unusable> {
    match wire::Address::decode(body)?.r#type.ok_or(Unusable::Empty)? {
        wire::address::Type::Workload(workload) => Ok(Address::Workload(workload::convert(workload, texts)?)),
        wire::address::Type::Service(service) => Ok(Address::Service(service::convert(service, texts)?)),
    }
}

/// Decodes an `istio.security.Authorization`.
pub(super) fn authorization(body: Bytes, texts: &mut Texts) -> Result<Policy, Unusable> {
    policy::convert(security::Authorization::decode(body)?, texts)
}

/// To whom a policy applies of which not all can be read: its own namespace, unless it says something else.
pub(super) fn scope_or_namespace(body: Bytes) -> Scope {
    let scope = security::Authorization::decode(body).ok().and_then(|policy| policy::scope(policy.scope).ok());
    scope.unwrap_or(Scope::Namespace)
}

/// The parts of `namespace/name`; the name may have slashes no more.
pub(super) fn policy_name(field: &'static str, text: &str, texts: &mut Texts) -> Result<PolicyName, Unusable> {
    match text.split_once('/') {
        Some((namespace, name)) => Ok(PolicyName { namespace: texts.shared(namespace), name: texts.shared(name) }),
        None => Err(Unusable::NotQualified { field, text: text.to_owned() }),
    }
}

/// A port of the wire's: 32 bits, of which 16 count.
fn port(number: u32) -> u16 {
    (number & u32::from(u16::MAX)) as u16
}

/// The text, or `default` in place of an empty one.
fn or(text: &str, default: &str, texts: &mut Texts) -> Arc<str> {
    texts.shared(if text.is_empty() { default } else { text })
}

#[cfg(test)]
mod tests;
