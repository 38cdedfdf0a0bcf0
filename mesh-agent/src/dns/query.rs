//! Reading what a client sends, and refusing what is no query (protocol note, section 9). Pure; the format is hickory's
//! business.

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::answer;

/// What every client takes over UDP (RFC 1035, section 4.2.1).
const LEAST_PAYLOAD: u16 = 512;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A query that can be answered.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) metadata: Metadata,
    pub(super) question: Question,
    pub(super) edns: Option<Extension>,
    pub(super) transport: Transport,
}

/// What the client said of itself with EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) payload: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
}

impl Extension {
    fn of(edns: &Edns) -> Self {
        Self {
            payload: edns.max_payload().max(LEAST_PAYLOAD),
            version: edns.version(),
            dnssec_ok: edns.flags().dnssec_ok,
        }
    }
}

/// Why there is no query. What it holds is to be sent to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Answer(Vec<u8>),
    /// Not even an id: nobody could tell what the answer is to.
    Silence,
}

impl Query {
    /// Reads one message.
    pub(super) fn read(bytes: &[u8], transport: Transport) -> Result<Self, Unreadable> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).map_err(|_| Unreadable::Silence)?;
        let refuse = |code, question| refusal(&header.metadata, code, question);
        if header.metadata.message_type == MessageType::Response {
            return Err(refuse(ResponseCode::FormErr, None));
        }
        if header.metadata.op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp, None));
        }
        // Of several questions nobody knows which one an answer's code is about.
        if header.counts.queries != 1 {
            return Err(refuse(ResponseCode::FormErr, None));
        }
        let question = Question::read(&mut decoder).map_err(|_| refuse(ResponseCode::FormErr, None))?;
        let edns = extension(&mut decoder, &header).map_err(|()| refuse(ResponseCode::FormErr, Some(&question)))?;
        // The answer is many messages on one connection, and no business of a pod's resolver.
        if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return Err(refuse(ResponseCode::Refused, Some(&question)));
        }
        Ok(Self { metadata: header.metadata, question, edns, transport })
    }

    /// Bytes that an answer may have.
    pub(super) fn limit(&self) -> usize {
        match self.transport {
            Transport::Udp => usize::from(self.edns.map_or(LEAST_PAYLOAD, |edns| edns.payload)),
            Transport::Tcp => usize::from(u16::MAX),
        }
    }

    /// The kind of record that is asked for, as metrics call it: one of a known few dozen.
    pub(super) fn kind(&self) -> &'static str {
        self.question.query_type().into()
    }
}

/// Reads all that follows the question, for what is about EDNS in it.
fn extension(decoder: &mut BinDecoder<'_>, header: &Header) -> Result<Option<Extension>, ()> {
    let op = header.metadata.op_code;
    for count in [header.counts.answers, header.counts.authorities] {
        Message::read_records(decoder, usize::from(count), false, op).map_err(drop)?;
    }
    let additionals = usize::from(header.counts.additionals);
    let (_, edns, _) = Message::read_records(decoder, additionals, true, op).map_err(drop)?;
    Ok(edns.as_ref().map(Extension::of))
}

fn refusal(asked: &Metadata, code: ResponseCode, question: Option<&Question>) -> Unreadable {
    answer::failure(asked, code, question, None).map_or(Unreadable::Silence, Unreadable::Answer)
}

#[cfg(test)]
pub(super) mod tests;
