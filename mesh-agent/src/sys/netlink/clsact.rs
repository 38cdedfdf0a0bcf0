//! The clsact queueing discipline, which carries tc filters on kernels without tcx.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{interface_index, request};

const KIND: &str = "clsact";

/// `TC_H_CLSACT`: the discipline's place on an interface.
const PLACE: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
/// Its handle, and where its filters hang: `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`.
const HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
const HOOKS: [(&str, TcHandle); 2] =
    [("ingress", TcHandle { major: 0xffff, minor: 0xfff2 }), ("egress", TcHandle { major: 0xffff, minor: 0xfff3 })];

/// A filter that hangs on the discipline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Such as `bpf`, `flower`.
    pub kind: String,
    pub priority: u16,
    pub handle: u32,
}

/// Whether the interface has the discipline.
pub fn present(interface: &str) -> io::Result<bool> {
    let index = interface_index(interface)?;
    let mut found = false;
    let each = |message: RouteNetlinkMessage| {
        if let RouteNetlinkMessage::NewQueueDiscipline(tc) = message {
            let clsact = tc.attributes.iter().any(|a| matches!(a, TcAttribute::Kind(kind) if kind == KIND));
            found |= tc.header.index == index && clsact;
        }
    };
    let ask = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index));
    request(NETLINK_ROUTE, ask, NLM_F_DUMP, each)?;
    Ok(found)
}

/// Removes the discipline unless somebody's filters hang on it, or it is gone.
pub fn remove_if_unused(interface: &str) -> io::Result<()> {
    let index = interface_index(interface)?;
    if !present(interface)? || !filters_of(index)?.is_empty() {
        return Ok(());
    }
    let mut remove = TcMessage::with_index(index);
    (remove.header.handle, remove.header.parent) = (HANDLE, PLACE);
    remove.attributes = vec![TcAttribute::Kind(KIND.to_owned())];
    request(NETLINK_ROUTE, RouteNetlinkMessage::DelQueueDiscipline(remove), NLM_F_ACK, |_| {})
}

/// The filters of the interface.
pub fn filters(interface: &str) -> io::Result<Vec<Filter>> {
    let mut filters = filters_of(interface_index(interface)?)?;
    // What only says that there is a chain of filters has no handle.
    filters.retain(|filter| filter.handle != 0);
    Ok(filters)
}

fn filters_of(index: i32) -> io::Result<Vec<Filter>> {
    let mut found = Vec::new();
    for (direction, hook) in HOOKS {
        let mut ask = TcMessage::with_index(index);
        ask.header.parent = hook;
        let each = |message: RouteNetlinkMessage| {
            if let RouteNetlinkMessage::NewTrafficFilter(filter) = message
                && filter.header.index == index
            {
                found.push(read(direction, &filter));
            }
        };
        request(NETLINK_ROUTE, RouteNetlinkMessage::GetTrafficFilter(ask), NLM_F_DUMP, each)?;
    }
    Ok(found)
}

fn read(direction: &'static str, filter: &TcMessage) -> Filter {
    let TcHandle { major, minor } = filter.header.handle;
    let kind = filter.attributes.iter().find_map(|attribute| {
        let TcAttribute::Kind(kind) = attribute else { return None };
        Some(kind.clone())
    });
    Filter {
        direction,
        kind: kind.unwrap_or_default(),
        // The upper half; the lower one is the protocol.
        priority: (filter.header.info >> 16) as u16,
        handle: u32::from(major) << 16 | u32::from(minor),
    }
}
