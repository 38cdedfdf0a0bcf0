//! Numbers that look random, and are the same in every run.

/// A xorshift generator: a few instructions for each number, so that it hides nothing.
#[derive(Debug)]
pub struct Draws(u64);

impl Default for Draws {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Draws {
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// The one of `all` that a number chooses; none of nothing.
pub(crate) fn one<T>(all: &[T], draw: u64) -> Option<&T> {
    let index = ((draw >> 32) * all.len() as u64) >> 32;
    all.get(usize::try_from(index).ok()?)
}
