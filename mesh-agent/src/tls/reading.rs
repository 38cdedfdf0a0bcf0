//! What comes from the wire, until it is data: over buffers, without input or output.

use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerMisbehaved, Side};
use tokio::io::ReadBuf;

use super::buffer::Buffer;
use super::keys::{Frame, HEAD, Opened, Opener};
use super::messages::{Messages, Said, Whose, inappropriate};

/// One direction of a connection.
pub(super) struct Reading {
    opener: Opener,
    messages: Messages,
    unread: Option<Buffer>,
    /// Of the unread bytes, those at the front that were opened where they are.
    opened: Option<InPlace>,
    /// Whether the peer has said its last word.
    closed: bool,
}

/// Data, and what is left of its record behind it.
#[derive(Clone, Copy, Debug)]
struct InPlace {
    data: usize,
    tail: usize,
}

/// What is next in what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Data, maybe none, which is in the reader's buffer now.
    Data,
    /// Less than a record.
    TooLittle,
    /// From the next record on.
    NewKeys(Whose),
    /// The peer has said that it will say no more.
    Closed,
}

impl Reading {
    /// `early` is what came with the end of the handshake.
    pub(super) fn new(opener: Opener, side: Side, early: &[u8]) -> Self {
        let unread = (!early.is_empty()).then(|| Buffer::holding(early));
        Self { opener, messages: Messages::new(side), unread, opened: None, closed: false }
    }

    /// From now on the peer uses another key.
    pub(super) fn renew(&mut self, secrets: (u64, ConnectionTrafficSecrets)) -> Result<(), Error> {
        self.opener = Opener::new(secrets)?;
        Ok(())
    }

    /// Room for what comes, behind what is there.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let mut buffer = match self.unread.take() {
            Some(buffer) if buffer.is_lent() => buffer,
            Some(rest) => {
                let mut buffer = Buffer::lent();
                buffer.space()[..rest.content().len()].copy_from_slice(rest.content());
                buffer.filled(rest.content().len());
                buffer
            }
            None => Buffer::lent(),
        };
        buffer.compact();
        self.unread.insert(buffer).space()
    }

    /// `count` bytes have come. Whoever gets none waits, and holds no more memory than it needs for what it has.
    pub(super) fn received(&mut self, count: usize) {
        let Some(buffer) = &mut self.unread else { return };
        buffer.filled(count);
        if count == 0 {
            self.unread = (!buffer.is_empty()).then(|| Buffer::holding(buffer.content()));
        }
    }

    /// Whether the next record is there, and `room` bytes are enough to open it elsewhere.
    pub(super) fn fits(&self, room: usize) -> bool {
        let next = self.unread.as_ref().and_then(|buffer| Frame::of(buffer.content()).ok().flatten());
        self.opened.is_none() && next.is_some_and(|frame| frame.room() <= room)
    }

    /// Takes the next record, or what is left of one.
    pub(super) fn next(&mut self, out: &mut ReadBuf<'_>) -> Result<Next, Error> {
        if let Some(opened) = self.opened {
            self.take(opened, out);
            return Ok(Next::Data);
        }
        if self.closed {
            return Ok(Next::Closed);
        }
        let Some(buffer) = &mut self.unread else { return Ok(Next::TooLittle) };
        let Some(frame) = Frame::of(buffer.content())? else { return Ok(Next::TooLittle) };
        if frame.room() > out.remaining() {
            return self.open_in_place(frame, out);
        }
        let place = out.initialize_unfilled_to(frame.room());
        let Opened { kind, length } = self.opener.open(frame, buffer.content(), place)?;
        let next = understand(&mut self.messages, kind, &place[..length])?;
        if next == Next::Data && kind == ContentType::ApplicationData {
            out.advance(length);
        }
        self.closed = next == Next::Closed;
        self.consume(frame.length());
        Ok(next)
    }

    fn open_in_place(&mut self, frame: Frame, out: &mut ReadBuf<'_>) -> Result<Next, Error> {
        let Some(buffer) = &mut self.unread else { return Ok(Next::TooLittle) };
        let Opened { kind, length } = self.opener.open_in_place(frame, buffer.content_mut())?;
        let next = understand(&mut self.messages, kind, &buffer.content()[HEAD..HEAD + length])?;
        if kind == ContentType::ApplicationData {
            buffer.consume(HEAD);
            self.take(InPlace { data: length, tail: frame.length() - HEAD - length }, out);
        } else {
            self.closed = next == Next::Closed;
            self.consume(frame.length());
        }
        Ok(next)
    }

    fn take(&mut self, InPlace { data, tail }: InPlace, out: &mut ReadBuf<'_>) {
        let Some(buffer) = &self.unread else { return };
        let count = data.min(out.remaining());
        out.put_slice(&buffer.content()[..count]);
        let all = count == data;
        self.opened = (!all).then_some(InPlace { data: data - count, tail });
        self.consume(if all { count + tail } else { count });
    }

    fn consume(&mut self, count: usize) {
        if let Some(buffer) = &mut self.unread {
            buffer.consume(count);
            if buffer.is_empty() {
                self.unread = None;
            }
        }
    }
}

/// What a record of `kind` means.
#[expect(clippy::wildcard_enum_match_arm, reason = "an open set, of which a few mean something here")]
fn understand(messages: &mut Messages, kind: ContentType, content: &[u8]) -> Result<Next, Error> {
    if messages.within() && kind != ContentType::Handshake {
        return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
    }
    match kind {
        ContentType::ApplicationData => {
            messages.data(content.len())?;
            Ok(Next::Data)
        }
        ContentType::Handshake => Ok(match messages.read(content)? {
            Said::Nothing => Next::Data,
            Said::NewKeys(whose) => Next::NewKeys(whose),
        }),
        ContentType::Alert => alert(messages, content),
        other => Err(inappropriate(other)),
    }
}

/// RFC 8446, section 6: all but two are fatal, whatever level they claim.
#[expect(clippy::wildcard_enum_match_arm, reason = "an open set, of which a few mean something here")]
fn alert(messages: &mut Messages, content: &[u8]) -> Result<Next, Error> {
    let [_, description] = content else { return Err(Error::InvalidMessage(InvalidMessage::MissingData("alert"))) };
    match AlertDescription::from(*description) {
        AlertDescription::CloseNotify => Ok(Next::Closed),
        AlertDescription::UserCanceled => messages.data(0).map(|()| Next::Data),
        description => Err(Error::AlertReceived(description)),
    }
}
