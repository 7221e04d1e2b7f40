//! The hypervisors' monitors: one task for each managed VM, spoken to by messages.
//!
//! Invariant: an order names the hypervisor process that it is meant for, and no other one ever gets it. The seam is
//! [`Order`] down and `HypervisorReport` up; another kind of monitor would be another task behind the same two.
//! Rejected: a trait with one implementor. It does not know why a VM is stopped or continued.

mod actor;
mod instance;
mod session;
#[cfg(test)]
mod tests;

#[cfg(feature = "cluster")]
pub use instance::has_ended;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use vmpath_core::effect::Wanted;
use vmpath_core::event::{HypervisorReport, MigrationOrder};
use vmpath_core::ids::VmId;
use vmpath_core::spec::Spec;

/// Orders that may wait for one monitor's task. The controller has one open at a time, and so has a
/// move; the rest is slack.
const ORDERS_MAX: usize = 16;

/// What a monitor may be told. `instance` is the one of its `Connected` report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Stop {
        instance: u64,
    },
    Continue {
        instance: u64,
    },
    /// Send the VM to `uri`, as in `tcp:10.0.0.2:49152`, and stop before the switchover.
    Migrate {
        instance: u64,
        uri: String,
    },
    /// Go on from the switchover; refused in any other state.
    MigrateContinue {
        instance: u64,
    },
    MigrateCancel {
        instance: u64,
    },
    /// End, if the VM has been sent elsewhere: it waits for nothing any more. Ignored in any other state.
    Quit {
        instance: u64,
    },
    /// Tell how it stands, though nothing may have changed.
    QueryMigrate {
        instance: u64,
    },
}

impl Order {
    pub(crate) const fn instance(&self) -> u64 {
        match self {
            Self::Stop { instance }
            | Self::Continue { instance }
            | Self::Migrate { instance, .. }
            | Self::MigrateContinue { instance }
            | Self::MigrateCancel { instance }
            | Self::Quit { instance }
            | Self::QueryMigrate { instance } => *instance,
        }
    }

    /// What is told when it cannot be carried out.
    pub(crate) const fn refused(&self, why: String) -> HypervisorReport {
        let order = match self {
            Self::Stop { .. } | Self::Continue { .. } | Self::Quit { .. } => {
                return HypervisorReport::Refused { why };
            }
            Self::Migrate { .. } => MigrationOrder::Start,
            Self::MigrateContinue { .. } => MigrationOrder::Continue,
            Self::MigrateCancel { .. } => MigrationOrder::Cancel,
            Self::QueryMigrate { .. } => MigrationOrder::Query,
        };
        HypervisorReport::MigrationRefused { order, why }
    }
}

/// What a VM's monitor has to say.
#[derive(Debug)]
pub struct Report {
    pub vm: VmId,
    pub report: HypervisorReport,
}

/// Every managed VM's monitor task. They end when this is dropped.
#[derive(Debug)]
pub struct Hypervisors {
    /// By `VmId`; none for an unmanaged VM, and for one that has left.
    monitors: Vec<Option<Monitor>>,
    reports: mpsc::Sender<Report>,
}

#[derive(Debug)]
struct Monitor {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn monitor(spec: &Spec, vm: VmId, reports: &mpsc::Sender<Report>) -> Option<Monitor> {
    let socket = spec.vm(vm).qmp.clone()?;
    let (orders, taken) = mpsc::channel(ORDERS_MAX);
    let reporter = actor::Reporter::new(vm, reports.clone());
    Some(Monitor { orders, task: tokio::spawn(actor::run(socket, taken, reporter)) })
}

impl Hypervisors {
    /// Starts a task for each VM that names a QMP socket. A reload cannot change which those are.
    #[must_use]
    pub fn start(spec: &Spec, reports: &mpsc::Sender<Report>) -> Self {
        let monitors = spec.vm_ids().map(|vm| monitor(spec, vm, reports)).collect();
        Self { monitors, reports: reports.clone() }
    }

    /// Lets go of a VM's monitor, or connects it again.
    pub fn set(&mut self, spec: &Spec, vm: VmId, wanted: Wanted) {
        if let Some(known) = self.monitors.get_mut(vm.index()) {
            *known = match wanted {
                Wanted::Yes => monitor(spec, vm, &self.reports),
                Wanted::No => None,
            };
        }
    }

    /// Hands an order to a VM's task. Never waits.
    ///
    /// # Errors
    /// Why it cannot, in words. An order to migrate must be told to whoever waits for it: see `Order::refused`.
    pub fn send(&self, vm: VmId, order: Order) -> Result<(), String> {
        let Some(Some(monitor)) = self.monitors.get(vm.index()) else {
            return Err("the VM has no monitor (`qmp` is not configured)".into());
        };
        monitor.orders.try_send(order).map_err(|_| "the VM's monitor does not take orders now".into())
    }
}
