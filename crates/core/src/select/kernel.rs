//! The path selectors of Linux's dm-multipath, for comparison and habit: the lower key is the path taken.
//!
//! As there, they know paths and not VMs, a path of a better group comes before any of a worse one, and one that is as good
//! as another is the one whose turn it is: the kernel moves a path that was used to the end of its list. What is not as there:
//! windows bound what is in flight, since the array's queue must stay short for the comparison's other half; and the
//! weights are measured, not configured. They do not know ranks, levels or rooms.

use super::PathState;

/// `round-robin` (`dm-round-robin.c`) with a repeat count of one: each path in turn, whatever it has to do.
pub(super) fn turn(path: &PathState) -> u64 {
    path.last_dispatch
}

/// `queue-length` (`dm-queue-length.c`): the fewest requests in flight, whatever their size.
pub(super) fn queue_length(path: &PathState) -> (u32, u64) {
    (path.pending_requests, path.last_dispatch)
}

/// `service-time` (`dm-service-time.c`): the least `(in flight + this) / relative throughput`, in bytes. The kernel's relative
/// throughput is a setting; here it is the measured rate. Among equals the faster one, then the one whose turn it is.
pub(super) fn service_time(path: &PathState, cost: u64) -> (u64, super::Pace, u64) {
    (path.pace.nanos(path.pending() + cost), path.pace, path.last_dispatch)
}
