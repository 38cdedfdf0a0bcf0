//! The model, seen as a directory of names.

use std::net::IpAddr;
use std::sync::Arc;

use super::lookup::{Client, Directory, Listed, PodName};
use crate::model::service::Standing;
use crate::model::{Service, World};

/// A service and the world that it is in.
#[derive(Debug)]
pub struct Entry<'a> {
    world: &'a World,
    service: &'a Arc<Service>,
}

impl Directory for World {
    type Service<'a> = Entry<'a>;

    fn client(&self, pod: &PodName) -> Option<Client<'_>> {
        let workload = self.local_workload(&pod.namespace, &pod.name)?;
        let meant = pod.service_account.is_empty() || workload.identity.service_account() == pod.service_account;
        meant.then(|| Client {
            namespace: workload.namespace(),
            network: &workload.network,
            canonical_service: &workload.canonical_name,
            canonical_revision: &workload.canonical_revision,
        })
    }

    fn named<'a>(&'a self, hostname: &str) -> impl Iterator<Item = Entry<'a>> {
        self.services_named(hostname).iter().map(|service| Entry { world: self, service })
    }
}

impl Listed for Entry<'_> {
    fn namespace(&self) -> &str {
        &self.service.key.namespace
    }

    fn hostname(&self) -> &str {
        &self.service.key.hostname
    }

    fn is_visible_from(&self, namespace: &str) -> bool {
        self.service.visible_from(namespace)
    }

    fn is_canonical(&self) -> bool {
        self.service.standing == Standing::Canonical
    }

    fn vips(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.service.vips.iter().map(|vip| (&*vip.network, vip.ip))
    }

    fn endpoints(&self) -> impl Iterator<Item = &[IpAddr]> {
        let endpoints = self.world.endpoints(&self.service.key);
        endpoints.into_iter().flat_map(|endpoints| endpoints.members()).map(|member| member.addresses.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::dns::lookup::{Directory, Listed, PodName};
    use crate::model::addr::NetworkAddress;
    use crate::model::service::{Ports, ServiceKey, Standing, Visibility};
    use crate::model::workload::Health;
    use crate::model::world::Place;
    use crate::model::{Identity, Service, Workload, World};

    const BARE: &str = "bare.shop.svc.cluster.local";

    fn service(namespace: &str, hostname: &str, vips: &[&str]) -> Service {
        let vip = |ip: &&str| NetworkAddress { network: "net".into(), ip: ip.parse().unwrap() };
        Service { vips: vips.iter().map(vip).collect(), ..Service::new(ServiceKey::new(namespace, hostname), "s") }
    }

    fn workload(name: &str, ip: &str, health: Health) -> Workload {
        let mut workload = Workload::new(name, name, Identity::new("cluster.local", "shop", name).unwrap());
        workload.network = "net".into();
        workload.node = "here".into();
        workload.addresses = vec![ip.parse().unwrap()];
        workload.services.insert(ServiceKey::new("shop", BARE), Ports::default());
        workload.health = health;
        workload
    }

    fn world() -> World {
        let mut workloads: Vec<_> =
            (1..=9).map(|at| workload(&format!("w{at}"), &format!("10.0.0.{at}"), Health::Healthy)).collect();
        workloads.push(workload("sick", "10.0.0.99", Health::Unhealthy));
        let mut hidden = service("bank", "api.example.com", &["240.0.0.2"]);
        hidden.visibility = Visibility::Namespace;
        let mut canonical = service("shop", "web.shop.svc.cluster.local", &["10.96.0.1", "fd00::1"]);
        canonical.standing = Standing::Canonical;
        let services =
            vec![canonical, service("shop", BARE, &[]), service("infra", "api.example.com", &["240.0.0.1"]), hidden];
        let place = Place { node: "here".into(), network: "net".into(), ..Place::default() };
        World::new(place, workloads, services, Vec::new())
    }

    #[test]
    fn services_by_their_names() {
        let world = world();
        let named = |name: &str| -> BTreeSet<String> {
            let entries = world.named(name).map(|entry| {
                assert_eq!(entry.hostname(), name);
                let vips: Vec<_> = entry.vips().map(|(network, address)| format!("{network}/{address}")).collect();
                let seen = ["bank", "shop"].map(|namespace| entry.is_visible_from(namespace));
                format!("{} {} {seen:?} {}", entry.namespace(), vips.join(" "), entry.is_canonical())
            });
            entries.collect()
        };
        let set = |all: &[&str]| -> BTreeSet<String> { all.iter().map(ToString::to_string).collect() };
        let web = "shop net/10.96.0.1 net/fd00::1 [true, true] true";
        assert_eq!(named("web.shop.svc.cluster.local"), set(&[web]));
        let entries = ["infra net/240.0.0.1 [true, true] false", "bank net/240.0.0.2 [true, false] false"];
        assert_eq!(named("api.example.com"), set(&entries));
        assert_eq!(named("other.shop.svc.cluster.local"), set(&[]));
        assert_eq!(named(""), set(&[]));
    }

    #[test]
    fn endpoints_are_all_that_are_healthy() {
        let world = world();
        let entry = world.named(BARE).next().unwrap();
        let found: BTreeSet<_> = entry.endpoints().flatten().map(ToString::to_string).collect();
        assert_eq!(found, (1..=9).map(|at| format!("10.0.0.{at}")).collect());
        assert_eq!(entry.endpoints().count(), 9);
    }

    #[test]
    fn clients_are_workloads_of_this_node() {
        let world = world();
        let pod = |name: &str, account: &str| PodName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            service_account: account.to_owned(),
        };
        for account in ["w1", ""] {
            let client = Directory::client(&world, &pod("w1", account)).unwrap();
            assert_eq!((client.namespace, client.network, client.canonical_service), ("shop", "net", "w1"));
        }
        assert!(Directory::client(&world, &pod("w1", "w2")).is_none());
        assert!(Directory::client(&world, &pod("w99", "")).is_none());
    }
}
