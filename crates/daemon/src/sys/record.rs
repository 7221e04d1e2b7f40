//! The quarantine record: what a data-plane worker has sent and does not yet know the outcome of, in a file on tmpfs
//! that outlives the process. Plain stores into mapped memory: no fsync, because the storage may be what is sick.
//!
//! Invariant: at every moment the file says of each slot what it said before the present call, what it says after it, or
//! nothing; never a mixture. The word that makes a slot count is stored last, and cleared first.
//! Rejected: a log that is appended to (it must be cut), and `pwrite` (a system call for each write of a guest).
//! It does not know what a slot stands for, nor when a range may be forgotten.

mod format;
#[cfg(test)]
mod tests;

pub use super::boot::BootId;

use format::{CONNECTION, ROW_BYTES, ROW_WORDS, ROWS_STEP, Store, WRITE};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use vmpath_core::time::Instant;

/// Slots of a fresh record; it grows by itself.
const ROWS_FIRST: usize = 8 * ROWS_STEP;

/// A record that is being written, by one worker.
#[derive(Debug)]
pub struct Record {
    file: File,
    path: PathBuf,
    map: Map,
    header_bytes: usize,
    rows: usize,
    units: usize,
}

/// What a process left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// `target/unit`, the range, and when its fence is reached by time alone (CLOCK_MONOTONIC of this boot). None: it was
    /// in flight, so that the bound counts from the death of its connection.
    pub writes: Vec<(String, Range<u64>, Option<Instant>)>,
    /// Local and peer address of each connection to a target that was open.
    pub connections: Vec<(SocketAddr, SocketAddr)>,
}

impl Record {
    /// Makes a fresh, empty record: written beside `path` and renamed over it. Read the old one first.
    ///
    /// # Errors
    /// The file cannot be made, or there is no room for it.
    pub fn create(path: &Path, boot_id: &BootId, units: &[String]) -> io::Result<Self> {
        let header = format::header(boot_id, units)?;
        let beside = PathBuf::from(format!("{}.new", path.display()));
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of(&beside, &error)),
            Ok(()) | Err(_) => {}
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| of(&beside, &error.into()))?;
        let file = File::from(file);
        let bytes = header.len() + ROWS_FIRST * ROW_BYTES;
        reserve(&file, bytes).map_err(|error| of(&beside, &error))?;
        std::os::unix::fs::FileExt::write_all_at(&file, &header, 0).map_err(|error| of(&beside, &error))?;
        let map = Map::new(&file, bytes)?;
        std::fs::rename(&beside, path).map_err(|error| of(path, &error))?;
        let (header_bytes, units) = (header.len(), units.len());
        Ok(Self { file, path: path.to_owned(), map, header_bytes, rows: ROWS_FIRST, units })
    }

    /// Before a write leaves, with `until` none; and again, when its connection is dead and its outcome unknown, with the
    /// time of its fence. `unit` is an index into the names given at [`Self::create`].
    ///
    /// # Panics
    /// If `unit` is none of them, or the range is turned around: a record that lies is worse than a restart.
    pub fn remember(&mut self, slot: u32, unit: u16, range: Range<u64>, until: Option<Instant>) {
        assert!(usize::from(unit) < self.units, "unit {unit} of {} is not in the record", self.units);
        assert!(range.start <= range.end, "a range that is turned around: {range:?}");
        if !self.has_room(slot) {
            return;
        }
        let present = [WRITE, WRITE + 1, WRITE + 2].map(|word| self.word(slot, word).load(Ordering::Relaxed));
        let stores = format::write(slot, unit, &range, until, present);
        self.store(slot, WRITE, &stores);
    }

    /// The write's outcome is known, or its fence is reached.
    pub fn forget(&mut self, slot: u32) {
        if (slot as usize) < self.rows {
            self.word(slot, WRITE).store(0, Ordering::Release);
        }
    }

    /// Before the first byte is sent on a connection. Slots of connections are numbered apart from those of writes.
    pub fn connected(&mut self, slot: u32, local: SocketAddr, peer: SocketAddr) {
        if self.has_room(slot) {
            self.store(slot, CONNECTION, &format::connection(slot, local, peer));
        }
    }

    /// The connection is closed and reaped.
    pub fn disconnected(&mut self, slot: u32) {
        if (slot as usize) < self.rows {
            self.word(slot, CONNECTION).store(0, Ordering::Release);
        }
    }

    /// After making room for the slot. If there is none, that is told, and the file says from then on that it is incomplete.
    fn has_room(&mut self, slot: u32) -> bool {
        if (slot as usize) < self.rows {
            return true;
        }
        let grown = self.grow(slot as usize + 1);
        if let Err(error) = &grown {
            self.incomplete(error);
        }
        grown.is_ok()
    }

    #[cold]
    fn grow(&mut self, at_least: usize) -> io::Result<()> {
        let rows = at_least.max(self.rows * 2).next_multiple_of(ROWS_STEP);
        let bytes = self.header_bytes + rows * ROW_BYTES;
        if bytes > format::BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{bytes} bytes are too many")));
        }
        reserve(&self.file, bytes)?;
        self.map = Map::new(&self.file, bytes)?;
        self.rows = rows;
        Ok(())
    }

    #[cold]
    fn incomplete(&mut self, error: &io::Error) {
        let flag = self.map.word(format::INCOMPLETE_WORD);
        if flag.swap(1, Ordering::Release) == 0 {
            tracing::error!(
                "the quarantine record {} cannot grow: {error}; after a crash every unit is held for its whole quiesce \
                 bound",
                self.path.display()
            );
        }
    }

    fn word(&self, slot: u32, word: usize) -> &AtomicU64 {
        self.map.word(self.header_bytes / 8 + slot as usize * ROW_WORDS + word)
    }

    /// Each store is a release, so none is seen before those that come before it.
    fn store(&self, slot: u32, part: usize, stores: &[Store]) {
        for (word, value) in stores {
            self.word(slot, part + word).store(*value, Ordering::Release);
        }
    }
}

/// Reads what the process before left. None if there is no record, or it is of another boot: then no process and no
/// socket of it is left.
///
/// # Errors
/// It cannot be read, or is not a whole record of this version: in words. Its quarantine is then unknown: hold every unit
/// for its quiesce bound.
pub fn read(path: &Path) -> io::Result<Option<Remains>> {
    read_in(path, &BootId::current()?)
}

fn read_in(path: &Path, boot: &BootId) -> io::Result<Option<Remains>> {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of(path, &error)),
    };
    format::parse(&bytes, boot).map_err(|why| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is no quarantine record: {why}", path.display()),
        )
    })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?.len();
    if length > format::BYTES_MAX as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{length} bytes are too many for a record"),
        ));
    }
    std::fs::read(path)
}

fn of(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// With room behind it: a store into a page that tmpfs cannot provide would be a signal.
fn reserve(file: &File, bytes: usize) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes as u64)?)
}

/// A file's memory, shared with the file.
struct Map {
    at: NonNull<u64>,
    bytes: usize,
}

// SAFETY: the mapping belongs to no thread; it is unmapped once, by its owner.
unsafe impl Send for Map {}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Map {
    fn new(file: &File, bytes: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // Populated now, so that no write of a guest pays for a page fault.
        let kind = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours is replaced.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, access, kind, std::os::fd::AsRawFd::as_raw_fd(file), 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: NonNull::new(at.cast()).expect("mmap gives no null"), bytes })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.bytes / 8, "word {index} of {} bytes", self.bytes);
        // SAFETY: within the mapping, which lives as long as the borrow and is page-aligned, so each word is aligned; all
        // of this process's accesses are atomic, and the file is backed to its length.
        unsafe { AtomicU64::from_ptr(self.at.as_ptr().add(index)) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}
