//! What can be shown of the other hosts: rows by name, made by whoever speaks to them.
//!
//! Invariant: plain data, complete at one moment; a host without `[cluster]` shows the default of it. What is not known is
//! said to be so, in words, and never guessed.
//! It does not know how a host is heard of, nor JSON.

use crate::cluster::Others;
use std::net::SocketAddr;
use std::sync::Arc;
use vmpath_core::ownership::Ownership;
use vmpath_core::placement::{Accepts, HostSummary, TargetSummary, VmPlace};

/// As it is in [`super::handle::Snapshot`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsView {
    pub store: StoreState,
    /// Why this host can neither ask the others nor be asked: its certificate, its port; none if nothing is wrong.
    pub channel_trouble: Option<String>,
    /// By name, this one among them. Empty until the store was read; kept as it was while the store is away.
    pub hosts: Arc<[HostRow]>,
    /// By unit: those of this host's disks that have an owner at all.
    pub owners: Vec<OwnerRow>,
}

/// The store that the hosts share, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    /// This host is configured to be alone.
    #[default]
    NoCluster,
    /// Nothing was heard of it since the daemon's start.
    Connecting,
    Up,
    /// In words.
    Down {
        why: String,
    },
}

/// One host, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRow {
    pub name: String,
    pub version: String,
    /// Where its daemon is asked by others, `ADDRESS:PORT`.
    pub peer: String,
    pub is_self: bool,
    /// Whether VMs may come; else why not, in words.
    pub accepts: Result<(), String>,
    /// By name.
    pub targets: Vec<TargetRow>,
    /// By name: the VMs of its configuration.
    pub vms: Vec<VmRow>,
}

/// Rates in bytes per second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRow {
    pub target: String,
    /// What its paths there carry that are up and trusted; none if one of them does not tell.
    pub capacity: Option<u64>,
    /// By the VMs that it serves.
    pub reserved: u64,
    /// For VMs that are on their way to it.
    pub claimed: u64,
    /// Paths that are not up or not trusted yet, less those that an operator has taken out.
    pub lost: u32,
    /// By name.
    pub units: Vec<UnitRow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRow {
    /// Its name in the target.
    pub unit: String,
    /// Bytes; none: no path has told it yet.
    pub size: Option<u64>,
    /// Names of the paths that lead to it, are up and trusted.
    pub paths_up: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRow {
    pub name: String,
    pub priority: u32,
    /// Bytes per second.
    pub reservation: Option<u64>,
    /// `here`, `launchable`, `known`: see [`VmPlace`].
    pub place: &'static str,
}

/// Who may write to one unit, as far as this host knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRow {
    /// `target/unit`.
    pub unit: String,
    /// A host; none if it has none, or if that is not known.
    pub owner: Option<String>,
    pub epoch: Option<u64>,
    /// The same as a sentence's part: `this host's (epoch 3)`, `owned by kvm2 (epoch 4)`, `it has no owner yet`.
    pub words: String,
}

impl HostsView {
    /// The rows of all hosts that are heard of. `own`: this host's name.
    #[must_use]
    pub fn rows(others: &Others, own: &str) -> Arc<[HostRow]> {
        let mut rows: Vec<_> = others.hosts.iter().map(|host| HostRow::of(host, others, own)).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows.into()
    }

    /// None if it is not heard of.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&HostRow> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// `unit`: as `target/unit`. None if nothing is known of it, or if it has no owner by its nature.
    #[must_use]
    pub fn owner(&self, unit: &str) -> Option<&OwnerRow> {
        self.owners.iter().find(|row| row.unit == unit)
    }
}

impl HostRow {
    fn of(host: &HostSummary, others: &Others, own: &str) -> Self {
        let HostSummary { host: name, version, peer, accepts, targets, vms } = host;
        let claimed = |target: &str| {
            let there = others.rooms.iter().map(|room| &room.claim);
            there.filter(|claim| claim.host == *name && claim.target == target).map(|claim| claim.rate).sum()
        };
        let vm = |vm: &vmpath_core::placement::VmSummary| VmRow {
            name: vm.name.clone(),
            priority: vm.priority,
            reservation: vm.reservation,
            place: place(vm.place),
        };
        let mut targets: Vec<_> = targets.iter().map(|t| TargetRow::of(t, claimed(&t.target))).collect();
        targets.sort_by(|a, b| a.target.cmp(&b.target));
        let mut vms: Vec<_> = vms.iter().map(vm).collect();
        vms.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            name: name.clone(),
            version: version.clone(),
            peer: SocketAddr::to_string(peer),
            is_self: name == own,
            accepts: match accepts {
                Accepts::Yes => Ok(()),
                Accepts::No(why) => Err(why.clone()),
            },
            targets,
            vms,
        }
    }
}

impl TargetRow {
    fn of(target: &TargetSummary, claimed: u64) -> Self {
        let unit = |unit: &vmpath_core::placement::UnitSummary| UnitRow {
            unit: unit.unit.clone(),
            size: unit.size,
            paths_up: unit.paths_up.clone(),
        };
        let mut units: Vec<_> = target.units.iter().map(unit).collect();
        units.sort_by(|a, b| a.unit.cmp(&b.unit));
        Self {
            target: target.target.clone(),
            capacity: target.capacity,
            reserved: target.reserved,
            claimed,
            lost: target.lost,
            units,
        }
    }
}

const fn place(place: VmPlace) -> &'static str {
    match place {
        VmPlace::Here => "here",
        VmPlace::Launchable => "launchable",
        VmPlace::Known => "known",
    }
}

impl OwnerRow {
    /// `unit`: as `target/unit`; `own`: this host's name.
    #[must_use]
    pub fn of(unit: &str, ownership: &Ownership, own: &str) -> Self {
        let (owner, epoch) = match ownership {
            Ownership::Ours { epoch } => (Some(own.to_owned()), Some(*epoch)),
            Ownership::Theirs(owner) => (Some(owner.host.clone()), Some(owner.epoch)),
            Ownership::Unknown | Ownership::Free | Ownership::Uncertain => (None, None),
        };
        let ours = || format!("this host's (epoch {})", epoch.unwrap_or_default());
        let words = ownership.hold_words().unwrap_or_else(ours);
        Self { unit: unit.into(), owner, epoch, words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Claimed;
    use vmpath_core::ownership::Owner;
    use vmpath_core::placement::{Claim, UnitSummary, VmSummary};

    fn summary(host: &str, accepts: Accepts) -> Arc<HostSummary> {
        let target = |target: &str| TargetSummary {
            target: target.into(),
            capacity: Some(100),
            reserved: 60,
            lost: 0,
            units: vec![UnitSummary { unit: "gold".into(), size: Some(1 << 30), paths_up: vec!["a".into()] }],
        };
        let vm = |name: &str, place| VmSummary { name: name.into(), priority: 1, reservation: None, place };
        Arc::new(HostSummary {
            host: host.into(),
            version: "0.1.0".into(),
            peer: ([10, 0, 0, 1], 7420).into(),
            accepts,
            targets: vec![target("san1"), target("san0")],
            vms: vec![vm("gold", VmPlace::Here), vm("bronze", VmPlace::Launchable)],
        })
    }

    #[test]
    fn hosts_are_told_by_name_with_the_room_that_is_claimed_on_each() {
        let claim = |host: &str, target: &str, rate| Claimed {
            id: format!("{host}{target}"),
            claim: Claim { vm: "v".into(), host: host.into(), target: target.into(), rate },
            revision: 1,
        };
        let others = Others {
            hosts: vec![summary("kvm2", Accepts::No("it sheds".into())), summary("kvm1", Accepts::Yes)],
            rooms: vec![claim("kvm2", "san0", 5), claim("kvm2", "san0", 7), claim("kvm1", "san1", 9)],
        };
        let view = HostsView { hosts: HostsView::rows(&others, "kvm1"), ..HostsView::default() };
        let names: Vec<_> = view.hosts.iter().map(|row| (row.name.as_str(), row.is_self)).collect();
        assert_eq!(names, [("kvm1", true), ("kvm2", false)]);
        let kvm2 = view.host("kvm2").expect("it is heard of");
        let claimed: Vec<_> = kvm2.targets.iter().map(|t| (t.target.as_str(), t.claimed)).collect();
        assert_eq!(claimed, [("san0", 12), ("san1", 0)]);
        assert_eq!((&kvm2.accepts, kvm2.peer.as_str()), (&Err("it sheds".into()), "10.0.0.1:7420"));
        let vms: Vec<_> = kvm2.vms.iter().map(|vm| (vm.name.as_str(), vm.place)).collect();
        assert_eq!(vms, [("bronze", "launchable"), ("gold", "here")]);
        assert_eq!(view.host("kvm3"), None);
    }

    #[test]
    fn an_owner_is_named_only_if_it_is_known() {
        let told = |ownership: &Ownership| {
            let row = OwnerRow::of("san0/gold", ownership, "kvm1");
            (row.owner, row.epoch, row.words)
        };
        let theirs = Ownership::Theirs(Owner { host: "kvm2".into(), epoch: 4, move_id: None });
        assert_eq!(told(&theirs), (Some("kvm2".into()), Some(4), "owned by kvm2 (epoch 4)".into()));
        let ours = (Some("kvm1".into()), Some(3), "this host's (epoch 3)".into());
        assert_eq!(told(&Ownership::Ours { epoch: 3 }), ours);
        for unknown in [Ownership::Unknown, Ownership::Free, Ownership::Uncertain] {
            let (owner, epoch, words) = told(&unknown);
            assert!(owner.is_none() && epoch.is_none() && !words.is_empty(), "{unknown:?}");
        }
    }
}
