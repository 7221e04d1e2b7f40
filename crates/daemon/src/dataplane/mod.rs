//! The data plane: a pinned worker that owns VMs' queues and the connections to storage, and performs the router.
//!
//! A [`Dataplane`] is the control owner's handle. Control gives plans down; reports come up. It decides nothing about
//! VMs' fates, and does not know the hypervisor, the API or the journal.

mod listen;
mod orders;
mod poller;
mod recover;
mod requests;
mod stream;
mod undead;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use listen::{Transport, is_served, listen_tcp, listen_unix};
#[allow(unused_imports, reason = "control gives no orders yet")]
pub use orders::{OrderError, OrderReport, ProbedUnit, WorkerOrder};
pub use recover::Former;
pub(crate) use requests::{Client, FrontRequest, NbdClient, Payload, Requests, Target};
pub(crate) use stream::{Body, Head, Name, Received, Stream};
pub use undead::{Standing, UndeadReport};
pub use worker::STOP_MAX;
pub(crate) use worker::{Listening, STAGING_BYTES, Tag, Worker};

use crate::sys::clock;
use crate::sys::mark::{Marker, Marks};
use crate::sys::record::Record;
use anyhow::Context;
use arc_swap::ArcSwap;
use recover::Recovered;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;
use vmpath_core::event::{LinkReport, LoadReport};
use vmpath_core::ids::{DiskId, UnitId, WorkerId};
use vmpath_core::plan::RoutePlan;
use vmpath_core::spread::spread;
use vmpath_core::view::WorkerView;

/// What a worker tells the control owner. The channel has no bound of its own: loads and views come five times a second,
/// link reports at the pace of the links' reconnection back-off.
#[derive(Debug)]
pub enum WorkerReport {
    Link(LinkReport),
    Load(LoadReport),
    /// See [`vmpath_core::event::Event::Silent`].
    Silent(DiskId),
    View(WorkerId, Arc<WorkerView>),
    /// The answer to an order, or what follows from one.
    Order(OrderReport),
    /// What the kernel still carries out for a former process.
    Undead(UndeadReport),
    /// A worker has ended; the process cannot go on.
    Dead(String),
}

/// What control and one worker share: the plan, orders, a doorbell, and the order to stop.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) worker: WorkerId,
    pub(crate) plan: ArcSwap<RoutePlan>,
    orders: SyncSender<WorkerOrder>,
    pub(crate) stop: AtomicBool,
    pub(crate) doorbell: OwnedFd,
}

impl Shared {
    fn ring(&self) {
        // It fails only if the counter would overflow, and then the worker is awake already.
        let _ = rustix::io::write(&self.doorbell, &1u64.to_ne_bytes());
    }
}

/// What a worker begins with.
pub(crate) struct Outfit {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listeners: Vec<Listening>,
    pub(crate) orders: Receiver<WorkerOrder>,
    pub(crate) reports: UnboundedSender<WorkerReport>,
    pub(crate) record: Record,
    /// Writes of a former process whose outcome is unknown.
    pub(crate) recovered: Vec<recover::Write>,
    pub(crate) knowledge: recover::Knowledge,
    /// For which units the kernel still has requests of that process, and by what the next one will see that of this.
    pub(crate) former: (Marker, Marks),
}

/// The running data plane.
#[derive(Debug)]
pub struct Dataplane {
    workers: Vec<(Arc<Shared>, JoinHandle<()>)>,
    unknown: Arc<[String]>,
}

impl Dataplane {
    /// Takes in what a former process left, binds every disk's listeners and starts the pinned workers.
    ///
    /// # Errors
    /// A socket that cannot be bound, an io_uring that cannot be made, or a former process of which it is not known what
    /// it left; in words that say what to do.
    pub fn start(
        plan: &Arc<RoutePlan>,
        former: Former,
        reports: &UnboundedSender<WorkerReport>,
    ) -> anyhow::Result<Self> {
        listen::raise_descriptor_limit();
        let spec = &plan.spec;
        let found = Recovered::read(&spec.host.run_dir, spec, former, clock::now())?;
        found.destroy_leftovers()?;
        let workers = spread(spec);
        let of_disk = |disk: DiskId| workers[spec.disk(disk).vm.index()];
        let mut listeners: Vec<Vec<Listening>> = vec_of(usize::from(spec.host.workers));
        for bound in listen::bind_all(spec)? {
            let listening = bound.listening();
            listeners[of_disk(listening.0).index()].push(listening);
        }
        let mut plane = Self { workers: Vec::new(), unknown: found.unknown.as_slice().into() };
        let started = clock::now();
        let marker = Marker::new(&spec.host.run_dir, started);
        let marks = marker.former().unwrap_or_else(|error| {
            tracing::warn!(
                "it cannot be seen whether the kernel still carries out what a former vmpath asked of block devices ({error}): \
                 only their targets' `quiesce` fences that"
            );
            Marks::default()
        });
        let worker_of = |unit: UnitId| {
            let disk = spec.disk_ids().find(|disk| spec.disk(*disk).unit == unit);
            disk.map_or(WorkerId(0), of_disk)
        };
        for (index, listeners) in listeners.into_iter().enumerate() {
            let worker = WorkerId::at(index);
            let record = recover::new_record(spec, worker, started)?;
            let doorbell = eventfd(0, EventfdFlags::CLOEXEC).context("cannot make an event descriptor")?;
            let plan = ArcSwap::new(Arc::clone(plan));
            let (orders, taken) = orders::queue();
            let shared = Arc::new(Shared { worker, plan, orders, stop: AtomicBool::new(false), doorbell });
            let its = |(unit, ..): &&recover::Write| worker_of(*unit) == worker;
            let recovered = found.writes.iter().filter(its).cloned().collect();
            let outfit = Outfit {
                shared: Arc::clone(&shared),
                listeners,
                orders: taken,
                reports: reports.clone(),
                record,
                recovered,
                knowledge: found.knowledge,
                former: (marker, marks.clone()),
            };
            plane.workers.push((shared, start_worker(outfit)?));
        }
        found.remove_files(recover::longest_quiesce(spec), clock::now());
        Ok(plane)
    }

    /// Why it is not known what former processes had in flight, in words; nothing if all is known. Units are held for it at first.
    pub fn unknown(&self) -> &Arc<[String]> {
        &self.unknown
    }

    /// Gives the workers a newer plan.
    pub fn publish(&self, plan: &Arc<RoutePlan>) {
        for (shared, _) in &self.workers {
            shared.plan.store(Arc::clone(plan));
            shared.ring();
        }
    }

    /// Lets what is in flight on live paths finish, closes every connection and joins the workers; bounded to [`STOP_MAX`].
    pub fn stop(self) {
        for (shared, _) in &self.workers {
            shared.stop.store(true, Ordering::Release);
            shared.ring();
        }
        for (_, thread) in self.workers {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread has panicked");
            }
        }
    }
}

fn vec_of<T: Default>(count: usize) -> Vec<T> {
    std::iter::repeat_with(T::default).take(count).collect()
}

/// Returns when it has put what was recovered into its own record.
fn start_worker(outfit: Outfit) -> anyhow::Result<JoinHandle<()>> {
    let (started, ready) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("vmpath-io-{}", outfit.shared.worker.0))
        .spawn(move || worker::run(outfit, &started))
        .context("cannot start a data-plane thread")?;
    ready.recv().context("a data-plane thread ended at once")??;
    Ok(thread)
}
