//! Questions to a directory of paper.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use proptest::prelude::*;

use super::{Ipv6, answer};
use crate::dns::lookup::tests::{CLIENT, Paper, entry, realm};
use crate::dns::query::tests::message;
use crate::dns::query::{Query, Transport};

fn directory() -> Paper {
    Paper(vec![
        entry("shop", "web.shop.svc.cluster.local", &["10.0.0.1"]),
        entry("shop", "dual.shop.svc.cluster.local", &["10.0.0.2", "fd00::2"]),
        entry("shop", "bare.shop.svc.cluster.local", &[]).endpoint(&["10.1.0.1", "fd00::1:1"]),
        entry("shop", "*.example.com", &["240.0.0.1"]),
    ])
}

fn ask_with(name: &str, kind: RecordType, class: DNSClass, ipv6: Ipv6) -> Option<Message> {
    let mut asked = message(name, kind);
    asked.queries[0].query_class = class;
    let query = Query::read(&asked.to_vec().unwrap(), Transport::Udp).unwrap();
    answer(&directory(), &query, &CLIENT, (&realm(), ipv6)).map(|bytes| Message::from_vec(&bytes).unwrap())
}

fn ask(name: &str, kind: RecordType) -> Option<Message> {
    ask_with(name, kind, DNSClass::IN, Ipv6::On)
}

#[test]
fn who_answers_what() {
    use RecordType::{A, AAAA, MX, PTR, SRV, TXT};
    let cases: [(&str, RecordType, Option<&[&str]>); 16] = [
        ("web", A, Some(&["10.0.0.1"])),
        ("WEB.shop.svc", A, Some(&["10.0.0.1"])),
        ("web", AAAA, Some(&[])),
        ("dual", AAAA, Some(&["fd00::2"])),
        ("dual.shop.shop.svc.cluster.local", AAAA, Some(&["dual.shop.", "fd00::2"])),
        ("web.shop.shop.svc.cluster.local", AAAA, Some(&[])),
        ("bare", A, Some(&["10.1.0.1"])),
        ("bare", AAAA, Some(&["fd00::1:1"])),
        ("x.example.com", A, Some(&["240.0.0.1"])),
        ("x.example.com.shop.svc.cluster.local", A, Some(&["240.0.0.1"])),
        ("x.example.com", AAAA, Some(&[])),
        ("web", MX, None),
        ("web", TXT, None),
        ("web", SRV, None),
        ("1.0.0.10.in-addr.arpa", PTR, None),
        ("other.example.org", A, None),
    ];
    for (name, kind, expected) in cases {
        let answer = ask(name, kind);
        let data = answer.as_ref().map(|answer| answer.answers.iter().map(|record| record.data.to_string()));
        let data: Option<Vec<String>> = data.map(Iterator::collect);
        let expected = expected.map(|all| all.iter().map(ToString::to_string).collect());
        assert_eq!(data, expected, "{name} {kind}");
        if let Some(answer) = answer {
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name} {kind}");
            assert!(answer.metadata.authoritative && answer.metadata.recursion_available, "{name} {kind}");
        }
    }
}

#[test]
fn only_the_internet_is_answered_for() {
    assert!(ask_with("web", RecordType::A, DNSClass::CH, Ipv6::On).is_none());
    assert!(ask_with("web", RecordType::A, DNSClass::ANY, Ipv6::On).is_none());
}

#[test]
fn without_ipv6_nothing_has_such_an_address() {
    for name in ["dual", "bare", "other.example.org"] {
        let answer = ask_with(name, RecordType::AAAA, DNSClass::IN, Ipv6::Off).unwrap();
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{name}");
    }
    assert!(ask_with("dual", RecordType::A, DNSClass::IN, Ipv6::Off).is_some());
    assert!(ask_with("other.example.org", RecordType::A, DNSClass::IN, Ipv6::Off).is_none());
    assert!(ask_with("dual", RecordType::TXT, DNSClass::IN, Ipv6::Off).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Any message that can be read has an answer or none, and no panic.
    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 12..200), kind in prop::sample::select(vec![1u8, 28])) {
        // A query with one question, mostly, so that more than the header is tried.
        bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, kind, 0, 1]);
        if let Ok(query) = Query::read(&bytes, Transport::Udp)
            && let Some(answer) = answer(&directory(), &query, &CLIENT, (&realm(), Ipv6::On))
        {
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }
}
