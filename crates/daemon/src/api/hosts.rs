//! From a snapshot to the rows of other hosts and of moves.
//!
//! Invariant: a pure function of the snapshot, like [`super::show`]. A host without `[cluster]` has no rows, and says so.

use super::show::{Shown, micros};
use super::wire;
use crate::control::hosts_view::{HostRow, OwnerRow, StoreState, TargetRow};
use vmpath_core::time::Instant;
use vmpath_core::view::MoveView;

impl Shown<'_> {
    /// The word for the store that hosts share, and why it is down.
    fn cluster(&self) -> (String, Option<String>) {
        let is_configured = self.snapshot.host.spec.cluster.is_some();
        let (word, why) = match &self.snapshot.hosts.store {
            StoreState::NoCluster if is_configured => ("connecting", None),
            StoreState::NoCluster => ("none", None),
            StoreState::Connecting => ("connecting", None),
            StoreState::Up => ("up", None),
            StoreState::Down { why } => ("down", Some(why.clone())),
        };
        (word.into(), why)
    }

    pub(super) fn hosts(&self) -> wire::Hosts {
        let view = &self.snapshot.hosts;
        let (cluster, why) = self.cluster();
        wire::Hosts {
            at_unix_us: self.at(),
            cluster,
            why,
            channel_trouble: view.channel_trouble.clone(),
            hosts: view.hosts.iter().map(host).collect(),
            owners: view.owners.iter().map(owner).collect(),
        }
    }

    /// `now`: until when those under way are counted.
    pub(super) fn migrations(&self, now: Instant) -> wire::Migrations {
        let (cluster, why) = self.cluster();
        let row = |view| self.migration(view, now);
        let migrations = self.snapshot.host.moves.iter().map(row).collect();
        wire::Migrations { at_unix_us: (self.unix_us)(now), cluster, why, migrations }
    }

    fn migration(&self, view: &MoveView, now: Instant) -> wire::Migration {
        let ended = view.end.as_ref().map(|end| end.at);
        wire::Migration {
            id: view.id.to_string(),
            vm: view.vm.clone(),
            from: view.from.clone(),
            to: view.to.clone(),
            side: view.side.as_str().into(),
            state: view.state.into(),
            rule: view.rule.clone(),
            incident: view.incident.clone(),
            began_unix_us: (self.unix_us)(view.began),
            took_us: micros(ended.unwrap_or(now).since(view.began)),
            sent_bytes: view.transfer.map(|transfer| transfer.sent),
            left_bytes: view.transfer.map(|transfer| transfer.left),
            ended_unix_us: ended.map(self.unix_us),
            why: view.end.as_ref().and_then(|end| end.why.clone()),
            downtime_us: view.end.as_ref().and_then(|end| end.downtime).map(micros),
        }
    }
}

pub(super) fn owner(row: &OwnerRow) -> wire::Owner {
    let OwnerRow { unit, owner, epoch, words } = row.clone();
    wire::Owner { unit, owner, epoch, words }
}

fn host(row: &HostRow) -> wire::HostOfCluster {
    let vm = |vm: &crate::control::hosts_view::VmRow| wire::VmOfHost {
        name: vm.name.clone(),
        priority: vm.priority,
        reservation_bytes_per_second: vm.reservation,
        place: vm.place.into(),
    };
    wire::HostOfCluster {
        name: row.name.clone(),
        version: row.version.clone(),
        peer: row.peer.clone(),
        is_self: row.is_self,
        accepts: row.accepts.is_ok(),
        why_not: row.accepts.clone().err(),
        targets: row.targets.iter().map(target).collect(),
        vms: row.vms.iter().map(vm).collect(),
    }
}

fn target(row: &TargetRow) -> wire::TargetOfHost {
    let unit = |unit: &crate::control::hosts_view::UnitRow| wire::UnitOfHost {
        name: unit.unit.clone(),
        size_bytes: unit.size,
        paths_up: unit.paths_up.clone(),
    };
    wire::TargetOfHost {
        name: row.target.clone(),
        capacity_bytes_per_second: row.capacity,
        reserved_bytes_per_second: row.reserved,
        claimed_bytes_per_second: row.claimed,
        lost_paths: row.lost,
        units: row.units.iter().map(unit).collect(),
    }
}
