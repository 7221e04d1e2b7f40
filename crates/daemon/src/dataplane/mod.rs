//! The data plane: workers that own VMs' queues and the connections to storage, and route every request.
//!
//! A [`Dataplane`] is the control owner's handle. Control gives plans down; reports come up. It decides nothing about
//! VMs' fates, and does not know the hypervisor, the API or the journal.

use std::sync::Arc;
use vmpath_core::event::{LinkReport, LoadReport};
use vmpath_core::plan::RoutePlan;
use vmpath_core::view::WorkerView;

/// What a worker tells the control owner.
#[derive(Debug)]
pub enum WorkerReport {
    Link(LinkReport),
    Load(LoadReport),
    View(Arc<WorkerView>),
    /// The worker has ended; the process cannot go on.
    Dead(String),
}

/// The running data plane.
#[derive(Debug)]
pub struct Dataplane {}

impl Dataplane {
    /// Binds every disk's listeners and starts the pinned worker.
    ///
    /// # Errors
    /// A socket that cannot be bound, or an io_uring that cannot be made; names the disk.
    pub fn start(
        plan: Arc<RoutePlan>,
        reports: tokio::sync::mpsc::UnboundedSender<WorkerReport>,
    ) -> anyhow::Result<Self> {
        let _ = (plan, reports);
        Ok(Self {})
    }

    /// Gives the workers a newer plan.
    pub fn publish(&self, plan: Arc<RoutePlan>) {
        let _ = plan;
    }

    /// Closes every connection and joins the workers; bounded to 2 s.
    pub fn stop(self) {}
}
