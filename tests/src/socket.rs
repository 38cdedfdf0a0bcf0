//! What tests do with TCP streams: known bytes, their digest, and ways to end a connection.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes moved at once.
pub const CHUNK: usize = 64 << 10;

/// Count and hash (FNV-1a over eight bytes at a time) of a stream of bytes; equal streams have equal digests whatever
/// the pieces they came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub bytes: u64,
    hash: u64,
    /// Bytes that do not fill a word yet.
    pending: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { bytes: 0, hash: 0xcbf2_9ce4_8422_2325, pending: 0 }
    }
}

impl Digest {
    pub fn update(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.bytes.is_multiple_of(8)
                && let Some((word, rest)) = data.split_first_chunk::<8>()
            {
                self.mix(u64::from_le_bytes(*word));
                self.bytes += 8;
                data = rest;
                continue;
            }
            self.pending |= u64::from(*first) << (8 * (self.bytes % 8));
            self.bytes += 1;
            if self.bytes.is_multiple_of(8) {
                let word = std::mem::take(&mut self.pending);
                self.mix(word);
            }
            data = rest;
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:016x}", self.bytes, self.hash ^ self.pending)
    }
}

/// Writes `length` bytes that look random and are the same each time; gives their digest.
pub fn pattern(to: &mut impl Write, length: u64) -> io::Result<Digest> {
    let (mut digest, mut state, mut buffer) = (Digest::default(), 0x9e37_79b9_7f4a_7c15_u64, vec![0; CHUNK]);
    let mut left = length;
    while left > 0 {
        for word in buffer.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        let piece = buffer.get(..left.min(CHUNK as u64) as usize).unwrap_or(&buffer);
        to.write_all(piece)?;
        digest.update(piece);
        left -= piece.len() as u64;
    }
    Ok(digest)
}

/// The digest of what [`pattern`] writes.
pub fn pattern_digest(length: u64) -> Digest {
    // Writing to nowhere cannot fail.
    pattern(&mut io::sink(), length).unwrap_or_default()
}

/// Reads to the end; gives the digest of what came.
pub fn drain(from: &mut impl Read) -> io::Result<Digest> {
    let (mut digest, mut buffer) = (Digest::default(), vec![0; CHUNK]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(digest),
            Ok(length) => digest.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An IPv4 address as it looks to an IPv6 socket: `::ffff:a.b.c.d`.
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Sends `text` and reads as many bytes back.
pub fn exchange(mut stream: &TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Reads to the end, as text.
pub fn read_text(mut stream: &TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Ends the connection with a reset instead of a FIN.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Orderly, with a FIN.
    Fin,
    /// With a reset.
    Reset,
}

/// By the other side, or by the kernel on somebody's behalf.
fn is_reset(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted)
}

/// Waits up to `limit` for the other side to end the connection; what it sends until then is thrown away.
pub fn ending(mut stream: &TcpStream, limit: Duration) -> io::Result<Ending> {
    let deadline = std::time::Instant::now() + limit;
    let mut buffer = vec![0; CHUNK];
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("still open after {limit:?}")));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Ending::Fin),
            Ok(_) => {}
            Err(error) if is_reset(error.kind()) => return Ok(Ending::Reset),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Digest, drain, pattern, pattern_digest};

    #[test]
    fn a_digest_does_not_depend_on_the_pieces() {
        let mut bytes = Vec::new();
        let written = pattern(&mut bytes, 100_003).unwrap();
        for size in [1, 3, 8, 1000, 65_536] {
            let mut digest = Digest::default();
            bytes.chunks(size).for_each(|piece| digest.update(piece));
            assert_eq!(digest, written, "pieces of {size}");
        }
        assert_eq!(drain(&mut &bytes[..]).unwrap(), written);
        assert_eq!(pattern_digest(100_003), written);
        bytes[50_000] ^= 1;
        assert_ne!(drain(&mut &bytes[..]).unwrap(), written);
        assert_ne!(drain(&mut &bytes[1..]).unwrap(), written);
    }
}
