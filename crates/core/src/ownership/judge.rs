//! What a read of the owners says about a change that may or may not have taken effect.
//!
//! Invariant: a change compares every unit's epoch and moves all of them in one transaction. So one unit under a later
//! epoch settles the question for all; under the same epoch nothing is settled, because the change may still be on its way.
//! It does not know who asks: both ends of a move do.

use super::{Found, UnitEpoch};
use crate::migration::MoveId;

/// The change in question: these units, from `from` under these epochs, to `to` by `id`.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub id: &'a MoveId,
    pub from: &'a str,
    pub to: &'a str,
    pub units: &'a [UnitEpoch],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It has taken effect; under these epochs the units belong to `to` now.
    Moved(Vec<UnitEpoch>),
    /// It has not, and never will; under these epochs they belong to `from`.
    Kept(Vec<UnitEpoch>),
    /// Not yet, and it still may.
    Undecided,
    /// A unit belongs to neither; in words.
    Lost(String),
    /// The read says less than was asked, or what cannot be; in words.
    Unreadable(String),
}

#[must_use]
pub fn judge(change: Change<'_>, found: &[Found]) -> Judged {
    let mut now = vec![];
    for UnitEpoch { unit, epoch } in change.units {
        let Some(found) = found.iter().find(|found| found.unit == *unit) else {
            return Judged::Unreadable(format!("the owner of {unit} was not read"));
        };
        let Some(owner) = &found.owner else {
            return Judged::Lost(format!("{unit} has no owner any more"));
        };
        now.push((unit, *epoch, owner));
    }
    let epochs = || {
        let unit = |(unit, _, owner): &(&String, u64, &super::Owner)| UnitEpoch {
            unit: (*unit).clone(),
            epoch: owner.epoch,
        };
        now.iter().map(unit).collect()
    };
    let moved = |owner: &super::Owner| owner.host == change.to && owner.move_id.as_ref() == Some(change.id);
    if let Some((unit, _, owner)) =
        now.iter().find(|(_, _, owner)| owner.host != change.from && !moved(owner))
    {
        return Judged::Lost(format!("{unit} is owned by {owner}"));
    }
    if now.iter().any(|(_, _, owner)| moved(owner)) {
        return if now.iter().all(|(_, _, owner)| moved(owner)) {
            Judged::Moved(epochs())
        } else {
            Judged::Unreadable("only some of its units have moved".into())
        };
    }
    if let Some((unit, before, owner)) = now.iter().find(|(_, before, owner)| owner.epoch < *before) {
        return Judged::Unreadable(format!("{unit} is owned by {owner}, which is older than epoch {before}"));
    }
    if now.iter().any(|(_, before, owner)| owner.epoch > *before) {
        Judged::Kept(epochs())
    } else {
        Judged::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Judged, judge};
    use crate::migration::MoveId;
    use crate::ownership::{Found, Owner, UnitEpoch};

    fn id(number: u64) -> MoveId {
        MoveId { host: "kvm1".into(), nonce: 7, number }
    }

    fn at(unit: &str, epoch: u64) -> UnitEpoch {
        UnitEpoch { unit: unit.into(), epoch }
    }

    fn found(unit: &str, owner: Option<(&str, u64, Option<u64>)>) -> Found {
        let owner = owner.map(|(host, epoch, by)| Owner { host: host.into(), epoch, move_id: by.map(id) });
        Found { unit: unit.into(), owner }
    }

    /// The question is always whether a and b have moved from kvm1 under epochs 3 and 5 to kvm2 by move 1.
    fn check(a: Option<(&str, u64, Option<u64>)>, b: Option<(&str, u64, Option<u64>)>) -> Judged {
        let units = [at("a", 3), at("b", 5)];
        let change = Change { id: &id(1), from: "kvm1", to: "kvm2", units: &units };
        judge(change, &[found("b", b), found("a", a)])
    }

    #[test]
    fn the_owner_and_the_move_settle_it() {
        let moved = check(Some(("kvm2", 4, Some(1))), Some(("kvm2", 6, Some(1))));
        assert_eq!(moved, Judged::Moved(vec![at("a", 4), at("b", 6)]));
        // The destination was restarted since: the epoch has grown, the move is still named.
        let renewed = check(Some(("kvm2", 5, Some(1))), Some(("kvm2", 7, Some(1))));
        assert_eq!(renewed, Judged::Moved(vec![at("a", 5), at("b", 7)]));
    }

    #[test]
    fn the_same_epoch_settles_nothing() {
        assert_eq!(check(Some(("kvm1", 3, None)), Some(("kvm1", 5, Some(0)))), Judged::Undecided);
    }

    #[test]
    fn one_later_epoch_settles_it_for_all() {
        let kept = check(Some(("kvm1", 4, None)), Some(("kvm1", 5, None)));
        assert_eq!(kept, Judged::Kept(vec![at("a", 4), at("b", 5)]));
    }

    #[test]
    fn another_host_or_another_move_is_a_loss() {
        assert!(matches!(check(Some(("kvm3", 9, None)), Some(("kvm1", 5, None))), Judged::Lost(_)));
        assert!(matches!(check(Some(("kvm2", 4, Some(2))), Some(("kvm2", 6, Some(2)))), Judged::Lost(_)));
        assert!(matches!(check(None, Some(("kvm1", 5, None))), Judged::Lost(_)));
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        assert!(matches!(check(Some(("kvm1", 2, None)), Some(("kvm1", 5, None))), Judged::Unreadable(_)));
        let half = check(Some(("kvm2", 4, Some(1))), Some(("kvm1", 5, None)));
        assert!(matches!(half, Judged::Unreadable(_)));
        let units = [at("a", 3)];
        let change = Change { id: &id(1), from: "kvm1", to: "kvm2", units: &units };
        assert!(matches!(judge(change, &[]), Judged::Unreadable(_)));
    }
}
