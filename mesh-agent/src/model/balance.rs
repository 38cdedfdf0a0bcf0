//! How a service prefers some endpoints to others (protocol note, section 7.3): a pure function of where the client is.

use std::sync::Arc;

use super::workload::{Locality, Workload};

/// What client and endpoint may have in common. Each compares that one thing only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All endpoints alike.
    #[default]
    Standard,
    /// Only endpoints that match every preference.
    Strict,
    /// Those that match the most preferences, counted from the first to the first mismatch.
    Failover,
    /// No choice at all: on to the address that the client asked for.
    Passthrough,
}

/// Whether endpoints that are not ready are used, too (`publishNotReadyAddresses`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    pub mode: Mode,
    pub preferences: Vec<Scope>,
    pub health: HealthPolicy,
}

/// Where a client is, as far as endpoint choice depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vantage {
    pub network: Arc<str>,
    pub cluster: Arc<str>,
    pub node: Arc<str>,
    pub locality: Arc<Locality>,
}

impl Vantage {
    pub fn of(workload: &Workload) -> Self {
        Self {
            network: Arc::clone(&workload.network),
            cluster: Arc::clone(&workload.cluster),
            node: Arc::clone(&workload.node),
            locality: Arc::clone(&workload.locality),
        }
    }

    /// Whether this is where `workload` is.
    pub fn is_of(&self, workload: &Workload) -> bool {
        self.node == workload.node
            && self.network == workload.network
            && self.cluster == workload.cluster
            && self.locality == workload.locality
    }

    fn shares(&self, scope: Scope, endpoint: &Workload) -> bool {
        match scope {
            Scope::Region => self.locality.region == endpoint.locality.region,
            Scope::Zone => self.locality.zone == endpoint.locality.zone,
            Scope::Subzone => self.locality.subzone == endpoint.locality.subzone,
            Scope::Node => self.node == endpoint.node,
            Scope::Cluster => self.cluster == endpoint.cluster,
            Scope::Network => self.network == endpoint.network,
        }
    }
}

impl LoadBalancing {
    /// How good an endpoint is for a client at `from`; none if it must not be used. Only the best are used.
    pub fn rank(&self, from: &Vantage, endpoint: &Workload) -> Option<usize> {
        match self.mode {
            Mode::Standard | Mode::Passthrough => Some(0),
            Mode::Strict => self.preferences.iter().all(|scope| from.shares(*scope, endpoint)).then_some(0),
            Mode::Failover => Some(self.matching(from, endpoint)),
        }
    }

    /// Whether the choice depends on where the client is.
    pub fn depends_on_client(&self) -> bool {
        matches!(self.mode, Mode::Strict | Mode::Failover) && !self.preferences.is_empty()
    }

    /// The number of leading preferences that match. A leading NETWORK is preferred, not required: a mismatch does not end
    /// the count, and a match outweighs all the others.
    fn matching(&self, from: &Vantage, endpoint: &Workload) -> usize {
        let leading = |scopes: &[Scope]| scopes.iter().take_while(|scope| from.shares(**scope, endpoint)).count();
        match self.preferences.split_first() {
            Some((Scope::Network, rest)) => {
                let own = if from.shares(Scope::Network, endpoint) { self.preferences.len() } else { 0 };
                own + leading(rest)
            }
            _ => leading(&self.preferences),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{LoadBalancing, Mode, Scope, Vantage};
    use crate::model::workload::Locality;
    use crate::model::{Identity, Workload};

    fn at(network: &str, region: &str, zone: &str, node: &str) -> Workload {
        let mut workload = Workload::new("", "w", Identity::new("cluster.local", "ns", "default").unwrap());
        workload.network = network.into();
        workload.node = node.into();
        workload.locality = Arc::new(Locality { region: region.into(), zone: zone.into(), subzone: "".into() });
        workload
    }

    fn balancing(mode: Mode, preferences: &[Scope]) -> LoadBalancing {
        LoadBalancing { mode, preferences: preferences.to_vec(), ..LoadBalancing::default() }
    }

    /// The figures of the protocol note, section 7.3.
    #[test]
    fn a_leading_network_is_preferred_and_locality_still_orders_the_others() {
        let balancing = balancing(Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone]);
        let from = Vantage::of(&at("n", "r", "z", "a"));
        for (endpoint, expected) in [
            (at("n", "r", "z", "b"), 5),
            (at("n", "r", "x", "b"), 4),
            (at("n", "x", "z", "b"), 3),
            (at("x", "r", "z", "b"), 2),
            (at("x", "r", "x", "b"), 1),
            (at("x", "x", "z", "b"), 0),
        ] {
            assert_eq!(balancing.rank(&from, &endpoint), Some(expected), "{:?}", endpoint.locality);
        }
    }

    #[test]
    fn failover_stops_counting_at_the_first_mismatch() {
        let balancing = balancing(Mode::Failover, &[Scope::Region, Scope::Zone, Scope::Node]);
        let from = Vantage::of(&at("n", "r", "z", "a"));
        assert_eq!(balancing.rank(&from, &at("x", "r", "x", "a")), Some(1));
        assert_eq!(balancing.rank(&from, &at("x", "x", "z", "a")), Some(0));
        assert_eq!(balancing.rank(&from, &at("x", "r", "z", "a")), Some(3));
    }

    #[test]
    fn strict_wants_every_preference_the_network_too() {
        let balancing = balancing(Mode::Strict, &[Scope::Network, Scope::Node]);
        let from = Vantage::of(&at("n", "r", "z", "a"));
        assert_eq!(balancing.rank(&from, &at("n", "x", "x", "a")), Some(0));
        assert_eq!(balancing.rank(&from, &at("n", "r", "z", "b")), None);
        assert_eq!(balancing.rank(&from, &at("x", "r", "z", "a")), None);
    }
}
