//! What was changed for a pod, on disk (`<run_dir>/pods/<pod>.json`), written before the change is made; and what the pod
//! was captured as, for a start that cannot ask anybody yet.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bpf::fs::file_name;
use crate::model::{Captured, Inbound, Older, PodNetns, PodSpec, Programs, WhenDown};
use crate::sys::netns::Netns;

/// The undo record of one pod. It holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) uid: String,
    pub(super) netns: PathBuf,
    /// Cookie of the namespace: the path may name another one by now.
    #[serde(default)]
    pub(super) cookie: u64,
    pub(super) interface: String,
    /// Sysctl files and the values they had.
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) clsact: bool,
    /// Interfaces that had no clsact discipline before.
    pub(super) own_qdisc: Vec<String>,
    /// Interfaces of virtual machines that a program was attached to.
    #[serde(default)]
    pub(super) virtual_interfaces: Vec<String>,
    #[serde(default)]
    pub(super) pod: Option<Described>,
}

/// What the pod is, beside what [`Undo`] says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Described {
    name: String,
    namespace: String,
    service_account: String,
    addresses: Vec<IpAddr>,
    probe_ports: Vec<u16>,
    node_addresses: Vec<IpAddr>,
    pass_when_down: bool,
    names: Option<bool>,
    #[serde(default)]
    inbound: Noted,
    #[serde(default)]
    virtual_interfaces: Vec<String>,
}

/// [`Inbound`], as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Noted {
    #[default]
    Captured,
    Bypassed,
}

impl From<Inbound> for Noted {
    fn from(inbound: Inbound) -> Self {
        match inbound {
            Inbound::Captured => Self::Captured,
            Inbound::Bypassed => Self::Bypassed,
        }
    }
}

impl From<Noted> for Inbound {
    fn from(noted: Noted) -> Self {
        match noted {
            Noted::Captured => Self::Captured,
            Noted::Bypassed => Self::Bypassed,
        }
    }
}

impl Described {
    pub(super) fn of(spec: &PodSpec, programs: &Programs) -> Self {
        Self {
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            service_account: spec.service_account.clone(),
            addresses: programs.addresses.clone(),
            probe_ports: programs.probe_ports.clone(),
            node_addresses: programs.node_addresses.clone(),
            pass_when_down: programs.when_down == WhenDown::Pass,
            names: programs.names,
            inbound: programs.inbound.into(),
            virtual_interfaces: programs.virtual_interfaces.clone(),
        }
    }

    /// The pod as it was captured, in the namespace of its record.
    pub(super) fn spec(self, undo: &Undo, netns: Netns) -> PodSpec {
        let programs = Programs {
            interface: undo.interface.clone(),
            addresses: self.addresses,
            probe_ports: self.probe_ports,
            node_addresses: self.node_addresses,
            when_down: if self.pass_when_down { WhenDown::Pass } else { WhenDown::Refuse },
            names: self.names,
            inbound: self.inbound.into(),
            virtual_interfaces: self.virtual_interfaces,
            // They were dealt with when it was captured.
            older: Older::LeftAlone,
        };
        PodSpec {
            uid: undo.uid.as_str().into(),
            name: self.name,
            namespace: self.namespace,
            service_account: self.service_account,
            netns: PodNetns::Proven { path: undo.netns.clone(), netns },
            captured: Captured::ByPrograms(programs),
        }
    }
}

/// The directory of the records.
#[derive(Clone, Debug)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(super) fn open(run_dir: &Path) -> io::Result<Self> {
        let directory = run_dir.join("pods");
        fs::create_dir_all(&directory)?;
        // What is undone by these records is done as root.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        Ok(Self { directory })
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{}.json", file_name(uid)))
    }

    pub(super) fn read(&self, uid: &str) -> Option<Undo> {
        serde_json::from_slice(&fs::read(self.path(uid)).ok()?).ok()
    }

    pub(super) fn write(&self, undo: &Undo) -> io::Result<()> {
        let path = self.path(&undo.uid);
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(undo)?)?;
        fs::rename(fresh, path)
    }

    pub(super) fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All records; files that cannot be read are none.
    pub(super) fn all(&self) -> Vec<Undo> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let json =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
        json.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Described, Records, Undo};
    use crate::model::{Captured, Inbound, Older, PodNetns, PodSpec, Programs, WhenDown};
    use crate::sys::netns::Netns;

    #[test]
    fn records_survive_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        let undo = Undo { uid: "Kubernetes//Pod/default/a.b".into(), ..Undo::default() };
        records.write(&undo).unwrap();
        assert_eq!(records.read(&undo.uid), Some(undo.clone()));
        assert_eq!(records.all(), vec![undo.clone()]);
        records.remove(&undo.uid).unwrap();
        records.remove(&undo.uid).unwrap();
        assert_eq!(records.all(), vec![]);
    }

    #[test]
    fn a_pod_is_remembered_as_it_was_captured() {
        let netns = Netns::current().unwrap();
        let programs = Programs {
            interface: "eth0".into(),
            addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            probe_ports: vec![80, 8080],
            node_addresses: vec!["10.0.0.1".parse().unwrap()],
            when_down: WhenDown::Pass,
            names: Some(false),
            inbound: Inbound::Bypassed,
            virtual_interfaces: vec!["br-vm".into()],
            older: Older::LeftAlone,
        };
        let spec = PodSpec {
            uid: "0c5b0b5e".into(),
            name: "web".into(),
            namespace: "shop".into(),
            service_account: "sa".into(),
            netns: PodNetns::Proven { path: "/run/netns/a".into(), netns: netns.clone() },
            captured: Captured::ByPrograms(programs.clone()),
        };
        let undo = Undo {
            uid: spec.uid.to_string(),
            netns: "/run/netns/a".into(),
            interface: "eth0".into(),
            pod: Some(Described::of(&spec, &programs)),
            ..Undo::default()
        };
        let read: Undo = serde_json::from_slice(&serde_json::to_vec(&undo).unwrap()).unwrap();
        assert_eq!(read.pod.clone().unwrap().spec(&read, netns), spec);
    }

    /// Records of agents that did not note it yet.
    #[test]
    fn a_record_without_the_pod_is_read() {
        let text =
            r#"{"uid":"a","netns":"/n","cookie":1,"interface":"eth0","sysctls":[],"clsact":false,"own_qdisc":[]}"#;
        assert_eq!(serde_json::from_str::<Undo>(text).unwrap().pod, None);
    }

    #[test]
    fn a_record_that_does_not_tell_of_inbound_connections_is_of_a_captured_pod() {
        let text = r#"{"name":"a","namespace":"b","service_account":"c","addresses":[],"probe_ports":[],
            "node_addresses":[],"pass_when_down":false,"names":null}"#;
        let undo = Undo { pod: Some(serde_json::from_str(text).unwrap()), ..Undo::default() };
        let spec = undo.pod.clone().unwrap().spec(&undo, Netns::current().unwrap());
        let Captured::ByPrograms(programs) = spec.captured else { panic!("by programs") };
        assert_eq!(programs.inbound, Inbound::Captured);
    }
}
