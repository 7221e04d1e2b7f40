//! Setting up: sockets, the handshake, and the check that what is announced fits the unit.

use super::attempt::Progress;
use super::{
    BACKOFF_IDENTITY_MAX, BACKOFF_MAX, BACKOFF_MIN, Back, Filling, Nbd, Phase, Purpose, Transport, Wire,
};
use crate::dataplane::{Stream, Tag, Worker};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use vmpath_core::event::Fault;
use vmpath_core::path::class::{self, Class};
use vmpath_core::path::identity::same_size;
use vmpath_core::router::{CloseMode, close_mode};
use vmpath_core::spec::PathUrl;
use vmpath_core::time::{Duration, Instant};
use vmpath_protocol::nbd::{ClientHandshake, ExportInfo, HandshakeError, ReplyParser};

impl Worker {
    /// Starts what connections are missing and may be tried now.
    pub(super) fn connect_missing(&mut self) {
        for index in 0..self.backs.links.len() {
            let link = &self.backs.links[index];
            let disabled =
                self.plan.paths[link.path.index()].health.is_out() || self.backs.is_unused(link.unit);
            if disabled || link.next_attempt > self.now || link.connections > link.active {
                continue;
            }
            let is_device = matches!(self.plan.spec.path(link.path).url, PathUrl::Block { .. });
            let wanted = match &self.backs.units[link.unit.index()].export {
                Some(export) if !is_device && export.flags.can_multi_conn() => {
                    let target = self.plan.spec.path(link.path).target;
                    u32::from(self.plan.spec.target(target).connections)
                }
                Some(_) | None => 1,
            };
            if link.active < wanted {
                self.connect(index);
            }
        }
    }

    fn connect(&mut self, index: usize) {
        let link = &self.backs.links[index];
        let path = self.plan.spec.path(link.path);
        let deadline = self.now + self.plan.spec.target(path.target).ping_budget;
        let opened = match &path.url {
            PathUrl::Nbd { .. } => open(&path.url).map(|socket| (socket, Transport::Tcp)),
            PathUrl::NbdUnix { .. } => open(&path.url).map(|socket| (socket, Transport::Unix)),
            PathUrl::Block { device } => {
                let device = device.clone();
                self.open_block(index, &device);
                return;
            }
        };
        let (socket, transport) = match opened {
            Ok((socket, transport)) => (Rc::new(socket), transport),
            Err(error) => {
                self.attempt_failed(index, Fault::Refused(error.to_string()));
                return;
            }
        };
        let entry = self.backs.backs.vacant_entry();
        let at = entry.key();
        let mut stream = Stream::new(socket, (Tag::BackRead(at).pack(), Tag::BackWrite(at).pack()));
        stream.await_connected(&mut self.ring, Tag::BackConnect(at).pack());
        let filling = Filling::OfOwn { cookie: 0, at: 0 };
        let nbd = Nbd {
            stream,
            transport,
            egress: None,
            parser: None,
            filling,
            expects_large: false,
            unacked_since: None,
        };
        entry.insert(Back {
            link: index,
            wire: Wire::Nbd(nbd),
            phase: Phase::Connecting { deadline },
            export: None,
            differed: 0,
            own: Vec::new(),
            in_flight: 0,
            heard: self.now,
        });
        self.backs.links[index].connections += 1;
    }

    /// Counts a failure, arms the back-off and tells control, if it is news.
    pub(super) fn attempt_failed(&mut self, link: usize, fault: Fault) {
        let now = self.now;
        let link = &mut self.backs.links[link];
        link.next_attempt = now + backoff(link.failures, &fault);
        link.failures = link.failures.saturating_add(1);
        if link.active == 0 && link.told.as_ref() != Some(&fault) {
            link.told = Some(fault.clone());
            let (path, unit) = (link.path, link.unit);
            self.tell_down(path, unit, fault, 0);
        }
    }

    /// The socket is writable for the first time: connected, or not.
    pub(crate) fn connected(&mut self, index: usize, result: io::Result<()>) {
        let back = &mut self.backs.backs[index];
        let Wire::Nbd(nbd) = &mut back.wire else { return };
        nbd.stream.unblocked();
        let Phase::Connecting { deadline } = back.phase else { return };
        let outcome = result.and_then(|()| Ok(sockopt::socket_error(nbd.stream.socket())??));
        if let Err(error) = outcome {
            self.cut(index, refused(&error));
            return;
        }
        if let Some((local, peer)) = addresses(nbd.stream.socket()) {
            self.record.connected(index as u32, local, peer);
        }
        let link = &self.backs.links[back.link];
        let unit = self.plan.spec.unit(link.unit);
        let named = match &self.plan.spec.path(link.path).url {
            PathUrl::Nbd { export, .. } | PathUrl::NbdUnix { export, .. } => export.as_ref(),
            PathUrl::Block { .. } => None,
        };
        match ClientHandshake::new(named.unwrap_or(&unit.export)) {
            Ok(machine) => {
                back.phase = Phase::Handshake { machine: Box::new(machine), deadline };
                back.heard = self.now;
                nbd.stream.watch(&mut self.ring);
            }
            Err(error) => self.cut(index, Fault::Protocol(error.to_string())),
        }
        self.note_egress(index);
    }

    /// Gives the handshake what has come.
    pub(super) fn feed_handshake(&mut self, index: usize, bytes: &[u8]) -> Progress {
        let back = &mut self.backs.backs[index];
        let (Phase::Handshake { machine, .. }, Wire::Nbd(nbd)) = (&mut back.phase, &mut back.wire) else {
            return Progress::Starved(0);
        };
        let fed = machine.feed(bytes);
        let output = machine.take_output();
        if !output.is_empty() {
            nbd.stream.push_bytes(output);
            self.backs.dirty.push(index);
        }
        match fed {
            Err(error) => {
                self.cut(index, handshake_fault(&error));
                Progress::Starved(bytes.len())
            }
            Ok(fed) => match fed.event {
                None => Progress::Starved(fed.consumed),
                Some(export) => {
                    nbd.parser = Some(ReplyParser::new(export.reply_style()));
                    self.opened(index, export);
                    Progress::Again(fed.consumed)
                }
            },
        }
    }

    /// The export is open; now it must be the unit.
    pub(super) fn opened(&mut self, index: usize, export: ExportInfo) {
        let back = &mut self.backs.backs[index];
        let deadline = deadline(&back.phase).unwrap_or(self.now);
        back.export = Some(export);
        back.phase = Phase::Trying { deadline };
        let unit = self.backs.links[back.link].unit;
        let known = self.backs.units[unit.index()].export;
        if let Some(difference) = known.and_then(|known| difference(&known, &export)) {
            self.cut(index, Fault::Identity(difference));
            return;
        }
        let length = first_block(&export);
        self.read_own(index, Purpose::FirstRead, 0, length);
    }

    /// It answers requests: it may be compared.
    pub(super) fn answered_first_read(&mut self, index: usize) {
        let back = &mut self.backs.backs[index];
        let Phase::Trying { deadline } = back.phase else { return };
        back.phase = Phase::Waiting { deadline };
        let unit = self.backs.links[back.link].unit;
        self.backs.units[unit.index()].waiting.push_back(index);
        self.next_comparison(unit);
    }
}

/// Bytes of the block that a ping reads.
pub(super) fn first_block(export: &ExportInfo) -> usize {
    const PING_BYTES: u64 = 4096;
    (export.size.min(PING_BYTES) as usize).max(export.block.min() as usize)
}

/// The pause after that many failures, the last of them with this fault.
fn backoff(failures: u32, fault: &Fault) -> Duration {
    let longest = if matches!(fault, Fault::Identity(_)) { BACKOFF_IDENTITY_MAX } else { BACKOFF_MAX };
    (BACKOFF_MIN * 2u32.saturating_pow(failures.min(10))).min(longest)
}

/// A socket on its way to the target. SO_LINGER is 0 before anything can be sent: however this process ends, what has
/// not left the host is discarded.
fn open(url: &PathUrl) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, connected) = match url {
        PathUrl::Nbd { address, .. } => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            discard_on_close(&socket)?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            let connected = rustix::net::connect(&socket, address);
            (socket, connected)
        }
        PathUrl::NbdUnix { socket: at, .. } => {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            discard_on_close(&socket)?;
            let connected = rustix::net::connect(&socket, &SocketAddrUnix::new(at)?);
            (socket, connected)
        }
        PathUrl::Block { .. } => return Err(io::ErrorKind::Unsupported.into()),
    };
    match connected {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn discard_on_close(socket: &OwnedFd) -> io::Result<()> {
    match close_mode() {
        CloseMode::Discard => Ok(sockopt::set_socket_linger(socket, Some(Duration::ZERO))?),
        CloseMode::Linger => Ok(()),
    }
}

/// Both ends of a TCP connection; a unix socket ends with its process.
pub(super) fn addresses(socket: impl AsFd) -> Option<(SocketAddr, SocketAddr)> {
    let local = rustix::net::getsockname(&socket).ok()?.try_into().ok()?;
    let peer = rustix::net::getpeername(&socket).ok()??.try_into().ok()?;
    Some((local, peer))
}

fn refused(error: &io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::ETIMEDOUT) => Fault::ConnectTimeout,
        _ => Fault::Refused(error.to_string()),
    }
}

fn handshake_fault(error: &HandshakeError) -> Fault {
    // NBD_REP_ERR_…, without its highest bit.
    let refusal = match error {
        HandshakeError::ExportUnknown { .. } => 6,
        HandshakeError::ShuttingDown { .. } => 7,
        HandshakeError::PolicyRefused { .. } => 2,
        HandshakeError::TlsRequired { .. } => 5,
        HandshakeError::Refused { code, .. } => code & !(1 << 31),
        other => return Fault::Protocol(other.to_string()),
    };
    match class::of_nbd_refusal(refusal) {
        Class::Unit => Fault::UnitGone(error.to_string()),
        Class::Leaving => Fault::ShuttingDown,
        Class::Path | Class::Command(_) => Fault::Refused(error.to_string()),
    }
}

/// What is announced must be what the guests were told; in words where it is not.
fn difference(known: &ExportInfo, new: &ExportInfo) -> Option<String> {
    if !same_size(known.size, new.size) {
        return Some(format!("it announces {} bytes, the unit has {}", new.size, known.size));
    }
    if new.flags.read_only() != known.flags.read_only() {
        return Some("it differs in being read-only".into());
    }
    for (has, name) in [
        (known.flags.can_flush() && !new.flags.can_flush(), "FLUSH"),
        (known.flags.can_trim() && !new.flags.can_trim(), "TRIM"),
        (known.flags.can_write_zeroes() && !new.flags.can_write_zeroes(), "WRITE_ZEROES"),
    ] {
        if has {
            return Some(format!("it lacks {name}, which the unit offers on its other paths"));
        }
    }
    if new.block.min() > known.block.min() || new.block.max() < known.block.max() {
        return Some(format!(
            "its requests must be {} to {} bytes, those of the unit are {} to {}",
            new.block.min(),
            new.block.max(),
            known.block.min(),
            known.block.max()
        ));
    }
    None
}

/// When a setup that does not come to an end is given up; none for connections that are set up.
pub(super) fn deadline(phase: &Phase) -> Option<Instant> {
    match phase {
        Phase::Connecting { deadline }
        | Phase::Handshake { deadline, .. }
        | Phase::Trying { deadline }
        | Phase::Waiting { deadline } => Some(*deadline),
        Phase::Comparing | Phase::Active { .. } | Phase::Closing { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmpath_protocol::nbd::{BlockSizes, TransmissionFlags};

    fn export(size: u64, flags: TransmissionFlags) -> ExportInfo {
        ExportInfo { size, flags, block: BlockSizes::default(), structured_replies: true }
    }

    #[test]
    fn what_the_guests_were_told_must_hold_on_every_path() {
        let full = TransmissionFlags::FLUSH | TransmissionFlags::TRIM | TransmissionFlags::WRITE_ZEROES;
        let known = export(1 << 20, full);
        assert_eq!(difference(&known, &export(1 << 20, full | TransmissionFlags::FUA)), None);
        for other in [
            export(2 << 20, full),
            export(1 << 20, TransmissionFlags::FLUSH | TransmissionFlags::TRIM),
            export(1 << 20, full | TransmissionFlags::READ_ONLY),
            ExportInfo { block: BlockSizes::new(512, 4096, 32 << 20).unwrap(), ..known },
            ExportInfo { block: BlockSizes::new(1, 4096, 65536).unwrap(), ..known },
        ] {
            assert!(difference(&known, &other).is_some(), "{other:?}");
        }
    }

    #[test]
    fn back_off_grows_to_its_bound() {
        assert_eq!(backoff(0, &Fault::Reset), Duration::from_millis(100));
        assert_eq!(backoff(2, &Fault::Reset), Duration::from_millis(400));
        assert_eq!(backoff(1000, &Fault::Reset), BACKOFF_MAX);
        assert_eq!(backoff(1000, &Fault::Identity(String::new())), BACKOFF_IDENTITY_MAX);
    }
}
