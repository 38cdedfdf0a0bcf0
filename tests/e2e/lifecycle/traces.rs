//! Everything in a namespace that an enrolment could leave behind, as text, and what differs between two moments.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::ProgramInfo;
use aya::programs::tc::TcAttachType::{Egress, Ingress};
use aya::programs::tc::{SchedClassifier, TcAttachType};
use mesh_e2e::{Agent, Namespace};
use serde_json::Value;

/// Commands whose output would show a trace. Their output has no counters and no times.
const COMMANDS: [(&str, &str); 11] = [
    ("qdiscs", "tc qdisc show"),
    ("filters of lo, ingress", "tc filter show dev lo ingress"),
    ("filters of lo, egress", "tc filter show dev lo egress"),
    ("filters of eth0, ingress", "tc filter show dev eth0 ingress"),
    ("filters of eth0, egress", "tc filter show dev eth0 egress"),
    ("rules", "ip rule show"),
    ("IPv6 rules", "ip -6 rule show"),
    ("routes", "ip route show table all"),
    ("IPv6 routes", "ip -6 route show table all"),
    ("listening sockets", "ss -Hltn"),
    ("datagram sockets", "ss -Hlun"),
];

/// Listed whole.
const SYSCTLS: [&str; 2] = ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6"];

/// What was found, by section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traces(BTreeMap<String, Vec<String>>);

/// Takes the dump of a namespace.
pub(crate) fn of(namespace: &Namespace) -> Result<Traces> {
    let mut sections = BTreeMap::new();
    for (name, command) in COMMANDS {
        let mut words = command.split(' ');
        let program = words.next().context("a command")?;
        sections.insert(name.to_owned(), sorted(&namespace.output(program, words)?));
    }
    sections.insert("tcx programs".to_owned(), programs(namespace));
    sections.insert("links to the namespace".to_owned(), links(namespace)?);
    let mut sysctls = Vec::new();
    namespace.run(|| SYSCTLS.iter().for_each(|root| read_all(Path::new(root), &mut sysctls)));
    ensure!(sysctls.len() > 200, "only {} sysctls can be read", sysctls.len());
    sysctls.sort();
    sections.insert("sysctls".to_owned(), sysctls);
    Ok(Traces(sections))
}

/// The tcx programs on the namespace's interfaces: neither tc nor the bpftool of many distributions shows them. A kernel
/// without tcx has none.
fn programs(namespace: &Namespace) -> Vec<String> {
    [c"lo", c"eth0"].into_iter().flat_map(|interface| on(namespace, interface)).collect()
}

/// Those on one interface.
pub(crate) fn on(namespace: &Namespace, interface: &CStr) -> Vec<String> {
    let hooks = [(interface, Ingress), (interface, Egress)];
    let on = |(interface, direction): (&CStr, TcAttachType)| -> Vec<String> {
        let programs = SchedClassifier::query_tcx(interface, direction).map(|(_, programs)| programs);
        let name = |program: &ProgramInfo| program.name_as_str().unwrap_or("without a name").to_owned();
        programs.iter().flatten().map(|program| format!("{interface:?} {direction:?} {}", name(program))).collect()
    };
    namespace.run(|| hooks.into_iter().flat_map(on).collect())
}

/// BPF links to the namespace as a whole, such as those of socket look-ups. Only bpftool can list them; where it is
/// missing, the pins must do.
fn links(namespace: &Namespace) -> Result<Vec<String>> {
    let Ok(output) = Command::new("bpftool").args(["--json", "link", "show"]).output() else { return Ok(Vec::new()) };
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).context("what bpftool prints")?;
    let own = fs::metadata(namespace.path())?.ino();
    let here = all.iter().filter(|link| link["netns_ino"].as_u64() == Some(own));
    Ok(here.map(|link| format!("{} {}", link["type"], link["attach_type"])).collect())
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}

/// Reads all files below `path`; what cannot be read (some are for writing only) is passed over.
fn read_all(path: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, lines);
        } else if let Ok(value) = fs::read_to_string(&path) {
            lines.push(format!("{} = {}", path.display(), value.trim()));
        }
    }
}

impl Traces {
    /// Lines that only one of the two has, each with its sign.
    pub(crate) fn changes(&self, later: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (name, before) in &self.0 {
            let after = later.0.get(name).map(Vec::as_slice).unwrap_or_default();
            let only = |sign: char, these: &[String], those: &[String]| -> Vec<String> {
                let missing = these.iter().filter(|line| !those.contains(line));
                missing.map(|line| format!("{name}: {sign} {line}")).collect()
            };
            changes.extend(only('-', before, after));
            changes.extend(only('+', after, before));
            if before.len() != after.len() {
                changes.push(format!("{name}: {} lines became {}", before.len(), after.len()));
            }
        }
        changes
    }
}

/// Fails with what differs.
pub(crate) fn same(what: &str, before: &Traces, after: &Traces) -> Result<()> {
    let changes = before.changes(after);
    if changes.is_empty() { Ok(()) } else { bail!("{what}:\n    {}", changes.join("\n    ")) }
}

/// Files below the agent's run directory and its BPF file system; directories do not count, and neither do the two
/// files that every BPF file system has.
pub(crate) fn files(agent: &Agent) -> Vec<String> {
    let mut found = Vec::new();
    for root in [agent.run_dir(), agent.bpf_fs()] {
        list(&root, &mut found);
    }
    found.retain(|file| !file.ends_with("/maps.debug") && !file.ends_with("/progs.debug"));
    found.sort();
    found
}

/// Those of [`files`] that are there because of pods. A running agent has its socket, and where the kernel carries connections
/// it has the node's maps of them.
pub(crate) fn files_of_pods(agent: &Agent) -> Vec<String> {
    files(agent).into_iter().filter(|file| !file.ends_with(".sock") && !file.contains("/direct/")).collect()
}

fn list(path: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(&entry.path(), found),
            _ => found.push(entry.path().display().to_string()),
        }
    }
}
