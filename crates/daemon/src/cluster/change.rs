//! What an order makes of a unit's record, and what must be there before.
//!
//! Invariant: the epoch grows by one with every change, so no two records of a unit are ever the same. It does not know etcd.

use super::record::{Held, Record};
use super::{ClusterOrder, Ticket};
use vmpath_core::migration::MoveId;
use vmpath_core::ownership::UnitEpoch;

/// An order that changes owners: all of its units or none.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) ticket: Ticket,
    pub(super) units: Vec<String>,
    kind: Kind,
    /// Of each unit; empty for a claim, which takes what it finds.
    epochs: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Kind {
    Claim,
    Release,
    Bump,
    Commit { id: MoveId, to: String },
    TakeOver { from: String },
    Bar { owner: String },
    GiveBack { to: String },
}

impl Change {
    /// Of a move.
    pub(super) const fn is_commit(&self) -> bool {
        matches!(self.kind, Kind::Commit { .. })
    }

    /// None for an order that changes no owner.
    pub(super) fn of(order: &ClusterOrder) -> Option<Self> {
        let (ticket, kind, units) = match order {
            ClusterOrder::Claim { ticket, units } => {
                return Some(Self {
                    ticket: *ticket,
                    units: units.clone(),
                    kind: Kind::Claim,
                    epochs: vec![],
                });
            }
            ClusterOrder::Release { ticket, units } => (ticket, Kind::Release, units),
            ClusterOrder::Bump { ticket, units } => (ticket, Kind::Bump, units),
            ClusterOrder::Commit { ticket, id, to, units } => {
                (ticket, Kind::Commit { id: id.clone(), to: to.clone() }, units)
            }
            ClusterOrder::TakeOver { ticket, from, units } => {
                (ticket, Kind::TakeOver { from: from.clone() }, units)
            }
            ClusterOrder::Bar { ticket, owner, units } => (ticket, Kind::Bar { owner: owner.clone() }, units),
            ClusterOrder::GiveBack { ticket, to, units } => {
                (ticket, Kind::GiveBack { to: to.clone() }, units)
            }
            ClusterOrder::Publish(_)
            | ClusterOrder::ReadOwners { .. }
            | ClusterOrder::ClaimRoom { .. }
            | ClusterOrder::DropRoom { .. } => return None,
        };
        let (units, epochs) = units.iter().map(|UnitEpoch { unit, epoch }| (unit.clone(), *epoch)).unzip();
        Some(Self { ticket: *ticket, units, kind, epochs })
    }

    /// What becomes of the unit of that number; none if something else is there than the order is for.
    ///
    /// | order     | before          | after                      |
    /// |-----------|-----------------|----------------------------|
    /// | claim     | free, n         | ours, n + 1                |
    /// | release   | ours, n         | free, n + 1                |
    /// | bump      | ours, n, by m   | ours, n + 1, by m          |
    /// | commit    | ours, n         | theirs, n + 1, by the move |
    /// | takeover  | theirs, n       | ours, n + 1                |
    /// | bar       | theirs, n, by m | theirs, n + 1, by m        |
    /// | give back | ours, n         | theirs, n + 1              |
    pub(super) fn next(&self, me: &str, unit: usize, before: &Record) -> Option<Record> {
        let asked = self.epochs.get(unit);
        if asked.is_some_and(|epoch| *epoch != before.epoch) {
            return None;
        }
        let holder = before.held.as_ref();
        let held_by = |host: &str| holder.is_some_and(|held| held.host == host);
        let ours = Held { host: me.to_owned(), move_id: None };
        let held = match &self.kind {
            Kind::Claim => holder.is_none().then_some(Some(ours)),
            Kind::Release => held_by(me).then_some(None),
            Kind::Bump => held_by(me).then(|| holder.cloned()),
            Kind::Commit { id, to } => {
                held_by(me).then(|| Some(Held { host: to.clone(), move_id: Some(id.clone()) }))
            }
            Kind::TakeOver { from } => held_by(from).then_some(Some(ours)),
            Kind::Bar { owner } => held_by(owner).then(|| holder.cloned()),
            Kind::GiveBack { to } => held_by(me).then(|| Some(Held { host: to.clone(), move_id: None })),
        }?;
        Some(Record { epoch: before.epoch.checked_add(1)?, held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> MoveId {
        MoveId { host: "me".into(), nonce: 1, number: 1 }
    }

    fn record(host: Option<&str>, epoch: u64) -> Record {
        let held = host.map(|host| Held { host: host.into(), move_id: Some(id()) });
        Record { epoch, held }
    }

    fn orders(epoch: u64) -> Vec<ClusterOrder> {
        let units = vec![UnitEpoch { unit: "t/u".into(), epoch }];
        vec![
            ClusterOrder::Claim { ticket: 1, units: vec!["t/u".into()] },
            ClusterOrder::Release { ticket: 1, units: units.clone() },
            ClusterOrder::Bump { ticket: 1, units: units.clone() },
            ClusterOrder::Commit { ticket: 1, id: id(), to: "you".into(), units: units.clone() },
            ClusterOrder::TakeOver { ticket: 1, from: "you".into(), units: units.clone() },
            ClusterOrder::Bar { ticket: 1, owner: "you".into(), units: units.clone() },
            ClusterOrder::GiveBack { ticket: 1, to: "you".into(), units },
        ]
    }

    /// The table of [`Change::next`]: for each order, what it makes of a unit that is free, ours, theirs.
    #[test]
    fn the_table() {
        let after = |order: &ClusterOrder, host: Option<&str>| {
            let change = Change::of(order).expect("a change");
            let next = change.next("me", 0, &record(host, 3))?;
            assert_eq!(next.epoch, 4);
            let word =
                |held: Held| format!("{} {}", held.host, if held.move_id.is_some() { "by" } else { "-" });
            Some(next.held.map_or_else(|| "free".to_owned(), word))
        };
        let rows: Vec<_> = orders(3)
            .iter()
            .map(|order| [None, Some("me"), Some("you")].map(|host| after(order, host).unwrap_or_default()))
            .collect();
        let expected = [
            ["me -", "", ""],
            ["", "free", ""],
            ["", "me by", ""],
            ["", "you by", ""],
            ["", "", "me -"],
            ["", "", "you by"],
            ["", "you -", ""],
        ];
        assert_eq!(rows, expected.map(|row| row.map(str::to_owned)));
    }

    proptest! {
        #[test]
        fn another_epoch_is_never_changed_and_the_epoch_only_grows(
            asked in 0_u64..5, there in 0_u64..5, host in prop::option::of(prop_oneof![Just("me"), Just("you"), Just("third")])
        ) {
            for order in orders(asked) {
                let next = Change::of(&order).expect("a change").next("me", 0, &record(host, there));
                if let Some(next) = next {
                    prop_assert_eq!(next.epoch, there + 1);
                    let claim = matches!(order, ClusterOrder::Claim { .. });
                    prop_assert!(asked == there || claim);
                    prop_assert!(host != Some("third"), "nobody takes what is a third's");
                }
            }
        }
    }
}
