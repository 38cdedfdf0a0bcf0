//! What the mesh itself answers (protocol note, section 9.2). Pure.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};

use super::answer;
use super::lookup::{Client, Directory, Family, Realm, addresses, find};
use super::names::Host;
use super::query::Query;

/// Whether the pods of this node use IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    #[default]
    On,
    /// No name has an IPv6 address.
    Off,
}

/// The mesh's answer; none if the query is to be passed on to a name server.
pub(super) fn answer<D: Directory>(
    directory: &D,
    query: &Query,
    client: &Client<'_>,
    (realm, ipv6): (&Realm, Ipv6),
) -> Option<Vec<u8>> {
    let kind = query.question.query_type();
    let family = match () {
        () if kind == RecordType::A => Family::V4,
        () if kind == RecordType::AAAA => Family::V6,
        () => return None,
    };
    if query.question.query_class() != DNSClass::IN {
        return None;
    }
    if family == Family::V6 && ipv6 == Ipv6::Off {
        return answer::failed(query, ResponseCode::NoError);
    }
    let found = find(directory, &Host::of(query.question.name())?, client, realm)?;
    answer::addresses(query, &addresses(&found.service, family, client), found.alias_of.as_deref())
}

#[cfg(test)]
mod tests;
