//! A guest's memory, as its front end shares it, and other files that are mapped from a front end.
//!
//! Invariant: nothing is touched that was not within its file when it was mapped, so a region that lies about its size is
//! refused and not a SIGBUS later; a guest may change every byte at any time, so ours are volatile copies, atomics, or
//! the kernel's. A [`Window`] keeps its mapping alive: no order of messages can leave a pointer into nothing.
//! Rejected: references or slices of guest memory. It does not know rings, requests or messages.

use super::socket::Pieces;
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Regions at once: a guest's memory and the modules that it may be given while it runs.
pub const REGIONS_MAX: usize = 256;
const PAGE: u64 = 4096;
/// The largest huge page of x86 and ARM that a file system announces as its block size.
const PAGE_MAX: u64 = 1 << 30;

/// A part of a file in our address space, shared with whoever else maps it.
#[derive(Debug)]
pub struct Mapping {
    mapped: NonNull<u8>,
    mapped_bytes: usize,
    /// Where the asked part starts, and its length.
    at: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Maps `bytes` bytes of the file from `offset` on, for reading and writing.
    ///
    /// # Errors
    /// `InvalidInput` if the file is not a regular one (a memfd, a file on tmpfs or hugetlbfs) or does not reach that far.
    pub fn new(file: impl AsFd, offset: u64, bytes: u64) -> io::Result<Rc<Self>> {
        let file = file.as_fd();
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let stat = rustix::fs::fstat(file)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return refuse("not a file in memory");
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let Some(end) = offset.checked_add(bytes) else { return refuse("a range that overflows") };
        if end > size || bytes == 0 {
            return refuse("a range beyond the end of its file");
        }
        // A file of huge pages is mapped in whole ones; the block size says how large they are.
        let block = u64::try_from(stat.st_blksize).unwrap_or(0);
        let page = if block.is_power_of_two() { block.clamp(PAGE, PAGE_MAX) } else { PAGE };
        let from = offset & !(page - 1);
        let Some(until) = end.checked_next_multiple_of(page) else { return refuse("a range that overflows") };
        let (Ok(length), Ok(start)) = (usize::try_from(until - from), libc::off_t::try_from(from)) else {
            return refuse("a range that overflows");
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at a place of the kernel's choosing touches nothing that exists.
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, kind, file.as_raw_fd(), start) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped = NonNull::new(mapped.cast::<u8>()).expect("mmap gives no null");
        // SAFETY: `offset - from` is less than a page, and the mapping is longer than that.
        let at = unsafe { mapped.add((offset - from) as usize) };
        Ok(Rc::new(Self { mapped, mapped_bytes: length, at, bytes: bytes as usize }))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; every pointer into it is kept with an `Rc` of this.
        unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// Bytes of a mapping that are accessed as words. An access beyond its end, or one that is not aligned, panics: callers check what they are told
/// before they make a window.
#[derive(Clone, Debug)]
pub struct Window {
    at: NonNull<u8>,
    len: usize,
    _mapping: Rc<Mapping>,
}

impl Window {
    /// A part of a mapping that starts at a multiple of `align`.
    #[must_use]
    pub fn new(mapping: &Rc<Mapping>, offset: u64, len: usize, align: usize) -> Option<Self> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > mapping.bytes {
            return None;
        }
        // SAFETY: within the mapping, as just checked.
        let at = unsafe { mapping.at.add(offset) };
        (at.addr().get() % align == 0).then(|| Self { at, len, _mapping: Rc::clone(mapping) })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn place(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(offset <= self.len && self.len - offset >= size, "within the window");
        // SAFETY: within the mapping, which `_mapping` keeps.
        let place = unsafe { self.at.add(offset) };
        assert!(place.addr().get() % size == 0, "aligned");
        place.as_ptr()
    }

    #[inline]
    #[must_use]
    pub fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: `place` has checked bounds and alignment; the memory lives as long as `self`, and all of our accesses are atomic.
        unsafe { AtomicU8::from_ptr(self.place(offset, 1)) }
    }

    #[inline]
    #[must_use]
    pub fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as for `u8`.
        unsafe { AtomicU16::from_ptr(self.place(offset, 2).cast()) }
    }

    #[inline]
    #[must_use]
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `u8`.
        unsafe { AtomicU32::from_ptr(self.place(offset, 4).cast()) }
    }

    #[inline]
    #[must_use]
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as for `u8`.
        unsafe { AtomicU64::from_ptr(self.place(offset, 8).cast()) }
    }
}

/// Where a region of guest memory is: bytes and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Guest physical.
    pub gpa: u64,
    /// In the front end's own address space.
    pub user: u64,
    pub bytes: u64,
    /// Of its start in its file.
    pub offset: u64,
}

/// Which file of this host it is, as long as somebody has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    /// # Errors
    /// The system's.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

#[derive(Debug)]
struct Region {
    place: Place,
    file: FileId,
    mapping: Rc<Mapping>,
}

impl Region {
    fn end(&self) -> u64 {
        self.place.gpa + self.place.bytes
    }
}

/// All regions of one guest.
#[derive(Debug, Default)]
pub struct GuestMemory {
    /// By guest physical address; none overlap.
    regions: Vec<Region>,
    /// The one that was found last: most guests have one that matters.
    last: Cell<usize>,
}

impl GuestMemory {
    /// # Errors
    /// `InvalidInput`: it overlaps another, wraps around, or is not within its file; or there are too many.
    pub fn add(&mut self, place: Place, file: impl AsFd) -> io::Result<()> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let Place { gpa, user, bytes, offset } = place;
        if gpa.checked_add(bytes).is_none() || user.checked_add(bytes).is_none() {
            return refuse("a region that wraps around");
        }
        if self.regions.len() >= REGIONS_MAX {
            return refuse("too many regions");
        }
        let apart = |a: u64, b: u64, b_bytes: u64| a >= b + b_bytes || b >= a + bytes;
        let fits =
            |r: &Region| apart(gpa, r.place.gpa, r.place.bytes) && apart(user, r.place.user, r.place.bytes);
        if !self.regions.iter().all(fits) {
            return refuse("a region that overlaps another");
        }
        let mapping = Mapping::new(&file, offset, bytes)?;
        let file = FileId::of(file)?;
        let at = self.regions.partition_point(|r| r.place.gpa < gpa);
        self.regions.insert(at, Region { place, file, mapping });
        Ok(())
    }

    /// Where all of it is, and in which files.
    pub fn regions(&self) -> impl Iterator<Item = (Place, FileId)> {
        self.regions.iter().map(|region| (region.place, region.file))
    }

    /// Takes out the region with this place, its offset aside. `false` if there is none.
    pub fn remove(&mut self, place: Place) -> bool {
        let same = |r: &Region| Place { offset: place.offset, ..r.place } == place;
        let before = self.regions.len();
        self.regions.retain(|r| !same(r));
        self.regions.len() < before
    }

    #[inline]
    fn find(&self, gpa: u64) -> Option<&Region> {
        let holds = |r: &Region| gpa >= r.place.gpa && gpa < r.end();
        if let Some(region) = self.regions.get(self.last.get()).filter(|r| holds(r)) {
            return Some(region);
        }
        let at = self.regions.partition_point(|r| r.end() <= gpa);
        self.last.set(at);
        self.regions.get(at).filter(|r| holds(r))
    }

    /// The guest physical address of one in the front end's address space.
    #[must_use]
    pub fn gpa_of(&self, user: u64) -> Option<u64> {
        let region =
            self.regions.iter().find(|r| user >= r.place.user && user - r.place.user < r.place.bytes)?;
        Some(region.place.gpa + (user - region.place.user))
    }

    /// Bytes from `gpa` to the end of its region.
    #[inline]
    #[must_use]
    pub fn reach(&self, gpa: u64) -> Option<u64> {
        self.find(gpa).map(|r| r.end() - gpa)
    }

    /// Whether all of it lies within one region.
    #[must_use]
    pub fn covers(&self, gpa: u64, len: u64) -> bool {
        self.reach(gpa).is_some_and(|reach| reach >= len)
    }

    /// A part of one region, aligned to `align` in our address space.
    #[must_use]
    pub fn window(&self, gpa: u64, len: usize, align: usize) -> Option<Window> {
        let region = self.find(gpa)?;
        Window::new(&region.mapping, gpa - region.place.gpa, len, align)
    }

    #[inline]
    fn place(&self, gpa: u64, len: usize) -> Option<*mut u8> {
        let region = self.find(gpa)?;
        if region.end() - gpa < len as u64 {
            return None;
        }
        // SAFETY: within the region's mapping, as just checked.
        Some(unsafe { region.mapping.at.add((gpa - region.place.gpa) as usize) }.as_ptr())
    }

    /// Copies guest memory out; it lies in one region. `false` and nothing done if it does not.
    #[inline]
    #[must_use]
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> bool {
        let Some(from) = self.place(gpa, into.len()) else { return false };
        // SAFETY: `place` has checked that as many bytes are mapped there; `into` is ours alone.
        unsafe { copy_out(from, into) };
        true
    }

    /// Copies into guest memory, as `read`.
    #[inline]
    #[must_use]
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.place(gpa, bytes.len()) else { return false };
        // SAFETY: `place` has checked that as many bytes are mapped there.
        unsafe { copy_in(bytes, to) };
        true
    }

    /// Adds a piece of guest memory to a call's; as `read`. There must be room for it.
    #[inline]
    #[must_use]
    pub fn push<'a>(&'a self, pieces: &mut Pieces<'a>, gpa: u64, len: usize) -> bool {
        let Some(at) = self.place(gpa, len) else { return false };
        // Mapped for as long as `self` is borrowed, that is `'a`: regions go by `&mut self` only.
        pieces.push_raw(at, len);
        true
    }
}

/// # Safety
/// `from` leads to as many mapped bytes as `into` has.
unsafe fn copy_out(from: *const u8, into: &mut [u8]) {
    let head = from.align_offset(8).min(into.len());
    let (first, rest) = into.split_at_mut(head);
    let (words, last) = rest.split_at_mut(rest.len() / 8 * 8);
    for (n, byte) in first.iter_mut().enumerate() {
        // SAFETY: within the bytes that the caller vouches for.
        *byte = unsafe { from.add(n).read_volatile() };
    }
    for (n, word) in words.chunks_exact_mut(8).enumerate() {
        // SAFETY: as above, and aligned: `head` bytes lead to the first word.
        let value = unsafe { from.add(head + n * 8).cast::<u64>().read_volatile() };
        word.copy_from_slice(&value.to_ne_bytes());
    }
    let done = head + words.len();
    for (n, byte) in last.iter_mut().enumerate() {
        // SAFETY: as above.
        *byte = unsafe { from.add(done + n).read_volatile() };
    }
}

/// # Safety
/// `to` leads to as many mapped bytes as `bytes` has.
unsafe fn copy_in(bytes: &[u8], to: *mut u8) {
    let head = to.align_offset(8).min(bytes.len());
    let (first, rest) = bytes.split_at(head);
    let (words, last) = rest.split_at(rest.len() / 8 * 8);
    for (n, byte) in first.iter().enumerate() {
        // SAFETY: within the bytes that the caller vouches for.
        unsafe { to.add(n).write_volatile(*byte) };
    }
    for (n, word) in words.chunks_exact(8).enumerate() {
        let value = u64::from_ne_bytes(word.try_into().expect("eight bytes"));
        // SAFETY: as above, and aligned: `head` bytes lead to the first word.
        unsafe { to.add(head + n * 8).cast::<u64>().write_volatile(value) };
    }
    let done = head + words.len();
    for (n, byte) in last.iter().enumerate() {
        // SAFETY: as above.
        unsafe { to.add(done + n).write_volatile(*byte) };
    }
}

/// Bytes of our own that stand in for a guest's while its ring does not run. The kernel may receive into them
/// through a shared borrow, as into guest memory.
pub struct Spill(Box<[Cell<u8>]>);

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spill").field(&self.0.len()).finish()
    }
}

impl Spill {
    #[must_use]
    pub fn new(len: usize) -> Self {
        let zeroes = Box::into_raw(vec![0u8; len].into_boxed_slice());
        // SAFETY: a `Cell<u8>` has the layout of a `u8`, and the box was just given up.
        Self(unsafe { Box::from_raw(zeroes as *mut [Cell<u8>]) })
    }

    /// Adds the bytes from `from` to a call's pieces.
    pub fn push<'a>(&'a self, pieces: &mut Pieces<'a>, from: usize, len: usize) {
        let part = &self.0[from..from + len];
        // Cells may be written through a shared borrow, which `'a` keeps; the kernel is done when the call returns.
        pieces.push_raw(part.as_ptr().cast_mut().cast(), part.len());
    }

    pub fn read(&self, from: usize, into: &mut [u8]) {
        for (byte, cell) in into.iter_mut().zip(&self.0[from..]) {
            *byte = cell.get();
        }
    }

    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (byte, cell) in bytes.iter().zip(&self.0[at..]) {
            cell.set(*byte);
        }
    }

    /// The bytes, when nobody else has a hand in them.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: a `Cell<u8>` has the layout of a `u8`, and the borrow is exclusive.
        unsafe { &mut *(std::ptr::from_mut::<[Cell<u8>]>(&mut self.0) as *mut [u8]) }
    }
}

#[cfg(test)]
mod tests;
