//! Where an outbound connection goes: `route()` to a service with few and with many endpoints.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mesh_agent::model::addr::NetworkAddress;
use mesh_agent::model::balance::{LoadBalancing, Mode, Scope};
use mesh_agent::model::route::{Trip, no_names, route};
use mesh_agent::model::workload::{Health, Locality};
use mesh_agent::model::{OrigDst, Route, Workload, World};

use crate::draw::one;
use crate::world::{NETWORK, NODE, place, service, vip, workload};
use crate::{Ask, Case};

/// What makes endpoints unequal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Equal,
    /// Those of the client's zone are preferred: one in three.
    Locality,
    /// Every second one.
    Unhealthy,
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |title: &str, shape, count: u32| {
        Case::new("route", &format!("{count} endpoints{title}"), move || endpoints(count, shape))
    };
    let shapes =
        [("", Shape::Equal), (", by locality", Shape::Locality), (", half of them unhealthy", Shape::Unhealthy)];
    shapes.iter().flat_map(|(title, shape)| [10, 1_000, 10_000].map(|count| case(title, *shape, count))).collect()
}

/// The service has many addresses: where one of them is in a hash map is chance, and many even out.
const ADDRESSES: u32 = 1_024;

fn endpoints(count: u32, shape: Shape) -> Result<Ask> {
    let mut service = service(0);
    service.vips = (0..ADDRESSES).map(|number| NetworkAddress { network: NETWORK.into(), ip: vip(number) }).collect();
    if shape == Shape::Locality {
        let preferences = vec![Scope::Region, Scope::Zone, Scope::Node];
        service.load_balancing = LoadBalancing { mode: Mode::Failover, preferences, ..LoadBalancing::default() };
    }
    let mut client = workload(1 << 20, "client")?;
    (client.node, client.locality) = (NODE.into(), zone(0));
    let uid = Arc::clone(&client.uid);
    let mut workloads = vec![client];
    for number in 0..count {
        let mut member = workload(number, "server")?;
        member.services.insert(service.key.clone(), [].into_iter().collect());
        member.locality = zone(number % 3);
        if shape == Shape::Unhealthy && number % 2 == 1 {
            member.health = Health::Unhealthy;
        }
        workloads.push(member);
    }
    let world = World::new(place(), workloads, vec![service], Vec::new());
    let source = Arc::clone(world.workload_by_uid(&uid).context("the client is not in the world")?);
    let addresses: Vec<_> = (0..ADDRESSES).map(|number| OrigDst(SocketAddr::new(vip(number), 80))).collect();
    for (step, to) in (0_u64..).zip(&addresses) {
        check(&world, &source, *to, step << 54, shape)?;
    }
    Ok(Box::new(move |draw| {
        let trip = |to: &OrigDst| Trip { source: &source, to: *to, draw, names: &no_names };
        drop(black_box(one(&addresses, draw.rotate_left(32)).map(|to| route(&world, &trip(to)))));
    }))
}

fn zone(number: u32) -> Arc<Locality> {
    Arc::new(Locality { region: "region".into(), zone: format!("zone-{number}").into(), subzone: "".into() })
}

/// The choice is the one that the shape is about.
fn check(world: &World, source: &Workload, to: OrigDst, draw: u64, shape: Shape) -> Result<()> {
    let found = route(world, &Trip { source, to, draw, names: &no_names })?;
    let Route::Tunnel { workload, .. } = found else { anyhow::bail!("no tunnel") };
    ensure!(shape != Shape::Locality || workload.locality == source.locality, "an endpoint far away");
    ensure!(workload.health == Health::Healthy, "an endpoint that is not well");
    Ok(())
}
