//! Who serves one port of a service: a weighted draw in constant time (Vose's alias method), prepared when the
//! configuration arrives.

use std::sync::Arc;

use super::service::{PublishNotReady, Service};
use super::workload::{Health, Workload};

/// The usable endpoints of one service port.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    slots: Vec<Slot>,
}

/// One column of the alias table.
#[derive(Clone, Debug)]
struct Slot {
    endpoint: Endpoint,
    /// Of 2^32: how much of the column is its own; the rest belongs to `alias`.
    own: u64,
    alias: usize,
}

/// A workload and its port.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub workload: Arc<Workload>,
    pub port: u16,
}

const WHOLE: u64 = 1 << 32;

impl Endpoints {
    /// The endpoints of `service`'s `port` among its members: healthy, with a weight, and with a port.
    pub fn of(service: &Service, port: u16, members: &[&Arc<Workload>]) -> Self {
        let mut members: Vec<_> = members.iter().filter_map(|workload| endpoint(service, port, workload)).collect();
        // The same draw gives the same endpoint whatever the order of the maps.
        members.sort_by(|a, b| a.workload.uid.cmp(&b.workload.uid));
        Self::weighted(members)
    }

    fn weighted(members: Vec<Endpoint>) -> Self {
        let total: u64 = members.iter().map(|endpoint| u64::from(endpoint.workload.capacity)).sum();
        let count = members.len() as u64;
        // Scaled so that the average column is WHOLE.
        let mut scaled: Vec<u128> = members
            .iter()
            .map(|endpoint| {
                u128::from(endpoint.workload.capacity) * u128::from(count) * u128::from(WHOLE)
                    / u128::from(total.max(1))
            })
            .collect();
        let mut slots: Vec<Slot> =
            members.into_iter().enumerate().map(|(alias, endpoint)| Slot { endpoint, own: WHOLE, alias }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..slots.len()).partition(|index| scaled[*index] < u128::from(WHOLE));
        while let (Some(little), Some(big)) = (small.pop(), large.pop()) {
            slots[little].own = u64::try_from(scaled[little]).unwrap_or(WHOLE);
            slots[little].alias = big;
            scaled[big] -= u128::from(WHOLE) - scaled[little];
            if scaled[big] < u128::from(WHOLE) { small.push(big) } else { large.push(big) }
        }
        Self { slots }
    }

    /// One of them, by a uniformly random number.
    pub fn pick(&self, draw: u64) -> Option<&Endpoint> {
        let count = self.slots.len() as u64;
        if count == 0 {
            return None;
        }
        // The upper half chooses the column, the lower half the part of it.
        let slot = &self.slots[usize::try_from(((draw >> 32) * count) >> 32).ok()?];
        let chosen = if draw & (WHOLE - 1) < slot.own { slot } else { &self.slots[slot.alias] };
        Some(&chosen.endpoint)
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// The workload as an endpoint, if it can be one (protocol note, sections 7.3 and 7.4).
fn endpoint(service: &Service, port: u16, workload: &Arc<Workload>) -> Option<Endpoint> {
    let ready = workload.health == Health::Healthy || service.publish_not_ready == PublishNotReady::All;
    if !ready || workload.capacity == 0 || workload.addresses.is_empty() {
        return None;
    }
    let own = workload.services.get(&service.key)?.get(&port).copied();
    let target = own.or_else(|| service.ports.get(&port).copied()).filter(|target| *target != 0)?;
    Some(Endpoint { workload: Arc::clone(workload), port: target })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::{Endpoint, Endpoints};
    use crate::model::Workload;
    use crate::model::workload::default_identity;

    fn endpoints(weights: &[u32]) -> Endpoints {
        let member = |(index, capacity): (usize, &u32)| {
            let mut workload = Workload::new(&index.to_string(), "w", default_identity("ns").unwrap());
            workload.capacity = *capacity;
            Endpoint { workload: Arc::new(workload), port: 80 }
        };
        Endpoints::weighted(weights.iter().enumerate().map(member).collect())
    }

    #[test]
    fn shares_follow_the_weights() {
        for weights in [vec![1], vec![1, 1], vec![1, 2, 3, 4], vec![1, 1000], vec![5, 5, 5, 5, 80], vec![1; 1000]] {
            let endpoints = endpoints(&weights);
            let mut random = fastrand::Rng::with_seed(7);
            let (mut seen, draws) = (HashMap::<String, f64>::new(), 200_000);
            for _ in 0..draws {
                let uid = endpoints.pick(random.u64(..)).unwrap().workload.uid.to_string();
                *seen.entry(uid).or_default() += 1.0;
            }
            let total: u32 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let expected = f64::from(*weight) / f64::from(total);
                let got = seen.get(&index.to_string()).copied().unwrap_or_default() / f64::from(draws);
                assert!(
                    (got - expected).abs() < 0.01 + expected * 0.05,
                    "{weights:?}: {index} got {got}, not {expected}"
                );
            }
        }
        assert!(endpoints(&[]).pick(1).is_none());
    }
}
