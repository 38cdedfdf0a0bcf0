//! What clients read in answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::{addresses, failed, truncated};
use crate::dns::query::tests::{dnssec_ok, message, with_edns};
use crate::dns::query::{Query, Transport};

fn query(asked: &Message, transport: Transport) -> Query {
    Query::read(&asked.to_vec().unwrap(), transport).unwrap()
}

fn v4(count: u32) -> Vec<IpAddr> {
    (1..=count).map(|at| Ipv4Addr::from(0x0a00_0000 + at).into()).collect()
}

fn v6(count: u32) -> Vec<IpAddr> {
    (1..=count).map(|at| Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(at)).into()).collect()
}

#[test]
fn addresses_of_the_name_as_it_was_asked() {
    let asked = message("Web.Shop.", RecordType::A);
    let answer = addresses(&query(&asked, Transport::Udp), &v4(2), None).unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, asked.metadata.id);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available && answer.metadata.recursion_desired);
    assert!(!answer.metadata.truncation && answer.edns.is_none());
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(answer.queries, asked.queries);
    let records: Vec<_> = answer.answers.iter().map(ToString::to_string).collect();
    assert_eq!(records, ["Web.Shop. 30 IN A 10.0.0.1", "Web.Shop. 30 IN A 10.0.0.2"]);
}

#[test]
fn an_alias_has_a_name_of_its_own() {
    let asked = message("web.shop.svc.cluster.local.shop.svc.cluster.local.", RecordType::AAAA);
    let answer = addresses(&query(&asked, Transport::Tcp), &v6(1), Some("web.shop.svc.cluster.local")).unwrap();
    let records: Vec<_> = Message::from_vec(&answer).unwrap().answers.iter().map(ToString::to_string).collect();
    let alias = "web.shop.svc.cluster.local.shop.svc.cluster.local. 30 IN CNAME web.shop.svc.cluster.local.";
    assert_eq!(records, [alias, "web.shop.svc.cluster.local. 30 IN AAAA fd00::1"]);
}

#[test]
fn no_address_is_an_answer_too() {
    let asked = with_edns(message("web.shop", RecordType::AAAA), 4096);
    for alias in [None, Some("web")] {
        let answer = addresses(&query(&asked, Transport::Udp), &[], alias).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
        assert!(answer.metadata.authoritative);
    }
}

#[test]
fn edns_is_answered_in_kind() {
    for (payload, told) in [(512, 512), (1232, 1232), (4096, 4096), (u16::MAX, u16::MAX)] {
        let plain = with_edns(message("web", RecordType::A), payload);
        let asked = if payload > 4000 { dnssec_ok(plain) } else { plain };
        let asked = query(&asked, Transport::Udp);
        for answer in [addresses(&asked, &v4(1), None), failed(&asked, ResponseCode::ServFail)] {
            let edns = Message::from_vec(&answer.unwrap()).unwrap().edns.unwrap();
            assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (told, 0, payload > 4000));
        }
    }
}

#[test]
fn failures_repeat_the_question() {
    let asked = message("web.shop", RecordType::MX);
    let answer = failed(&query(&asked, Transport::Udp), ResponseCode::ServFail).unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!((answer.metadata.response_code, &answer.queries), (ResponseCode::ServFail, &asked.queries));
    assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
}

#[test]
fn what_does_not_fit() {
    let asked = message("web.shop", RecordType::A);
    let (udp, tcp) = (query(&asked, Transport::Udp), query(&asked, Transport::Tcp));
    let large = query(&with_edns(message("web.shop", RecordType::A), 1232), Transport::Udp);
    // 12 for the header, 14 for the question, 16 for each record that names it by a pointer, 11 for EDNS.
    for (query, fit) in [(&udp, (512 - 26) / 16), (&large, (1232 - 26 - 11) / 16), (&tcp, 500)] {
        let bytes = addresses(query, &v4(500), None).unwrap();
        assert!(bytes.len() <= query.limit());
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (fit, fit < 500));
        assert_eq!(answer.edns.is_some(), query.edns.is_some());
    }
    // Too many for any message: names are written by pointers only so often.
    let (long, many) = (query(&message(&"a23456789.".repeat(24), RecordType::AAAA), Transport::Tcp), v6(1000));
    let answer = Message::from_vec(&addresses(&long, &many, None).unwrap()).unwrap();
    assert!(answer.metadata.truncation && (200..400).contains(&answer.answers.len()), "{}", answer.answers.len());
    let whole = Message::from_vec(&addresses(&tcp, &v4(500), None).unwrap()).unwrap().metadata;
    let cut = Message::from_vec(&truncated(&large, &whole).unwrap()).unwrap();
    assert!(cut.metadata.truncation && cut.metadata.authoritative && cut.answers.is_empty());
    assert_eq!(cut.metadata.id, large.metadata.id);
}

proptest! {
    #[test]
    fn answers_fit_and_are_whole_if_they_can_be(
        name in "([a-z]{1,20}\\.){1,10}", alias in prop::option::of("([a-z]{1,20}\\.){0,5}[a-z]"), count in 0u32..200,
        payload in prop::option::of(0u16..2000), sixes in any::<bool>(),
    ) {
        let (kind, all) = if sixes { (RecordType::AAAA, v6(count)) } else { (RecordType::A, v4(count)) };
        let plain = message(&name, kind);
        let asked = payload.map_or(plain.clone(), |payload| with_edns(plain, payload));
        let [udp, tcp] = [Transport::Udp, Transport::Tcp].map(|transport| query(&asked, transport));
        let [cut, whole] = [&udp, &tcp].map(|query| addresses(query, &all, alias.as_deref()).unwrap());
        prop_assert!(cut.len() <= udp.limit());
        let [read, all_of_it] = [&cut, &whole].map(|bytes| Message::from_vec(bytes).unwrap());
        prop_assert!(!all_of_it.metadata.truncation);
        prop_assert_eq!(read.metadata.truncation, whole.len() > udp.limit());
        prop_assert_eq!(&read.answers[..], &all_of_it.answers[..read.answers.len()]);
        // One more would not have fitted.
        if read.answers.len() < all_of_it.answers.len() {
            let mut more = read.clone();
            more.answers.push(all_of_it.answers[read.answers.len()].clone());
            prop_assert!(more.to_vec().unwrap().len() > udp.limit());
        }
    }
}
