//! The data plane: a pinned worker that owns VMs' queues and the connections to storage, and performs the router.
//!
//! A [`Dataplane`] is the control owner's handle. Control gives plans down; reports come up. It decides nothing about
//! VMs' fates, and does not know the hypervisor, the API or the journal.

mod listen;
mod requests;
mod stream;
mod worker;

pub(crate) use listen::Transport;
pub(crate) use requests::{FrontRequest, Payload};
pub(crate) use stream::{Sent, Stream};
pub(crate) use worker::{Listening, Tag, Worker};

use anyhow::Context;
use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;
use vmpath_core::event::{LinkReport, LoadReport};
use vmpath_core::plan::RoutePlan;
use vmpath_core::view::WorkerView;

/// What a worker tells the control owner. The channel has no bound of its own: loads and views come five times a second,
/// link reports at the pace of the links' reconnection back-off.
#[derive(Debug)]
pub enum WorkerReport {
    Link(LinkReport),
    Load(LoadReport),
    View(Arc<WorkerView>),
    /// The worker has ended; the process cannot go on.
    Dead(String),
}

/// What control and worker share: the plan, a doorbell, and the order to stop.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: ArcSwap<RoutePlan>,
    pub(crate) stop: AtomicBool,
    pub(crate) doorbell: OwnedFd,
}

impl Shared {
    fn ring(&self) {
        // It fails only if the counter would overflow, and then the worker is awake already.
        let _ = rustix::io::write(&self.doorbell, &1u64.to_ne_bytes());
    }
}

/// The running data plane.
#[derive(Debug)]
pub struct Dataplane {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    /// Of listening sockets, to be unlinked at the end.
    paths: Vec<Option<PathBuf>>,
}

impl Dataplane {
    /// Binds every disk's listeners and starts the pinned worker.
    ///
    /// # Errors
    /// A socket that cannot be bound, or an io_uring that cannot be made; names the disk.
    pub fn start(plan: Arc<RoutePlan>, reports: UnboundedSender<WorkerReport>) -> anyhow::Result<Self> {
        listen::raise_descriptor_limit();
        let (sockets, paths) = listen::bind_all(&plan.spec)?.into_iter().map(listen::Bound::split).unzip();
        let doorbell = eventfd(0, EventfdFlags::CLOEXEC).context("cannot make an event descriptor")?;
        let shared = Arc::new(Shared { plan: ArcSwap::new(plan), stop: AtomicBool::new(false), doorbell });
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("vmpath-io-0".into())
            .spawn(move || worker::run(theirs, sockets, reports, &started))
            .context("cannot start the data-plane thread")?;
        ready.recv().context("the data-plane thread ended at once")??;
        Ok(Self { shared, thread, paths })
    }

    /// Gives the workers a newer plan.
    pub fn publish(&self, plan: Arc<RoutePlan>) {
        self.shared.plan.store(plan);
        self.shared.ring();
    }

    /// Lets what is in flight finish for a moment, closes every connection and joins the workers; bounded to 2 s.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.ring();
        if self.thread.join().is_err() {
            tracing::error!("the data-plane thread has panicked");
        }
        for path in self.paths.into_iter().flatten() {
            let _ = std::fs::remove_file(path);
        }
    }
}
