//! What the mesh knows is answered in the pod, in the name of whichever server was asked.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::RecordType::{self, A, AAAA};
use mesh_e2e::socket::{self, Ending};
use mesh_e2e::{Lab, RunningPod, Service};

use super::client::{self, Over, ask, exchange, query, with_payload};
use super::{NOWHERE, crowd, outside};

fn nowhere() -> Result<[SocketAddr; 2]> {
    Ok([NOWHERE[0].parse()?, NOWHERE[1].parse()?])
}

fn must(place: &RunningPod, name: &str, kind: RecordType, over: Over, expected: &str) -> Result<()> {
    for server in nowhere()? {
        let answer = ask(place, server, name, kind, over)?;
        ensure!(answer.to_string() == expected, "{name} {kind} by {over:?} is {answer}, not {expected}");
        let late = answer.0.answers.iter().find(|record| record.ttl != 30);
        ensure!(late.is_none(), "{late:?}");
    }
    Ok(())
}

fn vip(lab: &Lab, service: &str, kind: RecordType) -> String {
    let address = if kind == A { lab.vip4(service, 1) } else { lab.vip6(service, 1) };
    address.ip().to_string()
}

/// Every way to write a name, both kinds of addresses, by name servers of both families.
pub(super) fn every_name(lab: &Lab) -> Result<()> {
    let client = lab.pod("client");
    let (server, twin) = (lab.pod("server"), lab.pod("twin"));
    for kind in [A, AAAA] {
        let aa = |data: &str| format!("NoError aa {data}");
        let web = aa(&vip(lab, "web", kind));
        for name in ["web", "WEB", "web.default", "web.default.svc", "web.default.svc.cluster.local"] {
            must(client, name, kind, Over::Udp, &web)?;
        }
        let shop = aa(&vip(lab, "shop", kind));
        must(client, "shop.shop", kind, Over::Udp, &shop)?;
        // As a resolver with search domains asks, whose first attempt ends in its own namespace.
        let alias = |target: &str, service: &str| {
            format!("NoError aa {}", sorted([format!("{target}."), vip(lab, service, kind)]))
        };
        must(client, "shop.shop.default.svc.cluster.local", kind, Over::Udp, &alias("shop.shop", "shop"))?;
        must(client, "api.mesh.example.svc.cluster.local", kind, Over::Udp, &alias("api.mesh.example", "entry"))?;
        let address = |pod: &RunningPod| if kind == A { pod.v4.to_string() } else { pod.v6.to_string() };
        must(client, "bare", kind, Over::Udp, &aa(&sorted([address(server), address(twin)])))?;
        must(client, "api.mesh.example", kind, Over::Udp, &aa(&vip(lab, "entry", kind)))?;
        let wild = aa(&vip(lab, "wild", kind));
        for name in ["x.mesh.example", "x.y.mesh.example", "x.mesh.example.cluster.local"] {
            must(client, name, kind, Over::Udp, &wild)?;
        }
    }
    must(client, "four", A, Over::Udp, "NoError aa 10.51.0.4")?;
    must(client, "four", AAAA, Over::Udp, "NoError aa")
}

fn sorted(mut data: [String; 2]) -> String {
    data.sort();
    data.join(" ")
}

/// Several queries on one connection, and connections one after the other.
pub(super) fn over_tcp(lab: &Lab) -> Result<()> {
    let client = lab.pod("client");
    let before = lab.agent("n1").status()?.counter("dns_tcp");
    for _ in 0..20 {
        must(client, "web", A, Over::Tcp, &format!("NoError aa {}", vip(lab, "web", A)))?;
    }
    let captured = lab.agent("n1").status()?.counter("dns_tcp") - before;
    ensure!(captured == 40, "{captured} connections were captured");
    for server in nowhere()? {
        let queries: Vec<_> = (0..100).map(|_| query("web", AAAA)).collect::<Result<_>>()?;
        let bytes: Vec<_> = queries.iter().map(Message::to_vec).collect::<Result<_, _>>()?;
        let mut stream = client::connect(client, server)?;
        client::send(&mut stream, &bytes)?;
        for query in &queries {
            let answer = Message::from_vec(&client::receive(&mut stream)?)?;
            ensure!(answer.metadata.id == query.metadata.id && answer.answers.len() == 1, "{answer}");
        }
        // Nobody waits for ever for a client that has no more to ask.
        let start = Instant::now();
        let ending = socket::ending(&stream, Duration::from_secs(8))?;
        let after = start.elapsed();
        ensure!(ending == Ending::Fin && after > Duration::from_secs(3), "{ending:?} after {after:?}");
    }
    Ok(())
}

/// What a client says with EDNS is said back to it.
pub(super) fn edns(lab: &Lab) -> Result<()> {
    for payload in [512, 1232, 4096] {
        let asked = with_payload(query("web", A)?, payload);
        let answer = exchange(lab.pod("client"), nowhere()?[0], &asked, Over::Udp)?;
        let edns = answer.0.edns.context("no EDNS in the answer")?;
        ensure!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok) == (payload, 0, true), "{edns}");
    }
    let plain = exchange(lab.pod("client"), nowhere()?[0], &query("web", A)?, Over::Udp)?;
    ensure!(plain.0.edns.is_none(), "EDNS for a client that has none");
    Ok(())
}

/// More addresses than a datagram holds.
pub(super) fn too_long(lab: &Lab) -> Result<()> {
    const CROWD: usize = 100;
    lab.publish(|world| {
        world.workload(&crowd(CROWD));
        world.services.push(Service::new("crowd").port(80, 80).selects("app", "crowd").headless());
    })?;
    let (client, server) = (lab.pod("client"), nowhere()?[0]);
    let cut = ask(client, server, "crowd", A, Over::Udp)?.0;
    ensure!(cut.metadata.truncation && (20..CROWD).contains(&cut.answers.len()), "{cut}");
    ensure!(cut.to_vec()?.len() <= 512, "the answer is longer than 512 bytes");
    for answer in [
        ask(client, server, "crowd", A, Over::Tcp)?,
        exchange(client, server, &with_payload(query("crowd", A)?, 4096), Over::Udp)?,
    ] {
        let records = answer.records();
        ensure!(!answer.0.metadata.truncation && records.len() == CROWD, "{answer}");
    }
    Ok(())
}

/// What makes something else of a query.
type Change = fn(&mut Message);

/// Each is answered by its own code, and nothing is sent to what has no answer.
pub(super) fn no_queries(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), nowhere()?[0]);
    let refused = |change: Change| -> Result<String> {
        let mut message = query("web", A)?;
        change(&mut message);
        Ok(exchange(client, server, &message, Over::Udp)?.to_string())
    };
    let changes: [(&str, Change); 4] = [
        ("NotImp", |message| message.metadata.op_code = OpCode::Update),
        ("FormErr", |message| message.metadata.message_type = MessageType::Response),
        ("FormErr", |message| message.queries.clear()),
        ("Refused", |message| message.queries[0].query_type = RecordType::AXFR),
    ];
    for (expected, change) in changes {
        let code = refused(change)?;
        ensure!(code == expected, "{code}, not {expected}");
    }
    let socket = client::connected(client, server)?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    for garbage in [&[][..], &[1], &[0; 11], &[0xff; 11]] {
        ensure!(client::by_datagram(&socket, garbage).is_err(), "{garbage:?} has an answer");
    }
    client::by_datagram(&socket, &query("web", A)?.to_vec()?).map(drop)
}

/// A service that comes and goes.
pub(super) fn changes(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), nowhere()?[0]);
    let upstream = super::upstream::Upstream::start(lab.outside())?;
    let [known, unknown] =
        [server, outside(lab)[0]].map(|server| move |lab: &Lab| ask(lab.pod("client"), server, "new", A, Over::Udp));
    ensure!(unknown(lab)?.to_string() == "NXDomain", "it is there already");
    lab.publish(|world| {
        let mut new = Service::new("new").port(80, 80).endpoint("default/server");
        new.addresses = vec![IpAddr::from([10, 51, 0, 9])];
        world.services.push(new);
    })?;
    ensure!(known(lab)?.to_string() == "NoError aa 10.51.0.9", "{}", known(lab)?);
    lab.publish(|world| world.services.retain(|service| service.name != "new"))?;
    ensure!(unknown(lab)?.to_string() == "NXDomain", "it is still there");
    ensure!(!upstream.asked().is_empty(), "nobody was asked");
    must(client, "web", A, Over::Udp, &format!("NoError aa {}", vip(lab, "web", A)))
}

/// Another domain, and no IPv6.
pub(super) fn other_settings(lab: &mut Lab) -> Result<()> {
    let client = lab.pod("client");
    lab.publish(|world| {
        drop(world.service("web").more.insert("hostname".to_owned(), "web.default.svc.mesh.test".into()))
    })?;
    let web = format!("NoError aa {}", vip(lab, "web", A));
    for name in ["web", "web.default.svc", "web.default.svc.mesh.test", "WEB.default.svc.MESH.test"] {
        must(client, name, A, Over::Udp, &web)?;
    }
    must(client, "web", AAAA, Over::Udp, "NoError")?;
    must(client, "www.example.org", AAAA, Over::Udp, "NoError")
}

/// The same where programs are attached by clsact.
pub(super) fn by_clsact(lab: &mut Lab) -> Result<()> {
    let capture = lab.agent("n1").status()?.pod("client").and_then(|pod| pod.capture.clone());
    ensure!(capture.as_deref() == Some("clsact"), "attached by {capture:?}");
    every_name(lab)?;
    must(lab.pod("client"), "web", A, Over::Tcp, &format!("NoError aa {}", vip(lab, "web", A)))
}
