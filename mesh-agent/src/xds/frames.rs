//! gRPC's messages in the body of a response: a byte of flags, four of length, the message.
//!
//! tonic has a reader of its own, which collects all messages of a stream in one buffer. It stays as large as the largest
//! of them for as long as the stream is open, and here that is the first one, with the whole mesh in it. So each message
//! has a buffer of its own here, which goes with it.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::{Code, Status};

/// Largest message, as of the reference.
const LARGEST: usize = 200 << 20;
const HEAD: usize = 5;

/// The messages of a response.
#[derive(Debug)]
pub(super) struct Messages {
    body: Body,
    /// Came after the last message.
    rest: Bytes,
    frame: Deframer,
}

impl Messages {
    /// The messages that follow the head of a response, if there are any: it may be an error that ends the stream.
    pub(super) fn of(response: http::Response<Body>) -> Result<Self, Status> {
        if let Some(status) = status(response.headers()) {
            return Err(status);
        }
        let (head, body) = response.into_parts();
        let media = head.headers.get(http::header::CONTENT_TYPE).map(|value| value.as_bytes());
        if head.status != http::StatusCode::OK || !media.is_some_and(|media| media.starts_with(b"application/grpc")) {
            let text = format!("not a gRPC server, HTTP status {}", head.status);
            return Err(Status::unimplemented(text));
        }
        Ok(Self { body, rest: Bytes::new(), frame: Deframer::default() })
    }

    /// The next message; none when the server ended the stream without an error. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.frame.take(&mut self.rest)? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await.transpose()? else {
                return Err(Status::unknown("the stream ended without a status"));
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(frame) => {
                    let ended = frame.into_trailers().ok().and_then(|trailers| status(&trailers));
                    let ended = ended.unwrap_or_else(|| Status::unknown("the stream ended without a status"));
                    return if ended.code() == Code::Ok { Ok(None) } else { Err(ended) };
                }
            }
        }
    }
}

/// The status that headers or trailers carry. What they say of details is not looked at.
fn status(headers: &HeaderMap) -> Option<Status> {
    let code = Code::from_bytes(headers.get("grpc-status")?.as_bytes());
    let message = headers.get("grpc-message").map(|value| percent_decoded(value.as_bytes())).unwrap_or_default();
    Some(Status::new(code, message))
}

fn percent_decoded(mut text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        match rest {
            [high, low, after @ ..] if *first == b'%' => {
                if let (Some(high), Some(low)) = (hex(high), hex(low)) {
                    decoded.push(high << 4 | low);
                    text = after;
                    continue;
                }
                decoded.push(*first);
            }
            _ => decoded.push(*first),
        }
        text = rest;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
struct Deframer {
    head: [u8; HEAD],
    /// How much of the head has come.
    filled: usize,
    /// The message, when its head is complete, and what is missing of it.
    message: Option<(BytesMut, usize)>,
}

impl Deframer {
    /// Takes bytes from `data` until a message is complete or nothing is left.
    fn take(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, Status> {
        let (message, missing) = match &mut self.message {
            Some(message) => message,
            None => {
                let count = data.len().min(HEAD - self.filled);
                data.copy_to_slice(&mut self.head[self.filled..self.filled + count]);
                self.filled += count;
                if self.filled < HEAD {
                    return Ok(None);
                }
                let length = length(self.head)?;
                self.message.insert((BytesMut::with_capacity(length), length))
            }
        };
        let part = data.split_to(data.len().min(*missing));
        message.extend_from_slice(&part);
        *missing -= part.len();
        if *missing > 0 {
            return Ok(None);
        }
        self.filled = 0;
        Ok(self.message.take().map(|(message, _)| message.freeze()))
    }
}

fn length([flags, length @ ..]: [u8; HEAD]) -> Result<usize, Status> {
    if flags != 0 {
        return Err(Status::internal(format!("a message with flags {flags}, but no compression was asked for")));
    }
    match usize::try_from(u32::from_be_bytes(length)) {
        Ok(length) if length <= LARGEST => Ok(length),
        _ => Err(Status::out_of_range(format!("a message of more than {} MiB", LARGEST >> 20))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tonic::Code;

    use super::{Deframer, HeaderMap, percent_decoded, status};

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        messages
            .iter()
            .flat_map(|message| [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat())
            .collect()
    }

    proptest! {
        #[test]
        fn messages_come_out_whatever_the_pieces(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            size in 1usize..50,
        ) {
            let mut frame = Deframer::default();
            let mut found = Vec::new();
            for piece in framed(&messages).chunks(size) {
                let mut data = Bytes::copy_from_slice(piece);
                while let Some(message) = frame.take(&mut data).unwrap() {
                    found.push(message.to_vec());
                }
                prop_assert!(data.is_empty());
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn any_message_of_a_status_can_be_read(text in prop::collection::vec(any::<u8>(), 0..20)) {
            percent_decoded(&text);
        }
    }

    #[test]
    fn frames_that_are_none() {
        let take =
            |bytes: &'static [u8]| Deframer::default().take(&mut Bytes::from_static(bytes)).map_err(|e| e.code());
        assert_eq!(take(&[1, 0, 0, 0, 0]), Err(Code::Internal));
        assert_eq!(take(&[0, 0xff, 0, 0, 0]), Err(Code::OutOfRange));
        assert_eq!(take(&[0, 0, 0, 0, 0]), Ok(Some(Bytes::new())));
        assert_eq!(take(&[0, 0, 0, 0]), Ok(None));
    }

    #[test]
    fn statuses() {
        let read = |entries: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = entries.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            status(&headers).map(|status| (status.code(), status.message().to_owned()))
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("grpc-status", "0")]), Some((Code::Ok, String::new())));
        assert_eq!(
            read(&[("grpc-status", "16"), ("grpc-message", "no%20token%3A %e2%82%AC 5% %zz%")]),
            Some((Code::Unauthenticated, "no token: € 5% %zz%".to_owned()))
        );
        // tonic's own reader would panic at this.
        assert_eq!(
            read(&[("grpc-status", "2"), ("grpc-status-details-bin", "?")]),
            Some((Code::Unknown, String::new()))
        );
    }
}
