//! The store's silence, as a move feels it: no guest is stopped for a commit that could not be asked for.
//!
//! Invariant: a move that is not committed ends when the store has been silent for [`STORE_AWAY_MAX`], and at once if its guest is to be
//! stopped now; a shorter silence, as when the store's members choose a leader, ends nothing. From the commit on only the owners tell.
//! It does not know the store, nor how its silence is found.

use super::step::Step;
use super::{Source, State};
use crate::time::{Duration, Instant};

/// A new leader is chosen within a second or so; a guest that runs meanwhile loses nothing by waiting for it.
pub const STORE_AWAY_MAX: Duration = Duration::from_secs(1);

/// The store that says who owns, as this host hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Heard,
    Away { since: Instant, why: String },
}

impl Source {
    pub(super) fn store_away(&mut self, now: Instant, why: String) -> Step {
        if self.store == Store::Heard {
            self.store = Store::Away { since: now, why };
        }
        Step::default()
    }

    pub(super) fn store_heard(&mut self) -> Step {
        self.store = Store::Heard;
        Step::default()
    }

    /// Why a commit could not be asked for now.
    pub(super) fn no_store(&self) -> Option<String> {
        match &self.store {
            Store::Heard => None,
            Store::Away { why, .. } => Some(format!(
                "etcd does not answer ({why}), and without it the units cannot be given to {}",
                self.plan.to
            )),
        }
    }

    /// When a move that still needs the store is given up for its silence.
    pub(super) fn store_deadline(&self) -> Option<Instant> {
        let Store::Away { since, .. } = &self.store else { return None };
        match &self.state {
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. } => Some(*since + STORE_AWAY_MAX),
            State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. }
            | State::Ended(_) => None,
        }
    }
}
