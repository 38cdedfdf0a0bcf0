//! Which service a name means, and at which addresses it is (protocol note, sections 9.2 and 7.2). Pure, over a narrow view
//! of what the mesh knows.

use std::fmt;
use std::net::IpAddr;
use std::ops::ControlFlow;

use super::names::{self, Host, Scope};

/// Most addresses of one answer: what still fits into a message over TCP, and more than anybody tries.
const MOST_ADDRESSES: usize = 1000;

/// What the mesh knows of names.
pub trait Directory {
    type Service<'a>: Listed
    where
        Self: 'a;

    /// The pod's workload, if it is known.
    fn client(&self, pod: &PodName) -> Option<Client<'_>>;

    /// The services of this host name (in lower case) in all namespaces, always in the same order.
    fn named<'a>(&'a self, hostname: &str) -> impl Iterator<Item = Self::Service<'a>>;
}

/// A service as the directory lists it.
pub trait Listed {
    fn namespace(&self) -> &str;
    /// In lower case.
    fn hostname(&self) -> &str;
    /// Whether clients in this namespace see it.
    fn is_visible_from(&self, namespace: &str) -> bool;
    /// Whether it is to be preferred to others of the same name: Kubernetes Services are.
    fn is_canonical(&self) -> bool;
    /// Its virtual addresses, each with its network.
    fn vips(&self) -> impl Iterator<Item = (&str, IpAddr)>;
    /// The addresses of each workload that may be used, as far as health goes.
    fn endpoints(&self) -> impl Iterator<Item = &[IpAddr]>;
}

/// A pod of this node. An empty service account stands for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub service_account: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    pub namespace: &'a str,
    pub network: &'a str,
    pub canonical_service: &'a str,
    pub canonical_revision: &'a str,
}

/// What names mean here, whoever asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realm {
    /// The cluster's domain, in lower case.
    pub domain: String,
    /// Of several services with one name that nothing else distinguishes, this namespace's is taken.
    pub preferred_namespace: Option<String>,
}

/// Kinds of addresses that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn holds(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// The service that a name means.
#[derive(Debug)]
pub(super) struct Found<S> {
    pub(super) service: S,
    /// The name of the addresses, where it is not the one that was asked for: the client's resolver had added a search
    /// domain.
    pub(super) alias_of: Option<String>,
}

/// The service that `client` means by `host`, if it is one of the mesh's.
pub(super) fn find<'a, D: Directory>(
    directory: &'a D,
    host: &Host,
    client: &Client<'_>,
    realm: &Realm,
) -> Option<Found<D::Service<'a>>> {
    let scope = Scope { namespace: client.namespace, domain: &realm.domain };
    let found = names::each(host, scope, |candidate| match meant(directory.named(candidate.name), client, realm) {
        Some(service) => {
            let alias_of = candidate.stripped.filter(|_| !candidate.is_wildcard()).map(str::to_owned);
            ControlFlow::Break(Found { service, alias_of })
        }
        None => ControlFlow::Continue(()),
    });
    found.break_value()
}

/// Of several services with one name the best that the client sees and that has something to answer with; of equals, the
/// first.
fn meant<S: Listed>(services: impl Iterator<Item = S>, client: &Client<'_>, realm: &Realm) -> Option<S> {
    let rank = |service: &S| {
        let namespace = service.namespace();
        let preferred = realm.preferred_namespace.as_deref() == Some(namespace);
        (namespace == client.namespace, service.is_canonical(), preferred)
    };
    let usable = services.filter(|service| {
        service.is_visible_from(client.namespace) && (service.vips().next().is_some() || is_headless(service, realm))
    });
    usable.fold(None, |best, service| match best {
        Some(best) if rank(&best) >= rank(&service) => Some(best),
        _ => Some(service),
    })
}

/// A service without virtual addresses whose endpoints answer for it. Others of that kind are looked up outside the mesh.
fn is_headless<S: Listed>(service: &S, realm: &Realm) -> bool {
    let rest = service.hostname().strip_suffix(realm.domain.as_str());
    rest.is_some_and(|rest| rest.ends_with(".svc."))
}

/// The addresses of one family under which `client` reaches the service; there may be none.
pub(super) fn addresses<S: Listed>(service: &S, family: Family, client: &Client<'_>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = match service.vips().next() {
        Some(_) => {
            let here = service.vips().filter(|(network, _)| *network == client.network).map(|(_, address)| address);
            here.filter(|address| family.holds(*address)).collect()
        }
        None => {
            let one = |all: &[IpAddr]| all.iter().copied().find(|address| family.holds(*address));
            service.endpoints().filter_map(one).collect()
        }
    };
    fastrand::shuffle(&mut addresses);
    addresses.truncate(MOST_ADDRESSES);
    addresses
}

#[cfg(test)]
pub(super) mod tests;
