//! What is said to name servers and back (protocol note, section 9.3): the client's own message, under another id, and the
//! server's own answer. Pure.
//!
//! The messages pass as they are, so that whatever clients and servers agree on (cookies, DNSSEC, types that nobody here
//! knows) goes on working.

use hickory_proto::op::{Header, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::answer;
use super::query::Query;

/// A flag in the fourth byte of a message: recursion is available.
const RECURSION_AVAILABLE: u8 = 0x80;

/// A query as it is sent to a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: u16,
    pub(super) bytes: Vec<u8>,
}

impl Request {
    /// `asked` is the client's message. The id is from a generator that nobody can predict: it is one of the two things, the
    /// port being the other, that tell the server's answer from a forged one.
    pub(super) fn new(asked: &[u8]) -> Self {
        let id = Message::query().metadata.id;
        let mut bytes = asked.to_vec();
        put_id(&mut bytes, id);
        Self { id, bytes }
    }
}

/// The answer to a request, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    metadata: Metadata,
    bytes: Vec<u8>,
}

impl Reply {
    /// None if it is no answer to this request: a late one to another, or a forged one.
    pub(super) fn read(bytes: Vec<u8>, id: u16, asked: &Question) -> Option<Self> {
        let mut decoder = BinDecoder::new(&bytes);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.id != id || metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
            return None;
        }
        // A server that could not read the question may leave it out.
        let unread = counts.queries == 0 && metadata.response_code != ResponseCode::NoError;
        let repeated = counts.queries == 1 && Question::read(&mut decoder).is_ok_and(|question| question == *asked);
        (unread || repeated).then_some(Self { metadata, bytes })
    }

    /// Whether the server had more to say than it could over UDP.
    pub(super) fn is_truncated(&self) -> bool {
        self.metadata.truncation
    }

    /// The answer for the client.
    pub(super) fn deliver(self, query: &Query) -> Option<Vec<u8>> {
        if self.bytes.len() > query.limit() {
            return answer::truncated(query, &self.metadata);
        }
        let mut bytes = self.bytes;
        put_id(&mut bytes, query.metadata.id);
        *bytes.get_mut(3)? |= RECURSION_AVAILABLE;
        Some(bytes)
    }
}

fn put_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    use super::{Reply, Request};
    use crate::dns::query::tests::{message, with_edns};
    use crate::dns::query::{Query, Transport};

    fn asked() -> (Vec<u8>, Query) {
        let bytes = message("www.Example.org", RecordType::A).to_vec().unwrap();
        let query = Query::read(&bytes, Transport::Udp).unwrap();
        (bytes, query)
    }

    fn answer_to(request: &Request, change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut answer = Message::from_vec(&request.bytes).unwrap().into_response();
        change(&mut answer);
        answer.to_vec().unwrap()
    }

    fn records(answer: &mut Message, count: u8) {
        let record = |last| Record::from_rdata(answer.queries[0].name.clone(), 60, RData::A(A::new(10, 0, 0, last)));
        answer.answers = (0..count).map(record).collect();
    }

    #[test]
    fn a_request_is_the_query_under_another_id() {
        let (bytes, _) = asked();
        let requests: Vec<_> = (0..20).map(|_| Request::new(&bytes)).collect();
        for request in &requests {
            assert_eq!(request.bytes[..2], request.id.to_be_bytes());
            assert_eq!(request.bytes[2..], bytes[2..]);
        }
        let mut ids: Vec<_> = requests.iter().map(|request| request.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() > 15, "{ids:?}");
    }

    #[test]
    fn only_its_own_answer_is_taken() {
        let (bytes, query) = asked();
        let request = Request::new(&bytes);
        type Change = fn(&mut Message);
        let cases: [(&str, Change, bool); 9] = [
            ("good", |_| {}, true),
            ("another case", |m| m.queries[0].name = Name::from_ascii("WWW.eXAMPLE.ORG.").unwrap(), true),
            ("a failure", |m| m.metadata.response_code = ResponseCode::NXDomain, true),
            (
                "a failure without the question",
                |m| {
                    m.metadata.response_code = ResponseCode::FormErr;
                    m.queries.clear()
                },
                true,
            ),
            ("another id", |m| m.metadata.id ^= 1, false),
            ("no answer", |m| m.metadata.message_type = super::MessageType::Query, false),
            ("another name", |m| m.queries[0].name = Name::from_ascii("www.example.com.").unwrap(), false),
            ("another type", |m| m.queries[0].query_type = RecordType::AAAA, false),
            ("no question", |m| m.queries.clear(), false),
        ];
        for (what, change, taken) in cases {
            let answer = answer_to(&request, change);
            assert_eq!(Reply::read(answer, request.id, &query.question).is_some(), taken, "{what}");
        }
    }

    #[test]
    fn the_client_gets_the_servers_words() {
        let (bytes, query) = asked();
        let request = Request::new(&bytes);
        let answer = answer_to(&request, |answer| records(answer, 3));
        let reply = Reply::read(answer.clone(), request.id, &query.question).unwrap();
        assert!(!reply.is_truncated());
        let delivered = reply.deliver(&query).unwrap();
        assert_eq!(delivered[..2], bytes[..2]);
        assert_eq!(delivered[2], answer[2]);
        assert_eq!(delivered[3], answer[3] | 0x80);
        assert_eq!(delivered[4..], answer[4..]);
    }

    #[test]
    fn too_long_for_the_client() {
        let asked = with_edns(message("www.example.org", RecordType::A), 600).to_vec().unwrap();
        let query = Query::read(&asked, Transport::Udp).unwrap();
        let request = Request::new(&asked);
        let answer = answer_to(&request, |answer| records(answer, 100));
        let delivered = Reply::read(answer, request.id, &query.question).unwrap().deliver(&query).unwrap();
        let read = Message::from_vec(&delivered).unwrap();
        assert!(read.metadata.truncation && read.answers.is_empty() && read.edns.is_some());
        assert_eq!((read.metadata.id, &read.queries[0]), (query.metadata.id, &query.question));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), id in any::<u16>()) {
            let (_, query) = asked();
            if let Some(reply) = Reply::read(bytes, id, &query.question) {
                reply.deliver(&query);
            }
        }

        #[test]
        fn no_damaged_answer_panics(at in any::<prop::sample::Index>(), with in any::<u8>(), count in 0u8..60) {
            let (bytes, query) = asked();
            let request = Request::new(&bytes);
            let mut answer = answer_to(&request, |answer| records(answer, count));
            let at = at.index(answer.len());
            answer[at] = with;
            if let Some(delivered) = Reply::read(answer, request.id, &query.question).and_then(|reply| reply.deliver(&query)) {
                prop_assert!(delivered.len() <= query.limit());
                prop_assert_eq!(&delivered[..2], &bytes[..2]);
            }
        }
    }
}
