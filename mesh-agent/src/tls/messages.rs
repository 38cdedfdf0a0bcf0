//! What a peer may say after the handshake besides data (RFC 8446, section 4.6): new keys, and tickets, which nobody wants.

use rustls::{ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved, Side};

/// Bytes of a handshake message's head: type and length.
const HEAD: usize = 4;
/// New keys in a row, without data in between. Each costs us a derivation.
const UPDATES: u8 = 32;
/// Records without data in a row, as rustls has it. Tickets are such records, too.
const EMPTY: u8 = 32;
/// Bytes of a ticket. rustls takes no longer message, either.
const TICKET: usize = 0xffff;

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing that asks for anything.
    Nothing,
    /// From the next record on the peer uses its next key.
    NewKeys(Whose),
}

/// Who changes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    ThePeers,
    /// It asks us to follow.
    Both,
}

/// Reads handshake messages, which may be spread over records.
#[derive(Debug)]
pub(super) struct Messages {
    /// Which end we are.
    side: Side,
    at: At,
    updates: u8,
    /// Records without any data.
    empty: u8,
}

#[derive(Debug)]
enum At {
    Head {
        bytes: [u8; HEAD],
        have: usize,
    },
    /// Within a ticket: bytes of it that are still to come.
    Ticket(usize),
    Update,
}

const START: At = At::Head { bytes: [0; HEAD], have: 0 };

impl Messages {
    pub(super) fn new(side: Side) -> Self {
        Self { side, at: START, updates: 0, empty: 0 }
    }

    /// Whether a message has begun and not ended: nothing else may come.
    pub(super) fn within(&self) -> bool {
        !matches!(self.at, At::Head { have: 0, .. })
    }

    /// So much data has come. None is allowed a few times in a row: each costs us as much as data does.
    pub(super) fn data(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes > 0 {
            (self.updates, self.empty) = (0, 0);
            return Ok(());
        }
        self.empty += 1;
        if self.empty > EMPTY { Err(PeerMisbehaved::TooManyEmptyFragments.into()) } else { Ok(()) }
    }

    /// Reads what one record carries.
    pub(super) fn read(&mut self, mut record: &[u8]) -> Result<Said, Error> {
        if record.is_empty() {
            return Err(Error::InvalidMessage(InvalidMessage::InvalidEmptyPayload));
        }
        let mut said = Said::Nothing;
        while let Some((&byte, rest)) = record.split_first() {
            if said != Said::Nothing {
                // What follows would be under the former key and is not (section 5.1).
                return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
            }
            match &mut self.at {
                At::Head { bytes, have } => {
                    bytes[*have] = byte;
                    *have += 1;
                    record = rest;
                    if *have == HEAD {
                        self.at = begin(self.side, *bytes)?;
                    }
                }
                At::Ticket(left) => {
                    let count = record.len().min(*left);
                    *left -= count;
                    record = &record[count..];
                    if *left == 0 {
                        self.at = START;
                    }
                }
                At::Update => {
                    said = self.update(byte)?;
                    record = rest;
                    self.at = START;
                }
            }
        }
        if said == Said::Nothing {
            self.data(0)?;
        }
        Ok(said)
    }

    fn update(&mut self, request: u8) -> Result<Said, Error> {
        self.updates += 1;
        if self.updates > UPDATES {
            return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        }
        match request {
            0 => Ok(Said::NewKeys(Whose::ThePeers)),
            1 => Ok(Said::NewKeys(Whose::Both)),
            _ => Err(InvalidMessage::InvalidKeyUpdate.into()),
        }
    }
}

/// What a head announces.
fn begin(side: Side, [kind, length @ ..]: [u8; HEAD]) -> Result<At, Error> {
    let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    match (HandshakeType::from(kind), side) {
        (HandshakeType::KeyUpdate, _) if length == 1 => Ok(At::Update),
        (HandshakeType::KeyUpdate, _) => Err(InvalidMessage::MessageTooLarge.into()),
        (HandshakeType::NewSessionTicket, Side::Client) if length == 0 => {
            Err(InvalidMessage::MissingData("ticket").into())
        }
        (HandshakeType::NewSessionTicket, Side::Client) if length > TICKET => {
            Err(InvalidMessage::HandshakePayloadTooLarge.into())
        }
        (HandshakeType::NewSessionTicket, Side::Client) => Ok(At::Ticket(length)),
        (got_type, _) => {
            let expect_types = vec![HandshakeType::KeyUpdate];
            Err(Error::InappropriateHandshakeMessage { expect_types, got_type })
        }
    }
}

/// The message by which we announce our next key, without asking for the peer's.
pub(super) const NEW_KEY: [u8; 5] = [24, 0, 0, 1, 0];

/// A record of another kind than data, alert or handshake message.
pub(super) fn inappropriate(got_type: ContentType) -> Error {
    let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
    Error::InappropriateMessage { expect_types, got_type }
}
