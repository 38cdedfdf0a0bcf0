//! How long the choice of a route takes, in nanoseconds: one line `NAME VALUE` for each size. Run with `--release`;
//! `cargo xtask bench scale` does.

use std::hint::black_box;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use mesh_agent::model::addr::NetworkAddress;
use mesh_agent::model::route::{Trip, no_names, route};
use mesh_agent::model::service::ServiceKey;
use mesh_agent::model::world::Place;
use mesh_agent::model::{Identity, OrigDst, Service, Workload, World};

const QUESTIONS: u32 = 1_000_000;
/// The best of them counts: the others tell of the machine.
const ROUNDS: u32 = 5;
const BLOCKS: u32 = 10_000;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
const SHARED: &str = "";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut output = io::stdout().lock();
    for count in [10, 1_000, 10_000] {
        writeln!(output, "route-{count} {:.1}", endpoints(count)?)?;
    }
    writeln!(output, "blocks-{BLOCKS} {:.1}", blocks()?)?;
    Ok(())
}

/// `route()` to a service with so many endpoints.
fn endpoints(count: u32) -> Result<f64, Box<dyn std::error::Error>> {
    let key = ServiceKey::new("default", "shop.default.svc.cluster.local");
    let mut service = Service::new(key.clone(), "shop");
    service.vips = vec![NetworkAddress { network: SHARED.into(), ip: VIP.into() }];
    service.ports = [(80, 8080)].into_iter().collect();
    let member = |number| {
        let mut member = workload(number, "server")?;
        member.services.insert(key.clone(), [].into_iter().collect());
        Ok::<_, Box<dyn std::error::Error>>(member)
    };
    let workloads = (0..count).map(member).collect::<Result<Vec<_>, _>>()?;
    let world = World::new(place(), workloads, vec![service], Vec::new());
    let source = workload(u32::MAX >> 8, "client")?;
    let to = OrigDst(SocketAddr::new(VIP.into(), 80));
    let found = route(&world, &Trip { source: &source, to, draw: 1, names: &no_names });
    found.map_err(|error| error.to_string())?;
    Ok(best(|draw| drop(black_box(route(&world, &Trip { source: &source, to, draw, names: &no_names })))))
}

/// Where a block starts: none is within another.
fn first(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(first_bits(number)))
}

fn first_bits(number: u32) -> u32 {
    0x1400_0000 | number << 10
}

/// The service of an address among so many blocks, of four lengths.
fn blocks() -> Result<f64, Box<dyn std::error::Error>> {
    let block = |number: u32| {
        let mut service = Service::new(ServiceKey::new("default", &format!("block-{number}")), "block");
        service.cidr_vips = vec![(Arc::from(SHARED), IpNet::new(first(number), 22 + 2 * (number % 4) as u8)?)];
        Ok::<_, Box<dyn std::error::Error>>(service)
    };
    let services = (0..BLOCKS).map(block).collect::<Result<Vec<_>, _>>()?;
    let world = World::new(place(), Vec::new(), services, Vec::new());
    let address = |draw: u64| {
        let number = u32::try_from(((draw >> 32) * u64::from(BLOCKS)) >> 32).unwrap_or_default();
        IpAddr::V4(Ipv4Addr::from_bits(first_bits(number) | 7))
    };
    world.service_at(SHARED, address(u64::MAX / 2), "default").ok_or("no block is found")?;
    Ok(best(|draw| {
        black_box(world.service_at(SHARED, address(draw), "default"));
    }))
}

fn place() -> Place {
    Place { node: "here".into(), ..Place::default() }
}

fn workload(number: u32, name: &str) -> Result<Workload, Box<dyn std::error::Error>> {
    let identity = Identity::new("cluster.local", "default", name)?;
    let mut workload = Workload::new(&format!("{name}-{number}"), name, identity);
    workload.addresses = vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a40_0000 + (number & 0x1f_ffff)))];
    Ok(workload)
}

/// Nanoseconds of one question, asked with random draws.
fn best(mut ask: impl FnMut(u64)) -> f64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut round = || {
        let start = Instant::now();
        for _ in 0..QUESTIONS {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ask(state);
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(QUESTIONS)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
