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
const HOOKS: [TcHandle; 2] = [TcHandle { major: 0xffff, minor: 0xfff2 }, TcHandle { major: 0xffff, minor: 0xfff3 }];

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
    if !present(interface)? || has_filters(index)? {
        return Ok(());
    }
    let mut remove = TcMessage::with_index(index);
    (remove.header.handle, remove.header.parent) = (HANDLE, PLACE);
    remove.attributes = vec![TcAttribute::Kind(KIND.to_owned())];
    request(NETLINK_ROUTE, RouteNetlinkMessage::DelQueueDiscipline(remove), NLM_F_ACK, |_| {})
}

fn has_filters(index: i32) -> io::Result<bool> {
    let mut found = false;
    for hook in HOOKS {
        let mut ask = TcMessage::with_index(index);
        ask.header.parent = hook;
        let each = |message: RouteNetlinkMessage| {
            found |= matches!(message, RouteNetlinkMessage::NewTrafficFilter(filter) if filter.header.index == index);
        };
        request(NETLINK_ROUTE, RouteNetlinkMessage::GetTrafficFilter(ask), NLM_F_DUMP, each)?;
    }
    Ok(found)
}
