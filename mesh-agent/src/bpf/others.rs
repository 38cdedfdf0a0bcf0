//! Which programs of others are where ours are attached. Call it with the thread inside the pod's namespace.

use std::ffi::CString;
use std::io;

use aya::programs::ProgramInfo;
use aya::programs::tc::{SchedClassifier, TcAttachType};

use super::attach::{is_our_filter, is_our_program};
use crate::sys::netlink::clsact;

/// Each in words, such as `tcx program trace on eth0 ingress`. A kernel without tcx has none of those.
pub fn on(interface: &str) -> io::Result<Vec<String>> {
    let name = CString::new(interface)?;
    let mut found = Vec::new();
    for (direction, hook) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
        let programs = SchedClassifier::query_tcx(name.as_c_str(), hook).map(|(_, programs)| programs);
        let names = programs.iter().flatten().map(|info| ProgramInfo::name_as_str(info).unwrap_or("without a name"));
        let others = names.filter(|name| !is_our_program(name));
        found.extend(others.map(|name| format!("tcx program {name} on {interface} {direction}")));
    }
    let filters = clsact::filters(interface)?.into_iter().filter(|filter| !is_our_filter(filter));
    found.extend(filters.map(|filter| format!("{} filter on {interface} {}", filter.kind, filter.direction)));
    Ok(found)
}
