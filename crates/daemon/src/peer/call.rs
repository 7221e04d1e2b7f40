//! What one host may ask of another, and how it ends: the seam between the channel and control.
//!
//! Invariant: each call ends in one of three ways. `Refused` promises that it has had no effect; whatever cannot promise
//! that is `Unknown`. The channel decides nothing: it hands a [`PeerCall`] to control and carries the answer back.
//! It does not know the wire.

use std::time::Duration;
use tokio::sync::oneshot;
use vmpath_core::migration::{self, MoveId};

pub use vmpath_core::migration::Answer;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    /// Read each of these units (`target/unit`), beginning after this has come. Answered with [`PeerAnswer::Done`].
    Probe { units: Vec<String> },
    /// Start a hypervisor that waits for the VM. Answered with [`PeerAnswer::Incoming`].
    Prepare(migration::Move),
    /// Store this. Answered with [`PeerAnswer::Done`] when it is stored.
    HandOver(migration::HandOver),
    /// End what was begun for the move. Answered with [`PeerAnswer::Done`] when nothing of it is left, and with
    /// [`PeerAnswer::State`] if the VM has landed there: a refusal may come from anybody on the way, and must not be taken for that.
    Discard { move_id: MoveId, why: String },
    /// Answered with [`PeerAnswer::State`]. Changes nothing.
    Ask { move_id: MoveId },
}

/// What was asked for, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    Done,
    /// Where QEMU is to send to, as `migrate` takes it: `tcp:ADDRESS:PORT`.
    Incoming(String),
    /// What the host knows of the move, in words.
    State(String),
}

/// How a call ended.
pub type Outcome = Answer<PeerAnswer>;

/// A call of another host, on its way to control. `from` is proven by a certificate.
#[derive(Debug)]
pub struct PeerCall {
    pub from: String,
    pub request: PeerRequest,
    /// Dropped unanswered: the caller is told that the outcome is unknown.
    pub reply: oneshot::Sender<Outcome>,
}

/// A call to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerOrder {
    /// The orderer's own number for it; comes back in the report.
    pub ticket: u64,
    /// The host's name, which its certificate must list.
    pub to: String,
    /// `ADDRESS:PORT`, as the host's summary says.
    pub address: String,
    pub request: PeerRequest,
}

/// How an order ended. Exactly one comes for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReport {
    pub ticket: u64,
    pub outcome: Outcome,
}

impl PeerRequest {
    /// How long a caller waits for the answer: a little less than the machine that asks, so that words come before its own
    /// deadline. The host that is asked gives up a moment earlier still.
    #[must_use]
    pub const fn within(&self) -> Duration {
        match self {
            Self::Probe { .. } => Duration::from_millis(3_800),
            Self::Prepare(_) => Duration::from_millis(29_700),
            Self::HandOver(_) => Duration::from_millis(4_800),
            // A hypervisor's end: TERM, a pause, KILL.
            Self::Discard { .. } => Duration::from_secs(12),
            Self::Ask { .. } => Duration::from_secs(2),
        }
    }

    /// For messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Probe { .. } => "probe",
            Self::Prepare(_) => "prepare",
            Self::HandOver(_) => "hand-over",
            Self::Discard { .. } => "discard",
            Self::Ask { .. } => "question about a move",
        }
    }
}
