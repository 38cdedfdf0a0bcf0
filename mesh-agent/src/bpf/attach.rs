//! Attaching a pod's classifiers, by tcx links (Linux 6.6) or clsact filters. Call it with the thread inside the pod's
//! namespace: interfaces are looked up there.
//!
//! Both survive the agent: links are pinned, filters belong to the qdisc. A second start replaces the program in
//! what it finds, atomically, so that there is no moment without capture.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifier, SchedClassifierLink, TcAttach, TcAttachType, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{LinkOrder, Program, ProgramError, SkLookup};

use super::BpfError;
use super::object::Capture;
use crate::sys::netlink::clsact::Filter;
use crate::sys::thread::Work;

/// Which mechanism attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Tcx,
    Clsact,
}

impl Mechanism {
    /// Asks the kernel, not its version number: distributions backport.
    pub fn detect() -> Self {
        match SchedClassifier::query_tcx(c"lo", TcAttachType::Ingress) {
            Ok(_) => Self::Tcx,
            Err(_) => Self::Clsact,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One attachment: program, interface, direction, pin.
struct Hook<'a> {
    program: &'static str,
    interface: &'a str,
    direction: TcAttachType,
}

impl Hook<'_> {
    /// The link's name among the pins of the pod. An interface's own may have signs in it that a file's may not.
    fn pin(&self) -> String {
        if self.program != VIRTUAL {
            return self.program.to_owned();
        }
        let name: String = self.interface.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{VIRTUAL}_{name}")
    }
}

const REOPEN: &str = "reopen";
const VIRTUAL: &str = "virtual_ingress";

/// Priority and handle of our filters, by which a second start finds them.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, HANDLE_NUMBER);
const HANDLE_NUMBER: u16 = 0x539;

/// Whether a tcx program is one of those that are attached here, by its name.
pub(super) fn is_our_program(name: &str) -> bool {
    name == VIRTUAL || hooks("").iter().any(|hook| hook.program == name)
}

/// Whether a filter is where ours are.
pub(super) fn is_our_filter(filter: &Filter) -> bool {
    (filter.priority, filter.handle) == (PRIORITY, HANDLE_NUMBER.into())
}

fn hooks(interface: &str) -> [Hook<'_>; 3] {
    use TcAttachType::{Egress, Ingress};
    [
        Hook { program: "lo_ingress", interface: "lo", direction: Ingress },
        Hook { program: "pod_ingress", interface, direction: Ingress },
        Hook { program: "pod_egress", interface, direction: Egress },
    ]
}

/// What attaches the three programs, or puts them in the place of a former agent's: in any order, so what the programs
/// are to do while some of them are missing must already be said. Each waits for the kernel's lock of networks, on a busy
/// node longer than it holds it.
pub fn attachments<'a>(
    capture: &'a mut Capture,
    interface: &'a str,
    pins: &'a Path,
    mechanism: Mechanism,
) -> Result<Vec<Work<'a, Result<(), BpfError>>>, BpfError> {
    let mut programs: HashMap<&str, &mut Program> = capture.object.programs_mut().collect();
    let work = |hook: Hook<'a>| -> Result<Work<'a, _>, BpfError> {
        let program = programs.remove(hook.program).ok_or(BpfError::Missing(hook.program))?;
        Ok(Box::new(move || put(program, &hook, pins, mechanism)))
    };
    hooks(interface).into_iter().map(work).collect()
}

fn behind(interface: &str) -> Hook<'_> {
    Hook { program: VIRTUAL, interface, direction: TcAttachType::Ingress }
}

/// Attaches the program for packets of a virtual machine to the interface before it, in the place of a former agent's.
pub fn attach_virtual(
    capture: &mut Capture,
    interface: &str,
    pins: &Path,
    mechanism: Mechanism,
) -> Result<(), BpfError> {
    let hook = behind(interface);
    let program: &mut SchedClassifier = capture
        .object
        .program_mut(VIRTUAL)
        .ok_or(BpfError::Missing(VIRTUAL))?
        .try_into()
        .map_err(|cause| failed(&hook, cause))?;
    // It is loaded already if it is on another interface.
    if program.fd().is_err() {
        program.load().map_err(|cause| failed(&hook, cause))?;
    }
    match mechanism {
        Mechanism::Tcx => attach_tcx(program, &hook, pins),
        Mechanism::Clsact => attach_clsact(program, &hook),
    }
}

/// Detaches it. That it is gone already, with its interface, is as good.
pub fn detach_virtual(interface: &str, pins: &Path, mechanism: Mechanism) -> Result<(), BpfError> {
    let hook = behind(interface);
    if mechanism == Mechanism::Clsact {
        qdisc_detach_program(name(interface)?.as_c_str(), TcHandle::from(hook.direction), hook.program).ok();
    }
    let path = pins.join(hook.pin());
    match std::fs::remove_file(&path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(BpfError::File { path, cause }),
        _ => Ok(()),
    }
}

fn put(program: &mut Program, hook: &Hook<'_>, pins: &Path, mechanism: Mechanism) -> Result<(), BpfError> {
    let program: &mut SchedClassifier = program.try_into().map_err(|cause| failed(hook, cause))?;
    program.load().map_err(|cause| failed(hook, cause))?;
    match mechanism {
        Mechanism::Tcx => attach_tcx(program, hook, pins),
        Mechanism::Clsact => attach_clsact(program, hook),
    }
}

/// Attaches the socket look-up of reopened connections to the namespace, in the place of a former agent's.
pub fn attach_lookup(capture: &mut Capture, netns: BorrowedFd<'_>, pins: &Path) -> Result<(), BpfError> {
    let failed = |cause| BpfError::Program { name: REOPEN.to_owned(), cause };
    let program: &mut SkLookup =
        capture.object.program_mut(REOPEN).ok_or(BpfError::Missing(REOPEN))?.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    let id = program.attach(netns).map_err(failed)?;
    let link = FdLink::from(program.take_link(id).map_err(failed)?);
    let pin = pins.join(REOPEN);
    // The former agent's look-up knew its listeners, which are gone.
    match std::fs::remove_file(&pin) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(BpfError::File { path: pin, cause }),
        _ => {}
    }
    link.pin(&pin).map_err(|cause| BpfError::Pin { path: pin, cause })?;
    Ok(())
}

fn failed(hook: &Hook<'_>, cause: ProgramError) -> BpfError {
    BpfError::Program { name: format!("{} on {}", hook.program, hook.interface), cause }
}

fn name(interface: &str) -> Result<CString, BpfError> {
    CString::new(interface).map_err(|_| BpfError::Missing("interface"))
}

fn attach_tcx(program: &mut SchedClassifier, hook: &Hook<'_>, pins: &Path) -> Result<(), BpfError> {
    let pin = pins.join(hook.pin());
    if pin.exists() {
        let link = FdLink::from(PinnedLink::from_pin(&pin)?);
        // A link whose interface is gone cannot be updated; it is replaced by a new one.
        if let Ok(link) = SchedClassifierLink::try_from(link)
            && program.attach_to_link(link).is_ok()
        {
            return Ok(());
        }
        std::fs::remove_file(&pin).map_err(|cause| BpfError::File { path: pin.clone(), cause })?;
    }
    let attach = TcAttach::Tcx { attach_type: hook.direction, order: LinkOrder::first() };
    let interface = name(hook.interface)?;
    let id = program.attach(interface.as_c_str(), attach).map_err(|cause| failed(hook, cause))?;
    let link: FdLink = program.take_link(id).map_err(|cause| failed(hook, cause))?.try_into()?;
    link.pin(&pin).map_err(|cause| BpfError::Pin { path: pin, cause })?;
    Ok(())
}

fn attach_clsact(program: &mut SchedClassifier, hook: &Hook<'_>) -> Result<(), BpfError> {
    let interface = name(hook.interface)?;
    // It may exist already, ours or the CNI's.
    qdisc_add_clsact(interface.as_c_str()).ok();
    let parent = TcHandle::from(hook.direction);
    let found = SchedClassifierLink::attached(interface.as_c_str(), parent, PRIORITY, HANDLE, None)
        .map_err(|cause| failed(hook, cause.into()))?;
    let id = match program.attach_to_link(found) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program
                .attach(interface.as_c_str(), TcAttach::Netlink { parent, options })
                .map_err(|cause| failed(hook, cause))?
        }
    };
    // Dropping the link would detach the filter, which must outlive this process.
    std::mem::forget(program.take_link(id).map_err(|cause| failed(hook, cause))?);
    Ok(())
}

/// Removes clsact filters. (tcx links go with their pins.)
pub fn detach_clsact(interface: &str) -> Result<(), BpfError> {
    for hook in hooks(interface) {
        let interface = name(hook.interface)?;
        // Not found is what we want.
        qdisc_detach_program(interface.as_c_str(), TcHandle::from(hook.direction), hook.program).ok();
    }
    Ok(())
}
