//! A machine, as far as a network sees one: a namespace behind a bridge of its pod's.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, Namespace, RunningPod};

use super::BRIDGE;

/// How the pod hides its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// Behind the pod's own addresses, by rules, as KubeVirt's `masquerade` does.
    Masqueraded,
    /// Not at all: its addresses are seen by whom the pod speaks to plainly.
    Routed,
}

/// It goes when this does.
#[derive(Debug)]
pub(super) struct Machine {
    namespace: Namespace,
}

impl std::ops::Deref for Machine {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Machine {
    /// Starts it: a bridge in the pod, with the machine's other end of a cable in it.
    pub(super) fn start(lab: &Lab, pod: &RunningPod, hidden: Hidden) -> Result<Self> {
        let name = format!("{}-vm", lab.name());
        ip(&["netns", "add", &name])?;
        let machine = Self { namespace: Namespace::open(&name)? };
        all(
            pod,
            &[
                &format!("ip link add {BRIDGE} type bridge"),
                &format!("ip link add tap0 type veth peer name eth0 netns {name}"),
                &format!("ip link set tap0 master {BRIDGE}"),
                &format!("ip addr add 10.99.0.1/24 dev {BRIDGE}"),
                &format!("ip addr add fd99::1/64 dev {BRIDGE} nodad"),
                &format!("ip link set {BRIDGE} up"),
                "ip link set tap0 up",
            ],
        )?;
        let commands = [
            "ip addr add 10.99.0.2/24 dev eth0",
            "ip addr add fd99::2/64 dev eth0 nodad",
            "ip link set lo up",
            "ip link set eth0 up",
            "ip route add default via 10.99.0.1",
            "ip -6 route add default via fd99::1",
        ];
        all(&machine, &commands)?;
        pod.set_sysctls(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
        if hidden == Hidden::Masqueraded {
            let rules = [
                "iptables -t nat -A POSTROUTING -s 10.99.0.0/24 -o eth0 -j MASQUERADE",
                "ip6tables -t nat -A POSTROUTING -s fd99::/64 -o eth0 -j MASQUERADE",
            ];
            all(pod, &rules)?;
        }
        Ok(machine)
    }

    /// Takes the pod's bridge away.
    pub(super) fn stop(self, pod: &RunningPod) -> Result<()> {
        all(pod, &[&format!("ip link del {BRIDGE}"), "ip link del tap0"])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The sweep of labs gets it otherwise.
        ip(&["netns", "del", self.namespace.netns()]).ok();
    }
}

fn all(place: &Namespace, commands: &[&str]) -> Result<()> {
    commands.iter().try_for_each(|command| {
        let mut words = command.split(' ');
        let program = words.next().context("a command")?;
        place.output(program, words).map(drop).with_context(|| (*command).to_owned())
    })
}

fn ip(words: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(words).status()?;
    ensure!(status.success(), "ip {words:?} ends with {status}");
    Ok(())
}
