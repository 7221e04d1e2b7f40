//! The connections to storage: each path's link to each unit, kept up for ever.
//!
//! ```text
//! Connecting ▶ Handshake ▶ Trying ─answers─▶ Waiting ─turn comes─▶ Comparing ─same unit─▶ Active
//!     └───────────┴──────────┴─────────────────┴───── any fault ──────┴──▶ Closing ─reaped─▶ (gone; back-off)
//! ```
//! Invariant: a connection carries requests only while `Active`, and what it carried goes elsewhere only after it is
//! closed and reaped. A `block:///` path is a connection too: its handshake is opening the device. It does not know which request goes where, nor what a lost path means for a VM.

mod attempt;
mod block;
mod close;
mod connect;
mod egress;
mod identity;
mod probe;
mod remember;
mod watch;

use crate::dataplane::Stream;
use crate::sys::uring::OpenMode;
use slab::Slab;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use vmpath_core::event::Fault;
use vmpath_core::ids::{PathId, UnitId};
use vmpath_core::path::remembered::Ticket;
use vmpath_core::router::{ConnectionKey, Extent};
use vmpath_core::spec::Spec;
use vmpath_core::time::{Duration, Instant};
use vmpath_protocol::nbd::{ClientHandshake, ExportInfo, ReplyParser};

/// The first pause after a failed attempt to connect; it doubles up to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The longest pause after what answered was not (or could not be shown to be) the unit: each attempt holds writes.
const BACKOFF_IDENTITY_MAX: Duration = Duration::from_secs(30);
/// Bytes of a sampled block, unless the export's blocks are larger.
const SAMPLE: u64 = 2048;
/// Cookies of requests of our own (pings, comparisons) have this bit; the router's never do.
const OWN_COOKIE: u64 = 1 << 63;

/// One path's way to one unit.
#[derive(Debug)]
struct Link {
    path: PathId,
    unit: UnitId,
    /// Failed attempts in a row.
    failures: u32,
    next_attempt: Instant,
    /// Connections in any phase.
    connections: u32,
    active: u32,
    /// Requests lost with its connections since it was last reported.
    lost_requests: u32,
    /// What was last reported down, so that only changes are told.
    told: Option<Fault>,
    /// The report that told of the loss of a device that the kernel has not let go of yet.
    told_early: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    Connecting {
        deadline: Instant,
    },
    Handshake {
        machine: Box<ClientHandshake>,
        deadline: Instant,
    },
    /// The export is open, and a first block has been asked for.
    Trying {
        deadline: Instant,
    },
    /// Another connection of the unit is being compared.
    Waiting {
        deadline: Instant,
    },
    Comparing,
    Active {
        key: ConnectionKey,
    },
    Closing {
        fault: Fault,
        key: Option<ConnectionKey>,
    },
}

/// A request of our own on a connection.
#[derive(Debug)]
struct Own {
    cookie: u64,
    purpose: Purpose,
    offset: u64,
    asked: Instant,
    data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Ping,
    /// To hear that a new connection answers requests, before writes are held for a comparison with it.
    FirstRead,
    /// The comparison's range with this index.
    Compare(usize),
    /// What is to be remembered of the unit.
    Remember(Ticket),
    /// The probe of this number.
    Probe(u64),
    /// Whoever asked does not wait for it any more.
    Nobody,
}

/// A connection to storage.
#[derive(Debug)]
struct Back {
    link: usize,
    wire: Wire,
    phase: Phase,
    export: Option<ExportInfo>,
    /// Comparisons in which it differed from another path, on a unit that other hosts write to.
    differed: u32,
    own: Vec<Own>,
    /// Requests of the router on it.
    in_flight: u32,
    /// When something last came, or was asked after nothing had been outstanding.
    heard: Instant,
}

/// By what a connection reaches its target.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each connection, and nearly all are NBD")]
enum Wire {
    Nbd(Nbd),
    Block(Block),
}

#[derive(Debug)]
struct Nbd {
    stream: Stream,
    transport: Transport,
    /// The interface that it leaves by, once it is connected and if that is known.
    egress: Option<u32>,
    /// None during the handshake.
    parser: Option<ReplyParser>,
    /// The read whose data is coming in.
    filling: Filling,
    /// Whether the read asked for last is one whose data should come straight to its place.
    expects_large: bool,
    /// Since when it was seen, look after look, with something to be acknowledged.
    unacked_since: Option<Instant>,
}

/// A file or device that the kernel reaches.
#[derive(Debug)]
struct Block {
    /// None until it is open.
    file: Option<Rc<OwnedFd>>,
    mode: OpenMode,
    /// Submissions that the kernel has not given back.
    submitted: u32,
    /// Requests whose zeroes are written a piece at a time, and how far they are.
    zeroing: Vec<(u64, u64)>,
    outcome: Outcome,
}

/// Whether the kernel's own completion of what it was given proves that nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Proven,
    /// It has given up on something that the device may still have.
    GivenUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Unix,
}

/// Where the data that comes next goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filling {
    OfRequest { token: u32, at: usize },
    OfOwn { cookie: u64, at: usize },
}

impl Filling {
    fn after(self, bytes: usize) -> Self {
        match self {
            Self::OfRequest { token, at } => Self::OfRequest { token, at: at + bytes },
            Self::OfOwn { cookie, at } => Self::OfOwn { cookie, at: at + bytes },
        }
    }
}

impl Nbd {
    fn payload_pending(&self) -> usize {
        self.parser.as_ref().map_or(0, ReplyParser::payload_pending) as usize
    }

    /// That much of a read's data has come.
    fn taken(&mut self, bytes: usize) -> Result<(), Fault> {
        self.filling = self.filling.after(bytes);
        match &mut self.parser {
            Some(parser) => parser.payload_taken(bytes as u32).map_err(|e| attempt::protocol(&e)),
            None => Ok(()),
        }
    }
}

/// What is known of a unit, and the comparison that runs on it.
#[derive(Debug, Default)]
struct UnitState {
    /// As the first connection announced it; later ones must fit.
    export: Option<ExportInfo>,
    /// When a request was last sent to it.
    used_at: Instant,
    comparison: Option<identity::Comparison>,
    waiting: VecDeque<usize>,
    usage: Use,
}

/// Whether anybody is served from a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Use {
    #[default]
    Used,
    /// Its disk has left: its connections go when nothing is in flight on them, and none is made.
    Unused,
}

/// All of a worker's back-end connections.
#[derive(Debug)]
pub(crate) struct Backends {
    links: Vec<Link>,
    backs: Slab<Back>,
    units: Vec<UnitState>,
    egress: egress::Egress,
    /// By `ConnectionKey`: the connection with that key.
    by_key: Vec<Option<usize>>,
    closing: Vec<usize>,
    /// Those with something new to send.
    dirty: Vec<usize>,
    /// Those with something left to receive.
    unread: Vec<usize>,
    next_own: u64,
    probes: Vec<probe::Probe>,
    next_probe: u64,
    /// Whose turn it is to be sampled.
    next_sampled: usize,
}

impl Backends {
    /// For the units of one worker.
    pub(crate) fn new(spec: &Spec, units: &[UnitId], now: Instant) -> Self {
        let mut links = Vec::new();
        for unit in units.iter().copied() {
            for path in spec.paths_of_unit(unit) {
                links.push(Link {
                    path,
                    unit,
                    failures: 0,
                    next_attempt: now,
                    connections: 0,
                    active: 0,
                    lost_requests: 0,
                    told: None,
                    told_early: None,
                });
            }
        }
        Self {
            links,
            backs: Slab::new(),
            egress: egress::Egress::open(),
            units: spec.units.iter().map(|_| UnitState::default()).collect(),
            by_key: Vec::new(),
            closing: Vec::new(),
            dirty: Vec::new(),
            unread: Vec::new(),
            next_own: 0,
            probes: Vec::new(),
            next_probe: 0,
            next_sampled: 0,
        }
    }

    /// The unit as announced, once a path has been up.
    pub(crate) fn export_of(&self, unit: UnitId) -> Option<ExportInfo> {
        self.units[unit.index()].export
    }

    /// Returns what it was.
    pub(crate) fn set_use(&mut self, unit: UnitId, usage: Use) -> Use {
        std::mem::replace(&mut self.units[unit.index()].usage, usage)
    }

    fn is_unused(&self, unit: UnitId) -> bool {
        self.units[unit.index()].usage == Use::Unused
    }

    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    fn of_key(&self, key: ConnectionKey) -> usize {
        self.by_key[key.0 as usize].expect("the router dispatches to connections that are up")
    }

    fn own_cookie(&mut self) -> u64 {
        self.next_own += 1;
        OWN_COOKIE | self.next_own
    }
}

impl Back {
    fn key(&self) -> Option<ConnectionKey> {
        match &self.phase {
            Phase::Active { key } => Some(*key),
            Phase::Closing { key, .. } => *key,
            Phase::Connecting { .. }
            | Phase::Handshake { .. }
            | Phase::Trying { .. }
            | Phase::Waiting { .. }
            | Phase::Comparing => None,
        }
    }

    /// Something is about to be asked: if nothing was outstanding, its silence begins now.
    fn expects_reply(&mut self, now: Instant) {
        if self.in_flight == 0 && self.own.is_empty() {
            self.heard = now;
        }
    }

    /// Nothing of it is in the kernel's hands.
    fn is_idle(&self) -> bool {
        match &self.wire {
            Wire::Nbd(nbd) => nbd.stream.is_idle(),
            Wire::Block(block) => block.submitted == 0,
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }
}

/// Blocks by which two paths' data is compared: the start, the end, and places between. Many places and few bytes: after a
/// repair all units of a target are compared at once, outside of the windows, and what that moves is missing to the VMs.
/// `block` is the exports' minimum block size.
fn sampled(size: u64, block: u64) -> Vec<Extent> {
    /// Places are aligned for any minimum block size that the protocol knows.
    const ALIGNMENT: u64 = 64 * 1024;
    const PLACES: u64 = 8;
    let length = SAMPLE.max(block);
    let blocks = size / ALIGNMENT;
    let places: Vec<u64> = match blocks {
        // Less than one block: all of it.
        0 => return std::iter::once(0..size).collect(),
        1..=PLACES => (0..blocks).collect(),
        _ => (0..PLACES).map(|i| (blocks - 1) * i / (PLACES - 1)).collect(),
    };
    places.into_iter().map(|at| at * ALIGNMENT..at * ALIGNMENT + length).collect()
}

#[cfg(test)]
mod tests {
    use super::sampled;

    #[test]
    fn samples_lie_in_the_unit_and_do_not_overlap() {
        for size in [4096, 65536, 100_000, 524_288, 524_289, 1 << 20, (1 << 30) + 12345, 1 << 44] {
            let ranges = sampled(size, 512);
            assert!(!ranges.is_empty());
            let bytes =
                |ranges: &[vmpath_core::router::Extent]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
            assert!(bytes(&ranges) <= 8 * 2048 || size < 65536 * 2, "{size}: {ranges:?}");
            assert_eq!(bytes(&sampled(1 << 30, 65536)), 8 << 16, "whole blocks of the export");
            for pair in ranges.windows(2) {
                assert!(pair[0].end <= pair[1].start, "{size}: {ranges:?}");
            }
            assert!(ranges.iter().all(|r| r.start < r.end && r.end <= size), "{size}: {ranges:?}");
        }
    }
}
