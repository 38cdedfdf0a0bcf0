//! A connection past its handshake: reading and writing it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ContentType, Error, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handshake::{Keys, failed};
use super::messages::Whose;
use super::reading::{Next, Reading};
use super::writing::{Spoken, Writing};
use crate::task::Turn;

/// See the module. What is written leaves with the next flush, or when a buffer is full. One task both reads and writes it:
/// a word that reading has to say wakes whoever read.
pub struct Stream<T> {
    io: T,
    reading: Reading,
    writing: Writing,
    keys: Keys,
    state: State,
    turn: Turn,
}

#[derive(Debug)]
enum State {
    Open,
    /// We have said that we will say no more.
    Ending,
    Failed(Error),
}

impl<T: std::fmt::Debug> std::fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("io", &self.io).field("state", &self.state).finish_non_exhaustive()
    }
}

impl<T> Stream<T> {
    pub(super) fn new(io: T, reading: Reading, writing: Writing, keys: Keys) -> Self {
        Self { io, reading, writing, keys, state: State::Open, turn: Turn::default() }
    }

    fn renew(&mut self, whose: Whose) -> Result<(), Error> {
        self.reading.renew(self.keys.next_to_read()?)?;
        if whose == Whose::Both {
            self.writing.owe_new_key();
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn writing(&mut self) -> &mut Writing {
        &mut self.writing
    }

    /// Announces `count` new keys.
    #[cfg(test)]
    pub(super) fn change_keys(&mut self, count: usize) {
        (0..count).for_each(|_| self.writing.change_key(&mut self.keys).unwrap());
    }

    /// The same over something else, and what it went over.
    #[cfg(test)]
    pub(super) fn over<O>(self, io: O) -> (T, Stream<O>) {
        let Self { io: former, reading, writing, keys, state, turn } = self;
        (former, Stream { io, reading, writing, keys, state, turn })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.turn.poll(cx));
        let mut space = ReadBuf::new(self.reading.space());
        let result = Pin::new(&mut self.io).poll_read(cx, &mut space);
        let count = space.filled().len();
        self.reading.received(count);
        if result.is_pending() {
            self.turn.begin();
        }
        ready!(result)?;
        self.turn.moved(count);
        if count == 0 {
            let text = "peer closed connection without sending TLS close_notify";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.writing.unsent().is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.writing.unsent()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.writing.sent(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing is read or written any more; the peer hears why, if its socket takes the word at once.
    fn fail(&mut self, error: Error, cx: &mut Context<'_>) {
        if !matches!(error, Error::AlertReceived(_)) && matches!(self.state, State::Open) {
            // Whatever hinders this is no worse than what has happened already.
            if matches!(self.writing.say(ContentType::Alert, &[FATAL, description(&error).into()]), Ok(Spoken::Yes)) {
                let _sent = self.poll_send(cx);
            }
        }
        self.state = State::Failed(error);
    }

    /// One step of reading: an end of it, or another one follows. The wire is read for a reader that has nothing yet,
    /// whose buffer had `before` bytes in it.
    fn advance(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>, before: usize) -> Result<Step, Error> {
        Ok(match self.reading.next(out)? {
            Next::Data => Step::Again,
            Next::NewKeys(whose) => {
                self.renew(whose)?;
                Step::Again
            }
            Next::Closed => Step::Over,
            Next::TooLittle if out.filled().len() > before => Step::Over,
            Next::TooLittle => match self.poll_fill(cx) {
                Poll::Ready(Ok(())) => Step::Again,
                Poll::Ready(Err(error)) => Step::Broken(error),
                Poll::Pending => Step::Wait,
            },
        })
    }
}

enum Step {
    Again,
    Over,
    Wait,
    Broken(io::Error),
}

/// The level of every alert but two (RFC 8446, section 6).
const FATAL: u8 = 2;
const WARNING: u8 = 1;

#[expect(clippy::wildcard_enum_match_arm, reason = "an open set, of which a few mean something here")]
fn description(error: &Error) -> AlertDescription {
    match error {
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        // Of a key update only the value is of this kind (RFC 8446, section 4.6.3).
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => AlertDescription::IllegalParameter,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } | Error::PeerMisbehaved(_) => {
            AlertDescription::UnexpectedMessage
        }
        _ => AlertDescription::InternalError,
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let State::Failed(error) = &self.state {
            return Poll::Ready(Err(failed(error.clone())));
        }
        let before = out.filled().len();
        while out.remaining() > 0 {
            let empty = out.filled().len() == before;
            if !empty && !self.reading.fits(out.remaining()) {
                break;
            }
            match self.advance(cx, out, before) {
                Ok(Step::Again) => {}
                Ok(Step::Over) => break,
                Ok(Step::Wait) => return Poll::Pending,
                Ok(Step::Broken(error)) => return Poll::Ready(Err(error)),
                Err(error) => {
                    self.fail(error.clone(), cx);
                    // What came before it is good.
                    if empty {
                        return Poll::Ready(Err(failed(error)));
                    }
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.state {
            State::Open => {}
            State::Ending => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            State::Failed(error) => return Poll::Ready(Err(failed(error.clone()))),
        }
        if !self.writing.has_room() {
            ready!(self.poll_send(cx))?;
        }
        let this = &mut *self;
        Poll::Ready(this.writing.seal(data, &mut this.keys).map_err(failed))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Open) {
            let words = [WARNING, AlertDescription::CloseNotify.into()];
            self.writing.say(ContentType::Alert, &words).map_err(failed)?;
            self.state = State::Ending;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
