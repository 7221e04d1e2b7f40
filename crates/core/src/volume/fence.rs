//! What proves that a request sent down a lost connection can no longer take effect, by transport.
//!
//! Rule: the close of a connection is never among them. A fence either has a time only, or is confirmed by an event that
//! the transport's session machine tells of ([`crate::router::Router::fenced`]), perhaps with a time besides. Rejected: a
//! number of seconds for all, which makes every transport as slow as the one that can prove least.
//! It does not know how a confirmation is got, nor which writes wait for it.

use crate::time::Duration;

/// How what a dead connection carried is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Time alone: the target's `quiesce`, counted from the death of the connection. NBD has no other: its protocol knows
    /// neither abort nor session.
    QuiesceBound,
    /// The kernel has completed every request of a block device, and of none has its transport merely said that it gave
    /// up. A request that its driver has completed is over; there is nothing left to wait for.
    KernelCompletion,
    /// A time that the transport itself promises, counted from the death of the connection. NVMe over fabrics: the
    /// controller notices the loss within the Keep Alive Timeout and is quiet after its Command Quiesce Time (KATO + CQT;
    /// NVM Express Base Specification 2.1, "Communication Loss Handling").
    Promised(Duration),
    /// An event; where the transport promises a time besides, at the latest after that. Without one nothing but the
    /// event ends it.
    Confirmed { by: Confirmation, at_latest: Option<Duration> },
}

/// The events that transports know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// iSCSI: a login with the lost session's name and ISID has succeeded; the target has ended the former session's
    /// tasks before (RFC 7143, 6.3.5).
    SessionReinstatement,
    /// iSCSI: ABORT TASK, sent by another connection of the session, was answered "function complete" (RFC 7143, 11.5).
    AbortTask,
    /// iSCSI: LOGICAL UNIT RESET was answered "function complete" (RFC 7143, 11.5; SAM-5, task management).
    LogicalUnitReset,
    /// SCSI by any transport: PERSISTENT RESERVE OUT with PREEMPT AND ABORT of the lost path's registration has succeeded
    /// (SPC-4, PERSISTENT RESERVE OUT).
    PreemptAndAbort,
    /// NVMe: a Cross-Controller Reset of the lost controller, sent by another one, has completed (NVM Express TP 8028).
    CrossControllerReset,
    /// NVMe: Abort, with the command reported as aborted (NVM Express Base Specification 2.1, Abort command).
    Abort,
}
