//! Who competes, in which order: seats by priority, the highest first.
//!
//! A VM alone has one seat, a group one for each distinct priority of its members; among equals the order is that of the ids. The
//! same for every class, so that a VM's place is known without a search. Rejected: seats only for those who use a class;
//! each first use would then rebuild it. It does not know who waits.

use super::tags::Terms;
use crate::spec::{SchedulerKind, Spec, VmSpec};
use crate::time::Duration;
use std::ops::Range;

/// Equal priorities stand side by side.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) priority: u32,
    pub(super) places: Range<usize>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Bands(Vec<Band>);

impl Bands {
    /// Of priorities that fall.
    fn of(priorities: impl Iterator<Item = u32>) -> Self {
        let mut bands: Vec<Band> = Vec::new();
        for (place, priority) in priorities.enumerate() {
            match bands.last_mut() {
                Some(band) if band.priority == priority => band.places.end = place + 1,
                _ => bands.push(Band { priority, places: place..place + 1 }),
            }
        }
        Self(bands)
    }

    pub(super) fn priority(&self, place: u32) -> u32 {
        let at = self.0.partition_point(|b| b.places.end <= place as usize);
        self.0[at].priority
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Vm(u32),
    Group(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) priority: u32,
    pub(super) holder: Holder,
    /// The seats of the same priority.
    pub(super) band: (u32, u32),
    /// A group's members of that priority.
    pub(super) members: (u32, u32),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// VM indices, by priority.
    pub(super) vms: Vec<u32>,
    pub(super) bands: Bands,
    pub(super) seats: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Seats {
    pub(super) seats: Vec<Seat>,
    pub(super) groups: Vec<Members>,
}

/// The group that counts, if groups count at all.
pub(super) fn group_of(spec: &Spec, vm: &VmSpec) -> Option<u32> {
    match spec.host.scheduler {
        SchedulerKind::Vmpath => vm.group.map(|g| u32::from(g.0)),
        SchedulerKind::None => None,
    }
}

pub(super) fn terms_of(spec: &Spec, vm: &VmSpec) -> Terms {
    match spec.host.scheduler {
        SchedulerKind::Vmpath => Terms {
            shares: vm.shares,
            reservation: vm.reservation.map(|r| r.0),
            limit: vm.limit.map(|l| l.0),
            limit_iops: vm.limit_iops,
            limit_burst: vm.limit_burst,
        },
        SchedulerKind::None => Terms {
            shares: 1000,
            reservation: None,
            limit: None,
            limit_iops: None,
            limit_burst: Duration::ZERO,
        },
    }
}

impl Seats {
    pub(super) fn new(spec: &Spec) -> Self {
        let mut rows: Vec<(u32, Holder)> = Vec::new();
        let mut groups = vec![Members::default(); spec.groups.len()];
        for (index, vm) in spec.vms.iter().enumerate() {
            match group_of(spec, vm) {
                Some(group) => groups[group as usize].vms.push(index as u32),
                None => rows.push((vm.priority, Holder::Vm(index as u32))),
            }
        }
        for (index, group) in groups.iter_mut().enumerate() {
            let priority = |vm: &u32| spec.vms[*vm as usize].priority;
            group.vms.sort_by_key(|vm| std::cmp::Reverse(priority(vm)));
            group.bands = Bands::of(group.vms.iter().map(priority));
            rows.extend(group.bands.0.iter().map(|b| (b.priority, Holder::Group(index as u32))));
        }
        rows.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        let bands = Bands::of(rows.iter().map(|(priority, _)| *priority));
        let mut seats = Vec::with_capacity(rows.len());
        for band in &bands.0 {
            let ends = (band.places.start as u32, band.places.end as u32);
            for (priority, holder) in &rows[band.places.clone()] {
                let members = match holder {
                    Holder::Vm(_) => (0, 0),
                    Holder::Group(group) => {
                        let group = &mut groups[*group as usize];
                        group.seats.push(seats.len() as u32);
                        let band = group.bands.0.iter().find(|b| b.priority == *priority);
                        band.map_or((0, 0), |b| (b.places.start as u32, b.places.end as u32))
                    }
                };
                seats.push(Seat { priority: *priority, holder: *holder, band: ends, members });
            }
        }
        Self { seats, groups }
    }
}
