//! A safe io_uring: each submission owns its buffers and its descriptor until the kernel has given it back.
//!
//! So no caller can free memory that the kernel still reads or writes, and no descriptor number is reused under a
//! submission: closing is dropping the last `Rc`, and an operation holds one. Rejected: borrowing buffers, which no
//! lifetime can express for a completion queue. It does not know what the bytes mean.

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;
use slab::Slab;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

/// Submissions that fit before the kernel must be entered.
const ENTRIES: u32 = 1024;
/// How often a full submission queue is handed to the kernel before it counts as broken.
const SUBMIT_TRIES: u32 = 100_000;
/// Pieces in one send; the system's own bound (IOV_MAX) is 1024.
pub const SEGMENTS_MAX: usize = 256;

/// A piece of a send.
#[derive(Debug)]
pub enum Segment {
    /// A protocol header.
    Head { bytes: [u8; 32], len: u8 },
    /// Bytes of their own.
    Bytes(Vec<u8>),
    /// A request's payload, shared with the request.
    Payload(Rc<Vec<u8>>),
}

impl Segment {
    /// A header of at most 32 bytes.
    #[must_use]
    pub fn head(bytes: &[u8]) -> Self {
        let mut all = [0; 32];
        all[..bytes.len()].copy_from_slice(bytes);
        Self::Head { bytes: all, len: bytes.len() as u8 }
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Head { bytes, len } => &bytes[..usize::from(*len)],
            Self::Bytes(bytes) => bytes,
            Self::Payload(bytes) => bytes,
        }
    }
}

/// What came back from the kernel. `tag` is the submitter's.
#[derive(Debug)]
pub enum Completion {
    /// `buffer[..n]` holds what was received; 0 is the end of the stream.
    Received {
        tag: u64,
        buffer: Vec<u8>,
        result: io::Result<usize>,
    },
    /// The segments come back, for what was not sent of them.
    Sent {
        tag: u64,
        segments: Vec<Segment>,
        result: io::Result<usize>,
    },
    Accepted {
        tag: u64,
        result: io::Result<OwnedFd>,
    },
    /// The descriptor is writable, or in error.
    Writable {
        tag: u64,
        result: io::Result<()>,
    },
    /// The event descriptor was written to.
    Woken,
}

#[derive(Debug)]
enum Operation {
    Receive { buffer: Vec<u8> },
    Send(Box<Sending>),
    Accept,
    Writable,
    Wake { value: Box<[u8; 8]> },
    Cancel,
}

#[derive(Debug)]
struct Sending {
    /// Kept for the kernel, which reads them.
    segments: Vec<Segment>,
    vectors: Vec<libc::iovec>,
    message: libc::msghdr,
}

#[derive(Debug)]
struct InFlight {
    tag: u64,
    /// Keeps the number from being reused.
    _socket: Rc<OwnedFd>,
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
            .setup_cqsize(ENTRIES * 8)
            .build(ENTRIES)?;
        Ok(Self { ring, in_flight: Slab::new() })
    }

    /// Receives into the whole of `buffer`.
    pub fn receive(&mut self, socket: &Rc<OwnedFd>, tag: u64, mut buffer: Vec<u8>) {
        let (at, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
        let entry = opcode::Recv::new(fd(socket), at, len).build();
        self.submit(tag, socket, Operation::Receive { buffer }, entry);
    }

    /// Sends the segments (at most [`SEGMENTS_MAX`]) in order, without the first `skip` bytes; may send only a part of
    /// them, as `sendmsg` may.
    pub fn send(&mut self, socket: &Rc<OwnedFd>, tag: u64, segments: Vec<Segment>, skip: usize) {
        debug_assert!(segments.len() <= SEGMENTS_MAX);
        let mut left = skip;
        let mut vectors = Vec::with_capacity(segments.len());
        for segment in &segments {
            let bytes = segment.as_slice();
            let skipped = left.min(bytes.len());
            left -= skipped;
            if skipped < bytes.len() {
                let rest = &bytes[skipped..];
                vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
        // SAFETY: all-zero is a valid msghdr: no name, no vectors, no control data.
        let message: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut sending = Box::new(Sending { segments, vectors, message });
        // `vectors` and `segments` live on the heap, so these pointers survive the moves of their owners. A `Head`
        // lies in the segments' own allocation, which is not touched again before the completion.
        sending.message.msg_iov = sending.vectors.as_mut_ptr();
        sending.message.msg_iovlen = sending.vectors.len();
        let entry = opcode::SendMsg::new(fd(socket), &raw const sending.message)
            .flags(libc::MSG_NOSIGNAL as u32)
            .build();
        self.submit(tag, socket, Operation::Send(sending), entry);
    }

    /// Accepts one connection, close-on-exec.
    pub fn accept(&mut self, listener: &Rc<OwnedFd>, tag: u64) {
        let entry = opcode::Accept::new(fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.submit(tag, listener, Operation::Accept, entry);
    }

    /// Completes when the socket is writable or in error, once.
    pub fn writable(&mut self, socket: &Rc<OwnedFd>, tag: u64) {
        let entry = opcode::PollAdd::new(fd(socket), libc::POLLOUT as u32).build();
        self.submit(tag, socket, Operation::Writable, entry);
    }

    /// Completes when the event descriptor is written to.
    pub fn wake(&mut self, event: &Rc<OwnedFd>, tag: u64) {
        let mut value = Box::new([0u8; 8]);
        let entry = opcode::Read::new(fd(event), value.as_mut_ptr(), 8).build();
        self.submit(tag, event, Operation::Wake { value }, entry);
    }

    /// Cancels everything that is in flight on the descriptor; each operation still completes, most with ECANCELED.
    pub fn cancel_all(&mut self, socket: &Rc<OwnedFd>) {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd(socket)).all()).build();
        self.submit(0, socket, Operation::Cancel, entry);
    }

    /// Hands over what was submitted and waits for a completion or until `timeout` has passed.
    ///
    /// # Errors
    /// The ring itself is broken; a timeout or an interruption is no error.
    pub fn submit_and_wait(&mut self, timeout: Duration, into: &mut Vec<Completion>) -> io::Result<()> {
        let timespec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timespec);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(e) => return Err(e),
        }
        while let Some(entry) = self.ring.completion().next() {
            let done = self.in_flight.remove(entry.user_data() as usize);
            if let Some(completion) = complete(done, entry.result()) {
                into.push(completion);
            }
        }
        Ok(())
    }

    fn submit(&mut self, tag: u64, socket: &Rc<OwnedFd>, operation: Operation, entry: squeue::Entry) {
        let key = self.in_flight.insert(InFlight { tag, _socket: Rc::clone(socket), operation });
        let entry = entry.user_data(key as u64);
        for _ in 0..SUBMIT_TRIES {
            // SAFETY: every pointer in the entry leads into `operation`, which stays in `in_flight` and in place until
            // its completion has been seen (and is leaked if the ring goes first); the descriptor is kept open by it.
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

fn fd(socket: &Rc<OwnedFd>) -> types::Fd {
    types::Fd(socket.as_raw_fd())
}

fn complete(done: InFlight, result: i32) -> Option<Completion> {
    let tag = done.tag;
    let count = if result < 0 {
        Err(io::Error::from(Errno::from_raw_os_error(-result)))
    } else {
        Ok(result.unsigned_abs() as usize)
    };
    match done.operation {
        Operation::Receive { buffer } => Some(Completion::Received { tag, buffer, result: count }),
        Operation::Send(sending) => Some(Completion::Sent { tag, segments: sending.segments, result: count }),
        Operation::Accept => {
            // SAFETY: a successful accept gives a new descriptor that nobody else owns.
            let result = count.map(|_| unsafe { OwnedFd::from_raw_fd(result as RawFd) });
            Some(Completion::Accepted { tag, result })
        }
        Operation::Writable => Some(Completion::Writable { tag, result: count.map(|_| ()) }),
        Operation::Wake { value } => {
            drop(value);
            Some(Completion::Woken)
        }
        Operation::Cancel => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn wait(ring: &mut Ring, count: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        while all.len() < count {
            ring.submit_and_wait(Duration::from_secs(5), &mut all).unwrap();
        }
        all
    }

    #[test]
    fn segments_arrive_in_order_and_without_what_was_skipped() {
        let mut ring = Ring::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = Rc::new(OwnedFd::from(ours));
        let payload = Rc::new(b"shared".to_vec());
        let segments = vec![
            Segment::head(b"head-"),
            Segment::Bytes(b"own-".to_vec()),
            Segment::Payload(Rc::clone(&payload)),
        ];
        ring.send(&ours, 7, segments, 7);
        let Completion::Sent { tag, segments, result } = wait(&mut ring, 1).remove(0) else {
            panic!("a send")
        };
        assert_eq!((tag, segments.len(), result.unwrap()), (7, 3, 8));
        let mut got = [0; 8];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"n-shared");
    }

    #[test]
    fn what_is_cancelled_still_completes_and_gives_its_buffer_and_socket_back() {
        let mut ring = Ring::new().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let ours = Rc::new(OwnedFd::from(ours));
        ring.receive(&ours, 1, vec![0; 64]);
        ring.submit_and_wait(Duration::ZERO, &mut Vec::new()).unwrap();
        assert!(Rc::strong_count(&ours) > 1, "the kernel's side holds the socket");
        ring.cancel_all(&ours);
        let Completion::Received { buffer, result, .. } = wait(&mut ring, 1).remove(0) else {
            panic!("a receive")
        };
        assert_eq!(buffer.len(), 64);
        assert!(result.is_err());
        ring.submit_and_wait(Duration::ZERO, &mut Vec::new()).unwrap();
        assert_eq!(Rc::strong_count(&ours), 1);
    }

    #[test]
    fn more_submissions_than_the_queue_has_room_for() {
        let mut ring = Ring::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = Rc::new(OwnedFd::from(ours));
        let count = ENTRIES as usize + 10;
        let reader = std::thread::spawn(move || theirs.read_exact(&mut vec![0; count]));
        for _ in 0..count {
            ring.send(&ours, 0, vec![Segment::head(b"x")], 0);
        }
        assert_eq!(wait(&mut ring, count).len(), count);
        reader.join().unwrap().unwrap();
    }
}
