//! This host's place among the others: one task that keeps a session with etcd, spoken to by messages.
//!
//! Invariant: nothing here ever makes the control owner wait: an order is taken or given back at once, and every order that
//! has a ticket is answered exactly once, whatever etcd does. What may have happened is never told as refused.
//! Rejected: calls that return futures to the owner; it would have to hold state across them.
//! It does not know why a unit changes hands, nor what its requests do meanwhile.

#[cfg(feature = "cluster")]
mod call;
#[cfg(feature = "cluster")]
mod change;
#[cfg(feature = "cluster")]
mod connect;
#[cfg(feature = "cluster")]
mod kept;
#[cfg(feature = "cluster")]
mod keys;
#[cfg(feature = "cluster")]
mod name;
#[cfg(feature = "cluster")]
mod outbox;
#[cfg(feature = "cluster")]
mod pace;
#[cfg(feature = "cluster")]
mod past;
mod process;
#[cfg(feature = "cluster")]
mod record;
#[cfg(feature = "cluster")]
mod session;
#[cfg(feature = "cluster")]
mod slice;
#[cfg(feature = "cluster")]
mod task;
#[cfg(all(test, feature = "cluster"))]
mod tests;
#[cfg(feature = "cluster")]
mod view;

pub use process::Process;

use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use vmpath_core::migration::MoveId;
use vmpath_core::ownership::{Found, UnitEpoch};
use vmpath_core::placement::{Claim, ClusterView, HostSummary};
use vmpath_core::spec::{ClusterSpec, Spec};
use vmpath_core::time::Duration;

/// Orders that may wait for the task. A host has a few moves at a time, and an order for each disk that attaches.
const ORDERS_MAX: usize = 1024;

/// Units of one change, and of a read that is true at one moment.
pub const UNITS_MAX: usize = vmpath_core::spec::OWNED_TOGETHER_MAX;

/// Names an order in its answer. The one who orders chooses it.
pub type Ticket = u64;

/// What the session may be told. All but the first and the last are answered.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterOrder {
    /// What the others shall know of this host. The newest one counts; see [`pace`] for when it is sent.
    Publish(Box<HostSummary>),
    /// Reads who owns the units, as the majority of etcd's members knows it; up to [`UNITS_MAX`] of them all at one revision.
    ReadOwners { ticket: Ticket, units: Vec<String> },
    /// Makes them ours if none of them has an owner.
    Claim { ticket: Ticket, units: Vec<String> },
    /// Gives them back: nobody owns them, under the next epoch.
    Release { ticket: Ticket, units: Vec<UnitEpoch> },
    /// Ours as before, under the next epoch: what was sent under this one and still travels fails.
    Bump { ticket: Ticket, units: Vec<UnitEpoch> },
    /// Ours until now; from now on the other host's, by this move.
    Commit { ticket: Ticket, id: MoveId, to: String, units: Vec<UnitEpoch> },
    /// Ours from now on, and `from`'s until now. Only for who has fenced that host.
    TakeOver { ticket: Ticket, from: String, units: Vec<UnitEpoch> },
    /// `owner`'s as before, by the same move, under the next epoch: a commit that was sent under this one and still travels fails.
    Bar { ticket: Ticket, owner: String, units: Vec<UnitEpoch> },
    /// Ours until now; from now on the other host's, by no move. For who has not begun with what came to it.
    GiveBack { ticket: Ticket, to: String, units: Vec<UnitEpoch> },
    /// Keeps room on another host for a VM, if nobody else has claimed any there that `seen`, the view that was decided upon,
    /// does not hold.
    ClaimRoom { ticket: Ticket, room: Room, seen: Arc<Others>, ttl: Duration },
    /// Gives up room that this process has claimed under that name.
    DropRoom { id: String },
}

/// etcd's count of changes. Larger is later.
pub type Revision = i64;

/// Room on a host that a decision counts on, until it is over or `ttl` has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of whoever claims it, unique: a move's name.
    pub id: String,
    pub vm: String,
    /// The host on which there shall be room.
    pub host: String,
    /// Bytes a second, by target.
    pub targets: Vec<(String, u64)>,
}

/// What the session has to say. Of a unit of this host's disks nothing is told, as a change or in an answer, that is older than what
/// was told of it before: whoever takes over whatever comes ends with the newest.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterReport {
    /// Orders are carried out from now on. What was known has been read again.
    Up,
    /// Orders are refused from now on; in words, why. What is known of owners stays true as far as this host changes it.
    Down {
        why: String,
    },
    /// As Down. Besides, another process has this host's name, and takes for its own what is owned in it.
    NameInUse {
        why: String,
    },
    /// Who owns a unit of this host's disks: the first reading, and each change.
    Owner(Found),
    /// All hosts that share a target with this one, when one of them has changed.
    Others(Arc<Others>),
    Answer {
        ticket: Ticket,
        outcome: Outcome,
    },
}

/// All hosts that share a target with this one, this one among them, and the room that is claimed on them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Others {
    /// By name. A host whose lease has run out is missing.
    pub hosts: Vec<Arc<HostSummary>>,
    pub rooms: Vec<Claimed>,
}

/// Room that somebody's decision counts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// As in [`Room`].
    pub id: String,
    pub claim: Claim,
    /// Since when.
    pub revision: Revision,
}

impl Others {
    /// Brings a view that knows `before` up to this: what did not change is not touched.
    pub fn update(&self, before: &Self, view: &mut ClusterView) {
        let known = |host: &&Arc<HostSummary>| before.hosts.iter().any(|other| Arc::ptr_eq(host, other));
        for host in self.hosts.iter().filter(|host| !known(host)) {
            view.put(host);
        }
        let is_there = |host: &HostSummary| self.hosts.iter().any(|other| other.host == host.host);
        for gone in before.hosts.iter().filter(|host| !is_there(host)) {
            view.remove(&gone.host);
        }
        for gone in before.rooms.iter().filter(|room| !self.rooms.contains(room)) {
            view.unclaim(&gone.claim);
        }
        for new in self.rooms.iter().filter(|room| !before.rooms.contains(room)) {
            view.claim(&new.claim);
        }
    }
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is so, at this revision; and who owns the units now. What was read is all of that revision; after a change, a unit
    /// that has changed again since is told as it is known now.
    Done { revision: Revision, owners: Vec<Found> },
    /// It is not so, and this order will never make it so.
    Refused(Refusal),
    /// It may be so, or may become so yet, in words why. A read that still shows the old epoch settles nothing: only a later
    /// epoch does, so whoever has to know *bumps*, and learns from that who came first.
    Unknown { why: String },
}

#[cfg(feature = "cluster")]
impl Outcome {
    /// With these units as they are told here, where it tells of them.
    fn with(mut self, later: &[Found]) -> Self {
        let found = match &mut self {
            Self::Done { owners, .. } | Self::Refused(Refusal::There(owners)) => owners,
            Self::Refused(Refusal::Crowded | Refusal::NotAsked(_)) | Self::Unknown { .. } => return self,
        };
        for found in found {
            if let Some(later) = later.iter().find(|later| later.unit == found.unit) {
                *found = later.clone();
            }
        }
        self
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Something else is there; all units of the order, each as it is known now.
    There(Vec<Found>),
    /// Somebody has claimed room there of which the view that was decided upon does not know. Decide again, on the next one.
    Crowded,
    /// It was not even asked, or etcd has declined to look at it; in words.
    NotAsked(String),
}

/// The session's end in the control owner's hand. It ends when this is dropped; the lease then runs out by itself.
#[derive(Debug)]
pub struct Cluster {
    orders: mpsc::Sender<ClusterOrder>,
    task: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    /// Starts the session of a host with `[cluster]`. Needs a tokio runtime.
    #[must_use]
    pub fn start(
        spec: &Spec,
        cluster: &ClusterSpec,
        process: &Process,
        reports: mpsc::Sender<ClusterReport>,
    ) -> Self {
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        #[cfg(feature = "cluster")]
        let run = task::Task::new((spec, cluster), process.clone(), reports, taken).run();
        #[cfg(not(feature = "cluster"))]
        let run = {
            let _ = (spec, cluster, process);
            absent(reports, taken)
        };
        Self { orders, task: tokio::spawn(run) }
    }

    /// Hands an order over. Never waits.
    ///
    /// # Errors
    /// The order, if too many wait. It has not been looked at.
    pub fn order(&self, order: ClusterOrder) -> Result<(), Box<ClusterOrder>> {
        self.orders.try_send(order).map_err(|error| Box::new(error.into_inner()))
    }
}

/// Why a configuration with `[cluster]` cannot be used. To go on as if alone would be a second writer.
#[must_use]
pub fn lacking(spec: &Spec) -> Option<&'static str> {
    let is_absent = spec.cluster.is_some() && !cfg!(feature = "cluster");
    is_absent.then_some("[cluster] is configured, and this vmpath was built without the feature cluster")
}

/// Nobody gets here: [`lacking`] is asked first. It refuses all the same.
#[cfg(not(feature = "cluster"))]
async fn absent(reports: mpsc::Sender<ClusterReport>, mut orders: mpsc::Receiver<ClusterOrder>) {
    let _ = reports.send(ClusterReport::Down { why: "built without cluster".into() }).await;
    while orders.recv().await.is_some() {}
}

impl ClusterOrder {
    /// None for what is not answered.
    #[must_use]
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Publish(_) | Self::DropRoom { .. } => None,
            Self::ReadOwners { ticket, .. }
            | Self::Claim { ticket, .. }
            | Self::Release { ticket, .. }
            | Self::Bump { ticket, .. }
            | Self::Commit { ticket, .. }
            | Self::TakeOver { ticket, .. }
            | Self::Bar { ticket, .. }
            | Self::GiveBack { ticket, .. }
            | Self::ClaimRoom { ticket, .. } => Some(*ticket),
        }
    }
}
