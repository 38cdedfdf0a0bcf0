//! Memory for the bytes of the wire. A connection has a buffer only while there is something in it: the thread's
//! connections hand a few of them on to each other, so that bulk data always meets pages that are there already.

use std::cell::RefCell;
use std::mem;

/// Bytes of a buffer: a dozen records, read or written with one system call.
pub(super) const SIZE: usize = 256 << 10;
/// Buffers that wait for the thread's next connection.
const SPARE: usize = 8;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes between `start` and `end`; what is outside of them is nobody's.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one with room for [`SIZE`] bytes.
    pub(super) fn lent() -> Self {
        let bytes = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into());
        Self { bytes, start: 0, end: 0 }
    }

    /// One that has room for nothing but what is in it.
    pub(super) fn holding(content: &[u8]) -> Self {
        Self { bytes: content.into(), start: 0, end: content.len() }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn content_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it is one of those that are handed on.
    pub(super) fn is_lent(&self) -> bool {
        self.bytes.len() == SIZE
    }

    /// What follows the content.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// `count` bytes of the space are content now.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The first `count` bytes of the content are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Moves the content to the front, for all the space that there is.
    pub(super) fn compact(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.is_lent() {
            return;
        }
        let bytes = mem::take(&mut self.bytes);
        BUFFERS.with_borrow_mut(|spare| {
            if spare.len() < SPARE {
                spare.push(bytes);
            }
        });
    }
}

/// How many wait on this thread.
#[cfg(test)]
pub(super) fn spare() -> usize {
    BUFFERS.with_borrow(Vec::len)
}
