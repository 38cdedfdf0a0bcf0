//! What an enrolment changes in a pod besides its programs, noted before it is changed; and how it is put back.

use std::io;
use std::path::Path;

use super::error::{CaptureError, entering, system};
use super::{Kernel, Pod};
use crate::bpf::attach::{self, Mechanism};
use crate::model::{PodNetns, PodSpec};
use crate::pods::namespace::{self, Sysctl};
use crate::pods::owners::own_cookie;
use crate::pods::record::{Described, Undo};
use crate::sys::netlink::{Change, LO_NAME, clsact};
use crate::sys::netns::Netns;
use crate::sys::thread;

/// What becomes of the rules and routes by which captured packets are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pods) enum Routing {
    Remove,
    /// A CNI agent's are the very same, and it may have put its own into the pod already.
    Leave,
}

impl Kernel {
    /// Puts sysctls in place, having first noted what they replace, and that rules and routes are to come.
    pub(super) fn prepare(&self, Pod { spec, programs }: Pod<'_>, cookie: u64) -> io::Result<()> {
        let mut wanted = namespace::sysctls()?;
        wanted.extend(namespace::marks_of_accepted(programs.inbound));
        let netns = restorable(&spec.netns)?;
        let mut undo = self.records.read(&spec.uid).unwrap_or_else(|| Undo {
            uid: spec.uid.to_string(),
            cookie,
            interface: programs.interface.clone(),
            clsact: self.mechanism == Mechanism::Clsact,
            ..Undo::default()
        });
        // A former agent may have found it at another path, which need not live as long.
        netns.clone_into(&mut undo.netns);
        undo.pod = Some(Described::of(spec, programs));
        if undo.clsact {
            for interface in [LO_NAME, &programs.interface] {
                let noted = undo.own_qdisc.iter().any(|own| own == interface);
                if !noted && !clsact::present(interface)? {
                    undo.own_qdisc.push(interface.to_owned());
                }
            }
        }
        self.put(undo, &wanted)
    }

    /// Notes what the pod is captured as from now on, and puts in place what it needs for that. What it needs no more stays
    /// until the pod is withdrawn: open connections may.
    pub(super) fn note(&self, Pod { spec, programs }: Pod<'_>) -> io::Result<()> {
        let Some(undo) = self.records.read(&spec.uid) else { return Ok(()) };
        let undo = Undo { pod: Some(Described::of(spec, programs)), ..undo };
        self.put(undo, namespace::marks_of_accepted(programs.inbound).as_slice())
    }

    /// Writes the record and then the sysctls, with what they replace in the record.
    fn put(&self, mut undo: Undo, wanted: &[Sysctl]) -> io::Result<()> {
        for (path, value) in namespace::present(wanted)? {
            // The first value noted is the one that was there before us.
            if !undo.sysctls.iter().any(|(noted, _)| *noted == path) {
                undo.sysctls.push((path, value));
            }
        }
        self.records.write(&undo)?;
        wanted.iter().try_for_each(|sysctl| namespace::write(&sysctl.path, &sysctl.value))
    }

    /// Removes the pod's programs and what they needed, and the directories that are empty then. With [`Routing::Leave`] the
    /// rules and routes stay.
    pub(in crate::pods) fn remove(&self, uid: &str, routing: Routing) -> Result<(), CaptureError> {
        self.clear(uid, routing)?;
        self.pins.remove_if_empty();
        Ok(())
    }

    /// As [`Kernel::remove`], while other pods are being enrolled.
    pub(super) fn clear(&self, uid: &str, routing: Routing) -> Result<(), CaptureError> {
        let known = self.owners.netns(uid);
        self.owners.remove(uid);
        self.virtuals.forget(uid);
        self.pins.remove_pod(uid)?;
        if let Some(undo) = self.records.read(uid) {
            // A namespace that is gone has taken everything with it.
            if let Some(netns) = known.or_else(|| still_there(&undo)) {
                netns
                    .run(|| self.undo(&undo, routing))
                    .map_err(entering(&PodNetns::Path(undo.netns.clone())))?
                    .map_err(system("restoring the pod's namespace"))?;
            }
        }
        self.records.remove(uid).map_err(system("removing the pod's record"))
    }

    fn undo(&self, undo: &Undo, routing: Routing) -> io::Result<()> {
        if undo.clsact {
            attach::detach_clsact(&undo.interface).ok();
            for name in &undo.virtual_interfaces {
                attach::detach_virtual(name, &self.pins.pod(&undo.uid), Mechanism::Clsact).ok();
            }
        }
        for interface in &undo.own_qdisc {
            // An interface that is gone took its discipline with it.
            clsact::remove_if_unused(interface).ok();
        }
        if routing == Routing::Remove {
            thread::together(namespace::routing(Change::Remove))?.into_iter().collect::<io::Result<()>>()?;
        }
        for (path, value) in undo.sysctls.iter().filter(|(path, _)| namespace::is_ours(path)) {
            namespace::write(path, value)?;
        }
        Ok(())
    }
}

/// The pod as it was captured.
pub(super) fn remembered(undo: &Undo) -> Option<PodSpec> {
    let (pod, netns) = (undo.pod.clone()?, still_there(undo)?);
    Some(pod.spec(undo, netns))
}

/// The namespace of the record, unless another one is at its path by now.
fn still_there(undo: &Undo) -> Option<Netns> {
    let netns = Netns::open(&undo.netns).ok()?;
    matches!(netns.run(own_cookie), Ok(Ok(is)) if is == undo.cookie).then_some(netns)
}

/// The path by which another process will find the namespace, to undo what was done in it.
fn restorable(place: &PodNetns) -> io::Result<&Path> {
    match place {
        PodNetns::Path(path) | PodNetns::Proven { path, .. } => Ok(path),
        PodNetns::Handle(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a namespace that is known only by a handle could not be restored by another start",
        )),
    }
}
