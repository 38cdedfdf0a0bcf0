//! A directory of paper, and tables on it.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::{Client, Directory, Family, Listed, PodName, Realm, addresses, find};
use crate::dns::names::Host;

/// Where a service is seen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Everywhere,
    Within,
}

/// A service of paper.
#[derive(Clone, Debug)]
pub(in crate::dns) struct Entry {
    namespace: String,
    hostname: String,
    seen: Seen,
    canonical: bool,
    vips: Vec<(String, IpAddr)>,
    endpoints: Vec<Vec<IpAddr>>,
}

#[derive(Clone, Debug, Default)]
pub(in crate::dns) struct Paper(pub(in crate::dns) Vec<Entry>);

impl Directory for Paper {
    type Service<'a> = &'a Entry;

    fn client(&self, pod: &PodName) -> Option<Client<'_>> {
        (pod.name == "client").then_some(CLIENT)
    }

    fn named<'a>(&'a self, hostname: &str) -> impl Iterator<Item = &'a Entry> {
        self.0.iter().filter(move |entry| entry.hostname == hostname)
    }
}

impl Listed for &Entry {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn hostname(&self) -> &str {
        &self.hostname
    }

    fn is_visible_from(&self, namespace: &str) -> bool {
        self.seen == Seen::Everywhere || self.namespace == namespace
    }

    fn is_canonical(&self) -> bool {
        self.canonical
    }

    fn vips(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.vips.iter().map(|(network, address)| (network.as_str(), *address))
    }

    fn endpoints(&self) -> impl Iterator<Item = &[IpAddr]> {
        self.endpoints.iter().map(Vec::as_slice)
    }
}

/// `vips` are of the client's network, unless written as `network/address`.
pub(in crate::dns) fn entry(namespace: &str, hostname: &str, vips: &[&str]) -> Entry {
    let vip = |text: &&str| {
        let (network, address) = text.split_once('/').unwrap_or(("net", text));
        (network.to_owned(), address.parse().unwrap())
    };
    Entry {
        namespace: namespace.to_owned(),
        hostname: hostname.to_owned(),
        seen: Seen::Everywhere,
        canonical: hostname.ends_with(".svc.cluster.local"),
        vips: vips.iter().map(vip).collect(),
        endpoints: Vec::new(),
    }
}

impl Entry {
    fn private(self) -> Self {
        Self { seen: Seen::Within, ..self }
    }

    fn canonical(self) -> Self {
        Self { canonical: true, ..self }
    }

    pub(in crate::dns) fn endpoint(mut self, addresses: &[&str]) -> Self {
        self.endpoints.push(addresses.iter().map(|address| address.parse().unwrap()).collect());
        self
    }
}

pub(in crate::dns) const CLIENT: Client<'_> =
    Client { namespace: "shop", network: "net", canonical_service: "web", canonical_revision: "v1" };

pub(in crate::dns) fn realm() -> Realm {
    Realm { domain: "cluster.local".to_owned(), preferred_namespace: Some("infra".to_owned()) }
}

fn host(name: &str) -> Host {
    Host::of(&Name::from_ascii(name).unwrap()).unwrap()
}

/// Namespace and host name of what is found, and the name that is an alias's target.
fn ask(directory: &Paper, name: &str) -> Option<String> {
    let found = find(directory, &host(name), &CLIENT, &realm())?;
    let service = format!("{}/{}", found.service.namespace, found.service.hostname);
    Some(found.alias_of.map_or_else(|| service.clone(), |alias| format!("{service} as {alias}")))
}

fn directory() -> Paper {
    Paper(vec![
        entry("shop", "cart.shop.svc.cluster.local", &["10.0.0.1"]),
        entry("bank", "cart.bank.svc.cluster.local", &["10.0.0.2"]),
        entry("infra", "www.example.com", &["240.0.0.1"]),
        entry("infra", "*.example.com", &["240.0.0.2"]),
        entry("infra", "*.deep.example.com", &["240.0.0.3"]),
        entry("infra", "novip.example.org", &[]).endpoint(&["10.1.0.1"]),
        entry("shop", "bare.shop.svc.cluster.local", &[]).endpoint(&["10.1.0.1"]),
        entry("shop", "empty.shop.svc.cluster.local", &[]),
        entry("bank", "vault.bank.svc.cluster.local", &["10.0.0.4"]).private(),
        entry("shop", "safe.shop.svc.cluster.local", &["10.0.0.5"]).private(),
    ])
}

#[test]
fn what_a_name_means() {
    let cases = [
        ("cart", Some("shop/cart.shop.svc.cluster.local")),
        ("CART.Shop", Some("shop/cart.shop.svc.cluster.local")),
        ("cart.bank", Some("bank/cart.bank.svc.cluster.local")),
        ("cart.bank.svc", Some("bank/cart.bank.svc.cluster.local")),
        ("cart.bank.svc.cluster.local", Some("bank/cart.bank.svc.cluster.local")),
        // What a resolver makes of `cart.bank` with the search domains of namespace shop, one after the other.
        ("cart.bank.shop.svc.cluster.local", Some("bank/cart.bank.svc.cluster.local as cart.bank")),
        ("cart.bank.cluster.local", Some("bank/cart.bank.svc.cluster.local as cart.bank")),
        ("cart.bank.svc.svc.cluster.local", Some("bank/cart.bank.svc.cluster.local as cart.bank.svc")),
        ("www.example.com", Some("infra/www.example.com")),
        ("www.example.com.shop.svc.cluster.local", Some("infra/www.example.com as www.example.com")),
        ("www.example.com.svc.cluster.local", Some("infra/www.example.com as www.example.com")),
        ("www.example.com.cluster.local", Some("infra/www.example.com as www.example.com")),
        // Of another namespace's resolvers.
        ("www.example.com.bank.svc.cluster.local", None),
        ("a.example.com", Some("infra/*.example.com")),
        ("a.b.example.com", Some("infra/*.example.com")),
        ("a.deep.example.com", Some("infra/*.deep.example.com")),
        ("deep.example.com", Some("infra/*.example.com")),
        ("example.com", None),
        // A wildcard has no name of its own to be an alias of.
        ("a.example.com.shop.svc.cluster.local", Some("infra/*.example.com")),
        ("novip.example.org", None),
        ("bare", Some("shop/bare.shop.svc.cluster.local")),
        ("empty", Some("shop/empty.shop.svc.cluster.local")),
        ("vault.bank", None),
        ("safe", Some("shop/safe.shop.svc.cluster.local")),
        ("nothing", None),
        // Single pods of a headless service are expanded, and are nobody's.
        ("pod-0.bare.shop", None),
        ("com", None),
    ];
    let directory = directory();
    for (name, expected) in cases {
        assert_eq!(ask(&directory, name).as_deref(), expected, "{name}");
    }
}

#[test]
fn which_of_several() {
    let name = "api.example.com";
    let [own, canonical, preferred, first, second] = [
        entry("shop", name, &["240.0.0.1"]),
        entry("aaa", name, &["240.0.0.2"]).canonical(),
        entry("infra", name, &["240.0.0.3"]),
        entry("zzz", name, &["240.0.0.4"]),
        entry("bbb", name, &["240.0.0.5"]),
    ];
    let cases: [(&str, Vec<&Entry>, &str); 10] = [
        ("the client's namespace", vec![&first, &preferred, &canonical, &own], "shop"),
        ("then a canonical one", vec![&first, &preferred, &canonical], "aaa"),
        ("then the preferred namespace", vec![&first, &second, &preferred], "infra"),
        ("then the first", vec![&first, &second], "zzz"),
        ("whichever that is", vec![&second, &first], "bbb"),
        ("order does not matter otherwise", vec![&own, &canonical, &preferred, &first], "shop"),
        ("nor here", vec![&canonical, &preferred], "aaa"),
        ("alone", vec![&second], "bbb"),
        ("an invisible one counts for nothing", vec![&first], "zzz"),
        ("nor one that goes to the outside", vec![&first], "zzz"),
    ];
    let hidden = canonical.clone().private();
    let outside = Entry { vips: Vec::new(), ..own.clone() };
    for (what, entries, expected) in cases {
        let mut all: Vec<Entry> = entries.into_iter().cloned().collect();
        all.splice(0..0, [hidden.clone()]);
        if what.contains("outside") {
            all.insert(0, outside.clone());
        }
        assert_eq!(ask(&Paper(all), name).unwrap(), format!("{expected}/{name}"), "{what}");
    }
}

#[test]
fn without_a_preference_the_first_is_taken() {
    let directory = Paper(vec![entry("zzz", "a.b", &["240.0.0.1"]), entry("infra", "a.b", &["240.0.0.2"])]);
    let found = find(&directory, &host("a.b"), &CLIENT, &Realm { preferred_namespace: None, ..realm() });
    assert_eq!(found.unwrap().service.namespace, "zzz");
}

#[test]
fn where_it_is() {
    let both = entry("shop", "s", &["10.0.0.1", "fd00::1", "10.0.0.2", "other/10.0.0.3", "other/fd00::3"]);
    let far = entry("shop", "s", &["other/10.0.0.3"]);
    let bare =
        entry("shop", "s", &[]).endpoint(&["10.1.0.1", "fd00::1:1", "10.1.0.9"]).endpoint(&["fd00::1:2"]).endpoint(&[]);
    let cases = [
        ("of the client's network", &both, Family::V4, vec!["10.0.0.1", "10.0.0.2"]),
        ("of the family", &both, Family::V6, vec!["fd00::1"]),
        ("only elsewhere", &far, Family::V4, vec![]),
        ("the other family", &far, Family::V6, vec![]),
        ("one of each endpoint", &bare, Family::V4, vec!["10.1.0.1"]),
        ("of the family that it has", &bare, Family::V6, vec!["fd00::1:1", "fd00::1:2"]),
    ];
    for (what, service, family, expected) in cases {
        let mut found = addresses(&service, family, &CLIENT);
        found.sort();
        let expected: Vec<IpAddr> = expected.into_iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn the_order_of_addresses_changes() {
    let many = (1..=9).fold(entry("shop", "s", &[]), |entry, last| entry.endpoint(&[&format!("10.0.0.{last}")]));
    let firsts: std::collections::BTreeSet<_> = (0..200).map(|_| addresses(&&many, Family::V4, &CLIENT)[0]).collect();
    assert!(firsts.len() > 5, "first was only {firsts:?}");
}

#[test]
fn an_answer_has_a_bound() {
    let endpoint = |at: u32| vec![IpAddr::V4(at.into())];
    let crowd = Entry { endpoints: (0..5000).map(endpoint).collect(), ..entry("shop", "s", &[]) };
    assert_eq!(addresses(&&crowd, Family::V4, &CLIENT).len(), super::MOST_ADDRESSES);
}

proptest! {
    /// A service is found by its whole name whatever else there is, and what is found is visible and can answer.
    #[test]
    fn what_is_found_may_be_seen(
        services in prop::collection::vec(("[ab]", "[a-c]{1,2}", any::<bool>(), any::<bool>()), 1..20),
        asked in "[a-c]{1,2}(\\.[ab]){0,2}(\\.svc)?(\\.cluster\\.local)?",
    ) {
        let entry = |(namespace, name, private, vip): &(String, String, bool, bool)| Entry {
            seen: if *private { Seen::Within } else { Seen::Everywhere },
            ..entry(namespace, &format!("{name}.{namespace}.svc.cluster.local"), if *vip { &["10.0.0.1"] } else { &[] })
        };
        let directory = Paper(services.iter().map(entry).collect());
        let client = Client { namespace: "a", ..CLIENT };
        if let Some(found) = find(&directory, &host(&asked), &client, &realm()) {
            prop_assert!(found.service.is_visible_from("a"));
            let alias = found.alias_of.map(|alias| alias + ".");
            prop_assert!(alias.is_none_or(|alias| asked.starts_with(&alias)));
        }
        for entry in &directory.0 {
            let found = find(&directory, &host(&entry.hostname), &client, &realm());
            let name = found.map(|found| found.service.hostname.clone());
            prop_assert_eq!(name.as_ref() == Some(&entry.hostname), directory.0.iter().any(|other| other.hostname == entry.hostname && (&other).is_visible_from("a")));
        }
    }
}
