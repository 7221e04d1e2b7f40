//! What a host knows of owners and of the other hosts: its keepers, its summary, its view when it looks for a place.
//!
//! Invariant: the controller, the data plane and the keepers are told the same of each unit, at the same moment.
//! It does not know how the store is reached.

use super::etcd::{Asker, Wish};
use super::event::Event;
use super::scene::UNIT_SIZE;
use super::store::{Change, numbered};
use super::world::World;
use std::sync::Arc;
use vmpath_core::cluster::{Heard, Whereto};
use vmpath_core::event::Event as Told;
use vmpath_core::ids::{UnitId, VmId};
use vmpath_core::ownership::keeper::{Act, Around, Moving, Store as Way, Usage};
use vmpath_core::ownership::{Found, Keeper, Ownership, UnitEpoch};
use vmpath_core::placement::{ClusterView, Need, place};
use vmpath_core::time::Duration;

impl World {
    /// Each keeper looks at what is so around it.
    pub(super) fn keep(&mut self, host: usize) {
        let vms = self.spec().vms.len();
        for vm in 0..vms {
            let usage = if self.is_used(host, vm) { Usage::Used } else { Usage::Idle };
            let (now, Some(life)) = (self.now, self.life(host)) else { return };
            let Some(process) = self.process(host) else { return };
            let store = if process.session.up { Way::Up } else { Way::Down };
            let moving = if process.controller.is_moving(VmId::at(vm)) { Moving::Yes } else { Moving::No };
            let Some(act) = process.keepers[vm].look(now, Around { store, usage, moving }) else { continue };
            let number = |name: &str| self.unit_number(name);
            let free = |names: Vec<String>| names.iter().map(|name| (number(name), None)).collect();
            let (units, wish) = match act {
                Act::Read(names) => (free(names), Wish::Read),
                Act::Claim(names) => (free(names), Wish::Change(Change::Claim)),
                Act::Renew(units) => (numbered(&units, number), Wish::Change(Change::Bump)),
                Act::Release(units) => (numbered(&units, number), Wish::Change(Change::Release)),
            };
            self.leave_behind(host);
            let releases = matches!(wish, Wish::Change(Change::Release));
            self.order(life, Asker::Keeper(vm), units, wish);
            if releases && !self.is_calm() {
                self.meet_release(host, vm);
            }
        }
        self.spread_word(host);
    }

    /// The process after this one may inherit that; it is written at once.
    pub(super) fn leave_behind(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        let held = process.keepers.iter().flat_map(Keeper::holdings);
        self.hosts[host].left = held.map(|(unit, epoch)| (unit.to_owned(), epoch)).collect();
    }

    /// They are about to be given away.
    pub(super) fn give(&mut self, host: usize, vm: usize, units: &[UnitEpoch]) {
        if let Some(process) = self.process(host) {
            process.keepers[vm].give(units);
        }
        self.leave_behind(host);
    }

    /// Somebody comes to use what is just being given up, or the process dies over it.
    fn meet_release(&mut self, host: usize, vm: usize) {
        if self.rng.percent(15) {
            let after = self.rng.micros(1..40_000);
            self.at(after, Event::Strike { host, other: host, vm });
        } else if self.lost[vm].is_some() && self.rng.percent(60) {
            let after = self.rng.millis(1..1500);
            self.at(after, Event::Relaunch(vm));
        }
    }

    /// Somebody is attached, or something of it is open here, or may still take effect.
    fn is_used(&self, host: usize, vm: usize) -> bool {
        let Some(process) = &self.hosts[host].process else { return false };
        let seat = &process.seats[vm];
        let guarded = |unit: &usize| {
            let ranges = self.hosts[host].record[*unit].iter().any(|q| q.until > self.now);
            ranges || self.hosts[host].held[*unit] > self.now
        };
        seat.attached || !seat.ops.is_empty() || self.disks_of(vm).iter().any(guarded)
    }

    /// The controller and the data plane hear what the keepers know.
    pub(super) fn spread_word(&mut self, host: usize) {
        self.leave_behind(host);
        let vms = self.spec().vms.len();
        for vm in 0..vms {
            let Some(process) = &self.hosts[host].process else { return };
            let units = self.disks_of(vm);
            let known: Vec<Ownership> = process.keepers[vm].ownerships().map(|(_, known)| known).collect();
            let changed: Vec<(usize, Ownership)> = units
                .into_iter()
                .zip(known)
                .filter(|(unit, known)| process.told_owners[*unit] != *known)
                .collect();
            if changed.is_empty() {
                continue;
            }
            let now = self.now;
            for (unit, ownership) in changed {
                let Some(process) = self.process(host) else { return };
                if ownership.may_dispatch() {
                    process.seats[vm].barred = false;
                }
                process.told_owners[unit] = ownership.clone();
                let heard = Heard::Owner { unit: UnitId::at(unit), ownership };
                let effects = process.controller.handle(now, Told::Cluster(heard));
                self.perform_of_keeper(host, effects);
            }
            self.release_if_owned(host, vm);
            self.judge_owners(host, vm);
            self.pump_soon(host, vm);
        }
    }

    /// A watch, or a first reading.
    pub(super) fn watched(&mut self, host: usize, unit: usize, found: &Found) {
        let vm = self.vm_of_unit(unit);
        if let Some(process) = self.process(host) {
            process.keepers[vm].found(found);
        }
        self.keep(host);
    }

    pub(super) fn vm_of_unit(&self, unit: usize) -> usize {
        let spec = self.spec();
        spec.disks.iter().find(|disk| disk.unit.index() == unit).map_or(0, |disk| disk.vm.index())
    }

    /// What this host says of itself; and what it has heard of the others meanwhile.
    pub(super) fn publish(&mut self, host: usize) {
        let Some(life) = self.life(host) else { return };
        let after = self.rng.millis(350..700);
        self.at(after, Event::Publish(life));
        let spec = self.scene.specs[host].clone();
        let Some(process) = self.process(host).filter(|process| process.session.up) else { return };
        let Some(cluster) = &spec.cluster else { return };
        let summary = process.controller.summary(cluster, |_| Some(UNIT_SIZE));
        let known = self.store.summaries.get(&summary.host);
        if known.is_none_or(|known| **known != summary) {
            self.store.summaries.insert(summary.host.clone(), Arc::new(summary));
        }
        self.refresh_hosts(host);
    }

    pub(super) fn refresh_hosts(&mut self, host: usize) {
        let (summaries, seen) = (self.store.summaries.clone(), self.store.latest_promise());
        if let Some(process) = self.process(host) {
            (process.known_hosts, process.seen) = (summaries, seen);
        }
    }

    /// Core's placement, on what this host knows.
    pub(super) fn look_for_place(&mut self, host: usize, vm: VmId, whereto: &Whereto) {
        let Some(life) = self.life(host) else { return };
        let spec = self.scene.specs[host].clone();
        let Some(process) = &self.hosts[host].process else { return };
        let mut view = ClusterView::default();
        for summary in process.known_hosts.values() {
            view.put(summary);
        }
        for promise in self.store.promises.iter().filter(|promise| promise.serial <= process.seen) {
            promise.claims.iter().for_each(|claim| view.claim(claim));
        }
        let result = Need::of(&spec, vm, whereto, |_| Some(UNIT_SIZE)).and_then(|need| {
            let ranking = place(&need, &view);
            let best = ranking.chosen(&need, &view);
            let why = || ranking.refused.iter().map(|(at, why)| format!("{}: {why}", view.name(*at)));
            best.ok_or_else(|| why().collect::<Vec<_>>().join("; "))
        });
        self.tally.placements_refused += u64::from(result.is_err());
        let after = self.rng.micros(50..3000);
        self.hear(life, after, Heard::Placed { vm, result });
    }

    /// A host that has said nothing for as long as its lease lasts is forgotten by the others.
    pub(super) fn leases_run_out(&mut self) {
        for host in 0..self.hosts.len() {
            let speaks = self.net.reaches_store(host)
                && self.hosts[host].process.as_ref().is_some_and(|process| process.session.up);
            if speaks {
                self.net.leases[host] = self.now;
            } else if self.now.since(self.net.leases[host]) > Duration::from_secs(10) {
                let name = self.scene.specs[host].host.name.clone();
                self.store.summaries.remove(&name);
            }
        }
    }
}
