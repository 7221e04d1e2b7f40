//! A fleet of VMs that load a vhost-user-blk back end, and a record of every request that was completed.
//!
//! One thread drives all VMs, so that twenty of them cost little more than one. Each VM asks in its own way: as many
//! requests open as it may, or an even stream whether or not the last has been answered. Invariant: every completion is
//! in the record with its time, so that whoever judges may cut it into any seconds. Rejected: counters in intervals,
//! which cannot say what happened in *any* second; a process for each VM, whose wake-ups would be most of the load.
//! It does not know: paths, faults, what is good.

mod engine;
#[cfg(test)]
mod tests;

use crate::units::MIB;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a VM asks for I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Closed loop: always as many requests open as its depth allows.
    Backlog,
    /// Open loop: so many requests a second, evenly spaced, whatever the answers take. What finds no slot waits in the
    /// guest, [`WAIT_MAX`] at most, and is then given up.
    Paced { requests_per_second: u64 },
}

/// Longer than any failover, so that what it delays is made up for; shorter than a phase, so that a VM that gets too
/// little for good is seen to get too little.
pub const WAIT_MAX: Duration = Duration::from_millis(100);

/// One VM with one disk, which it reads at random places.
#[derive(Clone, Debug)]
pub struct VmLoad {
    pub name: String,
    /// The disk's vhost-user socket.
    pub socket: PathBuf,
    /// Requests open at most, 1 to 256.
    pub depth: u16,
    pub demand: Demand,
}

/// All VMs, and the size of every request in bytes.
#[derive(Clone, Debug)]
pub struct FleetPlan {
    pub vms: Vec<VmLoad>,
    pub request_bytes: u32,
}

/// A request that was answered. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Since the fleet began.
    pub at: u64,
    /// From the moment at which the device was told of it.
    pub latency: u64,
    /// From the moment at which its turn had come; more than `latency` if it had to wait for a slot.
    pub response: u64,
}

/// What one VM has seen.
#[derive(Clone, Debug, Default)]
pub struct VmRecord {
    pub name: String,
    /// In the order of their times.
    pub completions: Vec<Completion>,
    /// Requests that the device failed; they are not among the completions.
    pub errors: u64,
    /// Requests of an open loop that were given up unsent.
    pub given_up: u64,
}

/// What all VMs have seen.
#[derive(Clone, Debug)]
pub struct Record {
    pub request_bytes: u32,
    /// In the plan's order.
    pub vms: Vec<VmRecord>,
}

/// A fleet under way. Dropped, it ends by itself.
#[derive(Debug)]
pub struct Fleet {
    began: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<Record>>>,
}

impl Fleet {
    /// Connects all VMs, and lets them begin together.
    ///
    /// # Errors
    /// If a disk cannot be used.
    pub fn start(plan: &FleetPlan) -> anyhow::Result<Self> {
        let bytes = u64::from(plan.request_bytes);
        anyhow::ensure!(
            (512..=8 * MIB).contains(&bytes) && bytes.is_multiple_of(512),
            "request size {bytes}: must be a multiple of 512, at most 8MiB"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let engine = engine::Engine::connect(plan, Arc::clone(&stop))?;
        let began = Instant::now();
        let thread = std::thread::Builder::new().name("fleet".to_owned()).spawn(move || engine.run(began))?;
        Ok(Self { began, stop, thread: Some(thread) })
    }

    /// The moment that a [`Completion`]'s time counts from.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether it still runs: it ends early if a back end goes away.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Lets the open requests finish, and returns the record.
    ///
    /// # Errors
    /// If a back end has gone, or a request is not answered within ten seconds.
    pub fn stop(mut self) -> anyhow::Result<Record> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { anyhow::bail!("the fleet has been stopped before") };
        thread.join().map_err(|_| anyhow::anyhow!("the fleet's thread has panicked"))?
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
