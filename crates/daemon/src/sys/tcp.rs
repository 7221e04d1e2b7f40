//! The kernel's own view of a TCP connection (`TCP_INFO`).
//!
//! Rejected: TCP_USER_TIMEOUT, which also kills the connection to a live peer that acknowledges but keeps its window
//! shut: a slow array is not a dead path.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// What the sender's side of a connection knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHealth {
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Bytes that could not even be sent: the peer's window is shut, or this host's network refuses them.
    pub unsent_bytes: u32,
    /// Retransmission timeouts in a row without an acknowledgement.
    pub retransmits: u32,
    /// Probes in a row without an acknowledgement, while nothing could be sent.
    pub probes: u32,
    pub since_last_ack: Duration,
    /// Since data last went out, for the first time or again.
    pub since_last_sent: Duration,
    /// Smoothed.
    pub round_trip: Duration,
}

impl TcpHealth {
    /// Something waits for the peer's acknowledgement, or for the window or the network to let it go.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.unacked > 0 || self.unsent_bytes > 0
    }

    /// Retransmission timeouts in a row with something to be acknowledged.
    #[must_use]
    pub fn resent(&self) -> u32 {
        if self.unacked > 0 { self.retransmits } else { 0 }
    }

    /// Probes in a row for something that could not be sent. A live peer whose window is shut acknowledges each, which sets
    /// this back; a network that swallows does not.
    #[must_use]
    pub fn probed(&self) -> u32 {
        if self.unsent_bytes > 0 { self.probes } else { 0 }
    }
}

/// Offsets into `struct tcp_info` (linux/tcp.h), which only ever grows at its end.
const RETRANSMITS: usize = 2;
const PROBES: usize = 3;
const UNACKED: usize = 24;
const LAST_DATA_SENT: usize = 44;
const LAST_ACK_RECV: usize = 56;
/// Microseconds.
const RTT: usize = 68;
const NOTSENT_BYTES: usize = 144;
const SIZE: usize = 148;

/// # Errors
/// As `getsockopt`; the descriptor is not a TCP socket.
pub fn health(socket: impl AsFd) -> io::Result<TcpHealth> {
    let mut info = [0u8; SIZE];
    let mut len = SIZE as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, which lives and is `len` bytes long; the descriptor is
    // borrowed, so it is open.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < SIZE {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's TCP_INFO is too short"));
    }
    let word = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().expect("four bytes"));
    Ok(TcpHealth {
        unacked: word(UNACKED),
        unsent_bytes: word(NOTSENT_BYTES),
        retransmits: u32::from(info[RETRANSMITS]),
        probes: u32::from(info[PROBES]),
        since_last_ack: Duration::from_millis(u64::from(word(LAST_ACK_RECV))),
        since_last_sent: Duration::from_millis(u64::from(word(LAST_DATA_SENT))),
        round_trip: Duration::from_micros(u64::from(word(RTT))),
    })
}

#[cfg(test)]
mod tests {
    use super::health;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_acknowledged_connection_is_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        let health = health(&client).unwrap();
        assert_eq!((health.is_waiting(), health.resent(), health.probed()), (false, 0, 0));
        let second = std::time::Duration::from_secs(1);
        assert!(
            health.since_last_sent < second && health.since_last_ack < second && health.round_trip < second
        );
        assert!(!health.round_trip.is_zero(), "{health:?}");
    }

    #[test]
    fn what_is_no_tcp_socket_says_so() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(health(&a).is_err());
    }
}
