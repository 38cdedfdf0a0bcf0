//! Writing answers: from what the mesh knows, failures, and answers that do not fit (protocol note, section 9). Pure; the
//! format is hickory's business.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record};

use super::query::{Extension, Query};

/// Seconds for which a name's addresses may be kept.
const TTL: u32 = 30;

/// The fewest bytes that an address record takes.
const SMALLEST_RECORD: usize = 16;

/// The answer that the asked name is at these addresses, of the family that was asked for; with `alias_of`, that it is
/// another name for that one.
pub(super) fn addresses(query: &Query, addresses: &[IpAddr], alias_of: Option<&str>) -> Option<Vec<u8>> {
    let mut message = blank(&query.metadata, Some(&query.question), query.edns);
    message.metadata.authoritative = true;
    let asked = query.question.name();
    let owner = alias_of
        .map_or_else(|| Some(asked.clone()), |alias| Name::from_labels(alias.split('.').map(str::as_bytes)).ok())?;
    if alias_of.is_some() && !addresses.is_empty() {
        message.add_answer(Record::from_rdata(asked.clone(), TTL, RData::CNAME(CNAME(owner.clone()))));
    }
    let record = |address: &IpAddr| match address {
        IpAddr::V4(v4) => RData::A(A(*v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
    };
    message.add_answers(addresses.iter().map(|address| Record::from_rdata(owner.clone(), TTL, record(address))));
    fitted(message, query.limit())
}

/// The answer that there is none, for this reason.
pub(super) fn failed(query: &Query, code: ResponseCode) -> Option<Vec<u8>> {
    failure(&query.metadata, code, Some(&query.question), query.edns)
}

/// The same for what may be no query.
pub(super) fn failure(
    asked: &Metadata,
    code: ResponseCode,
    question: Option<&Question>,
    edns: Option<Extension>,
) -> Option<Vec<u8>> {
    let mut message = blank(asked, question, edns);
    message.metadata.response_code = code;
    message.to_vec().ok()
}

/// An answer that is too long for the client, without what makes it long: the client asks again over TCP.
pub(super) fn truncated(query: &Query, whole: &Metadata) -> Option<Vec<u8>> {
    let mut message = blank(&query.metadata, Some(&query.question), query.edns);
    message.metadata.authoritative = whole.authoritative;
    message.metadata.authentic_data = whole.authentic_data;
    message.metadata.response_code = whole.response_code;
    message.metadata.truncation = true;
    message.to_vec().ok()
}

fn blank(asked: &Metadata, question: Option<&Question>, edns: Option<Extension>) -> Message {
    let mut message = Message::new(asked.id, MessageType::Response, OpCode::Query);
    message.metadata = Metadata::response_from_request(asked);
    message.metadata.recursion_available = true;
    message.add_queries(question.cloned());
    if let Some(edns) = edns {
        message.set_edns(echo(edns));
    }
    message
}

/// What is said with EDNS to a client that uses it: its own words.
fn echo(asked: Extension) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(asked.payload).set_version(asked.version).set_dnssec_ok(asked.dnssec_ok);
    edns
}

/// Writes the message with as many of its answers as fit. Resolvers that never ask over TCP use those.
fn fitted(mut message: Message, limit: usize) -> Option<Vec<u8>> {
    if let Some(whole) = within(&message, limit) {
        return Some(whole);
    }
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    let mut best = within(&message, limit)?;
    let (mut fit, mut most) = (0, answers.len().min(limit / SMALLEST_RECORD));
    while fit < most {
        let middle = fit + (most - fit).div_ceil(2);
        message.answers = answers[..middle].to_vec();
        match within(&message, limit) {
            Some(bytes) => (best, fit) = (bytes, middle),
            None => most = middle - 1,
        }
    }
    Some(best)
}

/// The whole message, if it is not too long.
fn within(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    // The encoder leaves out what no message has room for. These are the counts of answers and additional records.
    let counted = |at: usize| bytes.get(at..at + 2).map(|two| usize::from(two[0]) << 8 | usize::from(two[1]));
    let complete =
        counted(6) == Some(message.answers.len()) && counted(10) == Some(usize::from(message.edns.is_some()));
    (complete && bytes.len() <= limit).then_some(bytes)
}

#[cfg(test)]
mod tests;
