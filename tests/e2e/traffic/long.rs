//! A long stream of bytes of which each has its place: a block of bytes over and over, each time behind its number.
//! It is compared byte by byte with what it should be, which is faster than hashing, and tells where it differs.

use std::io::{self, Read, Write};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket;

/// Bytes of the repeated block. No power of two, so that it meets buffers and frames at every offset.
const BLOCK: usize = 1_000_003;
const NUMBER: usize = 8;
/// Bytes moved at once.
const CHUNK: usize = 256 << 10;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(BLOCK);
    // Writing to memory cannot fail.
    socket::pattern(&mut bytes, BLOCK as u64).ok();
    bytes
});

/// A place in the stream.
#[derive(Debug, Default)]
pub(super) struct Long {
    at: u64,
}

/// Bytes of the stream that are next to each other in memory.
enum Piece {
    Number([u8; NUMBER], usize, usize),
    Block(usize, usize),
}

impl Long {
    /// Sends the next `length` bytes.
    pub(super) fn send(&mut self, mut to: impl Write, length: u64) -> io::Result<()> {
        let end = self.at + length;
        while self.at < end {
            let piece = self.piece(end - self.at);
            to.write_all(piece.bytes())?;
            self.at += piece.bytes().len() as u64;
        }
        Ok(())
    }

    /// Reads `length` bytes and compares them.
    pub(super) fn receive(&mut self, mut from: impl Read, length: u64) -> Result<()> {
        let (end, mut buffer) = (self.at + length, vec![0; CHUNK]);
        while self.at < end {
            let most = usize::try_from(end - self.at).unwrap_or(CHUNK).min(CHUNK);
            let room = buffer.get_mut(..most).unwrap_or_default();
            let read = from.read(room).with_context(|| format!("after {} of {end} bytes", self.at))?;
            ensure!(read > 0, "it ended after {} of {end} bytes", self.at);
            self.check(buffer.get(..read).unwrap_or_default())?;
        }
        Ok(())
    }

    fn check(&mut self, mut got: &[u8]) -> Result<()> {
        while !got.is_empty() {
            let piece = self.piece(got.len() as u64);
            let (bytes, rest) = got.split_at(piece.bytes().len());
            ensure!(bytes == piece.bytes(), "wrong bytes among the {} from {} on", bytes.len(), self.at);
            self.at += bytes.len() as u64;
            got = rest;
        }
        Ok(())
    }

    /// What comes next, at most `most` bytes of it.
    fn piece(&self, most: u64) -> Piece {
        let period = (NUMBER + BLOCK) as u64;
        let (number, offset) = (self.at / period, usize::try_from(self.at % period).unwrap_or_default());
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        match offset.checked_sub(NUMBER) {
            None => Piece::Number(number.to_be_bytes(), offset, most.min(NUMBER - offset)),
            Some(start) => Piece::Block(start, most.min(BLOCK - start)),
        }
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        let (all, start, length) = match self {
            Self::Number(bytes, start, length) => (&bytes[..], *start, *length),
            Self::Block(start, length) => (BYTES.as_slice(), *start, *length),
        };
        all.get(start..start + length).unwrap_or_default()
    }
}
