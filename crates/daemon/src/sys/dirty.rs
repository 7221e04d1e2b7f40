//! The log of pages that were written, for a migration (vhost-user: "Migration").
//!
//! One bit a page of guest physical memory, in memory that the front end shares and clears as it copies. A page is marked after
//! it was written, never before: the front end may copy in between. It does not know who writes.

use super::guest::{Mapping, Window};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

const PAGE_SHIFT: u32 = 12;

#[derive(Debug)]
pub struct DirtyLog(Window);

impl DirtyLog {
    /// # Errors
    /// The file does not have those bytes, or cannot be mapped.
    pub fn new(file: impl AsFd, offset: u64, bytes: u64) -> io::Result<Self> {
        let mapping = Mapping::new(file, offset, bytes)?;
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        Window::new(&mapping, 0, len, 1).map(Self).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Marks the pages of these bytes. `false` if the log is too short for them: the front end then copies a stale page.
    #[must_use]
    pub fn mark(&self, gpa: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let Some(last) = gpa.checked_add(len - 1) else { return false };
        for page in gpa >> PAGE_SHIFT..=last >> PAGE_SHIFT {
            let Some(at) = usize::try_from(page / 8).ok().filter(|at| *at < self.0.len()) else {
                return false;
            };
            // Release: who sees the bit sees the page's new bytes.
            self.0.u8(at).fetch_or(1 << (page % 8), Ordering::Release);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::DirtyLog;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn each_page_that_is_touched_has_its_bit() {
        let fd = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 4096).unwrap();
        let file = File::from(fd);
        let log = DirtyLog::new(&file, 0, 2).unwrap();
        assert!(log.mark(4095, 2));
        assert!(log.mark(9 << 12, 1));
        assert!(log.mark(3 << 12, 0));
        let mut bits = [0; 3];
        file.read_exact_at(&mut bits, 0).unwrap();
        assert_eq!(bits, [0b11, 0b10, 0]);
        assert!(log.mark(15 << 12, 4096));
        assert!(!log.mark(15 << 12, 4097), "beyond the log");
        assert!(!log.mark(u64::MAX, 2));
        assert!(DirtyLog::new(&file, 4095, 2).is_err());
    }
}
