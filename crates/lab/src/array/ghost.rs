//! Ghosts: writes that the array executes some time after the connection that carried them is dead.
//!
//! Real arrays do it: what has been received is in a queue, and nothing takes it out when an initiator goes away.
//! Invariant: each buried write is executed exactly once, in the order in which it came, and counted before and after.
//! Rejected: ghosts by a random delay per write, which a test could not wait for.
//! It does not know: whether anybody still cares about the block; that is the initiator's fence.

use super::portal::Portal;
use super::session::{Job, Origin, Session, perform};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Takes over what a broken connection has left: ghosts if the portal makes them, else it is dropped.
pub(super) fn bury(portal: &Arc<Portal>, session: Session, broke_at: Instant) {
    let after = portal.watch_faults().borrow().ghost;
    let unit = Arc::clone(&session.unit);
    let writes = session.into_unexecuted_writes();
    let count = writes.len() as u64;
    let Some(after) = after.filter(|_| count > 0) else {
        portal.counters.writes_dropped.fetch_add(count, Ordering::Relaxed);
        return;
    };
    portal.counters.ghosts_pending.fetch_add(count, Ordering::Relaxed);
    let portal = Arc::clone(portal);
    tokio::spawn(async move {
        tokio::time::sleep_until(broke_at + after).await;
        for write in writes {
            if let Job::Perform(payload) = &write.job {
                let from = Origin { cache: portal.cache, stamp: write.stamp };
                let _ = perform(&unit, from, &write.request, payload, &mut []);
            }
            portal.counters.ghosts_pending.fetch_sub(1, Ordering::Relaxed);
            portal.counters.ghosts_executed.fetch_add(1, Ordering::Relaxed);
        }
    });
}
