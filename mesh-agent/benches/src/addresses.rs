//! Who has an address: by the address itself, and by a block around it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use mesh_agent::model::service::ServiceKey;
use mesh_agent::model::{Service, World};

use crate::draw::one;
use crate::world::{NETWORK, place, pod_ip, service, vip, workload};
use crate::{Ask, Case};

const COUNT: u32 = 10_000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("address", "a workload of 10,000", workloads),
        Case::new("address", "a service of 10,000", services),
        Case::new("address", "nobody's, beside 10,000", nobodys),
        Case::new("address", "a service by 10,000 blocks", blocks),
    ]
}

fn workloads() -> Result<Ask> {
    let all = (0..COUNT).map(|number| workload(number, "server")).collect::<Result<_>>()?;
    let world = World::new(place(), all, Vec::new(), Vec::new());
    let addresses: Vec<_> = (0..COUNT).map(pod_ip).collect();
    ensure!(addresses.iter().all(|ip| world.workload_at(NETWORK, *ip).is_some()), "a workload is not found");
    Ok(Box::new(move |draw| {
        black_box(one(&addresses, draw).and_then(|ip| world.workload_at(NETWORK, *ip)));
    }))
}

fn services() -> Result<Ask> {
    let world = World::new(place(), Vec::new(), (0..COUNT).map(service).collect(), Vec::new());
    let addresses: Vec<_> = (0..COUNT).map(vip).collect();
    ensure!(addresses.iter().all(|ip| world.service_at(NETWORK, *ip, "default").is_some()), "a service is not found");
    Ok(Box::new(move |draw| {
        black_box(one(&addresses, draw).and_then(|ip| world.service_at(NETWORK, *ip, "default")));
    }))
}

/// What an address outside of the mesh costs: neither a service nor a workload has it.
fn nobodys() -> Result<Ask> {
    let all = (0..COUNT).map(|number| workload(number, "server")).collect::<Result<_>>()?;
    let world = World::new(place(), all, (0..COUNT).map(service).collect(), Vec::new());
    let addresses: Vec<_> = (0..COUNT).map(|number| pod_ip(1 << 20 | number)).collect();
    let nobodys = |world: &World, ip: IpAddr| {
        world.service_at(NETWORK, ip, "default").is_none() && world.workload_at(NETWORK, ip).is_none()
    };
    ensure!(addresses.iter().all(|ip| nobodys(&world, *ip)), "somebody has the address");
    Ok(Box::new(move |draw| {
        black_box(one(&addresses, draw).map(|ip| nobodys(&world, *ip)));
    }))
}

/// The service of an address among so many blocks, of four lengths.
fn blocks() -> Result<Ask> {
    let services = (0..COUNT).map(block).collect::<Result<Vec<_>>>()?;
    let world = World::new(place(), Vec::new(), services, Vec::new());
    let addresses: Vec<_> = (0..COUNT).map(|number| IpAddr::V4(Ipv4Addr::from_bits(first(number) | 7))).collect();
    for (number, ip) in addresses.iter().enumerate() {
        let found = world.service_at(NETWORK, *ip, "default").context("no block is found")?;
        ensure!(*found.key.hostname == *format!("block-{number}"), "{ip} is in the block of {}", found.key);
    }
    Ok(Box::new(move |draw| {
        black_box(one(&addresses, draw).and_then(|ip| world.service_at(NETWORK, *ip, "default")));
    }))
}

fn block(number: u32) -> Result<Service> {
    let mut service = Service::new(ServiceKey::new("default", &format!("block-{number}")), "block");
    let length = [22, 24, 26, 28][(number % 4) as usize];
    service.cidr_vips = vec![(NETWORK.into(), IpNet::new(Ipv4Addr::from_bits(first(number)).into(), length)?)];
    Ok(service)
}

/// Where a block starts: none is within another.
fn first(number: u32) -> u32 {
    0x1400_0000 | number << 10
}
