//! The pods' network namespaces on the node: how many there are, and what is in them beside the mesh.

use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use super::finding::{Report, some};
use crate::bpf::others;
use crate::file::schema::Node;
use crate::sys::caps::{self, User};
use crate::sys::netlink::{LO_NAME, link};
use crate::sys::netns::Netns;

/// The interface of a pod, as container runtimes name it.
const INTERFACE: &str = "eth0";

/// Namespaces that are looked into.
const MOST: usize = 1000;

/// What was seen of them.
#[derive(Clone, Debug)]
pub(super) struct Spaces {
    /// Where the runtime keeps handles of them.
    pub(super) folder: PathBuf,
    /// None when the folder is not there.
    pub(super) seen: Option<Vec<Space>>,
    /// Only root can look into them.
    pub(super) user: User,
    /// The interface of the node's default route, and the largest packet that it takes, in bytes.
    pub(super) uplink: Option<(String, u32)>,
    /// Whether pods are to be found there.
    pub(super) needed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) name: String,
    pub(super) inside: Result<Inside, String>,
}

/// What is in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    /// Of the pod's interface, in bytes.
    pub(super) mtu: Option<u32>,
    /// Programs of others where ours are, or go.
    pub(super) others: Vec<String>,
}

impl Spaces {
    pub(super) fn read(node: &Node) -> Self {
        let folder = node.kubernetes.as_ref().map_or_else(|| "/var/run/netns".into(), |written| written.netns.clone());
        let user = caps::user();
        let uplink = default_interface(Path::new("/proc/net"));
        Self {
            seen: spaces(&folder, user),
            folder,
            user,
            uplink: uplink.and_then(|name| Some((link::mtu(&name).ok()?, name))).map(|(mtu, name)| (name, mtu)),
            needed: node.kubernetes.is_some(),
        }
    }

    pub(super) fn judge(&self, report: &mut Report) {
        const WHAT: &str = "pods' namespaces";
        let place = self.folder.display();
        let mount = format!("mount the node's {place} into the agent's container with HostToContainer");
        let Some(seen) = &self.seen else {
            let found = format!("{place} is not there");
            return if self.needed { report.warning(WHAT, found, mount) } else { report.ok(WHAT, found) };
        };
        if self.user != User::Root {
            return report.warning(
                WHAT,
                format!("{} in {place}, not looked into", seen.len()),
                "run the check as root",
            );
        }
        let closed: Vec<String> = seen
            .iter()
            .filter_map(|space| Some(format!("{} ({})", space.name, space.inside.as_ref().err()?)))
            .collect();
        if closed.is_empty() {
            report.ok(WHAT, format!("{} in {place}", seen.len()));
        } else {
            let found = format!("{} of {} in {place} cannot be entered: {}", closed.len(), seen.len(), some(&closed));
            report.warning(WHAT, found, format!("{mount}; remove handles that nobody uses any more"));
        }
        others(seen, report);
        self.packets(seen, report);
    }

    /// Packets that leave a pod and do not fit on the node's way out are dropped or broken up.
    fn packets(&self, seen: &[Space], report: &mut Report) {
        const WHAT: &str = "MTU";
        let Some((name, limit)) = &self.uplink else { return };
        let large = |space: &Space| {
            let mtu = space.inside.as_ref().ok()?.mtu.filter(|mtu| mtu > limit)?;
            Some(format!("{mtu} in {}", space.name))
        };
        let large: Vec<String> = seen.iter().filter_map(large).collect();
        if large.is_empty() {
            return report.ok(WHAT, format!("no pod's is larger than that of {name}, {limit}"));
        }
        let found = format!("{}, larger than that of the node's {name}, {limit}", some(&large));
        report.warning(
            WHAT,
            found,
            format!("set the pods' MTU to {limit} or less in the network plugin's configuration"),
        );
    }
}

fn others(seen: &[Space], report: &mut Report) {
    const WHAT: &str = "other programs";
    let named = |space: &Space| {
        let inside = space.inside.as_ref().ok().filter(|inside| !inside.others.is_empty())?;
        Some(format!("{} ({})", space.name, some(&inside.others)))
    };
    let with: Vec<String> = seen.iter().filter_map(named).collect();
    if with.is_empty() {
        return report.ok(WHAT, "none where the agent's are attached");
    }
    report.warning(
        WHAT,
        format!("in {} namespaces: {}", with.len(), some(&with)),
        "see whose they are (bpftool net, tc filter): what they drop or redirect, the mesh does not get",
    );
}

fn spaces(folder: &Path, user: User) -> Option<Vec<Space>> {
    let own = Netns::current().ok();
    let entries = fs::read_dir(folder).ok()?.flatten().take(MOST);
    let look = |path: &Path| -> Result<Option<Inside>, String> {
        let netns = Netns::open(path).map_err(|error| error.to_string())?;
        if user != User::Root || own.as_ref() == Some(&netns) {
            return Ok(None);
        }
        netns.run(inside).map(Some).map_err(|error| error.to_string())
    };
    let space = |entry: fs::DirEntry| {
        let inside = look(&entry.path()).map(Option::unwrap_or_default);
        Space { name: entry.file_name().to_string_lossy().into_owned(), inside }
    };
    let mut spaces: Vec<Space> = entries.map(space).collect();
    spaces.sort_by(|one, other| one.name.cmp(&other.name));
    Some(spaces)
}

/// The thread's namespace. An interface that is not there has nothing on it.
fn inside() -> Inside {
    let on = |interface| others::on(interface).unwrap_or_default();
    Inside { mtu: link::mtu(INTERFACE).ok(), others: [LO_NAME, INTERFACE].into_iter().flat_map(on).collect() }
}

/// The interface of the default route, IPv4's if there is one. `net` has the tables of routes.
fn default_interface(net: &Path) -> Option<String> {
    let read = |table: &str| fs::read_to_string(net.join(table)).unwrap_or_default();
    default_v4(&read("route")).or_else(|| default_v6(&read("ipv6_route")))
}

/// From /proc/net/route: interface, destination, gateway, flags, two counters, metric, mask.
fn default_v4(table: &str) -> Option<String> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, "00000000", _, _, _, _, metric, "00000000", ..] = fields[..] else { return None };
        Some((metric.parse::<u32>().ok()?, name.to_owned()))
    };
    table.lines().filter_map(route).min().map(|(_, name)| name)
}

/// From /proc/net/ipv6_route: destination and its length, source and its length, gateway, metric, two counters, flags,
/// interface.
fn default_v6(table: &str) -> Option<String> {
    let anywhere =
        |address: &str| u128::from_str_radix(address, 16).is_ok_and(|address| Ipv6Addr::from(address).is_unspecified());
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [to, "00", _, _, _, metric, _, _, _, name] = fields[..] else { return None };
        // On loopback is what refuses, when there is no default route.
        let usable = anywhere(to) && name != LO_NAME;
        usable.then_some((u32::from_str_radix(metric, 16).ok()?, name.to_owned()))
    };
    table.lines().filter_map(route).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::{Inside, Space, Spaces, default_v4, default_v6};
    use crate::ctl::check::finding::{Group, Level, Report};
    use crate::sys::caps::User;

    fn space(name: &str, mtu: u32, others: &[&str]) -> Space {
        let others = others.iter().map(ToString::to_string).collect();
        Space { name: name.into(), inside: Ok(Inside { mtu: Some(mtu), others }) }
    }

    fn node(seen: Vec<Space>) -> Spaces {
        let uplink = Some(("ens5".to_owned(), 1500));
        Spaces { folder: "/ns".into(), seen: Some(seen), user: User::Root, uplink, needed: true }
    }

    fn bad(spaces: &Spaces) -> Vec<(Level, String, String)> {
        let mut report = Report::about(Group::Network);
        spaces.judge(&mut report);
        let bad = report.finish().into_iter().filter(|finding| finding.level != Level::Ok);
        bad.inspect(|finding| assert!(finding.fix.is_some())).map(|f| (f.level, f.what, f.found)).collect()
    }

    #[test]
    fn what_is_in_the_pods() {
        assert_eq!(bad(&node(vec![space("a", 1500, &[]), space("b", 1450, &[])])), []);
        assert_eq!(bad(&node(Vec::new())), []);
        let unentered = Space { name: "c".into(), inside: Err("Invalid argument".into()) };
        let missing = Spaces { seen: None, ..node(Vec::new()) };
        let cases = [
            (node(vec![space("a", 9000, &[])]), "MTU", "9000 in a, larger than that of the node's ens5, 1500"),
            (
                node(vec![space("a", 1500, &["bpf filter on eth0 egress"])]),
                "other programs",
                "a (bpf filter on eth0 egress)",
            ),
            (node(vec![unentered, space("a", 1500, &[])]), "pods' namespaces", "1 of 2 in /ns cannot be entered: c"),
            (missing.clone(), "pods' namespaces", "/ns is not there"),
            (Spaces { user: User::Other, ..node(vec![space("a", 9000, &[])]) }, "pods' namespaces", "not looked into"),
        ];
        for (spaces, what, part) in cases {
            let found = bad(&spaces);
            assert!(
                matches!(&found[..], [(Level::Warning, its, text)] if its == what && text.contains(part)),
                "{found:?}"
            );
        }
        assert_eq!(bad(&Spaces { needed: false, ..missing }), []);
        assert_eq!(bad(&Spaces { uplink: None, ..node(vec![space("a", 9000, &[])]) }), [], "nothing to compare with");
    }

    #[test]
    fn default_routes() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                  ens5\t00000000\t010011AC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                  ens6\t00000000\t010011AC\t0003\t0\t0\t1\t00000080\t0\t0\t0\n";
        assert_eq!(default_v4(v4).as_deref(), Some("ens5"));
        assert_eq!(default_v4(""), None);
        let zeros = "0".repeat(32);
        let v6 = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000003 00000000 00450003     ens5\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(default_v6(&v6).as_deref(), Some("ens5"));
        let only_refuses = v6.lines().nth(1).unwrap();
        assert_eq!(default_v6(only_refuses), None);
    }
}
