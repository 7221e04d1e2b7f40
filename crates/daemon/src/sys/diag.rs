//! The kernel's list of TCP sockets (NETLINK_SOCK_DIAG): is a connection of a process that is gone still there, and if
//! so, destroy it, so that nothing of what it holds is sent any more.
//!
//! Invariant: "gone" is a proof. A kernel without this interface answers like one without the socket (ENOENT), so each
//! question is preceded by one whose answer is known. Only a connection with exactly these addresses is ever destroyed;
//! the kernel's own look-up falls back to listening sockets.
//! Rejected: reading /proc/net/tcp (it cannot destroy, and takes as long as there are sockets).

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What became of a connection that a former process may have left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// There is none (or only its TIME_WAIT: everything it carried was acknowledged or given up).
    Gone,
    /// There was one; it is reset, and gone.
    Destroyed,
    /// There is one, and this process may not destroy it (CAP_NET_ADMIN); in words.
    NotPermitted(String),
    /// Not known, or it is there and cannot be destroyed; in words.
    Failed(String),
}

/// A connection that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// As in TCP's state machine, by the kernel's number (tcp_states.h).
    state: u8,
    /// The kernel's own number of this very socket.
    cookie: [u32; 2],
}

/// The way to the kernel's list.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
    sequence: u32,
}

/// The kernel answers at once; longer means that nobody will.
const ANSWER_WAIT: libc::timeval = libc::timeval { tv_sec: 1, tv_usec: 0 };

// linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h.
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const ALL_STATES: u32 = u32::MAX;
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;
const NO_COOKIE: [u32; 2] = [u32::MAX; 2];

const HEADER_BYTES: usize = size_of::<libc::nlmsghdr>();
/// `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 56;
/// Of `struct inet_diag_msg`: the part that is read here.
const ANSWER_BYTES: usize = 4 + ID_BYTES;
/// `struct inet_diag_sockid`.
const ID_BYTES: usize = 48;
/// Every answer is far shorter.
const BUFFER_BYTES: usize = 8192;

/// The two ends of a connection, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    local: SocketAddr,
    peer: SocketAddr,
}

impl Diag {
    /// # Errors
    /// The kernel has no netlink, or no socket is to be had.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: takes no memory of ours.
        let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let wait = ANSWER_WAIT;
        // SAFETY: the kernel reads a timeval, which lives, in its whole size.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const wait).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket, sequence: 0 })
    }

    /// Sees to it that a connection between these two addresses is gone, in this network namespace.
    pub fn destroy(&mut self, local: SocketAddr, peer: SocketAddr) -> Leftover {
        let found = match self.find(local, peer) {
            Ok(Some(found)) => found,
            Ok(None) => return Leftover::Gone,
            Err(error) => {
                return Leftover::Failed(format!("the kernel does not say whether it is there: {error}"));
            }
        };
        let Some(ends) = Ends::of(local, peer) else { return Leftover::Gone };
        match self.ask(SOCK_DESTROY, ends, found.cookie) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // It has ended by itself meanwhile.
                Some(libc::ENOENT) => {}
                Some(libc::EPERM | libc::EACCES) => {
                    return Leftover::NotPermitted(format!(
                        "{local} to {peer} is still there, and destroying it needs CAP_NET_ADMIN"
                    ));
                }
                Some(libc::EOPNOTSUPP) => {
                    return Leftover::Failed(format!(
                        "{local} to {peer} is still there, and this kernel cannot destroy sockets \
                         (CONFIG_INET_DIAG_DESTROY)"
                    ));
                }
                _ => return Leftover::Failed(format!("{local} to {peer} cannot be destroyed: {error}")),
            },
        }
        match self.find(local, peer) {
            Ok(None) => Leftover::Destroyed,
            Ok(Some(_)) => Leftover::Failed(format!("{local} to {peer} was destroyed and is still there")),
            Err(error) => Leftover::Failed(format!("the kernel does not say whether it is gone: {error}")),
        }
    }

    /// The connection with exactly these ends, unless it is only waiting out its time.
    ///
    /// # Errors
    /// The kernel does not answer, or has no such interface.
    pub fn find(&mut self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<Found>> {
        let ends = Ends::of(local, peer)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the ends are of two families"))?;
        self.prove_that_it_answers(ends)?;
        match self.ask(SOCK_DIAG_BY_FAMILY, ends, NO_COOKIE) {
            Ok(Some((found, of))) if of.is(ends) && ![TIME_WAIT, LISTEN].contains(&found.state) => {
                Ok(Some(found))
            }
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a socket that is there: a listener of our own.
    fn prove_that_it_answers(&mut self, like: Ends) -> io::Result<()> {
        let (own, any): (IpAddr, IpAddr) = match like.local {
            SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
        };
        let listener = TcpListener::bind((own, 0))?;
        let known = Ends { local: listener.local_addr()?, peer: (any, 0).into() };
        match self.ask(SOCK_DIAG_BY_FAMILY, known, NO_COOKIE) {
            Ok(Some((found, of))) if found.state == LISTEN && of.local.port() == known.local.port() => Ok(()),
            Ok(_) => Err(io::Error::other("it does not know a socket that is there")),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel does not list TCP sockets (modules inet_diag and tcp_diag)",
            )),
            Err(error) => Err(error),
        }
    }

    /// One question and its answer; none where success has no content.
    fn ask(&mut self, what: u16, ends: Ends, cookie: [u32; 2]) -> io::Result<Option<(Found, Ends)>> {
        self.sequence += 1;
        let message = self.message(what, ends, cookie);
        rustix::net::send(&self.socket, &message, rustix::net::SendFlags::empty())?;
        let mut buffer = [0u8; BUFFER_BYTES];
        loop {
            let (length, _) =
                rustix::net::recv(&self.socket, &mut buffer[..], rustix::net::RecvFlags::empty()).map_err(
                    |error| match error {
                        rustix::io::Errno::AGAIN => {
                            io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel")
                        }
                        other => other.into(),
                    },
                )?;
            if let Some(answer) = answer(&buffer[..length], self.sequence) {
                return answer;
            }
            // The late answer to a question that was given up.
        }
    }

    fn message(&self, what: u16, ends: Ends, cookie: [u32; 2]) -> Vec<u8> {
        let mut flags = libc::NLM_F_REQUEST as u16;
        if what == SOCK_DESTROY {
            flags |= libc::NLM_F_ACK as u16;
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + REQUEST_BYTES);
        bytes.extend(((HEADER_BYTES + REQUEST_BYTES) as u32).to_ne_bytes());
        bytes.extend(what.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend([ends.family(), libc::IPPROTO_TCP as u8, 0, 0]);
        bytes.extend(ALL_STATES.to_ne_bytes());
        bytes.extend(ends.local.port().to_be_bytes());
        bytes.extend(ends.peer.port().to_be_bytes());
        bytes.extend(octets(ends.local));
        bytes.extend(octets(ends.peer));
        bytes.extend(ends.interface().to_ne_bytes());
        bytes.extend(cookie.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }
}

impl Ends {
    /// None if they are of two families. An IPv4 address inside IPv6 is the IPv4 one.
    fn of(local: SocketAddr, peer: SocketAddr) -> Option<Self> {
        let ends = Self { local: canonical(local), peer: canonical(peer) };
        (ends.local.is_ipv4() == ends.peer.is_ipv4()).then_some(ends)
    }

    const fn family(&self) -> u8 {
        match self.local {
            SocketAddr::V4(_) => libc::AF_INET as u8,
            SocketAddr::V6(_) => libc::AF_INET6 as u8,
        }
    }

    /// The interface of link-local addresses; 0 for any.
    fn interface(&self) -> u32 {
        let scope = |address: SocketAddr| match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        scope(self.local).max(scope(self.peer))
    }

    /// The same addresses and ports; scopes and flow labels apart.
    fn is(&self, other: Self) -> bool {
        let same = |a: SocketAddr, b: SocketAddr| a.ip() == b.ip() && a.port() == b.port();
        same(self.local, other.local) && same(self.peer, other.peer)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

fn octets(address: SocketAddr) -> [u8; 16] {
    match address.ip() {
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

type Answer = io::Result<Option<(Found, Ends)>>;

/// None if it belongs to another question.
fn answer(bytes: &[u8], sequence: u32) -> Option<Answer> {
    let short = || Some(Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that is too short")));
    if bytes.len() < HEADER_BYTES {
        return short();
    }
    let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
    if word(bytes, 8) != sequence {
        return None;
    }
    let content = &bytes[HEADER_BYTES..];
    match kind {
        kind if i32::from(kind) == libc::NLMSG_ERROR && content.len() >= 4 => {
            let error = word(content, 0).cast_signed();
            Some(if error == 0 {
                Ok(None)
            } else {
                Err(io::Error::from_raw_os_error(error.saturating_neg()))
            })
        }
        SOCK_DIAG_BY_FAMILY if content.len() >= ANSWER_BYTES => Some(found(content)),
        _ => short(),
    }
}

/// Reads the beginning of a `struct inet_diag_msg`.
fn found(content: &[u8]) -> Answer {
    let port = |at: usize| u16::from_be_bytes([content[at], content[at + 1]]);
    let ip = |at: usize| -> io::Result<IpAddr> {
        let octets: [u8; 16] = content[at..at + 16].try_into().expect("sixteen bytes");
        match i32::from(content[0]) {
            libc::AF_INET => Ok(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()),
            libc::AF_INET6 => Ok(Ipv6Addr::from(octets).to_canonical()),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a socket of family {other}"))),
        }
    };
    let ends = Ends { local: (ip(8)?, port(4)).into(), peer: (ip(24)?, port(6)).into() };
    let found = Found { state: content[1], cookie: [word(content, 44), word(content, 48)] };
    Ok(Some((found, ends)))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::CapabilitySet;
    use std::io::Read;
    use std::net::TcpStream;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        (ours, theirs)
    }

    fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
        (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    }

    fn may_destroy() -> bool {
        rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
    }

    fn check_found_and_destroyed(address: &str) {
        let (ours, mut theirs) = pair(address);
        let (local, peer) = ends(&ours);
        let mut diag = Diag::open().unwrap();
        assert!(diag.find(local, peer).unwrap().is_some());
        let done = diag.destroy(local, peer);
        if !may_destroy() {
            assert!(
                matches!(&done, Leftover::NotPermitted(why) if why.contains("CAP_NET_ADMIN")),
                "{done:?}"
            );
            return;
        }
        assert_eq!(done, Leftover::Destroyed);
        assert_eq!(diag.find(local, peer).unwrap(), None);
        assert_eq!(diag.destroy(local, peer), Leftover::Gone);
        let error = theirs.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "the peer is told");
    }

    #[test]
    fn a_connection_is_found_and_destroyed() {
        check_found_and_destroyed("127.0.0.1:0");
        if TcpListener::bind("[::1]:0").is_ok() {
            check_found_and_destroyed("[::1]:0");
        }
    }

    #[test]
    fn what_is_gone_or_never_was_is_gone() {
        let (ours, theirs) = pair("127.0.0.1:0");
        let (local, peer) = ends(&ours);
        drop((ours, theirs));
        let mut diag = Diag::open().unwrap();
        // Its TIME_WAIT is all that may be left.
        assert_eq!(diag.destroy(local, peer), Leftover::Gone);
        assert_eq!(diag.destroy("127.0.0.1:1".parse().unwrap(), peer), Leftover::Gone);
    }

    #[test]
    fn a_listener_on_the_same_address_is_not_taken_for_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let mut diag = Diag::open().unwrap();
        assert_eq!(diag.destroy(local, "127.0.0.1:9".parse().unwrap()), Leftover::Gone);
        let _still_served = TcpStream::connect(local).unwrap();
    }

    #[test]
    fn an_address_inside_ipv6_is_the_ipv4_one() {
        let (ours, _theirs) = pair("127.0.0.1:0");
        let (local, peer) = ends(&ours);
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), address.port())),
            IpAddr::V6(_) => address,
        };
        let mut diag = Diag::open().unwrap();
        assert!(diag.find(mapped(local), mapped(peer)).unwrap().is_some());
        assert!(diag.find(local, "[::1]:1".parse().unwrap()).is_err());
    }

    #[test]
    fn without_the_capability_the_reason_is_told() {
        // A thread's capabilities are its own, so this one ends with the test.
        std::thread::spawn(|| {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::NET_ADMIN);
            rustix::thread::set_capabilities(None, sets).unwrap();
            let (ours, _theirs) = pair("127.0.0.1:0");
            let (local, peer) = ends(&ours);
            let done = Diag::open().unwrap().destroy(local, peer);
            assert!(
                matches!(&done, Leftover::NotPermitted(why) if why.contains("CAP_NET_ADMIN")),
                "{done:?}"
            );
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_short_or_foreign_answer_is_no_proof() {
        assert!(answer(&[], 1).unwrap().is_err());
        assert!(answer(&[0; 12], 1).unwrap().is_err());
        let mut foreign = [0; 128];
        foreign[8] = 2;
        assert!(answer(&foreign, 1).is_none());
        foreign[8] = 1;
        assert!(answer(&foreign, 1).unwrap().is_err());
    }
}
