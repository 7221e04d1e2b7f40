//! One move, at the host that the VM leaves: what is asked of whom, in which order, and what happens when it fails.
//!
//! Invariant: before the commit every failure means cancel, and the VM runs on here; the commit is asked for once, and until
//! its outcome is known nothing is dispatched and nothing cancelled; after it this host dispatches nothing more of the VM,
//! unless the destination gives it back. Every state but the last has a time at which something is done.
//! Rejected: to try a failed step again. What failed is told, and the policy may begin another move: two tries of one step
//! would need a number in each answer, and an old one could be taken for new.
//! It does not know why the VM leaves, nor why this destination.

mod speech;
mod step;
mod store;
mod undecided;
mod watch;

use super::{HandOver, Pace};
use crate::ownership::UnitEpoch;
use crate::time::{Duration, Instant};
use store::Store;

pub use speech::{Act, DiskEpoch, Input, Move, RoomNeed};
pub use store::STORE_AWAY_MAX;
pub use watch::{CONVERGE_WITHIN, STALL_AFTER, TRANSFER_MAX, Watch};

/// A read takes 2 s at most at the destination; the rest is for the way there and back.
pub const PROBE_WITHIN: Duration = Duration::from_secs(4);
/// One transaction of the store.
pub const CLAIM_WITHIN: Duration = Duration::from_secs(4);
/// A hypervisor is launched there: it is up in a second or two, if its host has the memory.
pub const PREPARE_WITHIN: Duration = Duration::from_secs(30);
/// Over the time that requests may finish in: to close and reap what carries the rest.
pub const CUT_WITHIN: Duration = Duration::from_secs(2);
/// A few kilobytes, stored in a file on tmpfs. The guest stands still meanwhile.
pub const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);
/// An answer that was lost is asked for again after this.
const HAND_OVER_AGAIN: Duration = Duration::from_millis(500);
/// One transaction; without an answer it is found out by reading.
pub const COMMIT_WITHIN: Duration = Duration::from_secs(3);
/// `migrate-continue` completes within milliseconds; longer than this after the commit, and the destination is asked. Also
/// how long the destination's word is waited for that the VM runs there, once QEMU has said that it has loaded all of it.
pub const CONTINUE_WITHIN: Duration = Duration::from_secs(10);
/// The first pause before an unanswered question is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// `migrate_cancel` works at once when the monitor hears it.
const CANCEL_AGAIN: Duration = Duration::from_secs(2);

/// ```text
///  Probing ─► Claiming ─► Preparing ─► Transferring ─► Settling ─► HandingOver ─► Committing ──► Continuing ─► Ended(Moved)
///     │          │            │             │             │             │             │  unknown     ▲   │ it failed
///     │          │            │             └──────┬──────┴─────────────┘             ▼   committed  │   ▼
///     │          │            │                    ▼                              Uncertain ─────────┘ Stranded
///     │          │            │                Cancelling ◄───── not committed ───────┘                  │ given back
///     │          │            │              Stuck ◄─┤ (it moved by itself)                              ▼
///     └──────────┴────────────┴──────────────────────┴───────────────────────────────────────► Ended(Stayed)
/// ```
///
/// | state        | its answer: done | refused  | unknown   | Cancel     | MonitorLost | Replaced | QEMU failed, cancelled | QEMU completed | Elapsed          |
/// |--------------|------------------|----------|-----------|------------|-------------|----------|------------------------|----------------|------------------|
/// | Probing      | Claiming         | Stayed   | Stayed    | Stayed     | Stayed      | Stayed   | -                      | -              | Stayed           |
/// | Claiming     | Preparing        | Stayed   | Stayed    | Stayed     | Stayed      | Stayed   | -                      | -              | Stayed           |
/// | Preparing    | Transferring     | Stayed   | Stayed    | Stayed     | Stayed      | Stayed   | -                      | -              | Stayed           |
/// | Transferring | Settling         | Stayed   |           | Cancelling | Cancelling  | Stayed   | Stayed                 | Settling       | watch: Cancelling|
/// | Settling     | HandingOver      |Cancelling|           | Cancelling | Cancelling  | Stayed   | Stayed                 | -              | Cancelling       |
/// | HandingOver  | Committing       |Cancelling| asks again| Cancelling | Cancelling  | Stayed   | Stayed                 | -              | again, Cancelling|
/// | Committing   | Continuing       | Uncertain| Uncertain | -          | -           | -        | -                      | -              | Uncertain        |
/// | Uncertain    | Continuing or Cancelling, by the owners | | -       | -           | -        | -                      | -              | asks again       |
/// | Continuing   | Moved if landed there; by the owners: Moved | | -   | -           | Moved    | Stranded               | asks, then Moved | asks again     |
/// | Stranded     | Stayed if given back, Moved if landed there | | -   | -           | Moved    | -                      | Moved          | asks again       |
/// | Cancelling   |                  |          |           | -          | -           | Stayed   | Stayed                 | Stuck          | asks again       |
/// | Stuck        |                  |          |           | Stayed     | -           | Stayed   | Stayed                 | -              | asks again       |
/// | Ended        | -                | -        | -         | -          | -           | -        | -                      | -              | -                |
///
/// A commit that was not even sent, as the store was known to be away: Cancelling. Before the commit, a store that is silent for
/// [`STORE_AWAY_MAX`] is as Cancel, and so is one that is silent when QEMU says `pre-switchover`. For QEMU in Transferring, "done" is `pre-switchover` or later. An answer that does not belong to the state is late, or comes
/// twice: it is ignored. One exception: `Committed(Done)` is as true in Uncertain as in Committing.
/// After the commit, owners that are neither end's any more, or the destination's by another way, end it as Moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The destination reads each unit.
    Probing {
        until: Instant,
    },
    /// Room is claimed there.
    Claiming {
        until: Instant,
    },
    /// A hypervisor is launched there.
    Preparing {
        until: Instant,
    },
    /// Memory is being sent; the guest runs here.
    Transferring {
        watch: Watch,
    },
    /// The guest stands still. What live paths can finish finishes; the rest is cut off.
    Settling {
        until: Instant,
    },
    /// The destination stores what was open.
    HandingOver {
        until: Instant,
        again: Instant,
        hand_over: Box<HandOver>,
    },
    /// The change of the owners was asked for.
    Committing {
        until: Instant,
    },
    /// It may or may not have taken effect.
    Uncertain {
        why: String,
        asked: Asked,
        pace: Pace,
    },
    /// The units belong to the destination; QEMU sends the rest, or has sent it and the destination is to say so.
    Continuing {
        since: Instant,
        again: Instant,
        pace: Pace,
        sent: Sent,
    },
    /// The units belong to the destination, and QEMU has failed here: the VM is there, or is given back, or lost.
    Stranded {
        why: String,
        pace: Pace,
    },
    /// QEMU is told to cancel, until it says that it has.
    Cancelling {
        why: String,
        held: Held,
        pace: Pace,
    },
    /// QEMU has sent the VM away although the units stay here. Somebody else has told it to.
    Stuck {
        why: String,
        pace: Pace,
    },
    Ended(Outcome),
}

/// What QEMU here says of the rest. It is the only other copy of the VM, and ended when the VM has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    NotYet,
    /// And loaded there. The guest stood still for so long, if it was told.
    All {
        downtime: Option<Duration>,
    },
}

impl Sent {
    fn downtime(self) -> Option<Duration> {
        match self {
            Self::NotYet => None,
            Self::All { downtime } => downtime,
        }
    }
}

/// What was asked last about the owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Read,
    /// To bar a commit that may still be on its way.
    Bump,
}

/// Whether the data plane has been asked to hold the VM's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    No,
    Settled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The VM is this host's, as it was before; in words why.
    Stayed { why: String },
    /// It is the destination's. The guest stood still for so long, if QEMU has said it.
    Moved { downtime: Option<Duration> },
}

/// One move; see [`State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    plan: Move,
    began: Instant,
    state: State,
    stopped: Stopped,
    store: Store,
    word: Word,
}

/// On what this end holds its units for its own while they have not gone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// This process's own claim.
    Own,
    /// What a former process has left. If its host was dead somebody may be about to take them over under the epochs that are
    /// read now: they are raised before anything goes.
    Former,
    /// They are being raised from these.
    Raising(Vec<UnitEpoch>),
}

/// Whether this host has stopped the guest, or may have, before a restart: then nobody else continues it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    No,
    Perhaps,
}

/// What the next process needs to end it well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub plan: Move,
    pub began: Instant,
    pub reached: Reached,
}

/// How far it had certainly come. What was saved may be older than what was done, so all that comes before the commit
/// counts as one: the owners tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    Begun,
    Committed,
}

impl Source {
    #[must_use]
    pub fn plan(&self) -> &Move {
        &self.plan
    }

    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When it was begun.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended(outcome) => Some(outcome),
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. } => None,
        }
    }

    /// As far as this move is concerned, the VM's requests may go to its units from here.
    #[must_use]
    pub fn may_dispatch(&self) -> bool {
        match &self.state {
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::Cancelling { held: Held::No, .. }
            | State::Ended(Outcome::Stayed { .. }) => true,
            State::HandingOver { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Cancelling { held: Held::Settled, .. }
            | State::Stuck { .. }
            | State::Ended(Outcome::Moved { .. }) => false,
        }
    }

    /// The VM may be given orders that have nothing to do with the move: its hypervisor has not been asked for anything.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        match &self.state {
            State::Probing { .. } | State::Claiming { .. } | State::Preparing { .. } | State::Ended(_) => {
                true
            }
            State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. } => false,
        }
    }

    /// QEMU has been told to cancel it, and has not said yet that it has.
    #[must_use]
    pub fn is_cancelling(&self) -> bool {
        matches!(self.state, State::Cancelling { .. })
    }

    /// The units are, or may be, the destination's, and the VM may be nowhere but here.
    #[must_use]
    pub fn has_given(&self) -> bool {
        match &self.state {
            State::Uncertain { .. }
            | State::Continuing { sent: Sent::NotYet, .. }
            | State::Stranded { .. } => true,
            // It has run there, for all that is known: in a moment it has moved.
            State::Continuing { sent: Sent::All { .. }, .. }
            | State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. }
            | State::Ended(_) => false,
        }
    }

    /// Bytes of memory sent and left, while that is being done.
    #[must_use]
    pub fn transfer(&self) -> Option<(u64, u64)> {
        if let State::Transferring { watch } = &self.state { watch.transfer() } else { None }
    }

    /// When [`Input::Elapsed`] is due. None once it has ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.state_deadline().into_iter().chain(self.store_deadline()).min()
    }

    fn state_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Probing { until }
            | State::Claiming { until }
            | State::Preparing { until }
            | State::Settling { until }
            | State::Committing { until } => Some(*until),
            State::HandingOver { until, again, .. } => Some((*until).min(*again)),
            State::Transferring { watch } => Some(watch.deadline()),
            State::Uncertain { pace, .. }
            | State::Continuing { pace, .. }
            | State::Stranded { pace, .. }
            | State::Cancelling { pace, .. }
            | State::Stuck { pace, .. } => Some(pace.at),
            State::Ended(_) => None,
        }
    }

    /// None once it has ended: then nothing is left to be done.
    #[must_use]
    pub fn save(&self) -> Option<Saved> {
        let reached = match &self.state {
            State::Ended(_) => return None,
            State::Continuing { .. } | State::Stranded { .. } => Reached::Committed,
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. } => Reached::Begun,
        };
        Some(Saved { plan: self.plan.clone(), began: self.began, reached })
    }

    fn units(&self) -> Vec<UnitEpoch> {
        self.plan.units()
    }

    fn unit_names(&self) -> Vec<String> {
        self.plan.disks.iter().map(|disk| disk.unit.unit.clone()).collect()
    }
}

impl Move {
    /// Every unit of the VM, as this host owns it.
    #[must_use]
    pub fn units(&self) -> Vec<UnitEpoch> {
        self.disks.iter().map(|disk| disk.unit.clone()).collect()
    }
}

impl State {
    /// One word for views.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Probing { .. } => "probing",
            Self::Claiming { .. } => "claiming",
            Self::Preparing { .. } => "preparing",
            Self::Transferring { .. } => "transferring",
            Self::Settling { .. } => "settling",
            Self::HandingOver { .. } => "handing-over",
            Self::Committing { .. } => "committing",
            Self::Uncertain { .. } => "uncertain",
            Self::Continuing { .. } => "continuing",
            Self::Stranded { .. } => "stranded",
            Self::Cancelling { .. } => "cancelling",
            Self::Stuck { .. } => "stuck",
            Self::Ended(Outcome::Stayed { .. }) => "stayed",
            Self::Ended(Outcome::Moved { .. }) => "moved",
        }
    }
}

#[cfg(test)]
mod tests;
