//! A front end that sends anything, with a guest behind it whose driver does anything: the messages, the rings and the
//! results of one session, in any order.

use crate::device::{Changes, Fetched, GuestRequest, Handled, Session, Shape};
use crate::input::Input;
use crate::sys::socket::Pieces;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use vmpath_protocol::virtio_blk::chain::Descriptor;
use vmpath_protocol::virtio_blk::request::{Access, Operation, Status};

const STEPS_MAX: usize = 200;
const DISK: u64 = 1 << 20;
const MEMORY: u64 = 256 << 10;
/// What the front end adds to an address of its guest.
const USER: u64 = 0x7000_0000;
const QUEUES: u16 = 2;
const RING: u16 = 16;
/// Where the driver lays the ring of its first queue; those of the second follow.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const RINGS_EACH: u64 = 0x3000;
const HEADERS: u64 = 0x8000;
const DATA: u64 = 0x10000;
/// Everything that is negotiated when the front end behaves: version 1, indirect, event index, discard, zeroes, flush.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 14 | 1 << 13 | 1 << 9;
/// MQ, LOG_SHMFD, REPLY_ACK, CONFIG, INFLIGHT_SHMFD, CONFIGURE_MEM_SLOTS.
const PROTOCOL_FEATURES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 9 | 1 << 12 | 1 << 15;

/// Byte 0: whether the front end begins as it should; then steps of a few bytes each.
///
/// # Panics
/// A rule does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(mut world) = World::new() else { return };
    if input.byte() & 1 == 0 {
        world.begin();
        world.start(0);
    }
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() || world.is_over {
            break;
        }
        world.step(&mut input);
        world.check();
    }
    world.end();
}

struct World {
    session: Session,
    front: UnixStream,
    memory: File,
    inflight: File,
    event: OwnedFd,
    made: [u16; QUEUES as usize],
    /// What the device has given out, by queue and head; with a name that is used once.
    open: BTreeMap<(u16, u16), (u32, GuestRequest)>,
    names: u32,
    is_over: bool,
}

impl World {
    /// None if the system has nothing left to give.
    fn new() -> Option<Self> {
        let (ours, front) = UnixStream::pair().ok()?;
        front.set_nonblocking(true).ok()?;
        let shape = Shape {
            size: DISK,
            block_size: 512,
            physical_block: 4096,
            optimal_io: 0,
            request_max: 64 << 10,
            access: Access::ReadWrite,
            flush: true,
            discard: true,
            write_zeroes: true,
            serial: "disk".to_owned(),
            queues: QUEUES,
        };
        Some(Self {
            session: Session::new(ours, shape).ok()?,
            front,
            memory: memory(MEMORY)?,
            inflight: memory(64 << 10)?,
            event: eventfd(0, EventfdFlags::NONBLOCK).ok()?,
            made: [0; QUEUES as usize],
            open: BTreeMap::new(),
            names: 0,
            is_over: false,
        })
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=2 => self.any_message(input),
            3 => self.any_memory(input),
            4..=6 => self.ask(input),
            7 => {
                let (queue, head) = (u16::from(input.byte()) % QUEUES, input.u16());
                self.offer(queue, head);
            }
            8 | 9 => self.fetch(u16::from(input.byte()) % (QUEUES + 1)),
            10 | 11 => self.complete(input),
            12 => self.transfer(input),
            13 => self.poll(u16::from(input.byte()) % (QUEUES + 1)),
            14 => self.message(11, &words([u32::from(input.byte() & 1), 0]), &[]),
            _ => self.start(u32::from(input.byte() & 1)),
        }
    }

    /// What was given out is open, and nothing else is.
    fn check(&self) {
        let mut open: Vec<(u16, u16, u32)> = self.session.open().collect();
        open.sort_unstable();
        let given = self.open.iter().map(|((queue, head), (name, _))| (*queue, *head, *name));
        assert!(open.into_iter().eq(given), "the device and its owner disagree about what is open");
    }

    fn end(mut self) {
        let abandoned = self.session.close();
        self.forget(abandoned.iter().map(|request| request.token));
        self.check();
        for ((queue, head), _) in std::mem::take(&mut self.open) {
            assert!(!self.session.is_running(queue));
            self.session.complete(queue, head, Status::Ok);
        }
    }

    fn forget(&mut self, names: impl Iterator<Item = u32>) {
        for name in names {
            let key = self.open.iter().find(|(_, (of, _))| *of == name).map(|(key, _)| *key);
            let key = key.expect("a request was abandoned that was not open");
            self.open.remove(&key);
        }
    }

    /// As QEMU begins.
    fn begin(&mut self) {
        self.message(3, &[], &[]);
        self.message(2, &FEATURES.to_ne_bytes(), &[]);
        self.message(16, &PROTOCOL_FEATURES.to_ne_bytes(), &[]);
        let layout = [&(16u64 << 10).to_ne_bytes()[..], &[0; 8], &QUEUES.to_ne_bytes(), &RING.to_ne_bytes()];
        self.message(32, &[&layout.concat()[..], &[0; 4]].concat(), &[Given::Inflight]);
        let region = [0, MEMORY, USER, 0].map(u64::to_ne_bytes).concat();
        self.message(5, &[&words([1, 0]), &region[..]].concat(), &[Given::Memory]);
    }

    /// Starts a ring that is stopped.
    fn start(&mut self, queue: u32) {
        let at = |place: u64| USER + place + RINGS_EACH * u64::from(queue);
        self.message(8, &words([queue, RING.into()]), &[]);
        let addresses = [at(DESCRIPTORS), at(USED), at(AVAILABLE), 0].map(u64::to_ne_bytes).concat();
        self.message(9, &[&words([queue, 0]), &addresses[..]].concat(), &[]);
        self.message(12, &u64::from(queue).to_ne_bytes(), &[Given::Event]);
        self.message(13, &u64::from(queue).to_ne_bytes(), &[Given::Event]);
        self.message(18, &words([queue, 1]), &[]);
    }

    /// Whatever number, flags, length and descriptors.
    fn any_message(&mut self, input: &mut Input<'_>) {
        let code = u32::from(input.byte() % 46);
        let style = input.byte();
        let mut body: Vec<u8> = (0..input.byte() % 64).map(|_| input.byte()).collect();
        let given = match style & 7 {
            0..=2 => vec![],
            3 => vec![Given::Memory],
            4 => vec![Given::Event],
            5 => vec![Given::Inflight],
            6 => vec![Given::Memory, Given::Event],
            _ => vec![Given::Event; 9],
        };
        let flags = if style & 8 == 0 { 1 } else { 1 | u32::from(style >> 4) << 3 };
        let size = if style & 0xc0 == 0xc0 { input.u32() } else { body.len() as u32 };
        let mut bytes = words([code, flags]).to_vec();
        bytes.extend(size.to_ne_bytes());
        bytes.append(&mut body);
        self.send(&bytes, &given);
    }

    fn message(&mut self, code: u32, body: &[u8], given: &[Given]) {
        let mut bytes = words([code, 1]).to_vec();
        bytes.extend((body.len() as u32).to_ne_bytes());
        bytes.extend(body);
        self.send(&bytes, given);
    }

    /// Sends, and lets the device handle all that has come.
    fn send(&mut self, bytes: &[u8], given: &[Given]) {
        let descriptors: Vec<BorrowedFd<'_>> = given.iter().map(|which| self.descriptor(*which)).collect();
        let mut space = [MaybeUninit::uninit(); 256];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        _ = sendmsg(&self.front, &[IoSlice::new(bytes)], &mut control, flags); // it may be closed
        drop(control);
        while !self.is_over {
            match self.session.handle_message() {
                Ok(Handled::Starved) => break,
                Ok(Handled::Done(changes)) => self.changed(&changes),
                Err(_) => self.is_over = true,
            }
            let mut answer = [0; 4096];
            while matches!(recv(&self.front, &mut answer[..], RecvFlags::DONTWAIT), Ok((n, _)) if n > 0) {}
        }
    }

    fn changed(&mut self, changes: &Changes) {
        self.forget(changes.abandoned.iter().map(|request| request.token));
        for queue in changes.stopped.iter().filter(|queue| !changes.started.contains(*queue)) {
            assert!(!self.session.is_running(queue));
        }
    }

    fn descriptor(&self, which: Given) -> BorrowedFd<'_> {
        match which {
            Given::Memory => self.memory.as_fd(),
            Given::Inflight => self.inflight.as_fd(),
            Given::Event => self.event.as_fd(),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        _ = self.memory.write_all_at(bytes, at % (MEMORY - 64));
    }

    fn any_memory(&mut self, input: &mut Input<'_>) {
        let at = u64::from(input.u16());
        let bytes: [u8; 4] = input.bytes();
        match input.byte() & 1 {
            0 => self.write(at, &bytes),
            _ => _ = self.inflight.write_all_at(&bytes, at),
        }
    }

    /// A request as a driver lays it, but for a flaw here and there; in the queue's table or in one of its own.
    fn ask(&mut self, input: &mut Input<'_>) {
        let [shape, head, kind, flaw] = input.bytes();
        let (sector, len) = (u64::from(input.u16()), u32::from(input.u16()));
        let queue = u16::from(shape & 1);
        let head = u16::from(head) % (RING - 2);
        let kind = [0, 1, 4, 8, 11, 13, 2, u32::from(kind)][usize::from(kind % 8)];
        let header = HEADERS + 64 * u64::from(head);
        self.write(header, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
        let into_guest = if matches!(kind, 0 | 8) { 2 } else { 0 };
        let mut chain = vec![Descriptor { addr: header, len: 16, flags: 1, next: 1 }];
        chain.push(Descriptor { addr: DATA + 0x1000 * u64::from(head), len, flags: 1 | into_guest, next: 2 });
        chain.push(Descriptor { addr: header + 32, len: 1, flags: 2, next: 0 });
        match flaw {
            200.. => chain[usize::from(flaw % 3)].addr = input.u64(),
            150..200 => chain[usize::from(flaw % 3)].flags ^= 1 << (flaw / 3 % 4),
            100..150 => chain[usize::from(flaw % 3)].len = input.u32(),
            _ => {}
        }
        let table = DESCRIPTORS + RINGS_EACH * u64::from(queue);
        if shape & 2 == 0 {
            for (at, descriptor) in (head..).zip(chain) {
                let next = descriptor.next + head;
                let descriptor = Descriptor { next, ..descriptor };
                self.write(table + 16 * u64::from(at), &descriptor.encode());
            }
        } else {
            let own = HEADERS + 0x1000 + 64 * u64::from(head);
            let whole = Descriptor { addr: own, len: 48, flags: 4, next: 0 };
            self.write(table + 16 * u64::from(head), &whole.encode());
            self.write(own, &chain.iter().flat_map(|d| d.encode()).collect::<Vec<_>>());
        }
        self.offer(queue, head);
    }

    fn offer(&mut self, queue: u16, head: u16) {
        let ring = AVAILABLE + RINGS_EACH * u64::from(queue);
        let made = &mut self.made[usize::from(queue)];
        let slot = *made % RING;
        *made = made.wrapping_add(1);
        let made = *made;
        self.write(ring + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        self.write(ring + 2, &made.to_le_bytes());
    }

    fn fetch(&mut self, queue: u16) {
        for _ in 0..4 {
            match self.session.fetch(queue) {
                Fetched::Empty | Fetched::Broken(_) => break,
                Fetched::Answered => {}
                Fetched::Request(request) => self.opened(queue, request),
            }
        }
        self.session.notify();
    }

    fn opened(&mut self, queue: u16, request: GuestRequest) {
        let GuestRequest { head, operation, offset, length, .. } = request;
        assert_eq!(request.queue, queue);
        assert!(self.session.is_running(queue));
        assert!(offset.checked_add(u64::from(length)).is_some_and(|end| end <= DISK));
        assert!(offset % 512 == 0 && length % 512 == 0);
        assert!(length > 0 || operation == Operation::Flush);
        let name = self.names;
        self.names += 1;
        self.session.opened(queue, head, name);
        assert!(self.open.insert((queue, head), (name, request)).is_none(), "given out twice");
    }

    fn chosen(&self, input: &mut Input<'_>) -> Option<(u16, u16, GuestRequest)> {
        let number = usize::from(input.byte()) % self.open.len().max(1);
        self.open.iter().nth(number).map(|((queue, head), (_, request))| (*queue, *head, *request))
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        let Some((queue, head, _)) = self.chosen(input) else { return };
        let status = if input.byte() & 1 == 0 { Status::Ok } else { Status::IoErr };
        self.session.complete(queue, head, status);
        self.open.remove(&(queue, head));
        self.session.notify();
    }

    /// Part of a request's data, one way or the other.
    fn transfer(&mut self, input: &mut Input<'_>) {
        let Some((queue, head, request)) = self.chosen(input) else { return };
        let length = request.length as usize;
        let from = usize::from(input.u16()).min(length);
        match request.operation {
            Operation::Read => {
                let bytes = vec![0xa5; (length - from).min(777)];
                self.session.fill(queue, head, from, &bytes);
            }
            Operation::Write => {
                let mut bytes = vec![0; (length - from).min(777)];
                _ = self.session.read_data(queue, head, from, &mut bytes);
            }
            Operation::Flush | Operation::Discard | Operation::WriteZeroes { .. } => return,
        }
        let mut pieces = Pieces::default();
        let pushed = self.session.push_data(&mut pieces, queue, head, from, length - from);
        assert!(pushed <= length - from && pieces.bytes() == pushed);
    }

    fn poll(&mut self, queue: u16) {
        if self.session.poll_avail(queue) {
            self.session.suppress_kicks(queue);
        } else {
            _ = self.session.enable_kicks(queue);
        }
        _ = (self.session.kick(queue), self.session.writes_through());
    }
}

/// Descriptors that a message may carry.
#[derive(Clone, Copy)]
enum Given {
    Memory,
    Inflight,
    Event,
}

fn memory(bytes: u64) -> Option<File> {
    let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC).ok()?;
    ftruncate(&fd, bytes).ok()?;
    Some(File::from(fd))
}

fn words(of: [u32; 2]) -> [u8; 8] {
    let [a, b] = of.map(u32::to_ne_bytes);
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}
