//! A back end for tests, with an inflight buffer, whose faults are switched on and off: it holds requests, dies, lies.
//!
//! It looks at its rings each millisecond instead of waiting for kicks. Its inflight buffer is a byte for each
//! descriptor: the layout is between a back end and its successor. Invariant: what its disk holds outlives it.
//! It does not know: speed, malicious guests.

use super::block::{CONFIG, Operation, feature};
use super::ring::{Descriptor, INDIRECT, NEXT};
use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    VhostUserProtocolFeatures as Protocol,
};
use vm_memory::volatile_memory::VolatileMemory;
use vm_memory::{FileOffset, MmapRegion};

const QUEUES: usize = 2;
const ROUND: Duration = Duration::from_millis(1);

/// The faults.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Fetches requests and completes none.
    pub hold: AtomicBool,
    /// Completes each request twice.
    pub twice: AtomicBool,
    /// Goes on to complete while its rings are stopped.
    pub unstoppable: AtomicBool,
    /// Fails each request.
    pub fail: AtomicBool,
    /// Writes nothing of what it is told to write.
    pub lose: AtomicBool,
}

impl Faults {
    pub(crate) fn set(fault: &AtomicBool) {
        fault.store(true, Ordering::SeqCst);
    }

    pub(crate) fn clear(fault: &AtomicBool) {
        fault.store(false, Ordering::SeqCst);
    }
}

/// A back end that runs.
pub(crate) struct Fake {
    pub faults: Arc<Faults>,
    disk: Arc<Mutex<Vec<u8>>>,
    socket: PathBuf,
    device: Arc<Mutex<Device>>,
    connection: Arc<Mutex<Option<UnixStream>>>,
    end: Option<mpsc::Sender<()>>,
    worker: Option<JoinHandle<()>>,
}

impl Fake {
    /// One with an empty disk.
    pub(crate) fn start(socket: &Path, bytes: usize) -> Self {
        Self::over(socket, Arc::new(Mutex::new(vec![0; bytes])))
    }

    fn over(socket: &Path, disk: Arc<Mutex<Vec<u8>>>) -> Self {
        let faults = Arc::new(Faults::default());
        let device = Arc::new(Mutex::new(Device::new(Arc::clone(&disk), Arc::clone(&faults))));
        let connection = Arc::new(Mutex::new(None));
        let listener = UnixListener::bind(socket).unwrap();
        let (for_messages, keep) = (Arc::clone(&device), Arc::clone(&connection));
        thread::spawn(move || {
            // One connection in its life.
            let Ok((stream, _)) = listener.accept() else { return };
            *keep.lock().unwrap() = stream.try_clone().ok();
            let mut handler = BackendReqHandler::from_stream(stream, for_messages);
            while handler.handle_request().is_ok() {}
        });
        let (end, ended) = mpsc::channel();
        let for_rings = Arc::clone(&device);
        let worker = thread::spawn(move || {
            while ended.recv_timeout(ROUND) == Err(mpsc::RecvTimeoutError::Timeout) {
                for_rings.lock().unwrap().work();
            }
        });
        let socket = socket.to_owned();
        Self { faults, disk, socket, device, connection, end: Some(end), worker: Some(worker) }
    }

    /// Dies as by SIGKILL, and another one takes its place on the same disk.
    pub(crate) fn restart(mut self) -> Self {
        self.die();
        Self::over(&self.socket, Arc::clone(&self.disk))
    }

    /// Requests that it has fetched and not completed.
    pub(crate) fn open(&self) -> usize {
        self.device.lock().unwrap().queues.iter().map(|queue| queue.open.len()).sum()
    }

    /// Completes one request of the first queue, the youngest, though it holds the others.
    pub(crate) fn complete_youngest(&self) {
        let mut device = self.device.lock().unwrap();
        let head = device.queues[0].open.pop().expect("one is open");
        device.complete(0, head);
    }

    fn die(&mut self) {
        self.end = None;
        // Once only: the socket may be its successor's already.
        let Some(worker) = self.worker.take() else { return };
        worker.join().unwrap();
        if let Some(stream) = self.connection.lock().unwrap().take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.die();
    }
}

struct Region {
    guest: u64,
    front_end: u64,
    map: MmapRegion<()>,
}

#[derive(Default)]
struct FakeQueue {
    size: u16,
    places: [u64; 3],
    next: u16,
    used: u16,
    running: bool,
    open: Vec<u16>,
    call: Option<File>,
}

struct Device {
    disk: Arc<Mutex<Vec<u8>>>,
    faults: Arc<Faults>,
    regions: Vec<Region>,
    queues: Vec<FakeQueue>,
    inflight: Option<MmapRegion<()>>,
    log: Option<MmapRegion<()>>,
    features: u64,
}

impl Device {
    fn new(disk: Arc<Mutex<Vec<u8>>>, faults: Arc<Faults>) -> Self {
        let queues = (0..QUEUES).map(|_| FakeQueue::default()).collect();
        Self { disk, faults, regions: Vec::new(), queues, inflight: None, log: None, features: 0 }
    }

    /// A range by its guest address, or by the front end's.
    fn at(&self, address: u64, by: fn(&Region) -> u64) -> (&MmapRegion<()>, usize) {
        let found = self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(by(region))? as usize;
            (offset < region.map.size()).then_some((&region.map, offset))
        });
        found.expect("an address in memory")
    }

    fn guest(&self, address: u64) -> (&MmapRegion<()>, usize) {
        self.at(address, |region| region.guest)
    }

    fn ring<T: vm_memory::AtomicInteger>(&self, address: u64) -> &T {
        let (map, at) = self.at(address, |region| region.front_end);
        map.get_atomic_ref(at).unwrap()
    }

    fn mark(&self, queue: usize, head: u16) -> &AtomicU8 {
        let size = usize::from(self.queues[queue].size);
        self.inflight.as_ref().expect("a buffer").get_atomic_ref(queue * size + usize::from(head)).unwrap()
    }

    fn work(&mut self) {
        for number in 0..QUEUES {
            let running = self.queues[number].running;
            if running {
                self.fetch(number);
            }
            let may = running || self.faults.unstoppable.load(Ordering::SeqCst);
            if may && !self.faults.hold.load(Ordering::SeqCst) {
                // Youngest first: completions are out of order.
                while let Some(head) = self.queues[number].open.pop() {
                    self.complete(number, head);
                }
            }
        }
    }

    fn fetch(&mut self, number: usize) {
        let [_, _, available] = self.queues[number].places;
        let size = self.queues[number].size;
        let end = self.ring::<AtomicU16>(available + 2).load(Ordering::Acquire);
        while self.queues[number].next != end {
            let at = available + 4 + 2 * u64::from(self.queues[number].next % size);
            let head = self.ring::<AtomicU16>(at).load(Ordering::Relaxed);
            self.mark(number, head).store(1, Ordering::SeqCst);
            let queue = &mut self.queues[number];
            queue.next = queue.next.wrapping_add(1);
            queue.open.push(head);
        }
    }

    fn complete(&mut self, number: usize, head: u16) {
        self.execute(number, head);
        let times = if self.faults.twice.load(Ordering::SeqCst) { 2 } else { 1 };
        for _ in 0..times {
            let queue = &self.queues[number];
            let (used, index) = (queue.places[1], queue.used);
            let entry = used + 4 + 8 * u64::from(index % queue.size);
            let ring = self.regions.iter().find(|region| region.front_end <= used).expect("a ring");
            self.dirty(used - ring.front_end + ring.guest, 6 + 8 * u32::from(queue.size));
            self.ring::<AtomicU32>(entry).store(u32::from(head), Ordering::Relaxed);
            self.ring::<AtomicU32>(entry + 4).store(1, Ordering::Relaxed);
            self.ring::<AtomicU16>(used + 2).store(index.wrapping_add(1), Ordering::Release);
            self.queues[number].used = index.wrapping_add(1);
        }
        self.mark(number, head).store(0, Ordering::SeqCst);
        if let Some(call) = &mut self.queues[number].call {
            let _ = call.write_all(&1u64.to_ne_bytes());
        }
    }

    /// Marks guest pages as written.
    fn dirty(&self, guest: u64, len: u32) {
        let Some(log) = self.log.as_ref().filter(|_| self.features & feature::LOG_ALL != 0) else { return };
        for page in guest / 4096..=(guest + u64::from(len) - 1) / 4096 {
            let byte = log.get_atomic_ref::<AtomicU8>((page / 8) as usize).unwrap();
            byte.fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }

    fn execute(&self, number: usize, head: u16) {
        let chain = self.chain(self.queues[number].places[0], head);
        let (header, rest) = chain.split_first().expect("a header");
        let (status, data) = rest.split_last().expect("a status");
        let (map, at) = self.guest(header.address);
        let kind: u32 = map.get_atomic_ref::<AtomicU32>(at).unwrap().load(Ordering::Relaxed);
        let sector: u64 = map.get_atomic_ref::<AtomicU64>(at + 8).unwrap().load(Ordering::Relaxed);
        let mut disk = self.disk.lock().unwrap();
        let mut place = sector as usize * 512;
        for piece in data {
            let (map, at) = self.guest(piece.address);
            let len = piece.len as usize;
            let memory = map.get_slice(at, len).unwrap();
            if kind == Operation::Read.number() {
                memory.copy_from(&disk[place..place + len]);
                self.dirty(piece.address, piece.len);
            } else if kind == Operation::Write.number() && !self.faults.lose.load(Ordering::SeqCst) {
                memory.copy_to(&mut disk[place..place + len]);
            } else if kind == (Operation::WriteZeroes { unmap: false }).number() {
                let (sector, count) =
                    (map.get_atomic_ref::<AtomicU64>(at), map.get_atomic_ref::<AtomicU32>(at + 8));
                let from = sector.unwrap().load(Ordering::Relaxed) as usize * 512;
                disk[from..from + count.unwrap().load(Ordering::Relaxed) as usize * 512].fill(0);
            }
            place += len;
        }
        let failed = self.faults.fail.load(Ordering::SeqCst);
        let (map, at) = self.guest(status.address);
        map.get_atomic_ref::<AtomicU8>(at).unwrap().store(u8::from(failed), Ordering::Relaxed);
        self.dirty(status.address, 1);
    }

    fn chain(&self, table: u64, head: u16) -> Vec<Descriptor> {
        let first = self.descriptor(|address| self.at(address, |region| region.front_end), table, head);
        if first.flags & INDIRECT != 0 {
            return self.walk(|address| self.guest(address), first.address, 0);
        }
        self.walk(|address| self.at(address, |region| region.front_end), table, head)
    }

    fn walk<'a>(
        &'a self,
        map: impl Fn(u64) -> (&'a MmapRegion<()>, usize),
        table: u64,
        head: u16,
    ) -> Vec<Descriptor> {
        let mut chain = vec![self.descriptor(&map, table, head)];
        while let Some(last) = chain.last().filter(|last| last.flags & NEXT != 0) {
            chain.push(self.descriptor(&map, table, last.next));
        }
        chain
    }

    fn descriptor<'a>(
        &'a self,
        map: impl Fn(u64) -> (&'a MmapRegion<()>, usize),
        table: u64,
        index: u16,
    ) -> Descriptor {
        let (map, at) = map(table + u64::from(index) * Descriptor::SIZE as u64);
        let word = |at| map.get_atomic_ref::<AtomicU64>(at).unwrap().load(Ordering::Relaxed);
        let rest = word(at + 8);
        Descriptor {
            address: word(at),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

fn unexpected<T>() -> Result<T> {
    Err(Error::InvalidOperation("not by this front end"))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        unexpected()
    }

    fn reset_device(&mut self) -> Result<()> {
        unexpected()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok((feature::DRIVER | feature::LOG_ALL) & !feature::RO & !feature::DISCARD)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.features = features;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        _: &[VhostUserMemoryRegion],
        _: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        unexpected()
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.queues[index as usize].size = num as u16;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        let index = index as usize;
        self.queues[index].places = [descriptor, used, available];
        self.queues[index].used = self.ring::<AtomicU16>(used + 2).load(Ordering::Acquire);
        // A successor finds what its predecessor had open; whoever had it itself goes on with it.
        let heads = 0..self.queues[index].size;
        self.queues[index].open =
            heads.filter(|head| self.mark(index, *head).load(Ordering::SeqCst) == 1).collect();
        let queue = &mut self.queues[index];
        if !queue.open.is_empty() {
            queue.next = queue.used.wrapping_add(queue.open.len() as u16);
        }
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.queues[index as usize].next = base as u16;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let queue = &mut self.queues[index as usize];
        queue.running = false;
        Ok(VhostUserVringState::new(index, u32::from(queue.next)))
    }

    fn set_vring_kick(&mut self, _: u8, _: Option<File>) -> Result<()> {
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.queues[usize::from(index)].call = fd;
        Ok(())
    }

    fn set_vring_err(&mut self, _: u8, _: Option<File>) -> Result<()> {
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<Protocol> {
        Ok(Protocol::CONFIG
            | Protocol::MQ
            | Protocol::REPLY_ACK
            | Protocol::INFLIGHT_SHMFD
            | Protocol::LOG_SHMFD
            | Protocol::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.queues[index as usize].running = enable;
        Ok(())
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let mut space = vec![0; CONFIG];
        let sectors = self.disk.lock().unwrap().len() as u64 / 512;
        space[..8].copy_from_slice(&sectors.to_le_bytes());
        space[12..16].copy_from_slice(&4u32.to_le_bytes());
        Ok(space)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        unexpected()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unexpected()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unexpected()
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let bytes = u64::from(asked.num_queues) * u64::from(asked.queue_size);
        let file = File::from(rustix::fs::memfd_create("inflight", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(bytes).unwrap();
        Ok((VhostUserInflight { mmap_size: bytes, mmap_offset: 0, ..*asked }, file))
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        let map = MmapRegion::from_file(FileOffset::new(file, 0), inflight.mmap_size as usize);
        self.inflight = Some(map.unwrap());
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(8)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _: Option<bool>,
    ) -> Result<Option<u64>> {
        let (guest, front_end, size) =
            (region.guest_phys_addr, region.user_addr, region.memory_size as usize);
        let map = MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), size).unwrap();
        self.regions.push(Region { guest, front_end, map });
        Ok(None)
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unexpected()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unexpected()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unexpected()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unexpected()
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let map = MmapRegion::from_file(FileOffset::new(file, log.mmap_offset), log.mmap_size as usize);
        self.log = Some(map.unwrap());
        Ok(())
    }
}
