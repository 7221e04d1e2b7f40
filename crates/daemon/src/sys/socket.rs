//! Plain `sendmsg` and `recvmsg` that never wait, over pieces of memory that may be a guest's.
//!
//! Both are done when they return: nothing of a caller's memory is in the kernel's hands afterwards, so a connection can be cut
//! and a guest's ring stopped at any moment between two calls. Rejected: receives that wait inside an io_uring (they
//! own memory until they are cancelled and reaped), and zero-copy sends (a retransmit would read memory that the guest
//! has reused). It does not know what the bytes mean.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// Pieces in one call; the system's own bound (IOV_MAX) is 1024.
pub const PIECES_MAX: usize = 256;

/// Pieces of memory for one call, in order. `'a` is how long they are borrowed.
pub struct Pieces<'a> {
    vectors: [MaybeUninit<libc::iovec>; PIECES_MAX],
    count: usize,
    bytes: usize,
    borrowed: PhantomData<&'a mut [u8]>,
}

impl std::fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces")
            .field("count", &self.count)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Default for Pieces<'_> {
    fn default() -> Self {
        Self {
            vectors: [const { MaybeUninit::uninit() }; PIECES_MAX],
            count: 0,
            bytes: 0,
            borrowed: PhantomData,
        }
    }
}

impl<'a> Pieces<'a> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Pieces that can still be added.
    #[must_use]
    pub fn room(&self) -> usize {
        PIECES_MAX - self.count
    }

    /// Something to send from. What a full list has no room for is left to the next call, with all that follows.
    pub fn push_source(&mut self, bytes: &'a [u8]) {
        self.push(bytes.as_ptr().cast_mut(), bytes.len());
    }

    /// Something to receive into.
    pub fn push_target(&mut self, bytes: &'a mut [u8]) {
        self.push(bytes.as_mut_ptr(), bytes.len());
    }

    /// A piece of guest memory, mapped at `at` for as long as `'a` lasts. The guest may change it at any time; only the
    /// kernel ever reads or writes through it.
    ///
    /// Callers inside `sys` vouch for `at` and `len`.
    pub(super) fn push_raw(&mut self, at: *mut u8, len: usize) {
        self.push(at, len);
    }

    fn push(&mut self, at: *mut u8, len: usize) {
        if len == 0 || self.count == PIECES_MAX {
            return;
        }
        self.vectors[self.count].write(libc::iovec { iov_base: at.cast(), iov_len: len });
        self.count += 1;
        self.bytes += len;
    }

    fn message(&mut self) -> libc::msghdr {
        // SAFETY: all-zero is a valid msghdr: no name, no vectors, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.vectors.as_mut_ptr().cast();
        message.msg_iovlen = self.count;
        message
    }
}

/// Sends what the socket takes at once; may be a part.
///
/// # Errors
/// `WouldBlock` if it takes nothing now; else the connection is lost.
pub fn send(socket: impl AsFd, pieces: &mut Pieces<'_>) -> io::Result<usize> {
    let message = pieces.message();
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the first `count` vectors are initialised and lead to memory that is borrowed for as long as `pieces` lives
    // (guest memory: mapped); the kernel only reads it, and is done when the call returns.
    counted(unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) })
}

/// Receives what has come, into the pieces in order; 0 is the end of the stream.
///
/// # Errors
/// `WouldBlock` if nothing has come; else the connection is lost.
pub fn receive(socket: impl AsFd, pieces: &mut Pieces<'_>) -> io::Result<usize> {
    let mut message = pieces.message();
    // SAFETY: as for `send`, and the pieces are borrowed mutably (guest memory: only the kernel writes it here).
    counted(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
}

/// Puts another socket in the place of one that is owned by somebody who lets nobody change it: its descriptor's number stays, what it
/// leads to is `by`'s from now on. The former is closed there.
///
/// # Errors
/// The system's; nothing has changed then.
pub fn replace(owned: &impl AsRawFd, by: impl AsFd) -> io::Result<()> {
    let (from, over) = (by.as_fd().as_raw_fd(), owned.as_raw_fd());
    // SAFETY: `owned` lends its descriptor, so it is open and stays its own; dup3 closes what it led to and gives it another
    // meaning in one step, and no memory is touched.
    match unsafe { libc::dup3(from, over, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The process that has made this connection; `None` if it cannot be named here (another pid namespace).
///
/// # Errors
/// The system's.
pub fn peer_pid(socket: impl AsFd) -> io::Result<Option<u32>> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, at) = (socket.as_fd().as_raw_fd(), &raw mut peer);
    // SAFETY: the kernel writes at most `bytes` bytes to `peer`, which is ours and as long; any bytes are a valid `ucred`.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, at.cast(), &raw mut bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(u32::try_from(peer.pid).ok().filter(|pid| *pid != 0)),
    }
}

fn counted(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn pieces_arrive_in_order_and_nothing_waits() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut empty = [0; 4];
        let mut into = Pieces::default();
        into.push_target(&mut empty);
        assert_eq!(receive(&theirs, &mut into).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut out = Pieces::default();
        out.push_source(b"head");
        out.push_source(b"");
        out.push_source(b"payload");
        assert_eq!((PIECES_MAX - out.room(), out.bytes()), (2, 11));
        assert_eq!(send(&ours, &mut out).unwrap(), 11);
        let (mut first, mut second) = ([0; 6], [0; 32]);
        let mut into = Pieces::default();
        into.push_target(&mut first);
        into.push_target(&mut second);
        assert_eq!(receive(&theirs, &mut into).unwrap(), 11);
        assert_eq!((&first, &second[..5]), (b"headpa", &b"yload"[..]));
        drop(ours);
        let mut into = Pieces::default();
        into.push_target(&mut first);
        assert_eq!(receive(&theirs, &mut into).unwrap(), 0);
    }

    #[test]
    fn another_socket_takes_the_place_of_one() {
        let (owned, former) = UnixStream::pair().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        replace(&owned, &ours).unwrap();
        drop(ours);
        io::Write::write_all(&mut &owned, b"x").unwrap();
        let mut byte = [0];
        io::Read::read_exact(&mut &theirs, &mut byte).unwrap();
        assert_eq!(byte, *b"x");
        assert_eq!(peer_pid(&theirs).unwrap(), Some(std::process::id()));
        assert_eq!(io::Read::read(&mut &former, &mut byte).unwrap(), 0, "the former is closed");
    }

    #[test]
    fn a_full_socket_takes_a_part_and_then_nothing() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let much = vec![0; 8 << 20];
        let mut sent = 0;
        loop {
            let mut out = Pieces::default();
            out.push_source(&much);
            match send(&ours, &mut out) {
                Ok(n) => sent += n,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(sent > 0);
    }
}
