//! The event descriptors by which a guest and its device wake each other.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// Takes what a front end has sent: it may be inherited by no child.
pub(super) fn adopt(file: File) -> io::Result<OwnedFd> {
    let fd = OwnedFd::from(file);
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// An event descriptor that we ring.
#[derive(Debug)]
pub(super) struct Doorbell {
    fd: OwnedFd,
    writes: Writes,
}

/// What a write does when the descriptor is full. Its flags are shared with the front end, so they stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Fail,
    Wait,
}

impl Doorbell {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let fd = adopt(file)?;
        let waits = !rustix::fs::fcntl_getfl(&fd)?.contains(OFlags::NONBLOCK);
        Ok(Self { fd, writes: if waits { Writes::Wait } else { Writes::Fail } })
    }

    /// A bell that is full has been rung; one that is broken is its front end's.
    pub(super) fn ring(&self) {
        if self.writes == Writes::Wait {
            let mut ready = [PollFd::new(&self.fd, PollFlags::OUT)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if !matches!(poll(&mut ready, Some(&now)), Ok(1)) {
                return;
            }
        }
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}
