//! What becomes of a packet, by its headers: the kernel's programs ask this for each.

use std::hint::black_box;

use anyhow::{Result, ensure};
use mesh_common::classify::{ACK, Egress, Flow, Ingress, SYN, egress, ingress};
use mesh_common::maps::{Phase, PodConfig, mapped};

use crate::{Ask, Case};

pub(crate) fn cases() -> Vec<Case> {
    let leaving = |name: &str, flags, expected| Case::new("capture", name, move || leaving(flags, expected));
    let arriving =
        |name: &str, from, flags, expected| Case::new("capture", name, move || arriving(from, flags, expected));
    vec![
        leaving("a packet that opens, leaving", SYN, Egress::Capture),
        leaving("any other packet, leaving", ACK, Egress::LoopUnlessOlder),
        arriving("a packet that opens, arriving", 9, SYN, Ingress::Listener(mesh_common::abi::PLAINTEXT_PORT)),
        arriving("any other packet, arriving", 9, ACK, Ingress::ListenerIfUnknown(mesh_common::abi::PLAINTEXT_PORT)),
        arriving("a probe, arriving", 1, SYN, Ingress::PassProbe),
    ]
}

/// A pod with probes, on a node with two addresses.
fn pod() -> PodConfig {
    let mut config = PodConfig { phase: Phase::Strict as u32, dns: 1, node_count: 2, ..PodConfig::EMPTY };
    config.node_addresses[0] = mapped([10, 0, 0, 1]);
    config.node_addresses[1] = mapped([10, 0, 0, 2]);
    config.probe_ports.insert(8080);
    config
}

fn flow(from: u8, flags: u8) -> Flow {
    let (source, destination) = (mapped([10, 0, 0, from]), mapped([10, 64, 0, 9]));
    Flow { source, destination, source_port: 40_000, destination_port: 8080, flags }
}

fn leaving(flags: u8, expected: Egress) -> Result<Ask> {
    let (config, flow) = (pod(), flow(9, flags));
    let found = egress(&config, &flow, 0);
    ensure!(found == expected, "it is {found:?}");
    Ok(Box::new(move |_| {
        black_box(egress(black_box(&config), black_box(&flow), 0));
    }))
}

fn arriving(from: u8, flags: u8, expected: Ingress) -> Result<Ask> {
    let (config, flow) = (pod(), flow(from, flags));
    let found = ingress(&config, &flow);
    ensure!(found == expected, "it is {found:?}");
    Ok(Box::new(move |_| {
        black_box(ingress(black_box(&config), black_box(&flow)));
    }))
}
