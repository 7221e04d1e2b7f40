//! Page-aligned buffers for requests' bytes, and the pool that keeps them: no allocation while a load is steady.
//!
//! Alignment lets the same buffer be written to a device opened with O_DIRECT. A buffer's bytes are initialised once, when it
//! is made; afterwards it holds what its last user left there.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What O_DIRECT wants on any device that Linux knows.
pub const ALIGNMENT: usize = 4096;
/// Sizes are powers of two from one page on.
const SMALLEST_SHIFT: u32 = ALIGNMENT.trailing_zeros();
/// Up to 32 MiB, the largest request of an NBD client.
const CLASSES: usize = 14;
/// Bytes that the pool keeps at most; what comes back beyond is freed.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Bytes of one request.
pub struct Buffer {
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Buffer {
    fn new(capacity: usize) -> Self {
        let layout = layout(capacity);
        // SAFETY: the layout's size is not zero: every class has a page at least.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity, len: 0 }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and not freed since.
        unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) }
    }
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, ALIGNMENT).expect("a buffer's size is bounded")
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `capacity` initialised bytes start there, `len` is not more, and they are this buffer's own.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Buffers that wait to be used again.
#[derive(Debug, Default)]
pub struct Pool {
    free: [Vec<Buffer>; CLASSES],
    kept_bytes: usize,
}

impl Pool {
    /// A buffer of `len` bytes, with any content. Larger than the largest class is allocated for this one use.
    pub fn take(&mut self, len: usize) -> Buffer {
        let class = class_of(len);
        let mut buffer = match self.free.get_mut(class).and_then(Vec::pop) {
            Some(kept) => {
                self.kept_bytes -= kept.capacity;
                kept
            }
            None => Buffer::new(1 << (class as u32 + SMALLEST_SHIFT)),
        };
        buffer.len = len;
        buffer
    }

    pub fn give(&mut self, buffer: Buffer) {
        let capacity = buffer.capacity;
        if let Some(class) = self.free.get_mut(class_of(capacity))
            && self.kept_bytes + capacity <= KEPT_BYTES_MAX
        {
            self.kept_bytes += capacity;
            class.push(buffer);
        }
    }
}

fn class_of(len: usize) -> usize {
    (len.max(1).next_power_of_two().trailing_zeros().max(SMALLEST_SHIFT) - SMALLEST_SHIFT) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_and_is_aligned() {
        let mut pool = Pool::default();
        for len in [0, 1, 512, 4096, 4097, 65536, (32 << 20) + 1] {
            let mut buffer = pool.take(len);
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % ALIGNMENT), (len, 0));
            buffer.fill(7);
            pool.give(buffer);
        }
    }

    #[test]
    fn what_comes_back_is_used_again_and_the_pool_is_bounded() {
        let mut pool = Pool::default();
        let first = pool.take(5000);
        let at = first.as_ptr();
        pool.give(first);
        assert_eq!(pool.take(8192).as_ptr(), at, "of the same class");
        let many: Vec<_> = (0..3).map(|_| pool.take(16 << 20)).collect();
        many.into_iter().for_each(|b| pool.give(b));
        assert_eq!(pool.kept_bytes, 32 << 20);
    }
}
