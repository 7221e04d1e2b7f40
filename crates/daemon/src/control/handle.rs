//! How other tasks speak to the control owner: bounded messages in, one immutable snapshot out.
//!
//! Invariant: a reader cannot slow the owner down (it loads the snapshot), and whoever asks for something waits for a
//! bounded time. It does not know HTTP; the API maps its answers.

use super::hosts_view::HostsView;
use super::journal::{Page, Past, Query};
use super::rates::Rates;
use super::reload::{ReloadError, ReloadRequest, Reloaded};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use vmpath_core::controller::Controller;
use vmpath_core::effect::CommandError;
use vmpath_core::event::Command;
use vmpath_core::ids::{DiskId, IncidentId};
use vmpath_core::spec::Spec;
use vmpath_core::view::{HostView, WorkerView};
use vmpath_core::whatif::Others;

/// How long a question to the owner may take. It answers in microseconds; a client gives up after 1 s.
const ANSWER_WAIT: Duration = Duration::from_millis(700);

/// How long a reload may take: files may be on a slow disk, and a client that gave up loses nothing.
const RELOAD_WAIT: Duration = Duration::from_millis(900);

/// What other tasks ask of the owner; reports of data plane and hypervisors come by channels of their own.
#[derive(Debug)]
pub enum Input {
    Command {
        command: Command,
        reply: oneshot::Sender<Result<String, CommandError>>,
    },
    /// Answered with a sentence for each disk that is leaving and still served.
    Reload {
        spec: Arc<Spec>,
        applied: oneshot::Sender<Vec<String>>,
    },
    Events {
        query: Query,
        reply: oneshot::Sender<Page>,
    },
    /// The newest that the journal knows of.
    Incidents {
        limit: usize,
        reply: oneshot::Sender<Vec<Past>>,
    },
    Incident {
        incident: IncidentId,
        reply: oneshot::Sender<Option<Past>>,
    },
    /// A copy of all decisions, to be asked elsewhere what would happen.
    Fork {
        reply: oneshot::Sender<Fork>,
    },
    /// Make the disk's unit this host's although `from`, which owns it, does not answer. Answered when that has begun or is
    /// refused: a fence of a host takes longer than anybody waits for an answer.
    TakeOver {
        disk: DiskId,
        from: String,
        confirmed: Confirmed,
        begun: Begun,
        reply: oneshot::Sender<Result<String, CommandError>>,
    },
}

/// All that decides.
#[derive(Clone, Debug)]
pub struct Fork {
    pub controller: Box<Controller>,
    /// None without `[cluster]`.
    pub others: Option<Others>,
}

/// What makes sure that a host writes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The operator vouches for it, by its name.
    ByOperator,
    /// `host.fence_command`: it has yet to be run, and to succeed, before anything else happens.
    ByFenceCommand,
}

/// Of a VM whose memory is still here, as its move has come to nothing after its disks had been given to a host that is dead now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It may have run there, and written: its memory here is older than its disks.
    Perhaps,
    /// The operator vouches that it has not.
    Never,
}

/// All that can be shown, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub host: Arc<HostView>,
    /// None until the worker's first report.
    pub worker: Option<Arc<WorkerView>>,
    pub rates: Rates,
    pub last_event_seq: u64,
    /// Of the other hosts, and of who owns what.
    pub hosts: Arc<HostsView>,
    /// Why it was not known at the start what former processes had in flight; in words.
    pub unknown: Arc<[String]>,
}

/// The owner did not answer in time, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is busy or shutting down")]
pub struct Unanswered;

/// Cheap to clone; one for each task that asks.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    inputs: mpsc::Sender<Input>,
    reloads: mpsc::Sender<ReloadRequest>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl ControlHandle {
    #[must_use]
    pub const fn new(
        inputs: mpsc::Sender<Input>,
        reloads: mpsc::Sender<ReloadRequest>,
        snapshot: Arc<ArcSwap<Snapshot>>,
    ) -> Self {
        Self { inputs, reloads, snapshot }
    }

    /// The newest snapshot. Never waits.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Asks for a change; answered when it is decided, after a snapshot that shows it.
    ///
    /// # Errors
    /// [`Unanswered`]; the inner result is the controller's own.
    pub async fn command(&self, command: Command) -> Result<Result<String, CommandError>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.ask(Input::Command { command, reply }, answer).await
    }

    /// Reads the journal.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn events(&self, query: Query) -> Result<Page, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.ask(Input::Events { query, reply }, answer).await
    }

    /// The newest incidents of which the journal has lines, the newest first.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn incidents(&self, limit: usize) -> Result<Vec<Past>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.ask(Input::Incidents { limit, reply }, answer).await
    }

    /// What the journal knows of one incident.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn past(&self, incident: IncidentId) -> Result<Option<Past>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.ask(Input::Incident { incident, reply }, answer).await
    }

    /// A copy of the controller as it is now.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn fork(&self) -> Result<Fork, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.ask(Input::Fork { reply }, answer).await
    }

    /// Takes a disk over from a host that is dead; answered when that has begun.
    ///
    /// # Errors
    /// [`Unanswered`]; the inner result says why not.
    pub async fn take_over(
        &self,
        disk: DiskId,
        from: String,
        (confirmed, begun): (Confirmed, Begun),
    ) -> Result<Result<String, CommandError>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.ask(Input::TakeOver { disk, from, confirmed, begun, reply }, answer).await
    }

    /// Reads the configuration files again.
    ///
    /// # Errors
    /// [`Unanswered`]; the inner result says why the old configuration stays in force.
    pub async fn reload(&self) -> Result<Result<Reloaded, ReloadError>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.reloads.try_send(ReloadRequest { reply: Some(reply) }).map_err(|_| Unanswered)?;
        match tokio::time::timeout(RELOAD_WAIT, answer).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }

    async fn ask<T>(&self, input: Input, answer: oneshot::Receiver<T>) -> Result<T, Unanswered> {
        let asked = async {
            self.inputs.send(input).await.map_err(|_| Unanswered)?;
            answer.await.map_err(|_| Unanswered)
        };
        tokio::time::timeout(ANSWER_WAIT, asked).await.unwrap_or(Err(Unanswered))
    }
}
