//! Marks on open files: what shows, after a process has died, that the kernel still carries out something that it had asked of a file.
//!
//! A mark is a lock of the open file description, on bytes that no file has. The kernel drops it with the last reference to that
//! description, and each request that it has not completed holds one: also those that wait in a scheduler or are being repeated.
//! Rejected: `/sys/dev/block/*/inflight`. It counts neither of those two, and everybody else's requests too. Marks are looked up in
//! `/proc/locks`, because a sick device may not even be opened. It does not know devices, nor what a request was.

use rustix::fs::{FileType, fstat, fstatfs};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use vmpath_core::time::Instant;

/// Where the kernel lists all locks, whoever holds them.
const LOCKS: &str = "/proc/locks";
/// Beyond the end of every file.
const BEYOND: u64 = 1 << 61;
const UNIT_BITS: u32 = 40;
const FOLDER_BITS: u32 = 21;
/// File systems on which a lock is not this kernel's own affair (statfs(2)): NFS, SMB, CIFS, SMB2, FUSE, Ceph, 9P, GFS2, OCFS2.
const SHARED: [u64; 9] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x00c3_6400,
    0x0102_1997,
    0x0116_1970,
    0x7461_636f,
];

/// Makes the marks of one process. `run_dir` tells its kin from other daemons of this host, the start tells it from its kin.
#[derive(Clone, Copy, Debug)]
pub struct Marker {
    kin: u64,
    started_ms: u64,
}

/// The marks that former processes of the same `run_dir` have left.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    units: Vec<u64>,
}

impl Marker {
    #[must_use]
    pub fn new(run_dir: &Path, started: Instant) -> Self {
        let kin = hash(run_dir.as_os_str().as_encoded_bytes()) & ((1 << FOLDER_BITS) - 1);
        Self { kin: BEYOND | kin << UNIT_BITS, started_ms: started.as_nanos() / 1_000_000 }
    }

    /// Before anything is asked of the file. `unit`: its name, as in the record.
    ///
    /// # Errors
    /// The kernel keeps no locks for it, or others than this kernel would.
    pub fn set(&self, file: &OwnedFd, unit: &str) -> io::Result<()> {
        let is_device = FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::BlockDevice;
        if !is_device && SHARED.contains(&((fstatfs(file)?.f_type as u64) & 0xffff_ffff)) {
            return Err(io::Error::other("its file system is not this host's alone"));
        }
        // SAFETY: `flock` is plain numbers, for which all zeroes are values.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        // Shared: a unit may be open more than once.
        lock.l_type = libc::F_RDLCK as _;
        lock.l_whence = libc::SEEK_SET as _;
        lock.l_start = (self.kin | unit_bits(unit)) as libc::off_t;
        lock.l_len = (self.started_ms + 1) as libc::off_t;
        // SAFETY: the descriptor is open as long as it is borrowed, and the kernel only reads the lock.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// What processes before this one have left.
    ///
    /// # Errors
    /// The kernel's list cannot be read.
    pub fn former(&self) -> io::Result<Marks> {
        let text = std::fs::read_to_string(LOCKS)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot read {LOCKS}: {error}")))?;
        Ok(self.former_in(&text))
    }

    fn former_in(&self, locks: &str) -> Marks {
        let mut units: Vec<u64> = locks.lines().filter_map(|line| self.former_mark(line)).collect();
        units.sort_unstable();
        units.dedup();
        Marks { units }
    }

    /// `1: OFDLCK ADVISORY READ -1 00:06:95 START END`: of which unit, if it is a mark of a process before this one.
    fn former_mark(&self, line: &str) -> Option<u64> {
        let mut words = line.split_whitespace().skip_while(|word| *word != "OFDLCK").skip(5);
        let (start, end): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let unit = start & ((1 << UNIT_BITS) - 1);
        (start - unit == self.kin && end.checked_sub(start)? < self.started_ms).then_some(unit)
    }
}

impl Marks {
    #[must_use]
    pub fn has(&self, unit: &str) -> bool {
        self.units.contains(&unit_bits(unit))
    }

    /// Whether one is of a unit that is none of these: it may be one of them under another name.
    #[must_use]
    pub fn has_others(&self, known: &[String]) -> bool {
        !self.units.iter().all(|mark| known.iter().any(|name| unit_bits(name) == *mark))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }
}

fn unit_bits(name: &str) -> u64 {
    hash(name.as_bytes()) & ((1 << UNIT_BITS) - 1)
}

/// FNV-1a, folded: the same in every build, because the process that asks may be another version than the one that set the mark.
fn hash(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    sum ^ sum >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(60_000);

    #[test]
    fn a_mark_lasts_as_long_as_anything_refers_to_what_was_open() {
        let folder = tempfile::tempdir().unwrap();
        let before = Marker::new(folder.path(), Instant::from_millis(59_000));
        let after = Marker::new(folder.path(), NOW);
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        before.set(&file, "t/u").unwrap();
        let request = file.try_clone().unwrap();
        drop(file);
        let found = after.former().unwrap();
        let names = ["t/u", "t/w"].map(str::to_owned);
        assert_eq!((found.has("t/u"), found.has("t/w")), (true, false));
        assert_eq!((found.has_others(&names), found.has_others(&names[1..])), (false, true));
        assert!(before.former().unwrap().is_empty(), "its own are none of a former process");
        let stranger = Marker::new(Path::new("/run/another"), NOW);
        assert!(stranger.former().unwrap().is_empty());
        drop(request);
        assert!(after.former().unwrap().is_empty());
    }

    #[test]
    fn only_marks_are_taken_for_marks() {
        let marker = Marker::new(Path::new("/run/vmpath"), NOW);
        let (start, line) = (marker.kin | 7, |from: u64, to: u64, kind: &str| {
            format!(
                "1: {kind} ADVISORY  READ -1 00:06:95 {from} {to}\n2: -> FLOCK  ADVISORY  WRITE 3 fe:00:1 0 EOF\n"
            )
        });
        let is_one = |text: &str| !marker.former_in(text).is_empty();
        assert!(is_one(&line(start, start + 59_999, "OFDLCK")));
        assert!(is_one(&format!("1: -> OFDLCK ADVISORY  READ -1 00:06:95 {start} {}", start + 1)));
        assert!(!is_one(&line(start, start + 60_000, "OFDLCK")), "this process's own");
        assert!(!is_one(&line(start, start + 59_999, "POSIX ")));
        assert!(!is_one(&line(start ^ 1 << 50, start + 59_999, "OFDLCK")));
        assert!(!is_one(&line(start, start - 1, "OFDLCK")));
        assert!(!is_one("1: OFDLCK ADVISORY  READ -1 00:06:95 0 EOF\nOFDLCK\n\n"));
    }
}
