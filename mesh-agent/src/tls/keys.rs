//! The protection of records (RFC 8446, section 5.2), one direction each.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use rustls::crypto::cipher::{Iv, Nonce as Numbered};
use rustls::{ConnectionTrafficSecrets, ContentType, Error};

use super::messages::inappropriate;

/// Bytes of a record's head: type, version, length.
pub(super) const HEAD: usize = 5;
/// Most bytes that a record carries.
pub(super) const MOST: usize = 1 << 14;
/// Bytes of a record besides what it carries: head, inner type, tag.
pub(super) const OVERHEAD: usize = HEAD + 1 + TAG;

const TAG: usize = 16;
/// What may follow a head (section 5.2: 2^14 + 256).
const MOST_PROTECTED: usize = MOST + 256;
/// The version that every protected record claims (section 5.2).
const VERSION: [u8; 2] = [3, 3];

/// Records that AES-GCM may protect with one key: 2^24, below section 5.5's limit of 2^24.5 full ones.
pub(super) const RECORDS: u64 = 1 << 24;

type Secrets = (u64, ConnectionTrafficSecrets);

struct Key {
    aead: LessSafeKey,
    iv: Iv,
    /// Of the next record.
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): Secrets) -> Result<Self, Error> {
        use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
        let (algorithm, key, iv) = match secrets {
            Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher suite whose records we cannot protect".to_owned())),
        };
        let unusable = |_: Unspecified| Error::General("a key of the wrong length".to_owned());
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).map_err(unusable)?);
        Ok(Self { aead, iv, sequence })
    }

    /// Each is used once: the sequence number only grows, and ends before it would start again.
    fn nonce(&mut self) -> Result<Nonce, Error> {
        let next = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        let nonce = Numbered::new(&self.iv, self.sequence);
        self.sequence = next;
        Ok(Nonce::assume_unique_for_key(nonce.0))
    }
}

/// Protects what is sent.
pub(super) struct Sealer {
    key: Key,
}

impl Sealer {
    pub(super) fn new(secrets: Secrets) -> Result<Self, Error> {
        Ok(Self { key: Key::new(secrets)? })
    }

    /// Records that its key has protected.
    pub(super) fn records(&self) -> u64 {
        self.key.sequence
    }

    /// Writes a record that carries `plain`, at most [`MOST`] bytes, to the front of `out`, and tells how long it is.
    pub(super) fn seal(&mut self, kind: ContentType, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (head, cipher, tail) = parts(out, plain.len());
        let nonce = self.key.nonce()?;
        let sealed =
            self.key.aead.seal_out_of_place_scatter(nonce, Aad::from(head), plain, cipher, &[kind.into()], tail);
        sealed.map_err(|Unspecified| Error::EncryptError)?;
        Ok(plain.len() + OVERHEAD)
    }

    /// As [`Sealer::seal`], of `length` bytes that are already where they go: [`HEAD`] bytes after the front of `out`.
    pub(super) fn seal_in_place(&mut self, kind: ContentType, length: usize, out: &mut [u8]) -> Result<usize, Error> {
        let (head, text, tail) = parts(out, length);
        let nonce = self.key.nonce()?;
        let sealed = self.key.aead.seal_in_place_scatter(nonce, Aad::from(head), text, &[kind.into()], tail);
        sealed.map_err(|Unspecified| Error::EncryptError)?;
        Ok(length + OVERHEAD)
    }
}

/// Writes the head of a record that carries `length` bytes, and finds the places of its bytes, and of inner type and tag.
fn parts(out: &mut [u8], length: usize) -> ([u8; HEAD], &mut [u8], &mut [u8]) {
    // At most MOST_PROTECTED, which fits.
    let protected = (length + 1 + TAG) as u16;
    let [high, low] = protected.to_be_bytes();
    let head = [ContentType::ApplicationData.into(), VERSION[0], VERSION[1], high, low];
    let (place, rest) = out[..length + OVERHEAD].split_at_mut(HEAD);
    place.copy_from_slice(&head);
    let (text, tail) = rest.split_at_mut(length);
    (head, text, tail)
}

/// Where a record is in a buffer that begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    head: [u8; HEAD],
    /// Bytes after the head.
    protected: usize,
}

impl Frame {
    /// The record at the front of `bytes`, once all of it is there.
    pub(super) fn of(bytes: &[u8]) -> Result<Option<Self>, Error> {
        let Some(&head) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let frame = Self { head, protected: usize::from(u16::from_be_bytes([head[3], head[4]])) };
        if frame.protected > MOST_PROTECTED {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok((bytes.len() >= frame.length()).then_some(frame))
    }

    /// With its head.
    pub(super) fn length(self) -> usize {
        HEAD + self.protected
    }

    /// Room that is needed to open it elsewhere: what it carries, its inner type, its padding.
    pub(super) fn room(self) -> usize {
        self.protected.saturating_sub(TAG)
    }
}

/// What a record turned out to carry: the first `length` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) kind: ContentType,
    pub(super) length: usize,
}

/// Opens what is received.
pub(super) struct Opener {
    key: Key,
}

impl Opener {
    pub(super) fn new(secrets: Secrets) -> Result<Self, Error> {
        Ok(Self { key: Key::new(secrets)? })
    }

    /// Opens the record at the front of `bytes` into `out`, which has at least [`Frame::room`] bytes.
    pub(super) fn open(&mut self, frame: Frame, bytes: &[u8], out: &mut [u8]) -> Result<Opened, Error> {
        let nonce = self.begin(frame)?;
        let (cipher, tag) = bytes[HEAD..frame.length()].split_at(frame.room());
        let out = &mut out[..cipher.len()];
        let opened = self.key.aead.open_separate_gather(nonce, Aad::from(frame.head), cipher, tag, out);
        opened.map_err(|Unspecified| Error::DecryptError)?;
        inner(out)
    }

    /// Opens the record at the front of `bytes` where it is: what it carries is [`HEAD`] bytes after the front.
    pub(super) fn open_in_place(&mut self, frame: Frame, bytes: &mut [u8]) -> Result<Opened, Error> {
        let nonce = self.begin(frame)?;
        let body = &mut bytes[HEAD..frame.length()];
        let opened = self.key.aead.open_in_place(nonce, Aad::from(frame.head), body);
        inner(opened.map_err(|Unspecified| Error::DecryptError)?)
    }

    fn begin(&mut self, frame: Frame) -> Result<Nonce, Error> {
        let kind = ContentType::from(frame.head[0]);
        if kind != ContentType::ApplicationData {
            // Unprotected alerts are nobody's, too: anyone on the way could send them.
            return Err(inappropriate(kind));
        }
        if frame.protected <= TAG {
            return Err(Error::DecryptError);
        }
        self.key.nonce()
    }
}

/// Padding is zeros after the inner type (section 5.4). Of a record that is nothing else the type is none.
fn inner(plain: &[u8]) -> Result<Opened, Error> {
    if plain.len() > MOST + 1 {
        return Err(Error::PeerSentOversizedRecord);
    }
    let length = plain.iter().rposition(|byte| *byte != 0).unwrap_or_default();
    let kind = plain.get(length).copied().unwrap_or_default().into();
    Ok(Opened { kind, length })
}
