//! The dirty log of a disk, as during a migration: what the device has marked, and what it should have.
//!
//! Invariant: a log stays readable after logging has ended. Rejected: comparing memory, which shows what has changed and
//! not what was told. It does not know: migrations.

use super::super::VhostError;
use super::super::memory::{DirtyLog, PAGE};
use super::super::ring::RingPlaces;
use super::{Client, SlotId};

impl Client {
    /// Begins to log what the device writes to guest memory, as at the start of a migration.
    ///
    /// # Errors
    /// If the back end does not log, or of the exchange.
    pub fn log_start(&mut self) -> Result<(), VhostError> {
        let log = DirtyLog::new(self.memory.guest_end())?;
        let link = self.link.as_ref().ok_or_else(|| VhostError::Unfit("not connected".to_owned()))?;
        link.log_start(&self.memory, &log, &self.ring_starts())?;
        self.log = Some(log);
        Ok(())
    }

    /// Guest page numbers that were marked since the last call; none without a log.
    #[must_use]
    pub fn log_take(&self) -> Vec<u64> {
        self.log.as_ref().map(DirtyLog::take).unwrap_or_default()
    }

    /// Ends logging, as after a migration that failed. What was marked can still be taken.
    ///
    /// # Errors
    /// Of the exchange.
    pub fn log_stop(&mut self) -> Result<(), VhostError> {
        let link = self.link.as_ref().ok_or_else(|| VhostError::Unfit("not connected".to_owned()))?;
        link.log_stop(&self.memory, &self.ring_starts())
    }

    /// Guest pages that the device writes when it completes the request that is open in a slot, without the used ring's.
    #[must_use]
    pub fn pages_written(&self, slot: SlotId) -> Vec<u64> {
        self.slot(slot).pages_written(&self.memory)
    }

    /// Guest pages of a queue's used ring.
    #[must_use]
    pub fn used_ring_pages(&self, queue: u16) -> std::ops::RangeInclusive<u64> {
        let ring = &self.queues[usize::from(queue)].ring;
        let first = self.memory.guest_address(ring.places().used);
        first / PAGE as u64..=(first + RingPlaces::used_len(ring.size()) as u64 - 1) / PAGE as u64
    }
}
