//! A disk whose guest moves to another host: its memory as it is, another back end, a fresh inflight buffer, the same bases.
//!
//! Invariant: the guest there knows what it knew here: what it has asked, and what it was told; of what its back ends say to
//! each other nothing passes through it. Rejected: the same memory for both, in which the source's late writes would do no
//! harm. It does not know: what is handed over.

use super::super::VhostError;
use super::super::link::Link;
use super::{Client, Queue, Run, event};
use std::path::PathBuf;
use std::sync::Arc;

impl Client {
    /// Goes on at another back end, whose rings it starts from the bases that the former one has answered. The connection to
    /// that one ends, as when QEMU ends after a migration.
    ///
    /// # Errors
    /// If its rings are not stopped, or the other back end is not there, is another disk or cannot serve it: then the guest
    /// stays where it was, stopped.
    pub fn move_to(&mut self, socket: impl Into<PathBuf>) -> Result<(), VhostError> {
        let Run::Stopped(before) = self.run else {
            return Err(VhostError::Unfit("a guest that runs does not move".to_owned()));
        };
        let touched = u64::from(self.fingerprint() != before);
        let socket = socket.into();
        let link = Link::connect(&socket, self.agreed.features, self.options.patience)?;
        link.agreed.must_match(&self.agreed)?;
        let memory = Arc::new(self.memory.duplicate()?);
        let size = self.queues.first().map_or(0, |queue| queue.ring.size());
        self.inflight = link.new_inflight(self.queues(), size)?;
        for queue in &mut self.queues {
            let Queue { ring, call, .. } = queue;
            ring.move_to(Arc::clone(&memory));
            *call = event()?;
        }
        (self.memory, self.link, self.options.socket) = (memory, Some(link), socket);
        (self.log, self.waiter, self.touched) = (None, None, self.touched + touched);
        self.run = Run::Running;
        self.start()
    }
}
