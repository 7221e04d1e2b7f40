//! Units of a host that is dead, or is made so, are taken over by another.
//!
//! Invariant: who vouches for a host's death is right, and a fence that says so has turned it off; core says what is done in which
//! order. If the process that takes over dies meanwhile nothing has happened. It does not know what a host that is off has left behind.

use super::etcd::{Asker, Wish};
use super::event::Event;
use super::power::{FENCED_WITHIN, LEASE};
use super::store::Change;
use super::tally::Fault;
use super::world::World;
use std::collections::VecDeque;
use vmpath_core::cluster::Heard;
use vmpath_core::event::Event as Told;
use vmpath_core::ids::{UnitId, VmId};
use vmpath_core::ownership::takeover::{Proof, Step, owner_to_lose, steps};
use vmpath_core::ownership::{Found, UnitEpoch};
use vmpath_core::time::Duration;

/// One unit that is being taken over.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    vm: usize,
    unit: usize,
    from: usize,
    epoch: u64,
    /// A move has given it to the dead host, and this end could not finish without it.
    is_left_over: bool,
    steps: VecDeque<Step>,
}

impl World {
    /// Whoever looks after the hosts acts on those that are silent.
    pub(super) fn look_after_hosts(&mut self) {
        if self.is_calm() || !self.scene.extras.power {
            return;
        }
        for from in 0..self.hosts.len() {
            let silent = self.now.since(self.net.leases[from]) > LEASE;
            if silent && self.now >= self.hosts[from].looked_after && self.rng.percent(35) {
                self.hosts[from].looked_after = self.now + Duration::from_secs(15);
                self.replace_host(from);
            }
        }
    }

    fn replace_host(&mut self, from: usize) {
        let proof =
            if self.is_off(from) && self.rng.percent(60) { Proof::Operator } else { Proof::FenceCommand };
        let taker = self.rng.index(self.hosts.len());
        for unit in 0..self.store.records.len() {
            if self.store.owner(unit) != Some(from) {
                continue;
            }
            let vm = self.vm_of_unit(unit);
            // A VM that stands still because that host has its units goes on with its memory.
            let left = (0..self.hosts.len()).find(|host| self.was_given(*host, vm, from));
            self.take_over((left.unwrap_or(taker), unit), from, proof);
        }
    }

    fn was_given(&self, host: usize, vm: usize, to: usize) -> bool {
        let process = self.hosts[host].process.as_ref();
        let given = process.and_then(|process| process.controller.given_to(VmId::at(vm)));
        given.is_some_and(|given| self.host_number(given) == to)
    }

    fn take_over(&mut self, (host, unit): (usize, usize), from: usize, proof: Proof) {
        let (vm, name, quiesce) = (self.vm_of_unit(unit), self.unit_name(unit), self.scene.quiesce[unit]);
        let is_left_over = self.was_given(host, vm, from);
        let Some(process) = self.hosts[host].process.as_ref() else { return };
        if host == from || (process.controller.is_moving(VmId::at(vm)) && !is_left_over) {
            return;
        }
        let known = process.told_owners[unit].clone();
        let Ok(owner) = owner_to_lose(&name, Some(known), &super::scene::host_name(from)) else { return };
        self.trace.say(self.now, || {
            format!(
                "kvm{} takes {name} over from kvm{} by {proof:?}, epoch {}",
                host + 1,
                from + 1,
                owner.epoch
            )
        });
        self.tally.takeovers_begun += 1;
        let steps = steps(proof, quiesce).collect();
        self.taking(host, Taking { vm, unit, from, epoch: owner.epoch, is_left_over, steps });
        self.tell_of(host, unit, "it is taken over", Some("the owner is changed".into()));
    }

    fn tell_of(&mut self, host: usize, unit: usize, reason: &str, until: Option<String>) {
        let heard = Heard::TakeOver { unit: UnitId::at(unit), reason: reason.to_owned(), until };
        self.tell(host, Told::Cluster(heard));
    }

    /// The next step.
    pub(super) fn taking(&mut self, host: usize, mut taking: Taking) {
        let Some(life) = self.life(host) else { return };
        match taking.steps.pop_front() {
            Some(Step::Fence) => {
                let (hits, says) = (self.rng.millis(FENCED_WITHIN), self.rng.millis(1..800));
                // It may have failed, or have turned the host off and not know it.
                let (fails, knows) = (self.rng.percent(12), !self.rng.percent(8));
                if !fails {
                    self.at(hits, Event::FenceHits(taking.from));
                }
                if !fails && knows {
                    self.at(hits + says, Event::Taking { life, taking: Box::new(taking) });
                }
            }
            Some(Step::Wait(quiesce)) => self.at(quiesce, Event::Taking { life, taking: Box::new(taking) }),
            Some(Step::Change) => {
                let units = vec![(taking.unit, Some(taking.epoch))];
                let wish = Wish::Change(Change::TakeOver { from: taking.from });
                self.order(life, Asker::Taking(taking), units, wish);
            }
            None => {}
        }
    }

    pub(super) fn fence_hits(&mut self, host: usize) {
        self.power_off(host, Fault::Fenced);
    }

    /// The store has changed the owner. What it has not answered the watch tells.
    pub(super) fn taken_over(&mut self, host: usize, taking: &Taking, found: &[Found]) {
        self.tally.takeovers_done += 1;
        let name = self.scene.specs[host].host.name.clone();
        let ours = found.iter().filter_map(|found| {
            let owner = found.owner.as_ref().filter(|owner| owner.host == name)?;
            Some(UnitEpoch { unit: found.unit.clone(), epoch: owner.epoch })
        });
        let ours: Vec<UnitEpoch> = ours.collect();
        if !taking.is_left_over
            && let Some(process) = self.process(host)
        {
            process.keepers[taking.vm].own(&ours);
        }
        self.keep(host);
        self.tell_of(host, taking.unit, "it is this host's now", None);
    }
}
