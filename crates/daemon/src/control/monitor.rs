//! The heartbeat: a control owner that stops beating brings the process down, and the restart replays.
//!
//! Watched from a plain thread, so that a wedged runtime is seen too. It counts its own silent looks instead of
//! comparing times: a process that was stopped as a whole (SIGSTOP, a debugger, a frozen host) is not a dead owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How often the monitor looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks without a beat after which the owner counts as dead: 10 s.
const SILENT_LOOKS_MAX: u32 = 10;

/// Time for the last log line to get out.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The owner's end: it beats at least once a second.
#[derive(Clone, Debug, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Watches until dropped.
#[derive(Debug)]
pub struct Monitor {
    _stop: SyncSender<()>,
}

impl Monitor {
    /// Starts the watching thread.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(beat: Beat) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel(0);
        std::thread::Builder::new().name("monitor".into()).spawn(move || watch(&beat, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

fn watch(beat: &Beat, stopped: &Receiver<()>) {
    let mut watcher = Watcher::default();
    while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if watcher.look(beat.count()) {
            tracing::error!(
                "the control owner has not moved for {} s; ending the process so that it is restarted. This is a fault \
                 in vmpath: please report it with the log above",
                SILENT_LOOKS_MAX
            );
            let _ = stopped.recv_timeout(LAST_WORDS);
            std::process::abort();
        }
    }
}

#[derive(Debug, Default)]
struct Watcher {
    seen: u64,
    silent_looks: u32,
}

impl Watcher {
    /// True when the owner counts as dead.
    fn look(&mut self, count: u64) -> bool {
        self.silent_looks = if count == self.seen { self.silent_looks + 1 } else { 0 };
        self.seen = count;
        self.silent_looks >= SILENT_LOOKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_silent_looks_are_death_and_one_beat_forgives_all() {
        let mut watcher = Watcher::default();
        assert!(!watcher.look(1));
        for _ in 0..9 {
            assert!(!watcher.look(1));
        }
        assert!(!watcher.look(2));
        for _ in 0..9 {
            assert!(!watcher.look(2));
        }
        assert!(watcher.look(2));
    }
}
