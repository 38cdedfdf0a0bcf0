//! The messages, as bytes of protobuf.

use anyhow::{Context, Result};

/// Version 1: what a proxy begins with.
pub const HELLO: [u8; 2] = [0x08, 1];

/// Field numbers.
mod field {
    pub(super) const REQUEST_ADD: u8 = 1;
    pub(super) const REQUEST_DEL: u8 = 2;
    pub(super) const REQUEST_SNAPSHOT_SENT: u8 = 3;
    pub(super) const REQUEST_KEEP: u8 = 5;
    pub(super) const ADD_UID: u8 = 1;
    pub(super) const ADD_INFO: u8 = 2;
    pub(super) const DEL_UID: u8 = 2;
    pub(super) const KEEP_UID: u8 = 1;
    /// Name, namespace and service account.
    pub(super) const INFO: [u8; 3] = [1, 2, 3];
    pub(super) const RESPONSE_ACK: u8 = 1;
    pub(super) const ACK_ERROR: u8 = 1;
}

/// A pod to serve; `info` is its name, namespace and service account.
pub fn add(uid: &str, info: Option<[&str; 3]>) -> Vec<u8> {
    let mut add = embedded(field::ADD_UID, uid.as_bytes());
    if let Some(info) = info {
        let fields = field::INFO.iter().zip(info).map(|(number, text)| embedded(*number, text.as_bytes()));
        add.extend(embedded(field::ADD_INFO, &fields.collect::<Vec<_>>().concat()));
    }
    embedded(field::REQUEST_ADD, &add)
}

pub fn keep(uid: &str) -> Vec<u8> {
    embedded(field::REQUEST_KEEP, &embedded(field::KEEP_UID, uid.as_bytes()))
}

pub fn del(uid: &str) -> Vec<u8> {
    embedded(field::REQUEST_DEL, &embedded(field::DEL_UID, uid.as_bytes()))
}

pub fn snapshot_sent() -> Vec<u8> {
    embedded(field::REQUEST_SNAPSHOT_SENT, &[])
}

/// What an answer complains about; nothing, if all is well.
pub fn refusal(response: &[u8]) -> Result<Option<String>> {
    let ack = content(field::RESPONSE_ACK, response).context("no acknowledgement")?;
    if ack.is_empty() {
        return Ok(None);
    }
    let error = content(field::ACK_ERROR, ack).context("an acknowledgement with something else than an error")?;
    Ok((!error.is_empty()).then(|| String::from_utf8_lossy(error).into_owned()))
}

/// A length-delimited field.
fn embedded(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

/// The content of the only field, if its number is this one.
fn content(number: u8, message: &[u8]) -> Option<&[u8]> {
    let mut rest = message.strip_prefix(&[number << 3 | 2])?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (rest.len() == length).then_some(rest);
        }
        // No length in a packet has more than two bytes.
        if shift > 7 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_protobuf_has_them() {
        assert_eq!(snapshot_sent(), b"\x1a\x00");
        assert_eq!(keep("u"), b"\x2a\x03\x0a\x01u");
        assert_eq!(del("u"), b"\x12\x03\x12\x01u");
        assert_eq!(add("u", None), b"\x0a\x03\x0a\x01u");
        assert_eq!(add("u", Some(["a", "ns", "sa"])), b"\x0a\x10\x0a\x01u\x12\x0b\x0a\x01a\x12\x02ns\x1a\x02sa");
        assert_eq!(del(&"u".repeat(200))[..6], *b"\x12\xcb\x01\x12\xc8\x01");
    }

    #[test]
    fn an_acknowledgement_with_an_error_is_a_refusal() {
        assert_eq!(refusal(&[0x0a, 0]).unwrap(), None);
        assert_eq!(refusal(b"\x0a\x05\x0a\x03bad").unwrap().as_deref(), Some("bad"));
        let long = "x".repeat(200);
        let message = [b"\x0a\xcb\x01\x0a\xc8\x01", long.as_bytes()].concat();
        assert_eq!(refusal(&message).unwrap(), Some(long));
        for wrong in [&b""[..], b"\x12\x00", b"\x0a\x05\x0a", b"\x0a\x02\x12\x00", b"\x0a\xff\xff\xff\xff\x01"] {
            assert!(refusal(wrong).is_err(), "{wrong:?}");
        }
    }
}
