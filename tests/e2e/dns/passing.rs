//! What goes its way: whatever is not for a name server beyond the pod, and all of it when no agent is there.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::rr::RecordType::A;
use mesh_e2e::{Lab, Namespace, eventually};

use super::client::{self, Over, ask, query};
use super::upstream::Upstream;
use super::{NOWHERE, outside};

fn says(place: &Namespace, server: SocketAddr, name: &str, over: Over, expected: &str) -> Result<()> {
    let answer = ask(place, server, name, A, over)?;
    ensure!(answer.to_string().starts_with(expected), "{name} at {server} by {over:?} is {answer}, not {expected}");
    Ok(())
}

/// An enrolled pod may listen on port 53 itself, and others ask it.
pub(super) fn name_server_in_the_mesh(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let upstream = Upstream::start(server).context("a name server in an enrolled pod")?;
    for to in [server.at4(53), server.at6(53)] {
        for over in [Over::Udp, Over::Tcp] {
            says(client, to, "www.example.org", over, "NoError 192.0.2.80")?;
            let asked = upstream.asked();
            ensure!(asked.len() == 1 && [client.v4, client.v6].contains(&asked[0].client.ip()), "{asked:?}");
        }
        // Of what it does not know it is not asked.
        says(client, to, "web", Over::Udp, "NoError aa")?;
        ensure!(upstream.asked().is_empty(), "the mesh's own name was asked for");
        // The pod asks itself.
        says(server, to, "www.example.org", Over::Udp, "NoError 192.0.2.80")?;
        upstream.asked();
    }
    Ok(())
}

/// Resolvers on loopback, such as caches beside an application, are the pod's own affair.
pub(super) fn loopback(lab: &Lab) -> Result<()> {
    let server = lab.pod("server");
    let upstream = Upstream::start(server)?;
    for to in ["127.0.0.1:53", "[::1]:53"] {
        let to: SocketAddr = to.parse()?;
        for over in [Over::Udp, Over::Tcp] {
            says(server, to, "web", over, "NXDomain")?;
            ensure!(upstream.asked().len() == 1, "{to} was not asked by {over:?}");
        }
    }
    Ok(())
}

/// Other ports, and fragments, which nobody could put together again.
pub(super) fn other_datagrams(lab: &Lab) -> Result<()> {
    const LARGE: usize = 4000;
    let (client, before) = (lab.pod("client"), lab.agent("n1").status()?);
    for address in lab.outside_addresses() {
        for (port, length) in [(54, 30), (5353, 30), (853, 30), (53, LARGE), (54, LARGE)] {
            let echo = lab.outside().run(|| UdpSocket::bind((address, port)))?;
            echo.set_read_timeout(Some(Duration::from_secs(5)))?;
            let socket = client::connected(client, SocketAddr::new(address, port))?;
            let sent = vec![0x55; length];
            socket.send(&sent)?;
            let mut buffer = vec![0; LARGE + 1];
            let (received, peer) = echo.recv_from(&mut buffer).with_context(|| format!("to port {port}"))?;
            ensure!(buffer[..received] == sent, "{received} other bytes came to port {port}");
            ensure!(peer.ip() == client.v4 || peer.ip() == client.v6, "it came from {peer}");
            echo.send_to(&sent, peer)?;
            ensure!(socket.recv(&mut buffer)? == length, "the way back from port {port}");
        }
    }
    let captured = lab.agent("n1").status()?.counter("dns_udp") - before.counter("dns_udp");
    ensure!(captured == 0, "{captured} were captured");
    Ok(())
}

/// `capture: false`: every query goes where it is sent to, and TCP like any other connection.
pub(super) fn uncaptured(lab: &mut Lab) -> Result<()> {
    let (client, upstream) = (lab.pod("client"), Upstream::start(lab.outside())?);
    for server in outside(lab) {
        for over in [Over::Udp, Over::Tcp] {
            says(client, server, "web", over, "NXDomain")?;
            says(client, server, "www.example.org", over, "NoError 192.0.2.80")?;
            ensure!(upstream.asked().len() == 2, "{server} was not asked by {over:?}");
        }
    }
    let status = lab.agent("n1").status()?;
    ensure!(status.counter("dns_udp") + status.counter("dns_tcp") == 0, "queries were captured");
    ensure!(status.counter("captured_outbound") == 4, "TCP is not captured");
    Ok(())
}

/// Killed, the agent takes its names with it and nothing else: a query that it would have answered goes to the name server.
pub(super) fn without_agent(lab: &mut Lab) -> Result<()> {
    let (client, upstream) = (lab.pod("client"), Upstream::start(lab.outside())?);
    let all = |name: &str, expected: &str| -> Result<()> {
        for server in outside(lab) {
            for over in [Over::Udp, Over::Tcp] {
                says(client, server, name, over, expected)?;
            }
        }
        Ok(())
    };
    all("web", "NoError aa")?;
    ensure!(upstream.asked().is_empty(), "the name server was asked for a name of the mesh");
    // A socket that was in use goes on.
    let socket = client::connected(client, outside(lab)[0])?;
    client::by_datagram(&socket, &query("web", A)?.to_vec()?)?;
    lab.agent("n1").kill()?;
    all("web", "NXDomain").context("without an agent")?;
    all("www.example.org", "NoError 192.0.2.80").context("without an agent")?;
    client::by_datagram(&socket, &query("www.example.org", A)?.to_vec()?).context("on a socket that was in use")?;
    ensure!(upstream.asked().len() == 9, "they did not reach the name server");
    // A connection that has passed stays with the name server when an agent is back.
    let mut passed = client::connect(client, outside(lab)[0])?;
    let exchange = |stream: &mut std::net::TcpStream| -> Result<()> {
        client::send(stream, &[query("www.example.org", A)?.to_vec()?])?;
        client::receive(stream).map(drop)
    };
    exchange(&mut passed)?;
    lab.agent("n1").start()?;
    exchange(&mut passed).context("a connection that had passed")?;
    all("web", "NoError aa").context("with a new agent")?;
    let status = lab.agent("n1").status()?;
    ensure!(status.counter("dns_passed") == 10, "{} are counted as passed", status.counter("dns_passed"));
    lab.agent("n1").stop()?;
    all("web", "NXDomain").context("without an agent that has ended in order")
}

/// A pod on its way out of the mesh: not one query is lost.
pub(super) fn leaving(lab: &mut Lab) -> Result<()> {
    let upstream = Upstream::start(lab.outside())?;
    let (client, server) = (lab.pod("client"), outside(lab)[0]);
    let answers = std::thread::scope(|scope| -> Result<Vec<String>> {
        let asking = scope.spawn(|| -> Result<Vec<String>> {
            let mut answers = Vec::new();
            for _ in 0..300 {
                answers.push(ask(client, server, "web", A, Over::Udp)?.to_string());
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(answers)
        });
        std::thread::sleep(Duration::from_millis(300));
        lab.publish(|world| world.pod("client").membership = mesh_e2e::Membership::Plain)?;
        asking.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    })?;
    let known = answers.iter().filter(|answer| answer.starts_with("NoError aa")).count();
    let unknown = answers.iter().filter(|answer| *answer == "NXDomain").count();
    ensure!(known > 20 && unknown > 20 && known + unknown == answers.len(), "{known} known, {unknown} unknown");
    ensure!(upstream.asked().len() == unknown, "others were asked, too");
    // Nothing of ours listens there any more.
    let own = [SocketAddr::from((Ipv4Addr::LOCALHOST, 15053)), SocketAddr::from((Ipv6Addr::LOCALHOST, 15053))];
    eventually(Duration::from_secs(5), || {
        for to in own {
            let socket = client::connected(client, to)?;
            ensure!(client::by_datagram(&socket, &query("web", A)?.to_vec()?).is_err(), "{to} still answers");
        }
        ensure!(ask(client, NOWHERE[0].parse()?, "web", A, Over::Udp).is_err(), "somebody answers for nobody");
        Ok(())
    })
}

/// One pod's queries are left alone and captured again, while the agent runs and another pod's are captured.
pub(super) fn one_pod(lab: &mut Lab) -> Result<()> {
    let (client, upstream, node) = (lab.pod("client"), Upstream::start(lab.outside())?, lab.node("n1"));
    let written = node.text();
    let is = format!("\"netns\":\"/run/netns/{}-client\"", lab.name());
    ensure!(written.contains(&is), "the file has no {is}");
    let [server, _] = outside(lab);
    let seen = |expected: &str| {
        let all = [Over::Udp, Over::Tcp].map(|over| says(client, server, "web", over, expected));
        all.into_iter().collect::<Result<()>>()
    };
    seen("NoError aa")?;
    node.rewrite(&written.replace(&is, &format!("\"dns_capture\":false,{is}")))?;
    eventually(Duration::from_secs(5), || seen("NXDomain")).context("left alone")?;
    ensure!(!upstream.asked().is_empty(), "nobody was asked");
    says(lab.pod("server"), server, "web", Over::Udp, "NoError aa").context("another pod")?;
    node.rewrite(&written)?;
    eventually(Duration::from_secs(5), || seen("NoError aa")).context("captured again")
}
