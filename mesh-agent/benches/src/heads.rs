//! The head of a tunnel's CONNECT, from either end.

use std::hint::black_box;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use http::HeaderValue;
use mesh_agent::hbone::head::{Authority, Baggage, Connect};

use crate::{Ask, Case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("head", "a CONNECT made", made),
        Case::new("head", "a CONNECT's authority and baggage read", read),
        Case::new("head", "a pod's baggage written", written),
    ]
}

fn baggage() -> Baggage {
    Baggage {
        cluster: "Kubernetes".into(),
        namespace: "shop".into(),
        workload_type: "deployment",
        workload: "cart".into(),
        service: "cart".into(),
        version: "v1".into(),
        region: "region".into(),
        zone: "zone".into(),
    }
}

fn request(client: SocketAddr, baggage: HeaderValue) -> Result<http::Request<()>> {
    let authority = "10.64.0.9:8080".to_owned();
    let service_host = Some("cart.shop.svc.cluster.local");
    Ok(Connect { authority, client, service_host, baggage: Some(baggage), network: None }.request()?)
}

fn made() -> Result<Ask> {
    let value = baggage().header().context("no baggage")?;
    let client = "10.64.0.1:40000".parse()?;
    ensure!(request(client, value.clone())?.headers().len() == 3, "a header is missing");
    Ok(Box::new(move |_| drop(black_box(request(client, value.clone())))))
}

fn read() -> Result<Ask> {
    let request = request("10.64.0.1:40000".parse()?, baggage().header().context("no baggage")?)?;
    ensure!(Baggage::parse(request.headers()).version == "v1", "the baggage is another one");
    Authority::of(&request)?;
    Ok(Box::new(move |_| {
        drop(black_box(Authority::of(black_box(&request))));
        drop(black_box(Baggage::parse(request.headers())));
    }))
}

fn written() -> Result<Ask> {
    let baggage = baggage();
    baggage.header().context("no baggage")?;
    Ok(Box::new(move |_| drop(black_box(black_box(&baggage).header()))))
}
