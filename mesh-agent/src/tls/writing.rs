//! What goes to the wire, from data on: over buffers, without input or output.

use std::io::IoSlice;

use rustls::{ContentType, Error};

use super::buffer::Buffer;
use super::handshake::Keys;
use super::keys::{HEAD, MOST, OVERHEAD, RECORDS, Sealer};
use super::messages::NEW_KEY;

/// Room that is kept for records that carry no data: a new key, an alert.
const RESERVED: usize = 256;

/// One direction of a connection.
pub(super) struct Writing {
    sealer: Sealer,
    /// Records that one key may protect.
    records: u64,
    unsent: Option<Buffer>,
    /// The peer has changed its key and asked us to do so as well.
    owed: bool,
}

impl Writing {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self { sealer, records: RECORDS, unsent: None, owed: false }
    }

    /// Before the next data, our key is to change.
    pub(super) fn owe_new_key(&mut self) {
        self.owed = true;
    }

    /// What waits for the wire.
    pub(super) fn unsent(&self) -> &[u8] {
        self.unsent.as_ref().map_or(&[], Buffer::content)
    }

    /// `count` bytes of it have left.
    pub(super) fn sent(&mut self, count: usize) {
        if let Some(buffer) = &mut self.unsent {
            buffer.consume(count);
            if buffer.is_empty() {
                self.unsent = None;
            }
        }
    }

    /// Whether a whole record fits beside what waits.
    pub(super) fn has_room(&mut self) -> bool {
        self.unsent.as_mut().is_none_or(|buffer| room(buffer) == MOST)
    }

    /// Protects as much of `data` as there is room for, and tells how much that is.
    pub(super) fn seal(&mut self, data: &[IoSlice<'_>], keys: &mut Keys) -> Result<usize, Error> {
        let mut data = Pieces::of(data);
        while data.left > 0 {
            if self.owed || self.sealer.records() >= self.records {
                self.change_key(keys)?;
            }
            let buffer = self.unsent.get_or_insert_with(Buffer::lent);
            let room = room(buffer);
            // Something is taken: none is what a closed connection takes.
            if data.taken > 0 && room < data.left.min(MOST) {
                break;
            }
            let sealed = match data.next(room) {
                Piece::Whole(piece) => self.sealer.seal(ContentType::ApplicationData, piece, buffer.space())?,
                Piece::Several(count) => {
                    data.copy(&mut buffer.space()[HEAD..HEAD + count]);
                    self.sealer.seal_in_place(ContentType::ApplicationData, count, buffer.space())?
                }
            };
            buffer.filled(sealed);
        }
        Ok(data.taken)
    }

    /// Says something that is not data, if there is room for it.
    pub(super) fn say(&mut self, kind: ContentType, words: &[u8]) -> Result<Spoken, Error> {
        let buffer = self.unsent.get_or_insert_with(Buffer::lent);
        if buffer.space().len() < words.len() + OVERHEAD {
            return Ok(Spoken::NoRoom);
        }
        let sealed = self.sealer.seal(kind, words, buffer.space())?;
        buffer.filled(sealed);
        Ok(Spoken::Yes)
    }

    pub(super) fn change_key(&mut self, keys: &mut Keys) -> Result<(), Error> {
        if self.say(ContentType::Handshake, &NEW_KEY)? == Spoken::NoRoom {
            // What room is kept for does not fit: a key that nobody was told of would end the connection at the peer.
            return Err(Error::EncryptError);
        }
        self.sealer = Sealer::new(keys.next_to_write()?)?;
        self.owed = false;
        Ok(())
    }

    /// Changes the key after `records` records.
    #[cfg(test)]
    pub(super) fn wear_after(&mut self, records: u64) {
        self.records = records;
    }
}

/// Whether a word found room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Yes,
    NoRoom,
}

/// What the next record may carry.
fn room(buffer: &mut Buffer) -> usize {
    buffer.space().len().saturating_sub(OVERHEAD + RESERVED).min(MOST)
}

/// Data in pieces, and how much of it has been taken.
pub(super) struct Pieces<'a> {
    pieces: &'a [IoSlice<'a>],
    /// Where the rest begins in the first piece.
    at: usize,
    pub(super) taken: usize,
    pub(super) left: usize,
}

/// What one record carries.
pub(super) enum Piece<'a> {
    /// It is in one piece.
    Whole(&'a [u8]),
    /// So many bytes of several; they are still to be copied.
    Several(usize),
}

impl<'a> Pieces<'a> {
    pub(super) fn of(pieces: &'a [IoSlice<'a>]) -> Self {
        Self { pieces, at: 0, taken: 0, left: pieces.iter().map(|piece| piece.len()).sum() }
    }

    /// The next record's, of at most `room` bytes. A record that has to be put together takes no more of a large piece than
    /// makes whole records of the rest of it, which are protected from where they are.
    pub(super) fn next(&mut self, room: usize) -> Piece<'a> {
        while self.pieces.first().is_some_and(|piece| piece.len() == self.at) {
            (self.pieces, self.at) = (&self.pieces[1..], 0);
        }
        let Some((first, others)) = self.pieces.split_first() else { return Piece::Whole(&[]) };
        let first = &first[self.at..];
        if first.len() >= room || first.len() == self.left {
            let count = first.len().min(room);
            self.taken(count);
            self.at += count;
            return Piece::Whole(&first[..count]);
        }
        let mut count = first.len();
        for piece in others {
            let whole = piece.len() <= room - count;
            count += if whole { piece.len() } else { (piece.len() % MOST).min(room - count) };
            if !whole {
                break;
            }
        }
        Piece::Several(count)
    }

    /// Takes as many bytes as `out` has room for.
    pub(super) fn copy(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let piece = &self.pieces[0][self.at..];
            let count = piece.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&piece[..count]);
            done += count;
            self.at += count;
            if self.at == self.pieces[0].len() {
                (self.pieces, self.at) = (&self.pieces[1..], 0);
            }
        }
        self.taken(done);
    }

    fn taken(&mut self, count: usize) {
        self.taken += count;
        self.left -= count;
    }
}
