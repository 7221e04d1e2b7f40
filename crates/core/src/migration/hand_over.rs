//! What QEMU's own stream does not carry from one host to the other: the open requests, the quarantines, and what vmpath
//! was doing with the VM.
//!
//! Plain data, by names and never by ids, because the two hosts number things differently; times are durations, because
//! their clocks are never compared. Bound to one move, VM, disk and queue, so that a foreign one can be refused.
//! It does not know how it travels or is kept.

use super::MoveId;
use crate::time::Duration;

/// Made at the source when the VM stands still and nothing of it is in flight any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    pub move_id: MoveId,
    pub vm: String,
    /// Host names.
    pub from: String,
    pub to: String,
    /// All disks of the VM, also those with nothing open.
    pub disks: Vec<DiskHandOver>,
    /// The incident in which it moves, as the source names it: `INC-7`.
    pub incident: Option<String>,
    pub vm_state: VmCarry,
}

/// How the VM arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmCarry {
    /// It runs as soon as its memory is there.
    Running,
    /// vmpath has suspended it at the source, in words why; the destination resumes it when it serves its disks.
    Suspended { why: String },
    /// Somebody else has stopped it: it stays stopped.
    StoppedByOther,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskHandOver {
    /// The disk's name within the VM.
    pub disk: String,
    /// `target/unit`.
    pub unit: String,
    /// Under which the source owned it: the destination owns it under the next one.
    pub epoch: u64,
    /// The rings that had been started; none for a disk that is attached over NBD.
    pub queues: Vec<QueueHandOver>,
    /// Byte ranges in which a write of unknown outcome may still take effect.
    pub quarantine: Vec<QuarantineHandOver>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueHandOver {
    pub queue: u16,
    /// The index of the next request to be fetched, as it was told to QEMU.
    pub base: u16,
    /// Fetched and not yet told to the guest, in the order in which they were fetched.
    pub open: Vec<OpenRequest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Its first descriptor.
    pub head: u16,
    pub state: Open,
}

/// How far an open request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It has no effect and never will have from the source; also a read whose answer came after the ring had stopped.
    Unsent,
    /// A write that was sent and whose outcome is not known: it is in the quarantine, and may be repeated with the same bytes.
    Unknown,
    /// It is finished and its guest has not been told: virtio-blk's status byte.
    Done(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineHandOver {
    /// Bytes.
    pub offset: u64,
    pub length: u64,
    /// Until the fence, counted from the moment at which the hand-over was made. Whoever receives it counts from its
    /// receipt, which is later: safe.
    pub remaining: Duration,
}
