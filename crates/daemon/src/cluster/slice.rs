//! A host's summary as it is kept: one value for each target, with what it says of that target.
//!
//! Invariant: a value never exceeds [`SLICE_BYTES_MAX`]; units that do not fit are left out, so that nobody is sent to them.
//! Rejected: one value for all targets; whoever shares one target with a host would be told of all. What repeats (paths' names)
//! is written once. It does not know when it is sent.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use vmpath_core::placement::{Accepts, HostSummary, TargetSummary, UnitSummary, VmPlace, VmSummary};

/// A thousand hosts that share one target then stay below 128 MiB, and one value far below etcd's 1.5 MiB for a request.
pub(super) const SLICE_BYTES_MAX: usize = 128 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slice {
    version: String,
    peer: SocketAddr,
    /// Why no VM may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capacity: Option<u64>,
    reserved: u64,
    #[serde(default, skip_serializing_if = "is_none")]
    lost: u32,
    paths: Vec<String>,
    units: Vec<UnitWire>,
    vms: Vec<VmWire>,
    /// Units that were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    more: usize,
}

/// Name, size, and which of the slice's paths are up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct UnitWire(String, Option<u64>, Vec<u16>);

/// Name, priority, reservation, and what it is to this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VmWire(String, u32, Option<u64>, PlaceWire);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PlaceWire {
    Here,
    Launchable,
    Known,
}

impl PlaceWire {
    const fn of(place: VmPlace) -> Self {
        match place {
            VmPlace::Here => Self::Here,
            VmPlace::Launchable => Self::Launchable,
            VmPlace::Known => Self::Known,
        }
    }

    const fn read(self) -> VmPlace {
        match self {
            Self::Here => VmPlace::Here,
            Self::Launchable => VmPlace::Launchable,
            Self::Known => VmPlace::Known,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Slice {
    pub(super) fn of(host: &HostSummary, target: &TargetSummary) -> Self {
        let mut paths: Vec<String> = vec![];
        let mut number = |path: &String| {
            let known = paths.iter().position(|known| known == path);
            let at = known.unwrap_or_else(|| {
                paths.push(path.clone());
                paths.len() - 1
            });
            u16::try_from(at).unwrap_or(u16::MAX)
        };
        let mut units = vec![];
        for unit in &target.units {
            let up = unit.paths_up.iter().map(&mut number).collect();
            units.push(UnitWire(unit.unit.clone(), unit.size, up));
        }
        let vm =
            |vm: &VmSummary| VmWire(vm.name.clone(), vm.priority, vm.reservation, PlaceWire::of(vm.place));
        Self {
            version: host.version.clone(),
            peer: host.peer,
            closed: match &host.accepts {
                Accepts::Yes => None,
                Accepts::No(why) => Some(why.clone()),
            },
            capacity: target.capacity,
            reserved: target.reserved,
            lost: target.lost,
            paths,
            units,
            vms: host.vms.iter().map(vm).collect(),
            more: 0,
        }
    }

    /// Its JSON, within the bound.
    pub(super) fn write(mut self) -> Vec<u8> {
        loop {
            let value = serde_json::to_vec(&self).unwrap_or_default();
            if value.len() <= SLICE_BYTES_MAX || (self.units.is_empty() && self.vms.is_empty()) {
                return value;
            }
            // Half of what there is at a time: a few rounds, whatever the size.
            let units = self.units.len() / 2;
            self.more += self.units.len() - units;
            self.units.truncate(units);
            if units == 0 {
                self.vms.truncate(self.vms.len() / 2);
            }
        }
    }

    /// None for what cannot be read.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// Whether only numbers differ from those of `said`, and by so little that no decision would.
    pub(super) fn drifts_from(&self, said: &Self) -> bool {
        let near = |a: u64, b: u64| a.abs_diff(b) <= a.max(b) / DRIFT_DIVISOR;
        let capacity = match (self.capacity, said.capacity) {
            (Some(a), Some(b)) => near(a, b),
            (a, b) => a == b,
        };
        let numbers = capacity && near(self.reserved, said.reserved);
        numbers && Self { capacity: said.capacity, reserved: said.reserved, ..self.clone() } == *said
    }

    fn target(&self, name: &str) -> TargetSummary {
        let path = |at: &u16| self.paths.get(usize::from(*at)).cloned();
        let unit = |UnitWire(unit, size, up): &UnitWire| UnitSummary {
            unit: unit.clone(),
            size: *size,
            paths_up: up.iter().filter_map(path).collect(),
        };
        TargetSummary {
            target: name.to_owned(),
            capacity: self.capacity,
            reserved: self.reserved,
            lost: self.lost,
            units: self.units.iter().map(unit).collect(),
        }
    }
}

/// A change of less than a twentieth is none that a placement would turn on.
const DRIFT_DIVISOR: u64 = 20;

/// What a host's slices say together. Of two that differ, one is newer and nobody knows which: it takes the more careful.
pub(super) fn joined(host: &str, slices: &BTreeMap<String, Slice>) -> Option<HostSummary> {
    let first = slices.values().next()?;
    let mut vms: BTreeMap<&str, VmSummary> = BTreeMap::new();
    for VmWire(name, priority, reservation, place) in slices.values().flat_map(|slice| &slice.vms) {
        let (priority, reservation) = (*priority, *reservation);
        let summary = VmSummary { name: name.clone(), priority, reservation, place: place.read() };
        vms.entry(name).or_insert(summary);
    }
    Some(HostSummary {
        host: host.to_owned(),
        version: first.version.clone(),
        peer: first.peer,
        accepts: slices.values().find_map(|slice| slice.closed.clone()).map_or(Accepts::Yes, Accepts::No),
        targets: slices.iter().map(|(name, slice)| slice.target(name)).collect(),
        vms: vms.into_values().collect(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A host with units `u0`, `u1`, … on one target, over the paths a and b.
    pub(in crate::cluster) fn host(name: &str, units: usize) -> HostSummary {
        let unit = |i: usize| UnitSummary {
            unit: format!("u{i}"),
            size: Some(1 << 30),
            paths_up: if i.is_multiple_of(2) { vec!["a".into(), "b".into()] } else { vec!["b".into()] },
        };
        let vm = |i: usize| VmSummary {
            name: format!("vm{i}"),
            priority: 100,
            reservation: Some(1 << 20),
            place: VmPlace::Launchable,
        };
        HostSummary {
            host: name.into(),
            version: "0.1.0".into(),
            peer: ([127, 0, 0, 1], 7443).into(),
            accepts: Accepts::Yes,
            targets: vec![TargetSummary {
                target: "san0".into(),
                capacity: Some(100 << 20),
                reserved: 40 << 20,
                lost: 0,
                units: (0..units).map(unit).collect(),
            }],
            vms: (0..units / 2).map(vm).collect(),
        }
    }

    fn slice(host: &HostSummary) -> Slice {
        Slice::of(host, &host.targets[0])
    }

    #[test]
    fn a_summary_reads_back_from_its_slices() {
        let mut host = host("kvm1", 5);
        let second = TargetSummary { target: "san1".into(), capacity: None, ..host.targets[0].clone() };
        host.targets.push(second);
        let slices: BTreeMap<String, Slice> = host
            .targets
            .iter()
            .map(|target| {
                (target.target.clone(), Slice::read(&Slice::of(&host, target).write()).expect("read"))
            })
            .collect();
        assert_eq!(joined("kvm1", &slices), Some(host));
        assert_eq!(joined("kvm1", &BTreeMap::new()), None);
    }

    #[test]
    fn of_two_slices_the_more_careful_counts() {
        let (open, mut closed) = (host("kvm1", 1), host("kvm1", 1));
        closed.accepts = Accepts::No("shedding".into());
        let slices = BTreeMap::from([("a".to_owned(), slice(&open)), ("b".to_owned(), slice(&closed))]);
        let joined = joined("kvm1", &slices).expect("a host");
        assert_eq!(joined.accepts, closed.accepts);
    }

    #[test]
    fn a_value_is_bounded_and_leaves_whole_units_out() {
        let typical = slice(&host("kvm1", 40)).write();
        assert!(typical.len() < 3000, "{}", typical.len());
        let huge = slice(&host("kvm1", 20_000)).write();
        assert!(huge.len() <= SLICE_BYTES_MAX, "{}", huge.len());
        let read = Slice::read(&huge).expect("read");
        assert_eq!(read.units.len() + read.more, 20_000);
        assert_eq!(Slice::read(b"{}"), None);
    }

    #[test]
    fn a_drift_is_in_numbers_only_and_small() {
        let said = slice(&host("kvm1", 2));
        let with = |change: fn(&mut HostSummary)| {
            let mut host = host("kvm1", 2);
            change(&mut host);
            slice(&host)
        };
        assert!(with(|h| h.targets[0].capacity = Some(99 << 20)).drifts_from(&said));
        assert!(with(|h| h.targets[0].reserved = 41 << 20).drifts_from(&said));
        assert!(!with(|h| h.targets[0].capacity = Some(90 << 20)).drifts_from(&said));
        assert!(!with(|h| h.targets[0].capacity = None).drifts_from(&said));
        assert!(!with(|h| h.accepts = Accepts::No("shedding".into())).drifts_from(&said));
        assert!(!with(|h| drop(h.targets[0].units[0].paths_up.pop())).drifts_from(&said));
    }
}
