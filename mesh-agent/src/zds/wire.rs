//! The messages between the CNI agent and the node proxy as bytes (protocol note, section 10.2).

use prost::Message;

use crate::proto::zds::workload_request::Payload;
use crate::proto::zds::workload_response;
use crate::proto::zds::{Ack, Version, WorkloadRequest, WorkloadResponse, ZdsHello};

/// The longest packet, in bytes.
pub(super) const PACKET: usize = 1024;
/// The longest error that an acknowledgement carries, in bytes: with its envelope it fits into a packet.
const ERROR: usize = PACKET - 16;

/// What the CNI agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Serve this pod. Its namespace comes beside the packet's bytes.
    Add { uid: String, info: Option<Info> },
    /// Go on serving this pod, if it is served.
    Keep { uid: String },
    /// This pod is gone, or has left the mesh.
    Del { uid: String },
    /// Every pod has been named since the connection began.
    SnapshotSent,
}

/// What a pod is called. Its workload is found by all three together, never by the uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
}

/// A packet that is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Undecodable {
    #[error("no protobuf of a request: {0}")]
    Malformed(String),
    #[error("a request without a known payload, maybe of a newer version")]
    Unknown,
}

/// The one packet that is not an answer.
pub(super) fn hello() -> Vec<u8> {
    ZdsHello { version: Version::V1.into() }.encode_to_vec()
}

/// The answer to every request; an error too long for a packet is cut off.
pub(super) fn ack(result: &Result<(), String>) -> Vec<u8> {
    let mut error = result.as_ref().err().cloned().unwrap_or_default();
    error.truncate(error.floor_char_boundary(ERROR));
    WorkloadResponse { payload: Some(workload_response::Payload::Ack(Ack { error })) }.encode_to_vec()
}

/// Reads a packet.
pub(super) fn request(packet: &[u8]) -> Result<Request, Undecodable> {
    let request = WorkloadRequest::decode(packet).map_err(|error| Undecodable::Malformed(error.to_string()))?;
    Ok(match request.payload.ok_or(Undecodable::Unknown)? {
        Payload::Add(add) => {
            let info = add.workload_info.map(|info| Info {
                name: info.name,
                namespace: info.namespace,
                service_account: info.service_account,
            });
            Request::Add { uid: add.uid, info }
        }
        Payload::Keep(keep) => Request::Keep { uid: keep.uid },
        Payload::Del(del) => Request::Del { uid: del.uid },
        Payload::SnapshotSent(_) => Request::SnapshotSent,
    })
}

/// A request as the CNI agent would send it.
#[cfg(test)]
pub(super) fn packet(request: Request) -> Vec<u8> {
    use crate::proto::zds::{AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo};
    let payload = match request {
        Request::Add { uid, info } => {
            let info =
                info.map(|Info { name, namespace, service_account }| WorkloadInfo { name, namespace, service_account });
            Payload::Add(AddWorkload { uid, workload_info: info })
        }
        Request::Keep { uid } => Payload::Keep(KeepWorkload { uid }),
        Request::Del { uid } => Payload::Del(DelWorkload { uid }),
        Request::SnapshotSent => Payload::SnapshotSent(SnapshotSent {}),
    };
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Info, PACKET, Request, Undecodable, ack, hello, request};

    /// Trap 8: the uid of a deletion is field 2, and keep is payload 5.
    #[test]
    fn trap_8_field_numbers() {
        let info = Info { name: "a".into(), namespace: "ns".into(), service_account: "sa".into() };
        let cases: [(&[u8], Request); 5] = [
            (
                b"\x0a\x10\x0a\x01u\x12\x0b\x0a\x01a\x12\x02ns\x1a\x02sa",
                Request::Add { uid: "u".into(), info: Some(info) },
            ),
            (b"\x0a\x03\x0a\x01u", Request::Add { uid: "u".into(), info: None }),
            (b"\x12\x03\x12\x01u", Request::Del { uid: "u".into() }),
            (b"\x1a\x00", Request::SnapshotSent),
            (b"\x2a\x03\x0a\x01u", Request::Keep { uid: "u".into() }),
        ];
        for (bytes, expected) in cases {
            assert_eq!(request(bytes), Ok(expected), "{bytes:?}");
        }
        assert_eq!(hello(), b"\x08\x01");
        assert_eq!(ack(&Ok(())), b"\x0a\x00");
        assert_eq!(ack(&Err("bad".into())), b"\x0a\x05\x0a\x03bad");
    }

    #[test]
    fn what_is_no_request() {
        assert_eq!(request(b""), Err(Undecodable::Unknown));
        assert_eq!(request(b"\x3a\x00"), Err(Undecodable::Unknown), "a payload of the future");
        for bytes in [&b"\x0a\xff"[..], b"\x0a\x03\x0a\x01", b"\x0a\x03\x0a\x01\xff", b"hello"] {
            assert!(matches!(request(bytes), Err(Undecodable::Malformed(_))), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            request(&bytes).ok();
        }

        #[test]
        fn every_error_fits_into_a_packet(error in "(\\PC){0,40}", times in 0usize..100) {
            prop_assert!(ack(&Err(error.repeat(times))).len() <= PACKET);
        }
    }
}
