//! What etcd holds: one owner for each unit, room that is promised, and what each host says of itself.
//!
//! Invariant: a change compares what it was asked for and takes effect for all of its units or for none; the epoch grows by one with
//! each; nothing is ever deleted. It does not know who is told, nor when.

use std::collections::BTreeMap;
use std::sync::Arc;
use vmpath_core::migration::MoveId;
use vmpath_core::ownership::{Found, Owner, UnitEpoch};
use vmpath_core::placement::{Claim, HostSummary};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) epoch: u64,
    /// Who owns it, and by which move.
    pub(super) held: Option<(usize, Option<MoveId>)>,
}

/// What a transaction makes of units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Free: ours. It takes the epochs that it finds.
    Claim,
    /// Ours: free.
    Release,
    /// Ours: ours, by the same move.
    Bump,
    /// Ours: the other host's, by this move.
    Commit { to: usize, id: MoveId },
    /// Ours: the other host's, by no move.
    GiveBack { to: usize },
    /// The owner's: the owner's, by the same move.
    Bar { owner: usize },
    /// The dead host's: ours.
    TakeOver { from: usize },
}

#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) id: String,
    pub(super) serial: u64,
    pub(super) claims: Vec<Claim>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    /// By unit.
    pub(super) records: Vec<Record>,
    pub(super) promises: Vec<Promise>,
    /// By host's name.
    pub(super) summaries: BTreeMap<String, Arc<HostSummary>>,
    /// Of promises.
    serial: u64,
}

impl Store {
    pub(super) fn new(units: usize) -> Self {
        Self { records: vec![Record::default(); units], ..Self::default() }
    }

    pub(super) fn owner(&self, unit: usize) -> Option<usize> {
        self.records[unit].held.as_ref().map(|(host, _)| *host)
    }

    /// What it becomes; none if something else is there than the change is for.
    fn next(&self, me: usize, unit: usize, epoch: Option<u64>, change: &Change) -> Option<Record> {
        let record = &self.records[unit];
        if epoch.is_some_and(|epoch| epoch != record.epoch) {
            return None;
        }
        let by_me = record.held.as_ref().filter(|(host, _)| *host == me);
        let held = match change {
            Change::Claim => record.held.is_none().then_some(Some((me, None))),
            Change::Release => by_me.map(|_| None),
            Change::Bump => by_me.map(|held| Some(held.clone())),
            Change::Commit { to, id } => by_me.map(|_| Some((*to, Some(id.clone())))),
            Change::GiveBack { to } => by_me.map(|_| Some((*to, None))),
            Change::TakeOver { from } => {
                record.held.as_ref().filter(|(host, _)| host == from).map(|_| Some((me, None)))
            }
            Change::Bar { owner } => {
                record.held.as_ref().filter(|(host, _)| host == owner).map(|held| Some(held.clone()))
            }
        }?;
        Some(Record { epoch: record.epoch + 1, held })
    }

    /// One transaction. True if it took effect. `units`: with the epochs that it compares.
    pub(super) fn change(&mut self, me: usize, units: &[(usize, Option<u64>)], change: &Change) -> bool {
        let next: Option<Vec<Record>> =
            units.iter().map(|(unit, epoch)| self.next(me, *unit, *epoch, change)).collect();
        let Some(next) = next else { return false };
        for ((unit, _), record) in units.iter().zip(next) {
            self.records[*unit] = record;
        }
        true
    }

    pub(super) fn found(&self, unit: usize, name: &str) -> Found {
        let record = &self.records[unit];
        let owner = record.held.as_ref().map(|(host, move_id)| Owner {
            host: super::scene::host_name(*host),
            epoch: record.epoch,
            move_id: move_id.clone(),
        });
        Found { unit: name.to_owned(), owner }
    }

    /// Keeps room, unless somebody whom the decision did not know of (`seen`: the latest promise that it knew) has asked for some there.
    pub(super) fn promise(&mut self, id: &str, seen: u64, claims: Vec<Claim>) -> bool {
        let meets = |promise: &Promise| {
            let of = |claim: &Claim| claims.iter().any(|c| c.host == claim.host && c.target == claim.target);
            promise.serial > seen && promise.id != id && promise.claims.iter().any(of)
        };
        if self.promises.iter().any(meets) {
            return false;
        }
        self.serial += 1;
        self.promises.push(Promise { id: id.to_owned(), serial: self.serial, claims });
        true
    }

    pub(super) fn latest_promise(&self) -> u64 {
        self.serial
    }

    pub(super) fn drop_promise(&mut self, id: &str) {
        self.promises.retain(|promise| promise.id != id);
    }
}

/// By number in place of name.
pub(super) fn numbered(units: &[UnitEpoch], number: impl Fn(&str) -> usize) -> Vec<(usize, Option<u64>)> {
    units.iter().map(|unit| (number(&unit.unit), Some(unit.epoch))).collect()
}
