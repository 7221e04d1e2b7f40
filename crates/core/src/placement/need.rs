//! What a VM of this host asks of another: made from the configuration and from what its units were seen to be.
//!
//! It does not know the other hosts.

use super::{Need, PathNeed, UnitNeed};
use crate::cluster::Whereto;
use crate::ids::{UnitId, VmId};
use crate::migration::RoomNeed;
use crate::spec::Spec;

/// What its reservation needs of each target: split evenly over its disks, as everywhere.
#[must_use]
pub fn room_of(spec: &Spec, vm: VmId) -> Vec<RoomNeed> {
    let Some(reservation) = spec.vm(vm).reservation else { return vec![] };
    let disks = spec.disks_of_vm(vm).count().max(1) as u64;
    let mut room: Vec<RoomNeed> = vec![];
    for disk in spec.disks_of_vm(vm) {
        let target = &spec.target(spec.unit(spec.disk(disk).unit).target).name;
        let rate = reservation.0 / disks;
        match room.iter_mut().find(|need| need.target == *target) {
            Some(need) => need.rate += rate,
            None => room.push(RoomNeed { target: target.clone(), rate }),
        }
    }
    room
}

impl Need {
    /// `size`: of a unit, as its paths tell it.
    ///
    /// # Errors
    /// A unit's size is not known, in words: nobody could say whether another host shows the same.
    pub fn of(
        spec: &Spec,
        vm: VmId,
        whereto: &Whereto,
        size: impl Fn(UnitId) -> Option<u64>,
    ) -> Result<Self, String> {
        let its = spec.vm(vm);
        let unit = |unit: UnitId| {
            let (target, name) =
                (spec.target(spec.unit(unit).target).name.clone(), spec.unit(unit).name.clone());
            match size(unit) {
                Some(size) => Ok(UnitNeed { target, unit: name, size }),
                None => Err(format!("the size of {target}/{name} was never seen")),
            }
        };
        let names = |paths: &[crate::ids::PathId]| paths.iter().map(|path| spec.path_name(*path)).collect();
        Ok(Self {
            vm: its.name.clone(),
            from: spec.host.name.clone(),
            version: crate::VERSION.into(),
            units: spec.units_of_vm(vm).map(unit).collect::<Result<_, _>>()?,
            room: room_of(spec, vm).into_iter().map(|need| (need.target, need.rate)).collect(),
            paths: PathNeed { only: vec![], avoid: names(&its.avoid_paths), at_least: its.min_paths },
            whole: matches!(whereto, Whereto::Home(_)),
            only: match whereto {
                Whereto::Best => None,
                Whereto::Named(host) | Whereto::Home(host) => Some(host.clone()),
            },
        })
    }
}
