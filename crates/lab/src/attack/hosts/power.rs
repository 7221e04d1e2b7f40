//! A whole host loses its power, is turned off by a fence, and boots again.
//!
//! Invariant: nothing of a host that is off is sent, answered or kept but its disk; after a boot its hypervisors and what lay on tmpfs
//! are gone, what it had sent may arrive until the quiesce bound, and it begins when that is over. It does not know who turns it off.

use super::event::{Broken, Event};
use super::tally::Fault;
use super::world::World;
use vmpath_core::router::{Knowledge, held_until};
use vmpath_core::saved::{Before, SavedMoves};
use vmpath_core::time::{Duration, Instant};

/// Longer than a lease: whoever is cut off for so long may be taken for dead.
const CUT_OFF: std::ops::Range<u64> = 11_000..40_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Power {
    /// Since before anything is looked at.
    #[default]
    On,
    Off,
    /// It has booted then; no process of vmpath has run yet.
    Booted(Instant),
    /// One has.
    OnSince(Instant),
}

impl World {
    pub(super) fn is_off(&self, host: usize) -> bool {
        self.hosts[host].power == Power::Off
    }

    /// All of it, at once.
    pub(super) fn power_off(&mut self, host: usize, why: Fault) {
        if self.is_off(host) {
            return;
        }
        self.fault(why, host);
        self.process_dies(host);
        self.hosts[host].power = Power::Off;
        for vm in 0..self.spec().vms.len() {
            self.process_ends(host, vm, "its host is off");
        }
        let there = &mut self.hosts[host];
        there.files.iter_mut().for_each(|file| *file = None);
        there.record.iter_mut().for_each(Vec::clear);
        there.left.clear();
        there.held.fill(Instant::ZERO);
        if self.rng.percent(20) {
            self.hosts[host].saved = None;
        }
        let longest = if self.is_calm() { 3000 } else { self.rng.pick(&[3000, 15_000, 60_000]) };
        let after = self.rng.millis(500..longest);
        self.at(after, Event::PowerOn(host));
    }

    pub(super) fn power_on(&mut self, host: usize) {
        if !self.is_off(host) {
            return;
        }
        self.tally.boots += 1;
        self.trace.say(self.now, || format!("kvm{} boots", host + 1));
        self.hosts[host].power = Power::Booted(self.now);
        let after = self.rng.millis(100..4000);
        self.at(after, Event::Start(host));
    }

    /// How the process before the next one has ended.
    pub(super) fn ended(&mut self, host: usize) -> Before {
        let Power::Booted(at) = self.hosts[host].power else { return Before::Died };
        self.hosts[host].power = Power::OnSince(at);
        Before::Booted
    }

    /// What was sent before the boot may still arrive.
    pub(super) fn hold_after_boot(&mut self, host: usize) {
        let Power::OnSince(booted) = self.hosts[host].power else { return };
        for (unit, quiesce) in self.scene.quiesce.iter().enumerate() {
            if let Some(until) = held_until(Knowledge::Complete, booted, *quiesce, self.now) {
                let held = &mut self.hosts[host].held[unit];
                *held = until.max(*held);
            }
        }
    }

    /// Now and then something happens to a whole host.
    pub(super) fn host_trouble(&mut self) {
        if self.is_calm() {
            return;
        }
        let after = self.rng.millis(4000..25_000);
        self.at(after, Event::HostTrouble);
        let host = self.rng.index(self.hosts.len());
        if self.rng.percent(65) {
            return self.power_off(host, Fault::PowerLost);
        }
        self.fault(Fault::EtcdCut, host);
        let after = self.rng.millis(CUT_OFF);
        self.breaks_for(Broken::Etcd { host }, after);
    }
}

/// What was kept before the boot, as the daemon takes it up.
pub(super) fn renew(moves: &mut SavedMoves, now: Instant) {
    for leaving in &mut moves.leaving {
        leaving.machine.began = now;
        leaving.machine.plan.instance = 0;
    }
    for arriving in &mut moves.arriving {
        arriving.began = now;
    }
    for travel in &mut moves.travels {
        travel.arrived = travel.arrived.map(|_| now);
    }
}

/// A fence takes so long.
pub(super) const FENCED_WITHIN: std::ops::Range<u64> = 200..4000;
/// A host counts as lost when its lease has run out.
pub(super) const LEASE: Duration = Duration::from_secs(10);
