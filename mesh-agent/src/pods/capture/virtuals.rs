//! Interfaces inside a pod behind which virtual machines are. They come and go while the pod is captured, so it is looked
//! again and again which are there.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{CaptureError, entering, system};
use super::{Kernel, Pod};
use crate::bpf::attach::{self, Mechanism};
use crate::bpf::object::Capture as Loaded;
use crate::model::Programs;
use crate::pods::record::Undo;
use crate::sys::netlink::{LO_NAME, clsact, interface_index};

/// The interfaces that a program is attached to, by their names, with their numbers then.
type Attached = BTreeMap<String, i32>;

/// What of the pods' interfaces is taken care of, by the pods' uids.
#[derive(Debug, Default)]
pub(super) struct Virtuals {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    attached: Attached,
    missing: Vec<String>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    attach: Attached,
    detach: Vec<String>,
    missing: Vec<String>,
}

impl Virtuals {
    /// The lock is held for a look, and for an entry.
    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interfaces that are not there.
    pub(super) fn missing(&self, uid: &str) -> Vec<String> {
        self.known().get(uid).map(|known| known.missing.clone()).unwrap_or_default()
    }

    pub(super) fn forget(&self, uid: &str) {
        self.known().remove(uid);
    }
}

/// What the pod's own interface and `lo` carry is no virtual machine's.
fn wanted(programs: &Programs) -> impl Iterator<Item = &String> {
    programs.virtual_interfaces.iter().filter(|name| **name != programs.interface && *name != LO_NAME)
}

/// `index`: the number of the interface of a name. Another one than before is another interface.
fn steps(programs: &Programs, attached: &Attached, index: impl Fn(&str) -> Option<i32>) -> Steps {
    let mut steps = Steps::default();
    for name in wanted(programs) {
        match index(name) {
            Some(index) if attached.get(name) == Some(&index) => {}
            Some(index) => drop(steps.attach.insert(name.clone(), index)),
            None if steps.missing.contains(name) => {}
            None => steps.missing.push(name.clone()),
        }
    }
    let unwanted = attached.keys().filter(|name| wanted(programs).all(|wanted| wanted != *name));
    steps.detach.extend(unwanted.cloned());
    steps
}

impl Kernel {
    /// Attaches programs to the interfaces that have come, and detaches them from those that are wanted no more.
    pub(super) fn follow_virtuals(&self, pod: Pod<'_>) -> Result<(), CaptureError> {
        let uid = &*pod.spec.uid;
        if pod.programs.virtual_interfaces.is_empty() && self.virtuals.known().get(uid).is_none() {
            return Ok(());
        }
        let Some(netns) = self.owners.netns(uid) else { return Ok(()) };
        netns.run(|| self.attach_virtuals(pod)).map_err(entering(&pod.spec.netns))?
    }

    /// The same with the thread in the pod's namespace.
    pub(super) fn attach_virtuals(&self, pod: Pod<'_>) -> Result<(), CaptureError> {
        let uid = &*pod.spec.uid;
        let Some(undo) = self.records.read(uid) else { return Ok(()) };
        let known = self.virtuals.known().get(uid).cloned();
        // What a former agent has attached gets this one's program, as no interface has its number.
        let former = || undo.virtual_interfaces.iter().map(|name| (name.clone(), 0)).collect();
        let known = known.unwrap_or_else(|| Known { attached: former(), missing: Vec::new() });
        let Known { mut attached, missing: before } = known;
        let Steps { attach, detach, mut missing } = steps(pod.programs, &attached, |name| interface_index(name).ok());
        let pins = self.pins.pod(uid);
        for name in detach {
            attach::detach_virtual(&name, &pins, self.mechanism)?;
            attached.remove(&name);
        }
        if !attach.is_empty() {
            self.note_virtuals(undo, attach.keys()).map_err(system("noting the pod's interfaces"))?;
            let mut loaded = Loaded::load(&pins, self.direct.as_deref(), self.logging)?;
            for (name, index) in attach {
                match attach::attach_virtual(&mut loaded, &name, &pins, self.mechanism) {
                    Ok(()) => {
                        tracing::info!(pod = uid, interface = name, "what it brings is captured as the pod's own");
                        attached.insert(name, index);
                    }
                    // It may have gone again, and is tried again.
                    Err(error) => {
                        if !before.contains(&name) {
                            tracing::warn!(pod = uid, interface = name, %error, "what it brings is not captured");
                        }
                        missing.push(name);
                    }
                }
            }
        }
        self.virtuals.known().insert(uid.to_owned(), Known { attached, missing });
        Ok(())
    }

    /// Notes the interfaces before anything is attached to them.
    fn note_virtuals<'a>(&self, mut undo: Undo, names: impl Iterator<Item = &'a String>) -> io::Result<()> {
        for name in names {
            if !undo.virtual_interfaces.contains(name) {
                undo.virtual_interfaces.push(name.clone());
            }
            if self.mechanism == Mechanism::Clsact && !undo.own_qdisc.contains(name) && !clsact::present(name)? {
                undo.own_qdisc.push(name.clone());
            }
        }
        self.records.write(&undo)
    }
}

#[cfg(test)]
mod tests {
    use super::{Attached, Steps, steps};
    use crate::model::Programs;

    fn programs(names: &[&str]) -> Programs {
        let virtual_interfaces = names.iter().map(|name| (*name).to_owned()).collect();
        Programs { interface: "eth0".into(), virtual_interfaces, ..Programs::default() }
    }

    fn attached(all: &[(&str, i32)]) -> Attached {
        all.iter().map(|(name, index)| ((*name).to_owned(), *index)).collect()
    }

    fn index(name: &str) -> Option<i32> {
        match name {
            "lo" => Some(1),
            "eth0" => Some(2),
            "net1" => Some(3),
            "br-vm" => Some(14),
            _ => None,
        }
    }

    #[test]
    fn programs_follow_interfaces() {
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, i32)], &'a [(&'a str, i32)], &'a [&'a str], &'a [&'a str]);
        let cases: [Case<'_>; 9] = [
            // Wanted, attached: to attach, to detach, missing.
            (&[], &[], &[], &[], &[]),
            (&["net1"], &[], &[("net1", 3)], &[], &[]),
            (&["net1", "br-vm"], &[("net1", 3)], &[("br-vm", 14)], &[], &[]),
            (&["net1"], &[("net1", 3)], &[], &[], &[]),
            // Made anew, and a former agent's.
            (&["br-vm"], &[("br-vm", 9)], &[("br-vm", 14)], &[], &[]),
            (&["br-vm"], &[("br-vm", 0)], &[("br-vm", 14)], &[], &[]),
            (&["net1"], &[("br-vm", 14)], &[("net1", 3)], &["br-vm"], &[]),
            (&["tap0", "tap0", "net1"], &[], &[("net1", 3)], &[], &["tap0"]),
            (&["lo", "eth0"], &[], &[], &[], &[]),
        ];
        for (names, is, attach, detach, missing) in cases {
            let texts = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let expected = Steps { attach: attached(attach), detach: texts(detach), missing: texts(missing) };
            assert_eq!(steps(&programs(names), &attached(is), index), expected, "{names:?} {is:?}");
        }
    }
}
