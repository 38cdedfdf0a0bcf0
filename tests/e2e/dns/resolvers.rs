//! Resolvers that people use: glibc's, musl's, and dig. Each has its own way with search domains, and all find the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, Service};

use super::upstream::Upstream;
use super::{crowd, outside};

/// As the kubelet writes it, but for the address.
const SEARCH: &str = "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/dns/resolve.c");

/// Files of one lab: a resolv.conf and a program that is linked with musl.
struct Tools<'a> {
    lab: &'a Lab,
    resolv_conf: PathBuf,
    musl: PathBuf,
}

impl<'a> Tools<'a> {
    fn make(lab: &'a Lab) -> Result<Self> {
        let (resolv_conf, musl) = (lab.directory().join("resolv.conf"), lab.directory().join("resolve"));
        fs::write(&resolv_conf, format!("nameserver {}\n{SEARCH}", outside(lab)[0].ip()))?;
        let built = Command::new("musl-gcc").args(["-static", PROGRAM, "-o"]).arg(&musl).output();
        let built = built.context("musl-gcc (Debian package musl-tools)")?;
        ensure!(built.status.success(), "musl-gcc: {}", String::from_utf8_lossy(&built.stderr));
        Ok(Self { lab, resolv_conf, musl })
    }

    /// The addresses that each resolver finds, by its name.
    fn resolve(&self, name: &str, family: u8) -> Result<[(&'static str, BTreeSet<String>); 4]> {
        let kind = if family == 4 { "A" } else { "AAAA" };
        Ok([
            ("glibc", self.run(&format!("getent ahostsv{family} {name} || true"))?),
            ("musl", self.run(&format!("{} {family} {name}", self.musl.display()))?),
            ("dig", self.run(&format!("dig +short +search -t {kind} {name}"))?),
            ("dig by TCP", self.run(&format!("dig +short +search +tcp -t {kind} {name}"))?),
        ])
    }

    fn run(&self, command: &str) -> Result<BTreeSet<String>> {
        let script = format!("mount --bind {} /etc/resolv.conf && {command}", self.resolv_conf.display());
        let lines = self.lab.pod("client").output("unshare", ["--mount", "sh", "-c", &script])?;
        // dig shows aliases as well, with a dot at their end; getent shows v4 in v6 for lack of others.
        let first = |line: &str| Some(line.split_whitespace().next()?.to_owned());
        let addresses =
            lines.lines().filter_map(first).filter(|word| !word.ends_with('.') && !word.starts_with("::ffff:"));
        Ok(addresses.collect())
    }
}

pub(super) fn agree(lab: &Lab) -> Result<()> {
    let _upstream = Upstream::start(lab.outside())?;
    let tools = Tools::make(lab)?;
    let vip = |service: &str, family| {
        let address = if family == 4 { lab.vip4(service, 1) } else { lab.vip6(service, 1) };
        BTreeSet::from([address.ip().to_string()])
    };
    let pods = |family: u8| {
        let all = [lab.pod("server"), lab.pod("twin")].into_iter();
        all.map(|pod| if family == 4 { pod.v4.to_string() } else { pod.v6.to_string() }).collect()
    };
    for family in [4, 6] {
        let outside = if family == 4 { "192.0.2.80" } else { "2001:db8::80" };
        let cases = [
            ("web", vip("web", family)),
            ("web.default", vip("web", family)),
            ("web.default.svc", vip("web", family)),
            ("web.default.svc.cluster.local", vip("web", family)),
            ("web.default.svc.cluster.local.", vip("web", family)),
            ("shop.shop", vip("shop", family)),
            ("api.mesh.example", vip("entry", family)),
            ("x.mesh.example", vip("wild", family)),
            ("bare", pods(family)),
            ("four", if family == 4 { BTreeSet::from(["10.51.0.4".to_owned()]) } else { BTreeSet::new() }),
            ("www.example.org", BTreeSet::from([outside.to_owned()])),
            ("nothing.example.org", BTreeSet::new()),
        ];
        for (name, expected) in cases {
            for (resolver, found) in tools.resolve(name, family)? {
                ensure!(found == expected, "{name} over IPv{family} is {found:?} for {resolver}, not {expected:?}");
            }
        }
    }
    Ok(())
}

/// Who can asks again over TCP; musl before 1.2.4 makes do with what it gets.
pub(super) fn long(lab: &Lab) -> Result<()> {
    const CROWD: usize = 100;
    lab.publish(|world| {
        world.workload(&crowd(CROWD));
        world.services.push(Service::new("crowd").port(80, 80).selects("app", "crowd").headless());
    })?;
    let tools = Tools::make(lab)?;
    for (resolver, found) in tools.resolve("crowd", 4)? {
        let whole = found.len() == CROWD || (resolver == "musl" && found.len() > 20);
        ensure!(whole, "{resolver} finds {} of {CROWD} addresses", found.len());
    }
    Ok(())
}
