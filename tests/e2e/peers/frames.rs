//! HTTP/2 frames by hand (RFC 9113), for what no client library would send.

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const CANCEL: u32 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal header field with an indexed name, in the form that needs no Huffman code (RFC 7541, section 6.2.2).
fn field(name: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![name, u8::try_from(value.len()).unwrap_or(127)];
    field.extend(value);
    field
}

/// The head of a CONNECT: `:method` and `:authority` have the indexes 2 and 1.
fn head(authority: &str) -> Vec<u8> {
    [field(2, b"CONNECT"), field(1, authority.as_bytes())].concat()
}

pub(super) fn connect(stream: u32, authority: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(authority))
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub(super) fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

pub(super) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

/// A CONNECT whose head does not end yet.
pub(super) fn unfinished_connect(stream: u32, authority: &str) -> Vec<u8> {
    frame(HEADERS, 0, stream, &head(authority))
}

/// More of an unfinished head: `count` fields of 100 bytes, none of which is the last.
pub(super) fn continuation(stream: u32, count: usize) -> Vec<u8> {
    // A new name each time: a literal without an index, then its name and value.
    let mut more = vec![0, 1, b'x', 100];
    more.extend([b'y'; 100]);
    frame(CONTINUATION, 0, stream, &more.repeat(count))
}
