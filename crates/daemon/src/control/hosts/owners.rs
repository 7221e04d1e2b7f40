//! Who owns which unit: one [`Keeper`] for each VM, what the data plane was told, and what the next process may inherit.
//!
//! Invariant: the data plane is told of every change, and told again if it could not take it. What the next process may inherit is in
//! its file before anything is dispatched, and out of it before anything leaves that gives it away.

use super::left::{Holdings, Left};
use super::{Asked, Hands, Hosts};
use crate::cluster::{ClusterOrder, Outcome, Refusal};
use crate::control::hosts_view::{OwnerRow, StoreState};
use crate::dataplane::WorkerOrder;
use std::collections::{BTreeSet, HashMap};
use vmpath_core::cluster::Heard;
use vmpath_core::controller::Controller;
use vmpath_core::event::Event;
use vmpath_core::ids::{UnitId, VmId};
use vmpath_core::ownership::keeper::{Act, Around, Moving, Reply, Store, Usage};
use vmpath_core::ownership::{Found, Keeper, Ownership, UnitEpoch};
use vmpath_core::spec::{Spec, Writers};
use vmpath_core::time::Instant;
use vmpath_core::view::WorkerView;

/// Units that several hosts may write to have no owner: everybody may.
const EVERYBODYS: Ownership = Ownership::Ours { epoch: 0 };

#[derive(Debug)]
pub(super) struct Owners {
    /// By `VmId`.
    keepers: Vec<Keeper>,
    left: Option<Left>,
    /// `target/unit` of those that have owners.
    units: HashMap<String, (UnitId, VmId)>,
    /// Those that have none.
    everybodys: Vec<UnitId>,
    store: Store,
    why_down: Option<String>,
    /// By `UnitId`, what the controller was told; none yet.
    told: Vec<Option<Ownership>>,
    /// What the data plane was told.
    dispatched: Vec<Option<bool>>,
    /// VMs that were on their way at the last look: of their units the data plane may have let go by itself.
    moving: BTreeSet<VmId>,
}

impl Owners {
    pub(super) fn new(spec: &Spec, now: Instant) -> Self {
        let (left, inherited) = Left::open(spec).unzip();
        let mut owners = Self {
            keepers: vec![],
            left,
            units: HashMap::new(),
            everybodys: vec![],
            store: Store::Down,
            why_down: None,
            told: vec![],
            dispatched: vec![],
            moving: BTreeSet::new(),
        };
        owners.reload(spec, now);
        let inherited = inherited.unwrap_or_default();
        owners.keepers.iter_mut().for_each(|keeper| keeper.inherit(|unit| inherited.get(unit).copied()));
        owners
    }

    /// Whatever is given away from now on is not in the file any more.
    ///
    /// # Errors
    /// It still is; in words.
    fn leave(&mut self) -> Result<(), String> {
        let Some(left) = &mut self.left else { return Ok(()) };
        let held = self.keepers.iter().flat_map(Keeper::holdings);
        left.say(held.map(|(unit, epoch)| (unit.to_owned(), epoch)).collect::<Holdings>())
    }

    /// They are about to be given away.
    ///
    /// # Errors
    /// The next process would take them for its own; in words. They must not be given away then.
    pub(super) fn give(&mut self, vm: VmId, units: &[UnitEpoch]) -> Result<(), String> {
        self.keepers[vm.index()].give(units);
        self.leave()
    }

    pub(super) fn reload(&mut self, spec: &Spec, now: Instant) {
        self.units.clear();
        self.everybodys.clear();
        for vm in spec.vm_ids() {
            let mut own = vec![];
            for disk in spec.disks_of_vm(vm) {
                let unit = spec.disk(disk).unit;
                match spec.disk(disk).writers {
                    Writers::One => {
                        own.push(spec.unit_name(unit));
                        self.units.insert(spec.unit_name(unit), (unit, vm));
                    }
                    Writers::Many => self.everybodys.push(unit),
                }
            }
            own.sort_unstable();
            own.dedup();
            let fresh = Keeper::new(&spec.host.name, own.iter().cloned(), now);
            match self.keepers.get_mut(vm.index()) {
                Some(keeper)
                    if keeper.ownerships().map(|(unit, _)| unit).eq(own.iter().map(String::as_str)) => {}
                Some(keeper) => *keeper = fresh,
                None => self.keepers.push(fresh),
            }
        }
        self.told.resize(spec.units.len(), None);
        self.dispatched.resize(spec.units.len(), None);
    }

    pub(super) fn up(&mut self) {
        (self.store, self.why_down) = (Store::Up, None);
    }

    pub(super) fn down(&mut self, why: &str) {
        (self.store, self.why_down) = (Store::Down, Some(why.to_owned()));
    }

    /// Somebody else has this host's name, and may take for its own what is owned in it.
    pub(super) fn usurped(&mut self, why: &str) {
        self.down(why);
        self.keepers.iter_mut().for_each(Keeper::usurped);
    }

    pub(super) fn own(&mut self, vm: VmId, units: &[UnitEpoch]) {
        self.keepers[vm.index()].own(units);
    }

    pub(super) fn disown(&mut self, vm: VmId, units: &[String]) {
        self.keepers[vm.index()].disown(units);
    }

    pub(super) fn answered(&mut self, vm: VmId, outcome: Outcome) {
        let reply = match outcome {
            Outcome::Done { owners, .. } => Reply::Done(owners),
            Outcome::Refused(Refusal::There(found)) => Reply::There(found),
            Outcome::Refused(Refusal::Crowded | Refusal::NotAsked(_)) => Reply::NotAsked,
            Outcome::Unknown { .. } => Reply::Unknown,
        };
        self.keepers[vm.index()].answered(crate::sys::clock::now(), reply);
    }

    /// None: the unit has no owner by its nature, or is not known.
    pub(super) fn of(&self, unit: UnitId) -> Option<Ownership> {
        let is_it = |(name, _): &(&str, Ownership)| self.units.get(*name).is_some_and(|(id, _)| *id == unit);
        self.keepers.iter().flat_map(Keeper::ownerships).find(is_it).map(|(_, ownership)| ownership)
    }

    pub(super) fn store_state(&self) -> StoreState {
        match (self.store, &self.why_down) {
            (Store::Up, _) => StoreState::Up,
            (Store::Down, Some(why)) => StoreState::Down { why: why.clone() },
            (Store::Down, None) => StoreState::Connecting,
        }
    }

    /// By unit.
    pub(super) fn rows(&self, host: &str) -> Vec<OwnerRow> {
        let kept = self.keepers.iter().flat_map(Keeper::ownerships);
        let mut rows: Vec<_> = kept.map(|(unit, ownership)| OwnerRow::of(unit, &ownership, host)).collect();
        rows.sort_by(|a, b| a.unit.cmp(&b.unit));
        rows
    }

    /// How every unit stands.
    fn all(&self) -> Vec<(UnitId, Ownership)> {
        let everybodys = self.everybodys.iter().map(|unit| (*unit, EVERYBODYS));
        let kept = self.keepers.iter().flat_map(Keeper::ownerships);
        let kept = kept.filter_map(|(name, ownership)| Some((self.units.get(name)?.0, ownership)));
        kept.chain(everybodys).collect()
    }
}

impl Hosts {
    /// A unit of this host's has another owner than before.
    pub(super) fn found(
        &mut self,
        found: &Found,
        controller: &Controller,
        hands: &mut Hands<'_>,
    ) -> Vec<Event> {
        let Some((_, vm)) = self.owners.units.get(&found.unit).copied() else { return vec![] };
        self.owners.keepers[vm.index()].found(found);
        let mut events = self.tell_owners(hands);
        // It comes here by its move: that is read at once, and not when its turn comes.
        let ours = found.owner.as_ref().filter(|owner| owner.host == self.spec.host.name);
        if let (Some(plan), Some(_)) = (controller.arriving_plan(vm), ours) {
            let units = plan.units().into_iter().map(|unit| unit.unit).collect();
            let asked = Asked::Arriving { vm, move_id: plan.id.clone(), what: super::Arriving::Owners };
            events.extend(self.ask_cluster(asked, |ticket| ClusterOrder::ReadOwners { ticket, units }));
        }
        events
    }

    /// Claims, renews and releases as things stand now; what is published is looked at, too.
    pub fn look(
        &mut self,
        controller: &Controller,
        view: Option<&WorkerView>,
        hands: &mut Hands<'_>,
    ) -> Vec<Event> {
        self.give_late(hands);
        if let Some(view) = view {
            self.sizes = view.units.iter().map(|unit| unit.size).collect();
        }
        let spec = self.spec.clone();
        let mut acts = vec![];
        for vm in spec.vm_ids() {
            let moving = if controller.is_moving(vm) { Moving::Yes } else { Moving::No };
            match moving {
                Moving::Yes => drop(self.owners.moving.insert(vm)),
                Moving::No if self.owners.moving.remove(&vm) => {
                    spec.units_of_vm(vm).for_each(|unit| self.owners.dispatched[unit.index()] = None);
                }
                Moving::No => {}
            }
            let usage =
                if view.is_some_and(|view| is_used(&spec, vm, view)) { Usage::Used } else { Usage::Idle };
            let around = Around { store: self.owners.store, usage, moving };
            let trusted = self.owners.keepers[vm.index()].trusted().count();
            let act = self.owners.keepers[vm.index()].look(hands.now, around);
            if self.owners.keepers[vm.index()].trusted().count() > trusted {
                tracing::warn!(
                    "VM {}: etcd does not answer, and its disks were this host's before vmpath was restarted: its requests go on",
                    spec.vm(vm).name
                );
            }
            acts.extend(act.map(|act| (vm, act)));
        }
        // First: what is about to be given up must not be dispatched for, by this process or the next.
        let mut events = self.tell_owners(hands);
        for (vm, act) in acts {
            let may_leave = match &act {
                Act::Release(_) => self.owners.leave(),
                Act::Claim(_) | Act::Renew(_) | Act::Read(_) => Ok(()),
            };
            if let Err(why) = may_leave {
                tracing::error!("VM {}: its disks are not let go of: {why}", spec.vm(vm).name);
                self.owners.answered(vm, Outcome::Refused(Refusal::NotAsked(why)));
                continue;
            }
            events.extend(self.ask_cluster(Asked::Kept(vm), |ticket| match act {
                Act::Claim(units) => ClusterOrder::Claim { ticket, units },
                Act::Renew(units) => ClusterOrder::Bump { ticket, units },
                Act::Release(units) => ClusterOrder::Release { ticket, units },
                Act::Read(units) => ClusterOrder::ReadOwners { ticket, units },
            }));
        }
        events
    }

    /// Tells data plane and controller what has changed.
    pub(super) fn tell_owners(&mut self, hands: &Hands<'_>) -> Vec<Event> {
        if let Err(why) = self.owners.leave() {
            tracing::error!("{why}: while that is so no disk is given to another host");
        }
        let (mut own, mut disown, mut events) = (vec![], vec![], vec![]);
        for (unit, ownership) in self.owners.all() {
            let may = ownership.may_dispatch();
            if self.owners.dispatched[unit.index()] != Some(may) {
                if may { own.push(unit) } else { disown.push(unit) }
            }
            if self.owners.told[unit.index()].as_ref() != Some(&ownership) {
                self.tell_taken(unit, &ownership);
                self.owners.told[unit.index()] = Some(ownership.clone());
                events.push(Event::Cluster(Heard::Owner { unit, ownership }));
            }
        }
        // First what must not go on. What cannot be told now is told at the next look.
        for (units, may) in [(disown, false), (own, true)] {
            if units.is_empty() {
                continue;
            }
            let order = if may {
                WorkerOrder::Own { units: units.clone() }
            } else {
                WorkerOrder::Disown { units: units.clone() }
            };
            if hands.dataplane.order(order).is_ok() {
                for unit in units {
                    self.owners.dispatched[unit.index()] = Some(may);
                }
            }
        }
        events
    }
}

impl Hosts {
    /// No move has given it away.
    fn tell_taken(&self, unit: UnitId, now: &Ownership) {
        let before = &self.owners.told[unit.index()];
        if let (Some(Ownership::Ours { .. }), Ownership::Theirs(owner)) = (before, now) {
            let name = self.spec.unit_name(unit);
            tracing::error!(
                "{name} was this host's and is owned by {owner} now: what its guest wants of it is held"
            );
        }
    }
}

/// A front end is attached, or something of it may still take effect.
fn is_used(spec: &Spec, vm: VmId, view: &WorkerView) -> bool {
    let attached =
        |disk: &vmpath_core::ids::DiskId| view.disks.get(disk.index()).is_some_and(|row| row.clients > 0);
    let quarantined =
        |unit: UnitId| view.units.get(unit.index()).is_some_and(|row| row.quarantined_ranges > 0);
    let open = view.vms.get(vm.index()).is_some_and(|row| row.in_flight > 0 || row.held > 0);
    open || spec.disks_of_vm(vm).any(|disk| attached(&disk)) || spec.units_of_vm(vm).any(quarantined)
}
