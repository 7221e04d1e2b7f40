//! What to connect, and how; and what follows from it for the rings and their slots.
//!
//! Invariant: a plan never needs more descriptors than its ring has. Rejected: sizes of rings as options, which would
//! have to agree with the slots. It does not know: connections.

use super::VhostError;
use super::block::feature;
use super::link::Agreed;
use super::slot::{SEGMENTS_MAX, SlotPlan, Table};
use std::path::PathBuf;
use std::time::Duration;

/// Entries of a ring: QEMU's default, and the most that QEMU and its storage daemon accept.
const RING_LEAST: u16 = 128;
const RING_MOST: usize = 1024;

/// How the chains of requests are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chains {
    /// In the ring's own table.
    Direct,
    /// In a table of their own, where the back end offers it.
    Indirect,
    /// Every second slot so, the others so.
    Mixed,
}

/// What to connect, and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub socket: PathBuf,
    /// Queues at most; the back end may offer fewer.
    pub queues: u16,
    /// Requests that may be open on each queue.
    pub slots: u16,
    /// Bytes of the largest request.
    pub slot_bytes: usize,
    /// Descriptors of a request's data, at most.
    pub segments: u16,
    pub chains: Chains,
    /// Virtio features to do without, as a mask.
    pub without: u64,
    /// Bound of each exchange of messages.
    pub patience: Duration,
}

impl Options {
    /// One queue, 32 slots of 128 KiB, mixed chains of up to 4 segments, all features, 10 s.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            queues: 1,
            slots: 32,
            slot_bytes: 128 << 10,
            segments: 4,
            chains: Chains::Mixed,
            without: 0,
            patience: Duration::from_secs(10),
        }
    }
}

impl Chains {
    pub(super) fn of_slot(self, slot: u16) -> Table {
        match self {
            Self::Direct => Table::Direct,
            Self::Mixed if slot.is_multiple_of(2) => Table::Direct,
            Self::Mixed | Self::Indirect => Table::Indirect,
        }
    }
}

/// Slots and the size of each ring.
pub(super) fn plan(options: &Options, agreed: &Agreed) -> Result<(SlotPlan, u16), VhostError> {
    if !agreed.has(feature::VERSION_1) {
        return Err(VhostError::Unfit("the back end does not offer VERSION_1".to_owned()));
    }
    let offered = if agreed.has(feature::SEG_MAX) { agreed.config.seg_max } else { 1 };
    let offered = u16::try_from(offered).unwrap_or(u16::MAX);
    let segments = options.segments.min(offered).clamp(1, SEGMENTS_MAX);
    let alone = options.chains == Chains::Indirect && agreed.has(feature::INDIRECT_DESC);
    let descriptors = if alone { 1 } else { segments + 2 };
    let needed = usize::from(options.slots.max(1)) * usize::from(descriptors);
    if needed.next_power_of_two() > RING_MOST {
        let why = format!(
            "{} slots of {descriptors} descriptors need a ring of more than {RING_MOST} entries: use fewer",
            options.slots
        );
        return Err(VhostError::Unfit(why));
    }
    let plan = SlotPlan { bytes: options.slot_bytes, segments, descriptors };
    Ok((plan, (needed.next_power_of_two() as u16).max(RING_LEAST)))
}
