//! One vhost-user connection: the messages, in the order in which QEMU 7.2 sends them.
//!
//! ```text
//! connect -> features, protocol features, queues, owner, config  = Link
//! start   -> inflight buffer, features, memory, each ring, enable
//! stop    -> disable, GET_VRING_BASE of each ring
//! ```
//! Invariant: a back end that does not answer within the bound is cut off, and the exchange fails. Rejected: a receive
//! timeout on the socket, which `vhost` takes for a reason to try again. It does not know: requests, what is open.

use super::VhostError;
use super::block::{BlockConfig, CONFIG, feature};
use super::memory::{DirtyLog, GuestMemory};
use super::ring::RingPlaces;
use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures as Protocol};
use vhost::{VhostBackend, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

/// What both sides of a connection agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Virtio features, as a mask.
    pub features: u64,
    /// vhost-user protocol features, as a mask.
    pub protocol: u64,
    /// Queues that the back end can serve.
    pub queues: u16,
    /// Memory regions that it takes; none without CONFIGURE_MEM_SLOTS.
    pub memory_slots: Option<u64>,
    pub config: BlockConfig,
    /// Whether LOG_ALL is offered.
    pub can_log: bool,
}

impl Agreed {
    #[must_use]
    pub fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    #[must_use]
    pub fn has_inflight(&self) -> bool {
        self.protocol & Protocol::INFLIGHT_SHMFD.bits() != 0
    }

    /// Refuses to go on with another disk, or one that can do less.
    ///
    /// # Errors
    /// What has changed.
    pub fn must_match(&self, before: &Self) -> Result<(), VhostError> {
        let (now, then) = (self.config.capacity, before.config.capacity);
        if now != then {
            return Err(VhostError::Unfit(format!("the disk had {then} sectors and has {now} now")));
        }
        let gone = before.features & !self.features;
        if gone != 0 {
            return Err(VhostError::Unfit(format!("features {gone:#x} are not offered any more")));
        }
        Ok(())
    }
}

/// The inflight buffer: made by the back end, kept by the front end.
pub struct Inflight {
    description: VhostUserInflight,
    file: File,
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.description.mmap_size;
        f.debug_struct("Inflight").field("file", &self.file).field("bytes", &bytes).finish()
    }
}

/// What a ring needs to be started.
#[derive(Debug)]
pub struct RingStart<'a> {
    pub places: RingPlaces,
    pub size: u16,
    pub base: u16,
    pub kick: &'a EventFd,
    pub call: &'a EventFd,
}

/// One connection.
pub struct Link {
    frontend: Frontend,
    /// The same socket, to watch and to cut.
    stream: UnixStream,
    patience: Duration,
    memory_told: bool,
    pub agreed: Agreed,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("stream", &self.stream)
            .field("agreed", &self.agreed)
            .finish_non_exhaustive()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Link {
    /// Connects and negotiates the features of `wanted` that are offered. Each exchange ends within `patience`.
    ///
    /// # Errors
    /// If nobody listens, or the back end lacks what no driver can do without.
    pub fn connect(socket: &Path, wanted: u64, patience: Duration) -> Result<Self, VhostError> {
        let unreachable = |why| VhostError::Unreachable { socket: socket.to_owned(), why };
        let stream = UnixStream::connect(socket).map_err(unreachable)?;
        let watch = stream.try_clone().map_err(unreachable)?;
        let frontend = Frontend::from_stream(stream, 1);
        let agreed = within(patience, &watch, "the handshake", || negotiate(&frontend, wanted))?;
        Ok(Self { frontend, stream: watch, patience, memory_told: false, agreed })
    }

    /// A fresh inflight buffer; none if the back end keeps none.
    ///
    /// # Errors
    /// Of the exchange.
    pub fn new_inflight(&self, queues: u16, queue_size: u16) -> Result<Option<Inflight>, VhostError> {
        if !self.agreed.has_inflight() {
            return Ok(None);
        }
        let asked = VhostUserInflight::new(0, 0, queues, queue_size);
        self.exchange("GET_INFLIGHT_FD", |frontend| frontend.get_inflight_fd(&asked))
            .map(|(description, file)| Some(Inflight { description, file }))
    }

    /// Starts the rings: inflight buffer, features, memory, rings, enable.
    ///
    /// # Errors
    /// Of the exchange.
    pub fn start(
        &mut self,
        memory: &GuestMemory,
        inflight: Option<&Inflight>,
        rings: &[RingStart<'_>],
    ) -> Result<(), VhostError> {
        let (features, slots) = (self.agreed.features, self.agreed.memory_slots.is_some());
        let tell_memory = !self.memory_told || !slots;
        self.exchange("starting the rings", |frontend| {
            if let Some(Inflight { description, file }) = inflight {
                frontend.set_inflight_fd(description, file.as_raw_fd())?;
            }
            frontend.set_features(features)?;
            if tell_memory {
                share_memory(frontend, memory, slots)?;
            }
            for (index, ring) in rings.iter().enumerate() {
                start_ring(frontend, memory, index, ring)?;
            }
            (0..rings.len()).try_for_each(|index| frontend.set_vring_enable(index, true))
        })?;
        self.memory_told = true;
        Ok(())
    }

    /// Stops the rings; the bases that the back end has answered.
    ///
    /// # Errors
    /// Of the exchange.
    pub fn stop(&self, rings: usize) -> Result<Vec<u16>, VhostError> {
        self.exchange("GET_VRING_BASE", |frontend| {
            for index in 0..rings {
                frontend.set_vring_enable(index, false)?;
            }
            (0..rings).map(|index| frontend.get_vring_base(index).map(|base| base as u16)).collect()
        })
    }

    /// Begins to log what the device writes.
    ///
    /// # Errors
    /// If the back end does not log, or of the exchange.
    pub fn log_start(
        &self,
        memory: &GuestMemory,
        log: &DirtyLog,
        rings: &[RingStart<'_>],
    ) -> Result<(), VhostError> {
        if !self.agreed.can_log || self.agreed.protocol & Protocol::LOG_SHMFD.bits() == 0 {
            return Err(VhostError::Unfit("the back end does not log dirty pages".to_owned()));
        }
        let features = self.agreed.features | feature::LOG_ALL;
        self.exchange("SET_LOG_BASE", |frontend| {
            frontend.set_log_base(0, Some(log.region()))?;
            frontend.set_features(features)?;
            set_addresses(frontend, memory, rings, true)
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Of the exchange.
    pub fn log_stop(&self, memory: &GuestMemory, rings: &[RingStart<'_>]) -> Result<(), VhostError> {
        let features = self.agreed.features;
        self.exchange("SET_FEATURES", |frontend| {
            frontend.set_features(features)?;
            set_addresses(frontend, memory, rings, false)
        })
    }

    fn exchange<T>(
        &self,
        what: &'static str,
        talk: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, VhostError> {
        // A clone is another handle to the same connection.
        let mut frontend = self.frontend.clone();
        within(self.patience, &self.stream, what, || talk(&mut frontend))
    }
}

/// Lets `talk` converse over the connection, and cuts that when the time is up.
fn within<T>(
    patience: Duration,
    stream: &UnixStream,
    what: &'static str,
    talk: impl FnOnce() -> vhost::Result<T>,
) -> Result<T, VhostError> {
    let (done, watched) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let late = watched.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                let _ = stream.shutdown(Shutdown::Both);
            }
            late
        });
        let result = talk();
        drop(done);
        let late = watch.join().unwrap_or(true);
        result.map_err(|why| match late {
            true => VhostError::NoAnswer { what, patience },
            false => VhostError::Exchange { what, why: why.to_string() },
        })
    })
}

fn negotiate(frontend: &Frontend, wanted: u64) -> vhost::Result<Agreed> {
    let mut frontend = frontend.clone();
    let offered = frontend.get_features()?;
    let known = Protocol::CONFIG
        | Protocol::MQ
        | Protocol::REPLY_ACK
        | Protocol::INFLIGHT_SHMFD
        | Protocol::LOG_SHMFD
        | Protocol::CONFIGURE_MEM_SLOTS;
    let protocol = frontend.get_protocol_features()? & known;
    frontend.set_protocol_features(protocol)?;
    if protocol.contains(Protocol::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    let queues = if protocol.contains(Protocol::MQ) { frontend.get_queue_num()? } else { 1 };
    let slots = protocol.contains(Protocol::CONFIGURE_MEM_SLOTS);
    let memory_slots = if slots { Some(frontend.get_max_mem_slots()?) } else { None };
    frontend.set_owner()?;
    let (_, space) = frontend.get_config(0, CONFIG as u32, VhostUserConfigFlags::empty(), &[0; CONFIG])?;
    let config = BlockConfig::parse(&space).unwrap_or_else(|| unreachable!("as long as was asked for"));
    Ok(Agreed {
        features: offered & wanted,
        protocol: protocol.bits(),
        queues: queues.min(u64::from(u16::MAX)) as u16,
        memory_slots,
        config,
        can_log: offered & feature::LOG_ALL != 0,
    })
}

fn share_memory(frontend: &mut Frontend, memory: &GuestMemory, slots: bool) -> vhost::Result<()> {
    if !slots {
        return frontend.set_mem_table(&memory.regions()).map(drop);
    }
    memory.regions().iter().try_for_each(|region| frontend.add_mem_region(region).map(drop))
}

fn start_ring(
    frontend: &mut Frontend,
    memory: &GuestMemory,
    index: usize,
    ring: &RingStart<'_>,
) -> vhost::Result<()> {
    frontend.set_vring_num(index, ring.size)?;
    frontend.set_vring_base(index, ring.base)?;
    frontend.set_vring_addr(index, &addresses(memory, ring, false))?;
    frontend.set_vring_kick(index, ring.kick)?;
    frontend.set_vring_call(index, ring.call)
}

fn set_addresses(
    frontend: &Frontend,
    memory: &GuestMemory,
    rings: &[RingStart<'_>],
    logged: bool,
) -> vhost::Result<()> {
    let numbered = rings.iter().enumerate();
    numbered
        .into_iter()
        .try_for_each(|(index, ring)| frontend.set_vring_addr(index, &addresses(memory, ring, logged)))
}

fn addresses(memory: &GuestMemory, ring: &RingStart<'_>, logged: bool) -> VringConfigData {
    VringConfigData {
        queue_max_size: ring.size,
        queue_size: ring.size,
        flags: u32::from(logged),
        desc_table_addr: memory.front_end_address(ring.places.descriptors),
        used_ring_addr: memory.front_end_address(ring.places.used),
        avail_ring_addr: memory.front_end_address(ring.places.available),
        log_addr: logged.then(|| memory.guest_address(ring.places.used)),
    }
}
