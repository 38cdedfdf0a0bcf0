//! Buffers for what is sent. HTTP/2 has one until its last byte has left; then it is handed on among the thread's streams, so
//! that bulk data always meets pages that are there already, and a quiet stream holds none.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};

/// Buffers that wait for whoever is next on the thread.
const SPARE: usize = 8;
/// Smaller ones cost less than keeping them.
const SMALLEST: usize = 4 << 10;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty one with room for at least `size` bytes.
pub fn lend(size: usize) -> BytesMut {
    let found = BUFFERS.with_borrow_mut(|spare| {
        let at = spare.iter().rposition(|buffer| buffer.capacity() >= size)?;
        Some(spare.swap_remove(at))
    });
    found.unwrap_or_else(|| BytesMut::with_capacity(size))
}

/// Takes one back, whatever is in it.
pub fn give_back(mut buffer: BytesMut) {
    if buffer.capacity() < SMALLEST {
        return;
    }
    buffer.clear();
    BUFFERS.with_borrow_mut(|spare| {
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    });
}

/// How much of one stream has been given to HTTP/2 and has not left.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Arc<AtomicUsize>);

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// These bytes are pending as long as somebody has them.
    pub(super) fn with(&self, data: BytesMut) -> Bytes {
        self.0.fetch_add(1, Relaxed);
        Bytes::from_owner(Piece { data, pending: self.clone() })
    }
}

#[derive(Debug)]
struct Piece {
    data: BytesMut,
    pending: Pending,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.pending.0.fetch_sub(1, Relaxed);
        give_back(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, BytesMut};

    use super::{BUFFERS, Pending, SMALLEST, SPARE, give_back, lend};

    fn spare() -> usize {
        BUFFERS.with_borrow(Vec::len)
    }

    #[test]
    fn what_has_left_is_handed_on() {
        let pending = Pending::default();
        let mut buffer = lend(64 << 10);
        buffer.extend_from_slice(b"some bytes");
        let place = buffer.as_ptr();
        let mut sent = pending.with(buffer);
        sent.advance(4);
        let rest = sent.split_off(3);
        drop(sent);
        assert!(!pending.is_empty() && spare() == 0, "a part of it is on its way");
        drop(rest);
        assert!(pending.is_empty());
        let next = lend(32 << 10);
        assert_eq!((next.as_ptr(), next.len()), (place, 0));
        assert!(lend(128 << 10).capacity() >= 128 << 10, "none is too small");
    }

    #[test]
    fn few_are_kept_and_no_small_ones() {
        give_back(BytesMut::with_capacity(SMALLEST - 1));
        assert_eq!(spare(), 0);
        (0..SPARE * 2).for_each(|_| give_back(BytesMut::with_capacity(SMALLEST)));
        assert_eq!(spare(), SPARE);
    }
}
