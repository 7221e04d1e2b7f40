//! A file or device that the kernel reaches (`block:///…`), so that FC, SAS and all else are paths too.
//!
//! io_uring with O_DIRECT, always from and into buffers of our own: such a path cannot be cut off, and what the kernel still has
//! when its guest has gone must not write into that guest's memory. For the same reason nothing that it carried goes
//! elsewhere before the kernel has given all of it back. It does not know guests, nor what a lost path means.

use super::{Back, Block, Outcome, Phase, Purpose, Wire};
use crate::dataplane::{Tag, Worker};
use crate::sys::buffer::Buffer;
use crate::sys::uring::{BlockIo, OpenMode};
use rustix::fs::{FileType, SeekFrom, StatxFlags, fstat, ioctl_blksszget, seek, statx};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use vmpath_core::event::Fault;
use vmpath_core::path::class::{self, Class};
use vmpath_core::router::{Fence, Operation, Request};
use vmpath_core::spec::PathUrl;
use vmpath_core::volume::verdict::TargetError;
use vmpath_protocol::nbd::{BlockSizes, ExportInfo, NbdError, TransmissionFlags};

/// The largest request; the kernel splits it as the device needs.
const REQUEST_MAX: u32 = 32 << 20;
/// Zeroes written at a time where there is no command for them.
const ZEROES_MAX: u64 = 1 << 20;
/// What a file takes whose file system does not say.
const SECTOR: u32 = 512;

impl Worker {
    /// Opens a path's device; that may take long on a sick one, so the ring does it.
    pub(super) fn open_block(&mut self, link: usize, device: &Path) {
        let path = self.plan.spec.path(self.backs.links[link].path);
        let deadline = self.now + self.plan.spec.target(path.target).ping_budget;
        let entry = self.backs.backs.vacant_entry();
        match self.ring.open(Tag::BackOpen(entry.key()).pack(), device, OpenMode::ReadWrite) {
            Ok(()) => {}
            Err(error) => {
                self.attempt_failed(link, Fault::Refused(error.to_string()));
                return;
            }
        }
        entry.insert(Back {
            link,
            wire: Wire::Block(Block {
                file: None,
                mode: OpenMode::ReadWrite,
                submitted: 1,
                zeroing: Vec::new(),
                outcome: Outcome::Proven,
            }),
            phase: Phase::Connecting { deadline },
            export: None,
            differed: 0,
            own: Vec::new(),
            in_flight: 0,
            heard: self.now,
        });
        self.backs.links[link].connections += 1;
    }

    /// The device is open, or cannot be opened.
    pub(crate) fn block_opened(&mut self, index: usize, result: io::Result<OwnedFd>) {
        let back = &mut self.backs.backs[index];
        let is_closing = back.is_closing();
        let Wire::Block(block) = &mut back.wire else { return };
        block.submitted -= 1;
        back.heard = self.now;
        if is_closing {
            return;
        }
        if let Err(error) = &result
            && block.mode == OpenMode::ReadWrite
            && matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM))
        {
            // A medium that cannot be written is a read-only disk.
            block.mode = OpenMode::ReadOnly;
            let PathUrl::Block { device } = &self.plan.spec.path(self.backs.links[back.link].path).url else {
                return;
            };
            if self.ring.open(Tag::BackOpen(index).pack(), device, OpenMode::ReadOnly).is_ok() {
                block.submitted += 1;
                return;
            }
        }
        let opened = result.and_then(|file| Ok((describe(&file)?, file)));
        match opened {
            Ok((export, file)) => {
                let unit = self.backs.links[self.backs.backs[index].link].unit;
                self.mark(&file, unit);
                if let Wire::Block(block) = &mut self.backs.backs[index].wire {
                    block.file = Some(Rc::new(file));
                }
                self.opened(index, export);
            }
            Err(error) => self.cut(index, unopened(&error)),
        }
    }

    /// Starts an attempt of the router's.
    pub(super) fn start_block(&mut self, index: usize, cookie: u64, request: &Request) {
        let (offset, length) = (request.offset, u64::from(request.length));
        let io = match request.operation {
            Operation::Read => BlockIo::Read { offset, buffer: self.pool.take(request.length as usize) },
            Operation::Write => {
                let mut buffer = self.pool.take(request.length as usize);
                if !self.requests.copy_out(request.token, &mut buffer) {
                    // Nothing else may be written in their place.
                    self.pool.give(buffer);
                    let _ = self.attempt_done(index, cookie, Err(TargetError::Io));
                    return;
                }
                BlockIo::Write { offset, buffer }
            }
            Operation::Trim => BlockIo::Punch { offset, length },
            Operation::WriteZeroes(_) => BlockIo::Zero { offset, length },
            Operation::Flush => BlockIo::Flush,
        };
        self.submit_block(index, cookie, io);
    }

    pub(super) fn start_own_block(&mut self, index: usize, cookie: u64, offset: u64, length: usize) {
        let buffer = self.pool.take(length);
        self.submit_block(index, cookie, BlockIo::Read { offset, buffer });
    }

    fn submit_block(&mut self, index: usize, cookie: u64, io: BlockIo) {
        let Wire::Block(block) = &mut self.backs.backs[index].wire else { return };
        let Some(file) = &block.file else { return };
        block.submitted += 1;
        self.ring.block(file, Tag::BackBlock(index).pack(), cookie, io);
    }

    /// The kernel has given a piece of I/O back.
    pub(crate) fn block_done(
        &mut self,
        index: usize,
        cookie: u64,
        buffer: Option<Buffer>,
        result: &io::Result<usize>,
    ) {
        let back = &mut self.backs.backs[index];
        let Wire::Block(block) = &mut back.wire else { return };
        block.submitted -= 1;
        back.heard = self.now;
        let ended = if cookie & super::OWN_COOKIE != 0 {
            self.own_block_done(index, cookie, buffer.as_ref(), result)
        } else {
            self.attempt_block_done(index, cookie, buffer.as_ref(), result)
        };
        if let Some(buffer) = buffer {
            self.pool.give(buffer);
        }
        if let Err(fault) = ended {
            self.cut(index, fault);
        }
    }

    fn own_block_done(
        &mut self,
        index: usize,
        cookie: u64,
        buffer: Option<&Buffer>,
        result: &io::Result<usize>,
    ) -> Result<(), Fault> {
        let back = &mut self.backs.backs[index];
        if back.is_closing() {
            return Ok(());
        }
        let Some(own) = back.own.iter_mut().find(|o| o.cookie == cookie) else { return Ok(()) };
        let shows_life = match own.purpose {
            Purpose::Ping | Purpose::FirstRead => true,
            Purpose::Compare(_) | Purpose::Remember(_) | Purpose::Probe(_) | Purpose::Nobody => false,
        };
        let read = match (result, buffer) {
            (Ok(bytes), Some(buffer)) if *bytes == own.data.len() => {
                own.data.copy_from_slice(buffer);
                Ok(())
            }
            // Behind the kernel there is nobody who answers "alive, but this block is bad": a first block that cannot be read
            // is a path that does not work. Of any other it only means one block less to know the unit by.
            (Err(error), _) if shows_life => {
                return Err(Fault::Refused(format!("it cannot be read: {error}")));
            }
            _ => Err(NbdError::Io),
        };
        self.own_done(index, cookie, read);
        Ok(())
    }

    fn attempt_block_done(
        &mut self,
        index: usize,
        cookie: u64,
        buffer: Option<&Buffer>,
        result: &io::Result<usize>,
    ) -> Result<(), Fault> {
        let Some(key) = self.backs.backs[index].key() else { return Ok(()) };
        let Some(request) = self.router.attempt(key, cookie) else { return Ok(()) };
        if let (Ok(bytes), Some(at)) = (result, self.zeroing(index, cookie)) {
            return self.zeroed(index, at, *bytes as u64, &request);
        }
        let outcome = match (result, request.operation) {
            (Ok(bytes), Operation::Read | Operation::Write) if *bytes != request.length as usize => {
                Err(TargetError::Io)
            }
            (Ok(_), _) => Ok(()),
            (Err(error), operation) => match error.raw_os_error() {
                // Discarding is advice: a device that cannot is none the worse.
                Some(libc::EOPNOTSUPP) if operation == Operation::Trim => Ok(()),
                Some(libc::EOPNOTSUPP) if matches!(operation, Operation::WriteZeroes(_)) => {
                    self.write_zeroes(index, cookie, &request);
                    return Ok(());
                }
                // Cut, and taken back before the device had it: what the device has can be taken back by nobody.
                Some(libc::ECANCELED | libc::EINTR) if self.backs.backs[index].is_closing() => return Ok(()),
                // A driver that has lost its way to the device may say so, too, with this word.
                Some(libc::EIO) if operation.changes_data() => {
                    return self.block_given_up(index, cookie);
                }
                _ => match judged(error) {
                    Ok(own) => Err(own),
                    Err(fault) => {
                        self.given_up(index, &request);
                        return Err(fault);
                    }
                },
            },
        };
        if let (Ok(()), Operation::Read, Some(buffer)) = (&outcome, request.operation, buffer) {
            self.requests.fill(request.token, 0, buffer);
        }
        if let Some(at) = self.zeroing(index, cookie)
            && let Wire::Block(block) = &mut self.backs.backs[index].wire
        {
            block.zeroing.swap_remove(at);
        }
        self.attempt_done(index, cookie, outcome)
    }

    /// An error that does not say whether the device has the request.
    fn block_given_up(&mut self, index: usize, cookie: u64) -> Result<(), Fault> {
        let back = &mut self.backs.backs[index];
        let Some(key) = back.key() else { return Ok(()) };
        if let Wire::Block(block) = &mut back.wire {
            block.zeroing.retain(|(of, _)| *of != cookie);
        }
        back.in_flight -= 1;
        let given_up = self.router.given_up(key, cookie, TargetError::Io, Fence::QuiesceBound, self.now);
        given_up.map_err(|_| Fault::Protocol("the end of a request that is not in flight".into()))
    }

    /// The driver has ended a request because its way to the device is lost. The device may have it all the same.
    fn given_up(&mut self, index: usize, request: &Request) {
        if let Wire::Block(block) = &mut self.backs.backs[index].wire
            && request.operation.changes_data()
        {
            block.outcome = Outcome::GivenUp;
        }
    }

    /// For a device that has no command for it: zeroes are written, a piece at a time.
    fn write_zeroes(&mut self, index: usize, cookie: u64, request: &Request) {
        if let Wire::Block(block) = &mut self.backs.backs[index].wire {
            block.zeroing.push((cookie, 0));
        }
        self.write_zeroes_from(index, cookie, request, 0);
    }

    fn write_zeroes_from(&mut self, index: usize, cookie: u64, request: &Request, done: u64) {
        let left = u64::from(request.length) - done;
        let mut buffer = self.pool.take(left.min(ZEROES_MAX) as usize);
        buffer.fill(0);
        self.submit_block(index, cookie, BlockIo::Write { offset: request.offset + done, buffer });
    }

    /// Where in the list of such requests one is.
    fn zeroing(&self, index: usize, cookie: u64) -> Option<usize> {
        let Wire::Block(block) = &self.backs.backs[index].wire else { return None };
        block.zeroing.iter().position(|(of, _)| *of == cookie)
    }

    fn zeroed(&mut self, index: usize, at: usize, bytes: u64, request: &Request) -> Result<(), Fault> {
        let Wire::Block(block) = &mut self.backs.backs[index].wire else { return Ok(()) };
        let (cookie, done) = block.zeroing[at];
        let done = done + bytes;
        if bytes > 0 && done < u64::from(request.length) {
            block.zeroing[at].1 = done;
            self.write_zeroes_from(index, cookie, request, done);
            return Ok(());
        }
        block.zeroing.swap_remove(at);
        let outcome = if done >= u64::from(request.length) { Ok(()) } else { Err(TargetError::Io) };
        self.attempt_done(index, cookie, outcome)
    }
}

/// What fences the requests of a device of which the kernel has given all back, some without an answer.
pub(super) fn fence(block: &Block) -> Fence {
    match block.outcome {
        Outcome::Proven => Fence::KernelCompletion,
        Outcome::GivenUp => Fence::QuiesceBound,
    }
}

/// The kernel's error, as one of the path or the unit, or as the command's own.
fn judged(error: &io::Error) -> Result<TargetError, Fault> {
    match error.raw_os_error().map(class::of_block) {
        Some(Class::Path) => Err(Fault::Refused(error.to_string())),
        Some(Class::Leaving) => Err(Fault::ShuttingDown),
        Some(Class::Unit) => Err(Fault::UnitGone(error.to_string())),
        Some(Class::Command(error)) => Ok(error),
        None => Ok(TargetError::Io),
    }
}

/// What cannot be opened or looked at is a path that does not work, unless the kernel says that it is the unit.
fn unopened(error: &io::Error) -> Fault {
    judged(error).err().unwrap_or_else(|| Fault::Refused(error.to_string()))
}

/// What the device is, in the words of an export. It has no FUA: the router flushes after a write that must be stable.
fn describe(file: &OwnedFd) -> io::Result<ExportInfo> {
    let is_device = match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::BlockDevice => true,
        FileType::RegularFile => false,
        _ => return Err(io::Error::other("it is neither a block device nor a file")),
    };
    let min = if is_device { ioctl_blksszget(file)? } else { direct_alignment(file) };
    let size = seek(file, SeekFrom::End(0))? / u64::from(min) * u64::from(min);
    if size == 0 {
        return Err(io::Error::other("it is empty"));
    }
    let mut flags = TransmissionFlags::FLUSH
        | TransmissionFlags::TRIM
        | TransmissionFlags::WRITE_ZEROES
        | TransmissionFlags::MULTI_CONN;
    if !rustix::fs::fcntl_getfl(file)?.contains(rustix::fs::OFlags::RDWR) {
        flags = flags | TransmissionFlags::READ_ONLY;
    }
    let block = BlockSizes::new(min, min.max(4096), REQUEST_MAX).map_err(io::Error::other)?;
    Ok(ExportInfo { size, flags, block, structured_replies: false })
}

/// What the file system wants of O_DIRECT (statx, STATX_DIOALIGN).
fn direct_alignment(file: &OwnedFd) -> u32 {
    const DIOALIGN: u32 = 0x2000;
    let asked = statx(file, "", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::from_bits_retain(DIOALIGN));
    match asked {
        Ok(told) if told.stx_mask & DIOALIGN != 0 && told.stx_dio_offset_align > 0 => {
            told.stx_dio_offset_align.max(SECTOR)
        }
        Ok(_) | Err(_) => SECTOR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_described_by_its_size_and_may_be_read_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len((1 << 20) + 100).unwrap();
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
        let writable = describe(&opened.into()).unwrap();
        assert_eq!(writable.size, 1 << 20);
        assert!(!writable.flags.read_only() && !writable.flags.can_fua() && writable.flags.can_flush());
        let readable = describe(&std::fs::File::open(file.path()).unwrap().into()).unwrap();
        assert!(readable.flags.read_only());
        let directory = std::fs::File::open(file.path().parent().unwrap()).unwrap();
        assert!(describe(&directory.into()).is_err());
    }
}
