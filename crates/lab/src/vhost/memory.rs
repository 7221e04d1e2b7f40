//! The stand-in guest's memory: a memfd that the back end maps too, in two regions with a hole between them.
//!
//! Invariant: everything that the device may touch at any time is accessed as atomics or volatile copies, so no reference
//! to it exists. Two regions, so that a back end that mixes up the three kinds of addresses (guest, front end, offset)
//! is caught. Rejected: one region at 0, where all three are the same number. It does not know: what lies where.

use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::volatile_memory::VolatileMemory;
use vm_memory::{FileOffset, MmapRegion};

/// Bytes of a page, also of a bit of the dirty log.
pub const PAGE: usize = 4096;
/// Guest addresses of the two regions; and what the front end pretends to have mapped the first of all at.
const GUEST_BASES: [u64; 2] = [1 << 20, 256 << 20];
const FRONT_END_BASE: u64 = 0x7e00_0000_0000;

/// Guest memory. Places in it are byte offsets from its start, both regions counted through.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    map: MmapRegion<()>,
    /// Bytes of the first region.
    first: usize,
}

impl GuestMemory {
    /// Two zeroed regions of these sizes, rounded up to pages.
    ///
    /// # Errors
    /// Of the system.
    pub fn new(sizes: [usize; 2]) -> io::Result<Self> {
        let [first, second] = sizes.map(|size| size.next_multiple_of(PAGE));
        let file = File::from(rustix::fs::memfd_create("vmpath-lab-guest", MemfdFlags::CLOEXEC)?);
        file.set_len((first + second) as u64)?;
        let place = FileOffset::new(file.try_clone()?, 0);
        let map = MmapRegion::from_file(place, first + second).map_err(io::Error::other)?;
        Ok(Self { file, map, first })
    }

    /// Another guest's memory with the same content.
    ///
    /// # Errors
    /// Of the system.
    pub fn duplicate(&self) -> io::Result<Self> {
        let other = Self::new([self.first, self.len() - self.first])?;
        let mut page = vec![0; PAGE];
        for at in (0..self.len()).step_by(PAGE) {
            self.read(at, &mut page);
            other.write(at, &page);
        }
        Ok(other)
    }

    /// Bytes of both regions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.size()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the second region starts.
    #[must_use]
    pub fn second(&self) -> usize {
        self.first
    }

    /// The guest physical address of a place.
    #[must_use]
    pub fn guest_address(&self, at: usize) -> u64 {
        match at.checked_sub(self.first) {
            None => GUEST_BASES[0] + at as u64,
            Some(beyond) => GUEST_BASES[1] + beyond as u64,
        }
    }

    /// The address by which the front end names a place of a ring.
    #[must_use]
    pub fn front_end_address(&self, at: usize) -> u64 {
        FRONT_END_BASE + at as u64
    }

    /// One past the highest guest address.
    #[must_use]
    pub fn guest_end(&self) -> u64 {
        self.guest_address(self.first) + (self.len() - self.first) as u64
    }

    /// As SET_MEM_TABLE and ADD_MEM_REG take them.
    #[must_use]
    pub fn regions(&self) -> [VhostUserMemoryRegionInfo; 2] {
        [(0, self.first), (self.first, self.len() - self.first)].map(|(at, size)| VhostUserMemoryRegionInfo {
            guest_phys_addr: self.guest_address(at),
            memory_size: size as u64,
            userspace_addr: self.front_end_address(at),
            mmap_offset: at as u64,
            mmap_handle: self.raw(),
        })
    }

    fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// # Panics
    /// If `at` is outside or not aligned, as the three that follow.
    #[must_use]
    pub fn u8_at(&self, at: usize) -> &AtomicU8 {
        self.map.get_atomic_ref(at).expect("a place inside the guest's memory")
    }

    #[must_use]
    pub fn u16_at(&self, at: usize) -> &AtomicU16 {
        self.map.get_atomic_ref(at).expect("an aligned place inside the guest's memory")
    }

    #[must_use]
    pub fn u32_at(&self, at: usize) -> &AtomicU32 {
        self.map.get_atomic_ref(at).expect("an aligned place inside the guest's memory")
    }

    #[must_use]
    pub fn u64_at(&self, at: usize) -> &AtomicU64 {
        self.map.get_atomic_ref(at).expect("an aligned place inside the guest's memory")
    }

    /// # Panics
    /// If the bytes do not lie inside.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        let from = self.map.get_slice(at, into.len()).expect("a range inside the guest's memory");
        from.copy_to(into);
    }

    /// # Panics
    /// If the bytes do not lie inside.
    pub fn write(&self, at: usize, from: &[u8]) {
        let into = self.map.get_slice(at, from.len()).expect("a range inside the guest's memory");
        into.copy_from(from);
    }
}

/// The dirty log: a bit for each page of guest memory, set by the back end.
#[derive(Debug)]
pub struct DirtyLog {
    file: File,
    map: MmapRegion<()>,
}

impl DirtyLog {
    /// A clean log for guest addresses below `guest_end`.
    ///
    /// # Errors
    /// Of the system.
    pub fn new(guest_end: u64) -> io::Result<Self> {
        let bits = guest_end.div_ceil(PAGE as u64);
        let bytes = (bits.div_ceil(8) as usize).next_multiple_of(PAGE);
        let file = File::from(rustix::fs::memfd_create("vmpath-lab-dirty", MemfdFlags::CLOEXEC)?);
        file.set_len(bytes as u64)?;
        let map =
            MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), bytes).map_err(io::Error::other)?;
        Ok(Self { file, map })
    }

    /// As SET_LOG_BASE takes it.
    #[must_use]
    pub fn region(&self) -> vhost::VhostUserDirtyLogRegion {
        vhost::VhostUserDirtyLogRegion {
            mmap_size: self.map.size() as u64,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    /// Guest page numbers that were marked since the last call, ascending.
    ///
    /// # Panics
    /// Never: the places are inside.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for at in 0..self.map.size() {
            let byte: &AtomicU8 = self.map.get_atomic_ref(at).expect("inside the log");
            let marks = byte.swap(0, std::sync::atomic::Ordering::AcqRel);
            pages.extend((0..8).filter(|bit| marks >> bit & 1 == 1).map(|bit| at as u64 * 8 + bit));
        }
        pages
    }
}
