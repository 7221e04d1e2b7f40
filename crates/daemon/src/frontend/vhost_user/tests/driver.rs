//! The other side: a front end, its guest's memory and a driver in it.

use super::super::{Changes, Fetched, GuestRequest, Handled, Session, SessionEnd, Shape};
use crate::sys::socket::{self, Pieces};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmpath_protocol::virtio_blk::chain::Descriptor;
use vmpath_protocol::virtio_blk::feature;
use vmpath_protocol::virtio_blk::request::Access;

pub(super) const MEMORY: u64 = 1 << 20;
/// What the front end adds to an address to make it its own.
pub(super) const USER: u64 = 0x7f00_0000_0000;
pub(super) const SIZE: u16 = 16;
/// Where the driver lays its ring and, for each head, its header, status and data.
pub(super) const DESCRIPTORS: u64 = 0x1000;
pub(super) const AVAILABLE: u64 = 0x2000;
pub(super) const USED: u64 = 0x3000;
pub(super) const HEADERS: u64 = 0x4000;
pub(super) const STATUSES: u64 = 0x5000;
pub(super) const DATA: u64 = 0x10000;
pub(super) const DATA_EACH: u64 = 0x4000;
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
pub(super) const READ: u32 = 0;
pub(super) const OUT: u32 = 1;
/// A status byte that nobody has written.
pub(super) const UNTOUCHED: u8 = 0xee;

pub(super) const FEATURES: u64 = 1 << feature::VERSION_1
    | 1 << feature::INDIRECT_DESC
    | 1 << feature::FLUSH
    | 1 << feature::EVENT_IDX
    | 1 << 30;

pub(super) fn shape() -> Shape {
    Shape {
        size: 64 << 20,
        block_size: 512,
        physical_block: 4096,
        optimal_io: 0,
        request_max: 1 << 20,
        access: Access::ReadWrite,
        flush: true,
        discard: true,
        write_zeroes: true,
        serial: "disk-7".to_owned(),
        queues: 2,
    }
}

pub(super) fn memfd(bytes: u64) -> File {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, bytes).unwrap();
    File::from(fd)
}

/// The guest: it lives on when its back end does not.
pub(super) struct Guest {
    pub(super) memory: File,
    pub(super) inflight: Option<(VhostUserInflight, File)>,
    pub(super) made: u16,
    seen: u16,
}

impl Guest {
    pub(super) fn new() -> Self {
        Self { memory: memfd(MEMORY), inflight: None, made: 0, seen: 0 }
    }

    /// The same guest on another host, where no inflight buffer is.
    pub(super) fn moved(&self) -> Self {
        let there = Self { memory: memfd(MEMORY), inflight: None, made: self.made, seen: self.seen };
        there.write(0, &self.read(0, MEMORY as usize));
        there
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    pub(super) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub(super) fn describe(&self, index: u16, addr: u64, len: u32, (flags, next): (u16, u16)) {
        let bytes = Descriptor { addr, len, flags, next }.encode();
        self.write(DESCRIPTORS + 16 * u64::from(index), &bytes);
    }

    pub(super) fn header(&self, head: u16, kind: u32, sector: u64) -> u64 {
        let at = HEADERS + 16 * u64::from(head);
        self.write(at, &kind.to_le_bytes());
        self.write(at + 8, &sector.to_le_bytes());
        self.write(STATUSES + u64::from(head), &[UNTOUCHED]);
        at
    }

    pub(super) fn data_at(head: u16) -> u64 {
        DATA + DATA_EACH * u64::from(head)
    }

    /// Lays a request at descriptors `head`, `head + 1` and `head + 2`.
    pub(super) fn lay(&self, head: u16, kind: u32, sector: u64, len: u32) {
        let header = self.header(head, kind, sector);
        let status = STATUSES + u64::from(head);
        let direction = if matches!(kind, READ | 8) { WRITE } else { 0 };
        if len == 0 {
            self.describe(head, header, 16, (NEXT, head + 2));
        } else {
            self.describe(head, header, 16, (NEXT, head + 1));
            self.describe(head + 1, Self::data_at(head), len, (NEXT | direction, head + 2));
        }
        self.describe(head + 2, status, 1, (WRITE, 0));
    }

    /// Makes a head available.
    pub(super) fn offer(&mut self, head: u16) {
        self.write(AVAILABLE + 4 + 2 * u64::from(self.made % SIZE), &head.to_le_bytes());
        self.made = self.made.wrapping_add(1);
        self.write(AVAILABLE + 2, &self.made.to_le_bytes());
    }

    pub(super) fn ask(&mut self, head: u16, kind: u32, sector: u64, len: u32) {
        self.lay(head, kind, sector, len);
        self.offer(head);
    }

    pub(super) fn used_index(&self) -> u16 {
        u16::from_le_bytes(self.read(USED + 2, 2).try_into().unwrap())
    }

    /// The next result: head and status.
    pub(super) fn result(&mut self) -> Option<(u16, u8)> {
        if self.seen == self.used_index() {
            return None;
        }
        let at = USED + 4 + 8 * u64::from(self.seen % SIZE);
        let head = u32::from_le_bytes(self.read(at, 4).try_into().unwrap()) as u16;
        self.seen = self.seen.wrapping_add(1);
        Some((head, self.read(STATUSES + u64::from(head), 1)[0]))
    }

    /// The driver starts anew: empty rings, no inflight buffer.
    pub(super) fn reset(&mut self) {
        self.write(DESCRIPTORS, &[0; 0x3000]);
        (self.made, self.seen, self.inflight) = (0, 0, None);
    }
}

/// A connection: the front end's end and the session.
pub(super) struct Link {
    pub(super) session: Session,
    pub(super) front: Frontend,
    pub(super) call: EventFd,
    pub(super) kick: EventFd,
    pub(super) error: EventFd,
}

fn is_readable(fd: impl std::os::fd::AsFd, milliseconds: i64) -> bool {
    let mut ready = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 })).unwrap() == 1
}

impl Link {
    pub(super) fn new(shape: Shape) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let front = Frontend::from_stream(theirs, 16);
        Self {
            session: Session::new(ours, shape).unwrap(),
            front,
            call: event(),
            kick: event(),
            error: event(),
        }
    }

    /// The back end's process ends, and the front end goes on with another one as if it were the same.
    pub(super) fn go_on(self, start: impl FnOnce(UnixStream) -> Session) -> Self {
        let Self { session, front, call, kick, error } = self;
        drop(session);
        let (ours, theirs) = UnixStream::pair().unwrap();
        socket::replace(&front, &theirs).unwrap();
        Self { session: start(ours), front, call, kick, error }
    }

    /// What the front end does while the session answers. Panics if the session ends.
    pub(super) fn with<R: Send>(&mut self, act: impl FnOnce(&mut Frontend) -> R + Send) -> (R, Changes) {
        let mut all = Changes::default();
        let front = &mut self.front;
        let session = &mut self.session;
        let result = std::thread::scope(|scope| {
            let acting = scope.spawn(|| act(front));
            for _ in 0..1000 {
                match session.handle_message().expect("the session goes on") {
                    Handled::Done(changes) => merge(&mut all, changes),
                    Handled::Starved if acting.is_finished() => break,
                    Handled::Starved => {
                        is_readable(session.socket(), 10);
                    }
                }
            }
            acting.join().unwrap()
        });
        while let Ok(Handled::Done(changes)) = self.session.handle_message() {
            merge(&mut all, changes);
        }
        (result, all)
    }

    /// How the session ends after what the front end has sent.
    pub(super) fn end(&mut self) -> SessionEnd {
        for _ in 0..100 {
            match self.session.handle_message() {
                Err(end) => return end,
                Ok(Handled::Done(_)) => {}
                Ok(Handled::Starved) => {
                    is_readable(self.session.socket(), 10);
                }
            }
        }
        panic!("the session goes on");
    }

    pub(super) fn negotiate(&mut self, features: u64) {
        self.with(|front| {
            front.set_owner().unwrap();
            front.get_features().unwrap();
            let offered = front.get_protocol_features().unwrap();
            front.set_protocol_features(offered).unwrap();
            front.set_features(features).unwrap();
        });
    }

    /// As QEMU starts a device: memory, inflight buffer, the ring, and its kick.
    pub(super) fn start(&mut self, guest: &mut Guest, base: u16) -> Changes {
        self.start_with(guest, base, SIZE)
    }

    pub(super) fn start_with(&mut self, guest: &mut Guest, base: u16, size: u16) -> Changes {
        let changes = self.tell_start(guest, base, size);
        assert!(self.call.read().is_ok(), "a driver that may have missed a call gets one");
        changes
    }

    /// Says all that a start needs.
    pub(super) fn tell_start(&mut self, guest: &mut Guest, base: u16, size: u16) -> Changes {
        let region = whole(&guest.memory);
        let (call, kick, error) = (&self.call, &self.kick, &self.error);
        let (call, kick, error) =
            (call.try_clone().unwrap(), kick.try_clone().unwrap(), error.try_clone().unwrap());
        let inflight = guest.inflight.take();
        let (inflight, changes) = self.with(move |front| {
            let (layout, file) = inflight.unwrap_or_else(|| {
                let wish = VhostUserInflight::new(0, 0, 2, SIZE);
                front.get_inflight_fd(&wish).unwrap()
            });
            front.set_inflight_fd(&layout, file.as_raw_fd()).unwrap();
            front.set_mem_table(&[region]).unwrap();
            front.set_vring_num(0, size).unwrap();
            front.set_vring_base(0, base).unwrap();
            front.set_vring_addr(0, &ring_at(None)).unwrap();
            front.set_vring_err(0, &error).unwrap();
            front.set_vring_kick(0, &kick).unwrap();
            front.set_vring_call(0, &call).unwrap();
            front.set_vring_enable(0, true).unwrap();
            (layout, file)
        });
        guest.inflight = Some(inflight);
        changes
    }

    /// Negotiated, started, empty.
    pub(super) fn started() -> (Self, Guest) {
        let (mut link, mut guest) = (Self::new(shape()), Guest::new());
        link.negotiate(FEATURES);
        let changes = link.start(&mut guest, 0);
        assert!(changes.started.contains(0) && changes.abandoned.is_empty());
        (link, guest)
    }

    /// A new process's session for a guest that goes on; the front end knows only its used index.
    pub(super) fn after_crash(guest: &mut Guest) -> Self {
        let mut link = Self::new(shape());
        link.negotiate(FEATURES);
        let base = guest.used_index();
        link.start(guest, base);
        link
    }

    pub(super) fn stop(&mut self) -> (u16, Changes) {
        let (base, changes) = self.with(|front| front.get_vring_base(0).unwrap());
        (base as u16, changes)
    }

    pub(super) fn fetch(&mut self) -> GuestRequest {
        match self.session.fetch(0) {
            Fetched::Request(request) => {
                self.session.opened(0, request.head, u32::from(request.head) + 100);
                request
            }
            other => panic!("{other:?} instead of a request"),
        }
    }

    /// Logs into this file, or no more.
    pub(super) fn log(&mut self, log: Option<&File>) {
        let region = log.map(|file| vhost::VhostUserDirtyLogRegion {
            mmap_size: 4096,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        });
        self.with(move |front| {
            if region.is_some() {
                front.set_log_base(0, region).unwrap();
            }
            front.set_features(FEATURES | region.map_or(0, |_| 1 << 26)).unwrap();
            front.set_vring_addr(0, &ring_at(region.map(|_| USED))).unwrap();
        });
    }

    /// Receives bytes into the request's places, as a back end does from its socket.
    pub(super) fn receive(&self, head: u16, from: usize, bytes: &[u8]) -> usize {
        let (a, b) = UnixStream::pair().unwrap();
        let mut out = Pieces::default();
        out.push_source(bytes);
        assert_eq!(socket::send(&a, &mut out).unwrap(), bytes.len());
        let mut into = Pieces::default();
        self.session.push_data(&mut into, 0, head, from, bytes.len());
        if into.is_empty() { 0 } else { socket::receive(&b, &mut into).unwrap() }
    }

    /// Sends the request's bytes; what came out.
    pub(super) fn send(&self, head: u16, from: usize, len: usize) -> Vec<u8> {
        let (a, b) = UnixStream::pair().unwrap();
        let mut out = Pieces::default();
        let pushed = self.session.push_data(&mut out, 0, head, from, len);
        assert_eq!(pushed, out.bytes());
        let mut bytes = vec![0; pushed];
        if pushed > 0 {
            assert_eq!(socket::send(&a, &mut out).unwrap(), pushed);
            std::io::Read::read_exact(&mut &b, &mut bytes).unwrap();
        }
        bytes
    }
}

pub(super) fn merge(all: &mut Changes, more: Changes) {
    more.started.iter().for_each(|q| all.started.insert(q));
    more.stopped.iter().for_each(|q| all.stopped.insert(q));
    more.kicks.iter().for_each(|q| all.kicks.insert(q));
    more.taken.iter().for_each(|q| all.taken.insert(q));
    all.abandoned.extend(more.abandoned);
    assert!(!(all.presumed && more.presumed), "said once");
    all.presumed |= more.presumed;
    all.unnoted = more.unnoted.or(all.unnoted.take());
}

pub(super) fn whole(memory: &File) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: MEMORY,
        userspace_addr: USER,
        mmap_offset: 0,
        mmap_handle: memory.as_raw_fd(),
    }
}

pub(super) fn ring_at(log: Option<u64>) -> VringConfigData {
    VringConfigData {
        queue_max_size: 1024,
        queue_size: SIZE,
        flags: u32::from(log.is_some()),
        desc_table_addr: USER + DESCRIPTORS,
        used_ring_addr: USER + USED,
        avail_ring_addr: USER + AVAILABLE,
        log_addr: log,
    }
}
