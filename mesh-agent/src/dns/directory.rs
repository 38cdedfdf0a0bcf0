//! The model, seen as a directory of names.

use std::net::IpAddr;
use std::sync::Arc;

use super::lookup::{Client, Directory, Listed};
use crate::model::service::ServiceKey;
use crate::model::{Service, Workload, World};

/// A service and the world that it is in.
#[derive(Debug)]
pub struct Entry<'a> {
    world: &'a World,
    service: &'a Arc<Service>,
}

impl Directory for World {
    type Service<'a> = Entry<'a>;

    fn client(&self, uid: &str) -> Option<Client<'_>> {
        self.workload_by_uid(uid).map(|workload: &Arc<Workload>| Client {
            namespace: workload.namespace(),
            network: &workload.network,
            canonical_service: &workload.canonical_name,
            canonical_revision: &workload.canonical_revision,
        })
    }

    /// The model has no index by host name alone: a service is looked for in the namespace that its name says, and in
    /// namespace `default`.
    fn named<'a>(&'a self, hostname: &str) -> impl Iterator<Item = Entry<'a>> {
        let written = hostname.split('.').nth(1).filter(|namespace| *namespace != "default");
        let namespaces = written.into_iter().chain(["default"]);
        let found = namespaces.filter_map(|namespace| {
            self.service(&ServiceKey { namespace: namespace.into(), hostname: hostname.into() })
        });
        let found: Vec<_> = found.collect();
        found.into_iter().map(|service| Entry { world: self, service })
    }
}

impl Listed for Entry<'_> {
    fn namespace(&self) -> &str {
        &self.service.key.namespace
    }

    fn hostname(&self) -> &str {
        &self.service.key.hostname
    }

    fn is_visible_from(&self, _namespace: &str) -> bool {
        true
    }

    fn is_canonical(&self) -> bool {
        false
    }

    fn vips(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.service.vips.iter().map(|vip| (&*vip.network, vip.ip))
    }

    fn endpoints(&self) -> impl Iterator<Item = &[IpAddr]> {
        let first = self.service.ports.keys().next();
        let endpoints = first.and_then(|port| self.world.endpoints(&self.service.key, *port));
        endpoints.into_iter().flat_map(|endpoints| {
            // The smallest draw of each column, which gives the column's own endpoint.
            let count = endpoints.len() as u64;
            let draws = (0..count).map(move |column| (column << 32).div_ceil(count) << 32);
            draws.filter_map(|draw| endpoints.pick(draw)).map(|endpoint| endpoint.workload.addresses.as_slice())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use crate::dns::lookup::{Directory, Listed};
    use crate::model::addr::NetworkAddress;
    use crate::model::service::{PublishNotReady, ServiceKey};
    use crate::model::workload::Health;
    use crate::model::{Identity, Service, Workload, World};

    fn key(namespace: &str, hostname: &str) -> ServiceKey {
        ServiceKey { namespace: namespace.into(), hostname: hostname.into() }
    }

    fn service(key: ServiceKey, vips: &[&str]) -> Service {
        Service {
            name: "s".to_owned(),
            vips: vips.iter().map(|ip| NetworkAddress { network: "net".into(), ip: ip.parse().unwrap() }).collect(),
            ports: BTreeMap::from([(80, 8080)]),
            subject_alt_names: Vec::new(),
            publish_not_ready: PublishNotReady::OnlyHealthy,
            key,
        }
    }

    fn workload(name: &str, ip: &str, health: Health) -> Workload {
        let mut workload = Workload::new(name, name, Identity::new("cluster.local", "shop", name).unwrap());
        workload.network = "net".into();
        workload.addresses = vec![ip.parse().unwrap()];
        workload.services.insert(key("shop", "bare.shop.svc.cluster.local"), BTreeMap::new());
        workload.health = health;
        workload
    }

    fn world() -> World {
        let mut workloads: Vec<_> =
            (1..=9).map(|at| workload(&format!("w{at}"), &format!("10.0.0.{at}"), Health::Healthy)).collect();
        workloads.push(workload("sick", "10.0.0.99", Health::Unhealthy));
        let services = vec![
            service(key("shop", "web.shop.svc.cluster.local"), &["10.96.0.1", "fd00::1"]),
            service(key("shop", "bare.shop.svc.cluster.local"), &[]),
            service(key("default", "*.example.com"), &["240.0.0.1"]),
        ];
        World::new(workloads, services, Vec::new())
    }

    #[test]
    fn services_by_their_names() {
        let world = world();
        let addresses = |name: &str| -> Option<Vec<String>> {
            let entry = world.named(name).next()?;
            assert_eq!(entry.hostname(), name);
            Some(entry.vips().map(|(network, address)| format!("{network}/{address}")).collect())
        };
        let web = vec!["net/10.96.0.1".to_owned(), "net/fd00::1".to_owned()];
        assert_eq!(addresses("web.shop.svc.cluster.local"), Some(web));
        assert_eq!(addresses("*.example.com"), Some(vec!["net/240.0.0.1".to_owned()]));
        assert_eq!(addresses("bare.shop.svc.cluster.local"), Some(vec![]));
        assert_eq!(addresses("other.shop.svc.cluster.local"), None);
        assert_eq!(addresses(""), None);
    }

    #[test]
    fn endpoints_are_all_that_are_healthy() {
        let world = world();
        let entry = world.named("bare.shop.svc.cluster.local").next().unwrap();
        let found: BTreeSet<_> = entry.endpoints().flatten().map(ToString::to_string).collect();
        assert_eq!(found, (1..=9).map(|at| format!("10.0.0.{at}")).collect());
        assert_eq!(entry.endpoints().count(), 9);
    }

    #[test]
    fn clients_are_workloads() {
        let world = world();
        let client = Directory::client(&world, "w1").unwrap();
        assert_eq!((client.namespace, client.network, client.canonical_service), ("shop", "net", "w1"));
        assert!(Directory::client(&world, "w99").is_none());
    }
}
