//! Which requests of a guest are open, in memory that its front end keeps while our process does not live
//! (vhost-user: "Inflight I/O tracking", the split virtqueue's region).
//!
//! Invariant: at each instruction the region says enough to replay what the guest has not seen completed, and nothing
//! that it has: stores are in program order, which is all that a killed process needs.
//! The front end can write to it: what is read from it is checked. It does not know what a request asks for.

use super::guest::{Mapping, Window};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// Queues that a region may describe: those of the largest device that we offer.
pub const QUEUES_MAX: u16 = 16;
/// Descriptors of a queue: QEMU's own limit.
pub const QUEUE_SIZE_MAX: u16 = 1024;

const VERSION: u16 = 1;
/// A queue's header: features u64, version u16, descriptors u16, last batch's head u16, used index u16.
const VERSION_AT: usize = 8;
const DESCRIPTORS_AT: usize = 10;
const BATCH_HEAD_AT: usize = 12;
const USED_AT: usize = 14;
const HEADER: usize = 16;
/// A descriptor's state: inflight u8, padding, next u16, counter u64.
const STATE: usize = 16;
const NEXT_IN_STATE: usize = 6;
const COUNTER_IN_STATE: usize = 8;
/// Queues' regions start at multiples of it.
const ALIGNMENT: u64 = 64;

/// Where the queues' regions are in the file, and for how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub offset: u64,
    pub bytes: u64,
    pub queues: u16,
    pub queue_size: u16,
}

impl Layout {
    /// For a new file.
    #[must_use]
    pub fn new(queues: u16, queue_size: u16) -> Self {
        Self { offset: 0, bytes: u64::from(queues) * stride(queue_size), queues, queue_size }
    }

    fn is_sound(&self) -> bool {
        (1..=QUEUES_MAX).contains(&self.queues)
            && (1..=QUEUE_SIZE_MAX).contains(&self.queue_size)
            && self.bytes >= u64::from(self.queues) * stride(self.queue_size)
    }
}

fn stride(queue_size: u16) -> u64 {
    ((HEADER + STATE * usize::from(queue_size)) as u64).next_multiple_of(ALIGNMENT)
}

/// The same file at the same place is the same buffer, whatever descriptor it comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId {
    device: u64,
    inode: u64,
    layout: Layout,
}

/// The whole buffer, as the front end sets it.
#[derive(Clone, Debug)]
pub struct Buffer {
    mapping: Rc<Mapping>,
    id: BufferId,
}

/// A fresh one, all zeroes, which nobody can shrink under us.
///
/// # Errors
/// The layout is not one of ours, or there is no memory.
pub fn create(layout: Layout) -> io::Result<File> {
    if !layout.is_sound() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device of ours"));
    }
    let fd = rustix::fs::memfd_create("vmpath-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, layout.offset + layout.bytes)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(File::from(fd))
}

impl Buffer {
    /// # Errors
    /// `InvalidInput`: the file or the layout is not one of ours.
    pub fn new(file: impl AsFd, layout: Layout) -> io::Result<Self> {
        if !layout.is_sound() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a layout of ours"));
        }
        let stat = rustix::fs::fstat(&file)?;
        let mapping = Mapping::new(&file, layout.offset, layout.bytes)?;
        let id = BufferId { device: stat.st_dev, inode: stat.st_ino, layout };
        let buffer = Self { mapping, id };
        buffer.queue(0).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(buffer)
    }

    #[must_use]
    pub fn id(&self) -> BufferId {
        self.id
    }

    /// One queue's part; `None` if the buffer is for fewer queues.
    #[must_use]
    pub fn queue(&self, index: u16) -> Option<QueueState> {
        let Layout { queues, queue_size, .. } = self.id.layout;
        if index >= queues {
            return None;
        }
        let len = HEADER + STATE * usize::from(queue_size);
        let window = Window::new(&self.mapping, u64::from(index) * stride(queue_size), len, 8)?;
        Some(QueueState { window, size: queue_size })
    }
}

/// One queue's part. Heads must be below `size`.
#[derive(Debug)]
pub struct QueueState {
    window: Window,
    size: u16,
}

impl QueueState {
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// A request has been fetched. `counter` grows with each, so that a replay has their order.
    #[inline]
    pub fn begin(&self, head: u16, counter: u64) {
        let at = HEADER + STATE * usize::from(head);
        self.window.u64(at + COUNTER_IN_STATE).store(counter, Relaxed);
        self.window.u8(at).store(1, Release);
    }

    /// A request's result is in the used ring, but its index does not say so yet: it joins the batch.
    #[inline]
    pub fn join_batch(&self, head: u16) {
        let last = self.window.u16(BATCH_HEAD_AT).load(Relaxed);
        let at = HEADER + STATE * usize::from(head);
        self.window.u16(at + NEXT_IN_STATE).store(last, Relaxed);
        self.window.u16(BATCH_HEAD_AT).store(head, Release);
    }

    /// The used ring's index has become `used`, and with it the last `batch` results are the guest's.
    pub fn end_batch(&self, batch: u16, used: u16) {
        self.clear_batch(batch);
        self.window.u16(USED_AT).store(used, Release);
    }

    fn clear_batch(&self, batch: u16) {
        let mut head = self.window.u16(BATCH_HEAD_AT).load(Relaxed);
        for _ in 0..batch.min(self.size) {
            // The front end could have written anything.
            if head >= self.size {
                return;
            }
            let at = HEADER + STATE * usize::from(head);
            self.window.u8(at).store(0, Release);
            head = self.window.u16(at + NEXT_IN_STATE).load(Relaxed);
        }
    }

    /// Nobody has made it ready yet: no process of this host has served the queue with it.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.window.u16(VERSION_AT).load(Relaxed) == 0
    }

    /// Makes a fresh region ready with these heads open, oldest first, and the used ring's index at `used`. Until the last store it
    /// is fresh, so that whoever follows a process that was killed here begins again. Returns the counter of the next.
    pub fn take_over(&self, used: u16, open: impl Iterator<Item = u16>) -> u64 {
        // One that was killed here before may have meant others.
        for head in 0..self.size {
            self.window.u8(HEADER + STATE * usize::from(head)).store(0, Relaxed);
        }
        let mut counter = 0;
        for head in open.filter(|head| *head < self.size) {
            self.begin(head, counter);
            counter += 1;
        }
        self.window.u16(DESCRIPTORS_AT).store(self.size, Relaxed);
        self.window.u16(USED_AT).store(used, Relaxed);
        self.window.u16(VERSION_AT).store(VERSION, Release);
        counter
    }

    /// Makes a fresh region ready, or brings one that a former process left in order: the used ring's index is `used`, so the
    /// batch up to there has been seen by the guest. Then gives the heads of what is open, oldest first, and the counter of the next.
    #[must_use]
    pub fn recover(&self, used: u16) -> (Vec<u16>, u64) {
        if self.window.u16(VERSION_AT).load(Relaxed) == 0 {
            self.window.u16(DESCRIPTORS_AT).store(self.size, Relaxed);
            self.window.u16(USED_AT).store(used, Relaxed);
            self.window.u16(VERSION_AT).store(VERSION, Release);
        }
        let behind = used.wrapping_sub(self.window.u16(USED_AT).load(Relaxed));
        if behind != 0 {
            self.end_batch(behind, used);
        }
        let is_open = |head: &u16| self.window.u8(HEADER + STATE * usize::from(*head)).load(Relaxed) != 0;
        let counter = |head: &u16| {
            self.window.u64(HEADER + STATE * usize::from(*head) + COUNTER_IN_STATE).load(Relaxed)
        };
        let mut open: Vec<u16> = (0..self.size).filter(is_open).collect();
        open.sort_by_key(counter);
        let next = open.last().map_or(0, |head| counter(head).wrapping_add(1));
        (open, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(queues: u16, size: u16) -> (File, Layout, Buffer) {
        let layout = Layout::new(queues, size);
        let file = create(layout).unwrap();
        let buffer = Buffer::new(&file, layout).unwrap();
        (file, layout, buffer)
    }

    #[test]
    fn the_layout_is_the_specs() {
        let (file, layout, buffer) = buffer(2, 4);
        assert_eq!(layout.bytes, 2 * 128);
        let queue = buffer.queue(1).unwrap();
        assert_eq!(queue.recover(9), (vec![], 0));
        queue.begin(2, 0x0102);
        queue.join_batch(2);
        let mut bytes = [0u8; 128];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 128).unwrap();
        assert_eq!(bytes[..16], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4, 0, 2, 0, 9, 0]);
        assert_eq!(bytes[48..64], [1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let (file, layout, buffer) = buffer(1, 64);
        assert!(buffer.queue(1).is_none());
        for bad in [
            Layout { queues: 0, ..layout },
            Layout { queues: 17, ..layout },
            Layout { queue_size: 0, ..layout },
            Layout { queue_size: 1025, bytes: 1 << 20, ..layout },
            Layout { bytes: layout.bytes - 64, ..layout },
            Layout { bytes: layout.bytes + 1, ..layout },
            Layout { offset: 64, ..layout },
            Layout { offset: u64::MAX, ..layout },
        ] {
            assert!(Buffer::new(&file, bad).is_err(), "{bad:?}");
        }
        assert!(rustix::fs::ftruncate(&file, 0).is_err(), "sealed");
        assert_eq!(Buffer::new(&file, layout).unwrap().id(), buffer.id());
        let other = create(layout).unwrap();
        assert_ne!(Buffer::new(&other, layout).unwrap().id(), buffer.id());
    }

    #[test]
    fn what_is_taken_over_is_there_with_the_last_store_and_not_before() {
        let (file, layout, buffer) = buffer(1, 16);
        let queue = buffer.queue(0).unwrap();
        // Killed before the version was stored.
        queue.begin(9, 7);
        assert!(queue.is_fresh());
        assert_eq!(queue.take_over(40, [5, 2, 99].into_iter()), 2, "no head is beyond the queue");
        let next = Buffer::new(&file, layout).unwrap().queue(0).unwrap();
        assert!(!next.is_fresh());
        assert_eq!(next.recover(40), (vec![5, 2], 2), "in the order in which they were fetched elsewhere");
    }

    #[test]
    fn a_chain_that_somebody_has_broken_is_not_followed_out_of_the_region() {
        let (file, _, buffer) = buffer(1, 8);
        let queue = buffer.queue(0).unwrap();
        assert_eq!(queue.recover(0), (vec![], 0));
        queue.begin(3, 0);
        std::os::unix::fs::FileExt::write_all_at(&file, &u16::MAX.to_le_bytes(), BATCH_HEAD_AT as u64)
            .unwrap();
        assert_eq!(queue.recover(u16::MAX), (vec![3], 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u16),
        Complete(usize),
        Publish,
    }

    proptest! {
        /// Killed anywhere, between any two stores of a publication too: what is recovered is exactly what the guest has not seen
        /// complete, oldest first.
        #[test]
        fn a_kill_anywhere_loses_nothing_and_repeats_nothing(
            steps in prop::collection::vec(
                prop_oneof![
                    3 => (0u16..16).prop_map(Step::Begin),
                    2 => any::<usize>().prop_map(Step::Complete),
                    1 => Just(Step::Publish),
                ], 0..80),
            killed_midway: bool,
            start: u16,
        ) {
            let (file, layout, buffer) = buffer(1, 16);
            let queue = buffer.queue(0).unwrap();
            prop_assert_eq!(queue.recover(start), (vec![], 0));
            let (mut used, mut counter) = (start, 0);
            let mut open: Vec<u16> = Vec::new(); // not yet published, oldest first
            let mut done: Vec<u16> = Vec::new(); // of those, completed
            for step in steps {
                match step {
                    Step::Begin(head) if !open.contains(&head) => {
                        queue.begin(head, counter);
                        counter += 1;
                        open.push(head);
                    }
                    Step::Complete(which) => {
                        let running: Vec<u16> = open.iter().copied().filter(|h| !done.contains(h)).collect();
                        if !running.is_empty() {
                            let head = running[which % running.len()];
                            queue.join_batch(head);
                            done.push(head);
                        }
                    }
                    Step::Publish => {
                        used = used.wrapping_add(done.len() as u16);
                        queue.end_batch(done.len() as u16, used);
                        open.retain(|h| !done.contains(h));
                        done.clear();
                    }
                    Step::Begin(_) => {}
                }
            }
            if killed_midway {
                // The used ring's index was stored, and nothing after it.
                used = used.wrapping_add(done.len() as u16);
                open.retain(|h| !done.contains(h));
            }
            let next = Buffer::new(&file, layout).unwrap().queue(0).unwrap();
            prop_assert_eq!(next.recover(used).0, open.clone());
            prop_assert_eq!(next.recover(used).0, open, "and again");
        }
    }
}
