//! Taking a unit over from a host that is dead: its fence first, then the quiesce bound, then the change of owners.
//!
//! Invariant: the change is asked for only after the host can send nothing more and all that it has sent has arrived, so the
//! new owner may write at once. Rejected: a lease that ran out as the proof. A host that is cut off from the store goes on writing.
//! It does not know how a host is turned off, nor how time passes.

use super::{Owner, Ownership};
use crate::mutant::{self, Mutant};
use crate::time::Duration;

/// On what grounds the host counts as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The operator vouches that it is.
    Operator,
    /// The configured command turns it off, and says that it has.
    FenceCommand,
}

/// What is done, one after the other. One that fails is the last: nothing has happened then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Fence,
    /// What the host has sent may take effect until then.
    Wait(Duration),
    /// One transaction: the host's, under the epoch at which this began, becomes ours.
    Change,
}

/// Everything that has to be done, in its order. `quiesce`: of the unit's target.
pub fn steps(proof: Proof, quiesce: Duration) -> impl Iterator<Item = Step> {
    let fence = match proof {
        Proof::FenceCommand if !mutant::active(Mutant::TakeoverUnfenced) => Some(Step::Fence),
        Proof::FenceCommand | Proof::Operator => None,
    };
    let wait = (!mutant::active(Mutant::TakeoverAtOnce)).then_some(Step::Wait(quiesce));
    fence.into_iter().chain(wait).chain([Step::Change])
}

/// The owner that is to lose the unit.
///
/// # Errors
/// Why it makes no sense, in words. `name`: the unit's; `known`: none if it has no owner by its nature.
pub fn owner_to_lose(name: &str, known: Option<Ownership>, from: &str) -> Result<Owner, String> {
    Err(match known {
        Some(Ownership::Theirs(owner)) if owner.host == from => return Ok(owner),
        Some(Ownership::Theirs(owner)) => format!("{name} is owned by {owner}, not by {from}"),
        Some(Ownership::Ours { .. }) => format!("{name} is this host's already"),
        Some(Ownership::Free) => format!("{name} has no owner: it is claimed when a guest attaches"),
        Some(Ownership::Unknown | Ownership::Uncertain) => {
            format!("who owns {name} is not known now: etcd must be reached for this")
        }
        None => format!("{name} has no owner: several hosts write to it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_dead_and_what_it_sent_has_arrived_before_anything_changes() {
        let quiesce = Duration::from_secs(5);
        let by_operator = [Step::Wait(quiesce), Step::Change];
        let by_command = [Step::Fence, Step::Wait(quiesce), Step::Change];
        assert_eq!(steps(Proof::Operator, quiesce).collect::<Vec<_>>(), by_operator);
        assert_eq!(steps(Proof::FenceCommand, quiesce).collect::<Vec<_>>(), by_command);
    }

    #[test]
    fn only_from_the_host_that_owns_it() {
        let owner = Owner { host: "kvm2".into(), epoch: 4, move_id: None };
        let theirs = || Some(Ownership::Theirs(owner.clone()));
        assert_eq!(owner_to_lose("t/a", theirs(), "kvm2"), Ok(owner.clone()));
        let refused = [
            (theirs(), "owned by kvm2 (epoch 4), not by kvm3"),
            (Some(Ownership::Ours { epoch: 4 }), "this host's already"),
            (Some(Ownership::Free), "has no owner: it is claimed"),
            (Some(Ownership::Unknown), "not known now"),
            (Some(Ownership::Uncertain), "not known now"),
            (None, "several hosts write to it"),
        ];
        for (known, words) in refused {
            let why = owner_to_lose("t/a", known, "kvm3").expect_err(words);
            assert!(why.contains(words), "{why}");
        }
    }
}
