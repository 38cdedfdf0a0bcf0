//! Does a policy match a connection? (protocol note, section 8.4, table "Matching"). Allocates nothing.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Identity;
use super::addr::Peer;
use super::policy::{Clause, Match, Policy, Rule, ServiceAccountMatch, StringMatch};

impl Policy {
    /// Any rule matches; without rules, none does.
    pub fn matches(&self, peer: &Peer, target: SocketAddr) -> bool {
        self.rules.iter().any(|rule| rule.matches(peer, target))
    }
}

impl Rule {
    pub(super) fn matches(&self, peer: &Peer, target: SocketAddr) -> bool {
        self.clauses.iter().all(|clause| clause.matches(peer, target))
    }
}

impl Clause {
    fn matches(&self, peer: &Peer, target: SocketAddr) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|field| field.matches(peer, target))
    }
}

impl Match {
    fn matches(&self, peer: &Peer, target: SocketAddr) -> bool {
        let identity = peer.identity.as_ref();
        let namespace = || identity.map_or("", Identity::namespace);
        let source = || peer.address.ip().to_canonical();
        let destination = || target.ip().to_canonical();
        let mut set = Set::Nothing;
        // What is cheap to compare comes first: nearly all that are asked do not match.
        let all = set.field(&self.destination_ports, &self.not_destination_ports, |port| *port == target.port())
            && set.field(&self.source_ips, &self.not_source_ips, |net| contains(net, source()))
            && set.field(&self.destination_ips, &self.not_destination_ips, |net| contains(net, destination()))
            && set.field(&self.namespaces, &self.not_namespaces, |m| m.matches(namespace()))
            && set.field(&self.service_accounts, &self.not_service_accounts, |m| m.matches(identity))
            && set.field(&self.principals, &self.not_principals, |m| identity.is_some_and(|id| principal(m, id)));
        // A match with no field set would otherwise deny or allow everybody; it stands for what L4 cannot express.
        all && set == Set::Something
    }
}

/// Whether any field of a match is set.
#[derive(PartialEq, Eq)]
enum Set {
    Nothing,
    Something,
}

impl Set {
    /// One field and its negation: some value matches, and no negated one does.
    fn field<T>(&mut self, values: &[T], not_values: &[T], matches: impl Fn(&T) -> bool) -> bool {
        if !values.is_empty() || !not_values.is_empty() {
            *self = Self::Something;
        }
        (values.is_empty() || values.iter().any(&matches)) && !not_values.iter().any(&matches)
    }
}

/// Principals are written without the scheme; a pattern with it is understood as well.
fn principal(pattern: &StringMatch, identity: &Identity) -> bool {
    pattern.matches(identity.principal()) || pattern.matches(identity.uri())
}

fn contains(net: &IpNet, ip: IpAddr) -> bool {
    net.contains(&ip)
}

impl StringMatch {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == wanted,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Self::Presence => !text.is_empty(),
        }
    }
}

impl ServiceAccountMatch {
    fn matches(&self, identity: Option<&Identity>) -> bool {
        identity.is_some_and(|id| id.namespace() == self.namespace && id.service_account() == self.service_account)
    }
}
