//! A safe io_uring, in which a worker waits for everything: readiness of sockets and event descriptors, and block I/O.
//!
//! Each submission owns its buffer and its descriptor until the kernel has given it back: nobody can free memory that the
//! kernel still writes to, and no descriptor number is reused under a submission (closing is dropping the last `Rc`, and an
//! operation holds one). Sockets' bytes do not go through here: see `socket`. It does not know what a tag means.

use super::buffer::Buffer;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::io::Errno;
use slab::Slab;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Submissions that fit before the kernel must be entered.
const ENTRIES: u32 = 1024;
/// How often a full submission queue is handed to the kernel before it counts as broken.
const SUBMIT_TRIES: u32 = 100_000;

/// What came back from the kernel. `tag` is the submitter's.
#[derive(Debug)]
pub enum Completion {
    /// Something may be received (or accepted, or a counter has moved), or the peer is gone: try it.
    Ready {
        tag: u64,
        watch: Watch,
    },
    /// The descriptor is writable, or in error.
    Writable {
        tag: u64,
        result: io::Result<()>,
    },
    Opened {
        tag: u64,
        result: io::Result<OwnedFd>,
    },
    /// Block I/O; its buffer comes back.
    Block {
        tag: u64,
        cookie: u64,
        buffer: Option<Buffer>,
        result: io::Result<usize>,
    },
}

/// Whether a watch goes on after it has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Armed,
    /// Cancelled, or ended by the kernel: it holds nothing of the descriptor any more.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    ReadWrite,
    ReadOnly,
}

/// One piece of block I/O. Offsets and lengths in bytes.
#[derive(Debug)]
pub enum BlockIo {
    Read {
        offset: u64,
        buffer: Buffer,
    },
    Write {
        offset: u64,
        buffer: Buffer,
    },
    Flush,
    /// Deallocates; what is read there afterwards is zero.
    Punch {
        offset: u64,
        length: u64,
    },
    /// Zeroes, and keeps the space.
    Zero {
        offset: u64,
        length: u64,
    },
}

#[derive(Debug)]
enum Operation {
    Watch,
    Writable,
    Cancel,
    Open { _path: CString },
    Block { cookie: u64, buffer: Option<Buffer> },
}

#[derive(Debug)]
struct InFlight {
    tag: u64,
    /// Keeps the number from being reused.
    _descriptor: Option<Rc<OwnedFd>>,
    operation: Operation,
}

/// One ring, of the thread that made it.
pub struct Ring {
    ring: IoUring,
    in_flight: Slab<InFlight>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // What the kernel may still write to must outlive this process's interest in it.
        std::mem::forget(std::mem::take(&mut self.in_flight));
    }
}

impl Ring {
    /// # Errors
    /// io_uring is not available (kernel older than 6.1, or `kernel.io_uring_disabled`).
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(ENTRIES * 8)
            .build(ENTRIES)?;
        Ok(Self { ring, in_flight: Slab::new() })
    }

    /// Reports each time that something arrives on the descriptor, and once at the start if something is there already.
    pub fn watch(&mut self, descriptor: &Rc<OwnedFd>, tag: u64) {
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(fd(descriptor), events).multi(true).build();
        self.submit(tag, descriptor, Operation::Watch, entry);
    }

    /// Completes when the socket is writable or in error, once.
    pub fn writable(&mut self, socket: &Rc<OwnedFd>, tag: u64) {
        let entry = opcode::PollAdd::new(fd(socket), libc::POLLOUT as u32).build();
        self.submit(tag, socket, Operation::Writable, entry);
    }

    /// Cancels everything that is in flight on the descriptor; each operation still completes, most with ECANCELED.
    pub fn cancel_all(&mut self, descriptor: &Rc<OwnedFd>) {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd(descriptor)).all()).build();
        self.submit(0, descriptor, Operation::Cancel, entry);
    }

    /// Opens a file or device for direct I/O.
    ///
    /// # Errors
    /// A path with a zero byte.
    pub fn open(&mut self, tag: u64, path: &Path, mode: OpenMode) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let access = match mode {
            OpenMode::ReadWrite => libc::O_RDWR,
            OpenMode::ReadOnly => libc::O_RDONLY,
        };
        let flags = access | libc::O_DIRECT | libc::O_CLOEXEC;
        let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).flags(flags).build();
        self.enqueue(InFlight { tag, _descriptor: None, operation: Operation::Open { _path: path } }, entry);
        Ok(())
    }

    /// Starts block I/O; `cookie` comes back with it.
    pub fn block(&mut self, file: &Rc<OwnedFd>, tag: u64, cookie: u64, io: BlockIo) {
        let (entry, buffer) = match io {
            BlockIo::Read { offset, mut buffer } => {
                let entry = opcode::Read::new(fd(file), buffer.as_mut_ptr(), buffer.len() as u32);
                (entry.offset(offset).build(), Some(buffer))
            }
            BlockIo::Write { offset, buffer } => {
                let entry = opcode::Write::new(fd(file), buffer.as_ptr(), buffer.len() as u32);
                (entry.offset(offset).build(), Some(buffer))
            }
            BlockIo::Flush => {
                let entry = opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC);
                (entry.build(), None)
            }
            BlockIo::Punch { offset, length } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                (fallocate(file, mode, offset, length), None)
            }
            BlockIo::Zero { offset, length } => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                (fallocate(file, mode, offset, length), None)
            }
        };
        self.submit(tag, file, Operation::Block { cookie, buffer }, entry);
    }

    /// Hands over what was submitted and waits for a completion or until `timeout` has passed.
    ///
    /// # Errors
    /// The ring itself is broken; a timeout or an interruption is no error.
    pub fn wait(&mut self, timeout: Duration, into: &mut Vec<Completion>) -> io::Result<()> {
        let timespec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timespec);
        tolerate(self.ring.submitter().submit_with_args(1, &args))?;
        self.reap(into);
        Ok(())
    }

    /// Hands over what was submitted and takes what has completed, without waiting; enters the kernel only if there is
    /// something to do.
    ///
    /// # Errors
    /// The ring itself is broken.
    pub fn poll(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        let has_work = {
            let submissions = self.ring.submission();
            !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
        };
        if has_work {
            tolerate(self.ring.submit_and_wait(0))?;
        }
        self.reap(into);
        Ok(())
    }

    fn reap(&mut self, into: &mut Vec<Completion>) {
        while let Some(entry) = self.ring.completion().next() {
            let key = entry.user_data() as usize;
            if cqueue::more(entry.flags()) {
                into.push(Completion::Ready { tag: self.in_flight[key].tag, watch: Watch::Armed });
            } else if let Some(completion) = complete(self.in_flight.remove(key), entry.result()) {
                into.push(completion);
            }
        }
    }

    fn submit(&mut self, tag: u64, descriptor: &Rc<OwnedFd>, operation: Operation, entry: squeue::Entry) {
        let descriptor = Some(Rc::clone(descriptor));
        self.enqueue(InFlight { tag, _descriptor: descriptor, operation }, entry);
    }

    fn enqueue(&mut self, in_flight: InFlight, entry: squeue::Entry) {
        let key = self.in_flight.insert(in_flight);
        let entry = entry.user_data(key as u64);
        for _ in 0..SUBMIT_TRIES {
            // SAFETY: a pointer in the entry leads into the buffer or path in `operation`, which stays in `in_flight` and in place
            // until its completion has been seen (and is leaked if the ring goes first); the descriptor is kept open by it.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The queue is full: let the kernel take it. EBUSY means that completions must be reaped first, for which
            // the queue's eightfold size leaves room; submitting again succeeds then.
            let _ = self.ring.submit();
        }
        // Nothing can be sent or received any more: better restarted than silent.
        panic!("the io_uring takes no submissions");
    }
}

fn tolerate(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(e)
            if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) =>
        {
            Ok(())
        }
        Err(e) => Err(e),
    }
}

fn fd(descriptor: &Rc<OwnedFd>) -> types::Fd {
    types::Fd(descriptor.as_raw_fd())
}

fn fallocate(file: &Rc<OwnedFd>, mode: i32, offset: u64, length: u64) -> squeue::Entry {
    opcode::Fallocate::new(fd(file), length).offset(offset).mode(mode).build()
}

fn complete(done: InFlight, result: i32) -> Option<Completion> {
    let tag = done.tag;
    let count = if result < 0 {
        Err(io::Error::from(Errno::from_raw_os_error(-result)))
    } else {
        Ok(result.unsigned_abs() as usize)
    };
    match done.operation {
        Operation::Watch => Some(Completion::Ready { tag, watch: Watch::Ended }),
        Operation::Writable => Some(Completion::Writable { tag, result: count.map(|_| ()) }),
        Operation::Cancel => None,
        Operation::Open { .. } => {
            // SAFETY: a successful open gives a new descriptor that nobody else owns.
            let result = count.map(|_| unsafe { OwnedFd::from_raw_fd(result as RawFd) });
            Some(Completion::Opened { tag, result })
        }
        Operation::Block { cookie, buffer } => Some(Completion::Block { tag, cookie, buffer, result: count }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Pool;
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn wait(ring: &mut Ring, count: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        while all.len() < count {
            ring.wait(Duration::from_secs(5), &mut all).unwrap();
        }
        all
    }

    #[test]
    fn a_watch_reports_what_was_there_and_what_comes() {
        let mut ring = Ring::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let reader = ours.try_clone().unwrap();
        let ours = Rc::new(OwnedFd::from(ours));
        theirs.write_all(b"1").unwrap();
        ring.watch(&ours, 7);
        let is_armed = |c: &Completion| matches!(c, Completion::Ready { tag: 7, watch: Watch::Armed });
        assert!(is_armed(&wait(&mut ring, 1)[0]));
        (&reader).read_exact(&mut [0]).unwrap();
        theirs.write_all(b"2").unwrap();
        assert!(is_armed(&wait(&mut ring, 1)[0]));
        let mut none = Vec::new();
        ring.poll(&mut none).unwrap();
        assert!(none.is_empty(), "what is not read is not reported again: {none:?}");
        drop(theirs);
        assert!(!wait(&mut ring, 1).is_empty());
    }

    #[test]
    fn what_is_cancelled_ends_and_gives_its_socket_back() {
        let mut ring = Ring::new().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let ours = Rc::new(OwnedFd::from(ours));
        ring.watch(&ours, 1);
        ring.poll(&mut Vec::new()).unwrap();
        assert!(Rc::strong_count(&ours) > 1, "the kernel's side holds the socket");
        ring.cancel_all(&ours);
        let done = wait(&mut ring, 1);
        assert!(matches!(done[0], Completion::Ready { tag: 1, watch: Watch::Ended }));
        ring.wait(Duration::ZERO, &mut Vec::new()).unwrap();
        assert_eq!(Rc::strong_count(&ours), 1);
    }

    #[test]
    fn block_io_gives_its_buffer_back() {
        let mut ring = Ring::new().unwrap();
        let mut pool = Pool::default();
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let file = Rc::new(OwnedFd::from(file));
        let mut buffer = pool.take(8192);
        buffer.fill(0x5a);
        ring.block(&file, 1, 11, BlockIo::Write { offset: 4096, buffer });
        let Completion::Block { cookie: 11, buffer: Some(_), result: Ok(8192), .. } =
            wait(&mut ring, 1).remove(0)
        else {
            panic!("a write")
        };
        ring.block(&file, 1, 12, BlockIo::Punch { offset: 4096, length: 4096 });
        ring.block(&file, 1, 13, BlockIo::Flush);
        for done in wait(&mut ring, 2) {
            assert!(matches!(done, Completion::Block { buffer: None, result: Ok(0), .. }), "{done:?}");
        }
        ring.block(&file, 1, 14, BlockIo::Read { offset: 4096, buffer: pool.take(8192) });
        let Completion::Block { buffer: Some(buffer), result: Ok(8192), .. } = wait(&mut ring, 1).remove(0)
        else {
            panic!("a read")
        };
        assert!(buffer[..4096].iter().all(|b| *b == 0) && buffer[4096..].iter().all(|b| *b == 0x5a));
    }

    #[test]
    fn more_submissions_than_the_queue_has_room_for() {
        let mut ring = Ring::new().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let ours = Rc::new(OwnedFd::from(ours));
        let count = ENTRIES as usize + 10;
        for _ in 0..count {
            ring.writable(&ours, 0);
        }
        assert_eq!(wait(&mut ring, count).len(), count);
    }
}
