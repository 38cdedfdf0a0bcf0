//! What the mesh does not know is asked of the name server, from inside the pod.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hickory_proto::rr::RecordType::{A, AAAA, MX, TXT};
use mesh_e2e::{Lab, RunningPod};

use super::client::{Over, ask, exchange, query, with_payload};
use super::upstream::{MANY, Upstream};
use super::{NOWHERE, PORT, outside};

/// The client's address of the family of `server`.
fn own(pod: &RunningPod, server: SocketAddr) -> std::net::IpAddr {
    if server.is_ipv4() { pod.v4 } else { pod.v6 }
}

/// The server that the application has chosen is asked, once, by the pod's own address. The agent's sockets carry its mark:
/// else their queries would be captured again, and so on.
pub(super) fn once(lab: &Lab) -> Result<()> {
    let (client, upstream) = (lab.pod("client"), Upstream::start(lab.outside())?);
    for server in outside(lab) {
        for over in [Over::Udp, Over::Tcp] {
            for (kind, expected) in [(A, "192.0.2.80"), (AAAA, "2001:db8::80"), (TXT, "some text"), (MX, "")] {
                let answer = ask(client, server, "WWW.example.org", kind, over)?;
                let data = format!("NoError {expected}");
                ensure!(answer.to_string() == data.trim_end(), "{kind} at {server} by {over:?}: {answer}");
                let asked = upstream.asked();
                let [asked] = &asked[..] else { anyhow::bail!("{server} was asked {asked:?}") };
                ensure!(asked.client.ip() == own(client, server), "it was asked by {}", asked.client);
                ensure!((asked.over, asked.name.as_str()) == (over, "www.example.org."), "{asked:?}");
            }
        }
    }
    // Services are no addresses for other kinds of records.
    ensure!(ask(client, outside(lab)[0], "web", TXT, Over::Udp)?.to_string() == "NXDomain", "a service has a text");
    Ok(())
}

/// What a server says of a name is the client's to know.
pub(super) fn failures(lab: &Lab) -> Result<()> {
    let (client, upstream) = (lab.pod("client"), Upstream::start(lab.outside())?);
    for over in [Over::Udp, Over::Tcp] {
        for (name, expected) in [("nothing.example.org", "NXDomain"), ("broken.example.org", "ServFail")] {
            let answer = ask(client, outside(lab)[0], name, A, over)?;
            ensure!(answer.to_string() == expected, "{name} by {over:?}: {answer}");
            ensure!(upstream.asked().len() == 1, "{name} by {over:?} was asked more than once");
        }
    }
    let start = Instant::now();
    let answer = ask(client, outside(lab)[0], "silent.example.org", A, Over::Udp)?;
    let (asked, took) = (upstream.asked().len(), start.elapsed());
    ensure!(answer.to_string() == "ServFail" && asked == 3, "{answer} after {asked} tries");
    ensure!((4..6).contains(&took.as_secs()), "it took {took:?}");
    Ok(())
}

/// The server cuts off at 1000 bytes.
pub(super) fn too_long(lab: &Lab) -> Result<()> {
    let (client, upstream) = (lab.pod("client"), Upstream::start(lab.outside())?);
    let server = outside(lab)[0];
    let whole =
        |answer: &super::client::Answer| answer.records().len() == usize::from(MANY) && !answer.0.metadata.truncation;
    let small = ask(client, server, "long.example.org", A, Over::Udp)?;
    ensure!(small.to_string() == "NoError tc", "{small}");
    ensure!(upstream.asked().len() == 1, "a client that takes no more was asked for twice");
    ensure!(whole(&ask(client, server, "long.example.org", A, Over::Tcp)?), "it is not whole over TCP");
    ensure!(upstream.asked().iter().all(|asked| asked.over == Over::Tcp), "TCP was not used");
    let large = exchange(client, server, &with_payload(query("long.example.org", A)?, 4096), Over::Udp)?;
    ensure!(whole(&large), "{large}");
    let ways: Vec<_> = upstream.asked().iter().map(|asked| asked.over).collect();
    ensure!(ways == [Over::Udp, Over::Tcp], "{ways:?}");
    Ok(())
}

/// A host without a name server says so at once; of one that is not there nothing is heard.
pub(super) fn nobody(lab: &Lab) -> Result<()> {
    let client = lab.pod("client");
    for server in outside(lab) {
        for over in [Over::Udp, Over::Tcp] {
            let start = Instant::now();
            let answer = ask(client, server, "www.example.org", A, over)?;
            ensure!(answer.to_string() == "ServFail", "{answer}");
            ensure!(start.elapsed() < Duration::from_secs(1), "by {over:?} it took {:?}", start.elapsed());
        }
    }
    let answer = ask(client, NOWHERE[0].parse()?, "www.example.org", A, Over::Udp)?;
    ensure!(answer.to_string() == "ServFail", "{answer}");
    Ok(())
}

/// Istio's counters.
pub(super) fn metrics(lab: &Lab) -> Result<()> {
    let (client, agent, _upstream) = (lab.pod("client"), lab.agent("n1"), Upstream::start(lab.outside())?);
    let labels = |kind: &str, over: &str| {
        [
            format!("request_query_type=\"{kind}\""),
            format!("request_protocol=\"{over}\""),
            "source_canonical_service=\"client\"".to_owned(),
            "source_canonical_revision=\"latest\"".to_owned(),
        ]
    };
    let count = |name: &str, kind: &str, over: &str| -> Result<f64> {
        let labels = labels(kind, over);
        agent.metric(name, &labels.each_ref().map(String::as_str))
    };
    let names = [
        "istio_dns_requests_total",
        "istio_dns_upstream_requests_total",
        "istio_dns_upstream_failures_total",
        "istio_dns_upstream_request_duration_seconds_count",
    ];
    let all =
        |kind: &str, over: &str| -> Result<Vec<f64>> { names.iter().map(|name| count(name, kind, over)).collect() };
    let server = outside(lab)[0];
    let cases = [
        ("web", A, Over::Udp, "A", "udp", [1.0, 0.0, 0.0, 0.0]),
        ("web", AAAA, Over::Tcp, "AAAA", "tcp", [1.0, 0.0, 0.0, 0.0]),
        ("www.example.org", A, Over::Udp, "A", "udp", [1.0, 1.0, 0.0, 1.0]),
        ("nothing.example.org", TXT, Over::Tcp, "TXT", "tcp", [1.0, 1.0, 0.0, 1.0]),
        ("silent.example.org", MX, Over::Udp, "MX", "udp", [1.0, 1.0, 1.0, 1.0]),
    ];
    for (name, kind, over, label, protocol, expected) in cases {
        let before = all(label, protocol)?;
        ask(client, server, name, kind, over)?;
        let added: Vec<_> = all(label, protocol)?.iter().zip(before).map(|(after, before)| after - before).collect();
        ensure!(added == expected, "{name} {kind} by {over:?} adds {added:?}");
    }
    Ok(())
}

/// The `resolv.conf` of [`nodes_servers`].
pub(super) fn resolv_conf() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("mesh-e2e-resolv-{}.conf", std::process::id()))
}

/// The node's name servers instead of the application's, and other ones when the file has changed.
pub(super) fn nodes_servers(lab: &mut Lab) -> Result<()> {
    let (client, file) = (lab.pod("client"), resolv_conf());
    let [v4, v6] = outside(lab);
    let (outside, node) = (Upstream::start(lab.outside())?, Upstream::start(lab.node("n2"))?);
    let result = (|| -> Result<()> {
        std::fs::write(&file, format!("nameserver {}\n", v4.ip()))?;
        let www = |over| ask(client, NOWHERE[0].parse()?, "www.example.org", A, over);
        for over in [Over::Udp, Over::Tcp] {
            ensure!(www(over)?.to_string() == "NoError 192.0.2.80", "{over:?}");
        }
        let asked = outside.asked();
        ensure!(asked.len() == 2 && asked.iter().all(|asked| asked.client.ip() == client.v4), "{asked:?}");
        // The first one does not listen: the second is asked.
        let closed = lab.node("n1").addresses[0];
        std::fs::write(&file, format!("nameserver {closed}\nnameserver {}\n", v6.ip()))?;
        std::thread::sleep(Duration::from_millis(1100));
        ensure!(www(Over::Udp)?.to_string() == "NoError 192.0.2.80", "the second server is not asked");
        let asked = outside.asked();
        ensure!(asked.len() == 1 && asked[0].client.ip() == client.v6, "{asked:?}");
        std::fs::write(&file, format!("nameserver {}\n", lab.node("n2").addresses[0]))?;
        std::thread::sleep(Duration::from_millis(1100));
        ensure!(www(Over::Udp)?.to_string() == "NoError 192.0.2.80", "the other server is not asked");
        ensure!((node.asked().len(), outside.asked().len()) == (1, 0), "another one was asked");
        // Straight to the agent's own port, as redirecting rules do and people who look for faults.
        let loopback = SocketAddr::new([127, 0, 0, 1].into(), 15053);
        ensure!(
            ask(client, loopback, "www.example.org", A, Over::Udp)?.to_string() == "NoError 192.0.2.80",
            "loopback"
        );
        ensure!(ask(client, loopback, "web", A, Over::Tcp)?.to_string().starts_with("NoError aa"), "loopback, TCP");
        let from_afar = SocketAddr::new(client.v4, 15053);
        ensure!(ask(lab.node("n1"), from_afar, "web", A, Over::Udp).is_err(), "strangers are answered");
        ensure!(PORT == v4.port(), "port");
        Ok(())
    })();
    std::fs::remove_file(&file).ok();
    result
}
