//! Memory for requests, aligned as O_DIRECT wants it.
//!
//! Invariant: the bytes start on a 4096-byte border and stay there for the buffer's life. Made by over-allocating, so
//! that no `unsafe` is needed. Rejected: mmap. It does not know: what is in it.

use super::block::BLOCK;
use std::ops::{Deref, DerefMut};

/// A piece of aligned memory whose used length may change up to its capacity.
#[derive(Debug)]
pub struct Buffer {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `capacity` zeroed bytes, all in use.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let raw = vec![0; capacity + BLOCK];
        let start = raw.as_ptr().align_offset(BLOCK);
        Self { raw, start, len: capacity }
    }

    /// # Panics
    /// If `len` is more than the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len + BLOCK <= self.raw.len(), "within the capacity");
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.raw[self.start..][..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_as_long_as_asked() {
        for capacity in [BLOCK, 5 * BLOCK] {
            let mut buffer = Buffer::new(capacity);
            assert!(buffer.as_ptr().addr().is_multiple_of(BLOCK) && buffer.len() == capacity);
            buffer.set_len(512);
            assert_eq!(buffer.len(), 512);
        }
    }
}
