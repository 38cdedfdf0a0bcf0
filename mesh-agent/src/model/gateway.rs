//! References to gateways: a service's or workload's waypoint, a network's entrance (protocol note, sections 2.4 and 6).

use std::fmt;

use super::addr::NetworkAddress;
use super::service::ServiceKey;

/// Where a gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayPlace {
    /// A service, or a workload with that host name.
    Hostname(ServiceKey),
    /// A service's virtual address, or a workload's.
    Address(NetworkAddress),
}

/// A gateway and the port on which it takes HBONE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    pub place: GatewayPlace,
    pub hbone_port: u16,
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            GatewayPlace::Hostname(key) => write!(f, "{key}:{}", self.hbone_port),
            GatewayPlace::Address(address) => write!(f, "{address}:{}", self.hbone_port),
        }
    }
}

/// The waypoints of a service: one, or several among which connections are split by weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waypoints {
    pub only: Option<GatewayAddress>,
    pub weighted: Vec<(GatewayAddress, u32)>,
}

impl Waypoints {
    /// All that may take a connection.
    pub fn iter(&self) -> impl Iterator<Item = &GatewayAddress> {
        self.only.iter().chain(self.weighted.iter().map(|(gateway, _)| gateway))
    }

    /// The one that takes a connection; `draw` is uniformly random. Weights of sum 0 count as none (section 6.2).
    pub fn pick(&self, draw: u64) -> Option<&GatewayAddress> {
        let total: u64 = self.weighted.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if total == 0 {
            return self.only.as_ref();
        }
        let mut left = u64::try_from((u128::from(draw) * u128::from(total)) >> 64).unwrap_or_default();
        let chosen = self.weighted.iter().find(|(_, weight)| {
            let here = left < u64::from(*weight);
            left = left.saturating_sub(u64::from(*weight));
            here
        });
        chosen.map(|(gateway, _)| gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::{GatewayAddress, GatewayPlace, Waypoints};
    use crate::model::service::ServiceKey;

    fn gateway(name: &str) -> GatewayAddress {
        GatewayAddress { place: GatewayPlace::Hostname(ServiceKey::new("ns", name)), hbone_port: 15008 }
    }

    #[test]
    fn connections_are_split_by_weight() {
        let waypoints = Waypoints {
            only: Some(gateway("primary")),
            weighted: vec![(gateway("primary"), 90), (gateway("none"), 0), (gateway("canary"), 10)],
        };
        let mut random = fastrand::Rng::with_seed(3);
        let draws = 100_000;
        let canary = (0..draws).filter(|_| waypoints.pick(random.u64(..)) == Some(&gateway("canary"))).count();
        assert!((9_000..11_000).contains(&canary), "{canary} of {draws}");
        assert!((0..draws).all(|_| waypoints.pick(random.u64(..)) != Some(&gateway("none"))));
        assert_eq!(waypoints.pick(u64::MAX), Some(&gateway("canary")));
    }

    #[test]
    fn weights_of_sum_zero_count_as_none() {
        let waypoints = Waypoints { only: Some(gateway("primary")), weighted: vec![(gateway("canary"), 0)] };
        assert_eq!(waypoints.pick(1), Some(&gateway("primary")));
        assert_eq!(Waypoints::default().pick(1), None);
    }
}
