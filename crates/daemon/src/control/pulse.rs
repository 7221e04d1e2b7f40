//! Whether each worker of the data plane is heard: it reports five times a second.
//!
//! Invariant: a worker that is silent for [`SILENT_MAX`] is stuck, whatever the others say; unless the owner itself has not looked
//! often enough meanwhile, because the whole process stood still. It does not know what is reported.

use std::time::Duration;
use vmpath_core::ids::WorkerId;
use vmpath_core::time::Instant;

/// Silent for so long, a worker is stuck: the process ends and is restarted, rather than hang its guests for ever.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// Looks count at most this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So many looks must lie in the silence: a process that was stopped and goes on is not dead.
const LOOKS_MIN: u32 = 20;

#[derive(Debug)]
pub(super) struct Pulse {
    /// By `WorkerId`: when it was last heard, and looks since then.
    workers: Vec<(Instant, u32)>,
    looked: Instant,
}

impl Pulse {
    pub(super) fn new(workers: usize, now: Instant) -> Self {
        Self { workers: vec![(now, 0); workers], looked: now }
    }

    pub(super) fn heard(&mut self, worker: WorkerId, now: Instant) {
        if let Some(of) = self.workers.get_mut(worker.index()) {
            *of = (now, 0);
        }
    }

    /// The worker that is stuck, if one is.
    pub(super) fn stuck(&mut self, now: Instant) -> Option<WorkerId> {
        if now.since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            self.workers.iter_mut().for_each(|(_, looks)| *looks += 1);
        }
        let is_stuck =
            |(heard, looks): &(Instant, u32)| *looks >= LOOKS_MIN && now.since(*heard) >= SILENT_MAX;
        self.workers.iter().position(is_stuck).map(WorkerId::at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Duration = Duration::from_millis(500);

    #[test]
    fn one_silent_worker_is_stuck_though_the_other_speaks() {
        let mut now = Instant::ZERO;
        let mut pulse = Pulse::new(2, now);
        for _ in 0..19 {
            now += HALF;
            pulse.heard(WorkerId(0), now);
            assert_eq!(pulse.stuck(now), None);
        }
        now += HALF;
        pulse.heard(WorkerId(0), now);
        assert_eq!(pulse.stuck(now), Some(WorkerId(1)));
        pulse.heard(WorkerId(1), now);
        assert_eq!(pulse.stuck(now), None);
    }

    #[test]
    fn a_process_that_stood_still_is_not_dead() {
        let mut pulse = Pulse::new(1, Instant::ZERO);
        assert_eq!(pulse.stuck(Instant::from_millis(60_000)), None);
        // Many looks of one moment are one.
        for _ in 0..100 {
            assert_eq!(pulse.stuck(Instant::from_millis(60_010)), None);
        }
    }
}
