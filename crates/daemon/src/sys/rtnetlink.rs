//! The kernel's word on this host's network interfaces and routes (NETLINK_ROUTE): heard as they change, asked by address.
//!
//! Invariant: nothing here waits. Notices are read as far as they have come; the kernel answers a question within the call
//! that sends it. Rejected: reading /sys/class/net, which tells nobody when to look; a library, for three messages.
//! It does not know connections, nor what follows from an interface that is down.

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Something has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An interface as it is now. Told again for changes of other kinds.
    Interface { index: u32, name: String, state: Carrier },
    /// Routes or addresses are not what they were.
    Routes,
    /// Notices were lost: all has to be asked anew.
    Missed,
}

/// Whether an interface carries anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Switched on, and it has its carrier.
    Up,
    Down,
}

// linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_link.h.
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
const IFLA_IFNAME: u16 = 3;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;

const HEADER_BYTES: usize = 16;
/// `struct ifinfomsg`.
const LINK_BYTES: usize = 16;
/// `struct rtmsg`.
const ROUTE_BYTES: usize = 12;
/// The kernel fills at most this at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// What the kernel tells by itself.
#[derive(Debug)]
pub struct Notices {
    socket: Rc<OwnedFd>,
    buffer: Vec<u8>,
}

/// Questions about routes.
#[derive(Debug)]
pub struct Routes {
    socket: OwnedFd,
    sequence: u32,
}

impl Notices {
    /// Begins with each interface as it is.
    ///
    /// # Errors
    /// The kernel has no netlink, or no socket is to be had.
    pub fn open() -> io::Result<Self> {
        let groups =
            RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE;
        let socket = Rc::new(socket(groups)?);
        let mut notices = Self { socket, buffer: vec![0; BUFFER_BYTES] };
        notices.ask_interfaces()?;
        Ok(notices)
    }

    /// Readable when something has changed.
    #[must_use]
    pub const fn socket(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    /// Each interface will be told as it is.
    ///
    /// # Errors
    /// As `send`; EBUSY while the answers to the same question come in.
    pub fn ask_interfaces(&mut self) -> io::Result<()> {
        let message = message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 0, &[0; LINK_BYTES]);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// What has come.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn take(&mut self, into: &mut Vec<Notice>) -> io::Result<()> {
        loop {
            match rustix::net::recv(
                &self.socket,
                &mut self.buffer[..],
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            ) {
                Ok((taken, whole)) => {
                    if whole > taken {
                        into.push(Notice::Missed);
                    }
                    each(&self.buffer[..taken], |kind, _, content| into.extend(notice(kind, content)));
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => into.push(Notice::Missed),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Routes {
    /// # Errors
    /// The kernel has no netlink, or no socket is to be had.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: socket(0)?, sequence: 0 })
    }

    /// The interface by which packets from `local` to `peer` leave now; none if there is no way.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn interface(&mut self, local: IpAddr, peer: IpAddr) -> io::Result<Option<u32>> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = question(self.sequence, local.to_canonical(), peer.to_canonical());
        rustix::net::send(&self.socket, &question, SendFlags::empty())?;
        let mut buffer = [0; 4096];
        loop {
            // What is asked is answered in the send.
            let (taken, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
            let mut answer = None;
            each(&buffer[..taken], |kind, sequence, content| {
                if sequence == self.sequence {
                    answer = answer.take().or_else(|| route(kind, content));
                }
            });
            if let Some(answer) = answer {
                return answer;
            }
            // The late answer to a question that was given up.
        }
    }
}

fn socket(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // NETLINK_ROUTE is the one of number zero.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn message(kind: u16, flags: u16, sequence: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
    bytes.extend(((HEADER_BYTES + content.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(content);
    bytes
}

fn question(sequence: u32, local: IpAddr, peer: IpAddr) -> Vec<u8> {
    let (family, bits) = match peer {
        IpAddr::V4(_) => (libc::AF_INET as u8, 32),
        IpAddr::V6(_) => (libc::AF_INET6 as u8, 128),
    };
    let mut content = vec![family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (kind, address) in [(RTA_DST, peer), (RTA_SRC, local)] {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        content.extend(((4 + octets.len()) as u16).to_ne_bytes());
        content.extend(kind.to_ne_bytes());
        content.extend(octets);
    }
    message(RTM_GETROUTE, NLM_F_REQUEST, sequence, &content)
}

/// Calls for each message with its kind, sequence and content; stops where the bytes make no sense.
fn each(mut bytes: &[u8], mut tell: impl FnMut(u16, u32, &[u8])) {
    while bytes.len() >= HEADER_BYTES {
        let length = word(bytes, 0) as usize;
        if length < HEADER_BYTES || length > bytes.len() {
            return;
        }
        tell(half(bytes, 4), word(bytes, 8), &bytes[HEADER_BYTES..length]);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
}

/// The first attribute of a kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    const KIND_MASK: u16 = 0x3fff;
    while bytes.len() >= 4 {
        let length = usize::from(half(bytes, 0));
        if length < 4 || length > bytes.len() {
            return None;
        }
        if half(bytes, 2) & KIND_MASK == wanted {
            return Some(&bytes[4..length]);
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    None
}

fn notice(kind: u16, content: &[u8]) -> Option<Notice> {
    match kind {
        RTM_NEWLINK | RTM_DELLINK if content.len() >= LINK_BYTES => {
            let (index, flags) = (word(content, 4), word(content, 8));
            let name = attribute(&content[LINK_BYTES..], IFLA_IFNAME).unwrap_or_default();
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            let carries = kind == RTM_NEWLINK && flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0;
            let state = if carries { Carrier::Up } else { Carrier::Down };
            Some(Notice::Interface { index, name: String::from_utf8_lossy(name).into_owned(), state })
        }
        RTM_NEWADDR | RTM_DELADDR | RTM_NEWROUTE | RTM_DELROUTE => Some(Notice::Routes),
        _ => None,
    }
}

fn route(kind: u16, content: &[u8]) -> Option<io::Result<Option<u32>>> {
    match kind {
        RTM_NEWROUTE if content.len() >= ROUTE_BYTES => {
            let index = attribute(&content[ROUTE_BYTES..], RTA_OIF).filter(|value| value.len() == 4);
            Some(Ok(index.map(|value| word(value, 0))))
        }
        NLMSG_ERROR if content.len() >= 4 => {
            let error = word(content, 0).cast_signed().saturating_neg();
            Some(match error {
                // The last: the address that it comes from is not this host's.
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EACCES
                | libc::EADDRNOTAVAIL
                | libc::EINVAL => Ok(None),
                other => Err(io::Error::from_raw_os_error(other)),
            })
        }
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::process::Command;

    /// In a network namespace of this thread's own, if the system allows that.
    fn in_own_network(test: impl FnOnce() + Send + 'static) {
        let there = std::thread::spawn(|| {
            // SAFETY: of this thread only, which ends with the test; it shares nothing of the network with others.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                eprintln!("skipped: a network namespace needs CAP_SYS_ADMIN");
                return;
            }
            test();
        });
        there.join().unwrap();
    }

    fn ip(words: &str) {
        let done = Command::new("ip").args(words.split(' ')).status().unwrap();
        assert!(done.success(), "ip {words}");
    }

    /// Reads on until the interface is told to be so: the kernel tells of a carrier some time after it has changed.
    fn hear(notices: &mut Notices, of: &str, wanted: Carrier) {
        let mut all = vec![];
        loop {
            notices.take(&mut all).unwrap();
            let is_it = |notice: &Notice| match notice {
                Notice::Interface { name, state, .. } => name == of && *state == wanted,
                Notice::Routes | Notice::Missed => false,
            };
            if all.iter().any(is_it) {
                return;
            }
            let fds = &mut [PollFd::new(&*notices.socket, PollFlags::IN)];
            let long = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(fds, Some(&long)), Ok(1), "{of} is not {wanted:?}: {all:?}");
        }
    }

    #[test]
    fn interfaces_are_told_at_first_and_when_their_carrier_goes_and_comes() {
        in_own_network(|| {
            ip("link add near type veth peer name far");
            ip("link set near up");
            ip("link set far up");
            let mut notices = Notices::open().unwrap();
            hear(&mut notices, "near", Carrier::Up);
            // The other end is switched off: `near` is up still, and has lost its carrier.
            ip("link set far down");
            hear(&mut notices, "near", Carrier::Down);
            ip("link set far up");
            hear(&mut notices, "near", Carrier::Up);
            ip("link set near down");
            hear(&mut notices, "near", Carrier::Down);
            ip("link del near");
            hear(&mut notices, "near", Carrier::Down);
        });
    }

    #[test]
    fn a_route_leads_by_its_interface_and_is_gone_with_its_address() {
        in_own_network(|| {
            ip("link add near type veth peer name far");
            ip("address add 10.1.0.1/24 dev near");
            ip("link set near up");
            ip("link set far up");
            let (local, peer) = (Ipv4Addr::new(10, 1, 0, 1).into(), Ipv4Addr::new(10, 1, 0, 2).into());
            let near = rustix::net::netdevice::name_to_index(socket(0).unwrap(), "near").unwrap();
            let (mut routes, mut notices) = (Routes::open().unwrap(), Notices::open().unwrap());
            notices.take(&mut vec![]).unwrap();
            assert_eq!(routes.interface(local, peer).unwrap(), Some(near));
            assert_eq!(routes.interface(local, Ipv4Addr::new(10, 9, 0, 2).into()).unwrap(), None);
            let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into();
            assert_eq!(routes.interface(Ipv6Addr::LOCALHOST.into(), v6).unwrap(), None);
            ip("address del 10.1.0.1/24 dev near");
            let mut told = vec![];
            notices.take(&mut told).unwrap();
            assert!(told.contains(&Notice::Routes), "{told:?}");
            assert_eq!(routes.interface(local, peer).unwrap(), None);
        });
    }

    #[test]
    fn bytes_that_make_no_sense_are_passed_over() {
        let mut count = 0;
        for bytes in [&[0; 16][..], &[255; 40], &[8, 0, 0, 0, 16, 0, 0, 0], &[]] {
            each(bytes, |kind, _, content| {
                count += 1;
                assert_eq!(notice(kind, content), None);
            });
        }
        assert_eq!(count, 0);
        assert_eq!(notice(RTM_NEWLINK, &[0; 15]), None);
        assert_eq!(attribute(&[3, 0, 3, 0, 1], IFLA_IFNAME), None);
        assert_eq!(attribute(&[200, 0, 3, 0, 1], IFLA_IFNAME), None);
    }
}
