//! What is read, and what is refused.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::{Extension, Query, Transport, Unreadable};

pub(in crate::dns) fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Question::query(name, kind));
    message
}

pub(in crate::dns) fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

pub(in crate::dns) fn dnssec_ok(mut message: Message) -> Message {
    if let Some(edns) = &mut message.edns {
        edns.set_dnssec_ok(true);
    }
    message
}

fn refused(bytes: &[u8]) -> Message {
    match Query::read(bytes, Transport::Udp) {
        Err(Unreadable::Answer(answer)) => Message::from_vec(&answer).unwrap(),
        other => panic!("{other:?} for {bytes:?}"),
    }
}

#[test]
fn a_query_is_read() {
    let asked = dnssec_ok(with_edns(message("Web.Example.", RecordType::AAAA), 1232));
    let query = Query::read(&asked.to_vec().unwrap(), Transport::Udp).unwrap();
    assert_eq!(query.question, asked.queries[0]);
    assert_eq!(query.question.name().to_ascii(), "Web.Example.");
    assert_eq!(query.edns, Some(Extension { payload: 1232, version: 0, dnssec_ok: true }));
    assert_eq!((query.metadata.id, query.limit(), query.kind()), (asked.metadata.id, 1232, "AAAA"));
    let plain = message("web", RecordType::TXT).to_vec().unwrap();
    let query = Query::read(&plain, Transport::Udp).unwrap();
    assert_eq!((query.edns, query.limit()), (None, 512));
    assert_eq!(Query::read(&plain, Transport::Tcp).unwrap().limit(), 65_535);
}

/// RFC 6891: a smaller payload than 512 means 512.
#[test]
fn a_small_payload_is_512() {
    let mut bytes = with_edns(message("web", RecordType::A), 512).to_vec().unwrap();
    let class = bytes.len() - 8;
    assert_eq!(bytes[class..class + 2], 512u16.to_be_bytes());
    bytes[class..class + 2].copy_from_slice(&7u16.to_be_bytes());
    assert_eq!(Query::read(&bytes, Transport::Udp).unwrap().limit(), 512);
}

#[test]
fn kinds_have_few_names() {
    let kinds: std::collections::BTreeSet<_> = (0..=u16::MAX)
        .map(|kind| {
            let asked = message("a", RecordType::from(kind)).to_vec().unwrap();
            Query::read(&asked, Transport::Udp).map_or("none", |query| query.kind())
        })
        .collect();
    assert!(kinds.len() < 64, "{kinds:?}");
}

#[test]
fn what_is_no_query() {
    let good = message("web.example", RecordType::A);
    let code = |change: &dyn Fn(&mut Message)| {
        let mut asked = good.clone();
        change(&mut asked);
        let answer = refused(&asked.to_vec().unwrap());
        assert_eq!(answer.metadata.id, good.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
        answer.metadata.response_code
    };
    assert_eq!(code(&|asked| asked.metadata.message_type = MessageType::Response), ResponseCode::FormErr);
    for op in [OpCode::Status, OpCode::Notify, OpCode::Update, OpCode::from_u8(1), OpCode::from_u8(15)] {
        assert_eq!(code(&|asked| asked.metadata.op_code = op), ResponseCode::NotImp, "{op}");
    }
    assert_eq!(code(&|asked| asked.queries.clear()), ResponseCode::FormErr);
    assert_eq!(code(&|asked| asked.queries.push(asked.queries[0].clone())), ResponseCode::FormErr);
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(code(&|asked| asked.queries[0].query_type = kind), ResponseCode::Refused, "{kind}");
    }
}

#[test]
fn what_is_cut_off() {
    let whole = with_edns(message("web.example", RecordType::A), 1232).to_vec().unwrap();
    for length in 0..whole.len() {
        match Query::read(&whole[..length], Transport::Udp) {
            Err(Unreadable::Silence) => assert!(length < 12, "{length}"),
            Err(Unreadable::Answer(answer)) => {
                assert!(length >= 12, "{length}");
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{length}");
            }
            Ok(query) => panic!("{length}: {query:?}"),
        }
    }
}

#[test]
fn two_extensions_are_one_too_many() {
    let mut bytes = with_edns(message("web", RecordType::A), 1232).to_vec().unwrap();
    let extension = bytes[bytes.len() - 11..].to_vec();
    bytes.extend(extension);
    bytes[11] = 2;
    assert_eq!(refused(&bytes).metadata.response_code, ResponseCode::FormErr);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), transport in any::<bool>()) {
        let transport = if transport { Transport::Udp } else { Transport::Tcp };
        if let Err(Unreadable::Answer(answer)) = Query::read(&bytes, transport) {
            let answer = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(answer.metadata.id.to_be_bytes(), [bytes[0], bytes[1]]);
        }
    }

    /// Nearly right is where parsers go wrong.
    #[test]
    fn no_damaged_query_panics(
        name in "([a-z]{1,10}\\.){1,6}", kind in any::<u16>(), at in any::<prop::sample::Index>(), with in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = with_edns(message(&name, RecordType::from(kind)), 4096).to_vec().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let cut = cut.index(bytes.len()) + 1;
        drop(Query::read(&bytes[..cut], Transport::Udp));
        drop(Query::read(&bytes, Transport::Tcp));
    }
}
