//! When everything is repaired: until when it is looked on, and what must be so then.
//!
//! Invariant: every VM is served at exactly one host, or the journal of one says why it is not, and nothing that a guest has asked for
//! is lost. It does not know what went wrong before.

use super::event::Event;
use super::qemu::Qemu;
use super::world::{Weather, World};
use vmpath_core::effect::JournalKind;
use vmpath_core::ids::VmId;
use vmpath_core::time::{Duration, Instant};

/// The longest that everything may take after the last fault.
const CALM_MAX: Duration = Duration::from_secs(300);
/// What is under way then is waited for no longer.
const MOVES_WITHIN: Duration = Duration::from_secs(60);
/// All must be well for so long.
const WELL_FOR: Duration = Duration::from_secs(4);
/// A guest's request is answered within this when nothing is wrong.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

impl World {
    /// Once a second.
    pub(super) fn look(&mut self) {
        self.at(Duration::from_secs(1), Event::Look);
        self.leases_run_out();
        self.look_after_hosts();
        self.prune();
        let passed = self.now.since(Instant::from_millis(1000));
        if self.weather == Weather::Chaos && passed >= self.scene.chaos {
            self.calm_down();
        }
    }

    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let Weather::Calm { since } = self.weather else { return false };
        let may_wait = now.since(since) < MOVES_WITHIN;
        let vms = 0..self.spec().vms.len();
        let unwell = vms.into_iter().any(|vm| self.unwell(vm).is_some() || (may_wait && self.is_busy(vm)));
        if unwell {
            self.well_since = None;
        } else {
            self.well_since.get_or_insert(now);
        }
        let longest = self.scene.quiesce.iter().max().copied().unwrap_or_default();
        let is_well = self.well_since.is_some_and(|well| now.since(well) >= WELL_FOR);
        (is_well && now.since(since) > longest + Duration::from_secs(6)) || now.since(since) > CALM_MAX
    }

    fn is_busy(&self, vm: usize) -> bool {
        let moving = |process: &super::daemon::Process| process.controller.is_moving(VmId::at(vm));
        self.hosts.iter().any(|host| host.process.as_ref().is_none_or(moving))
    }

    /// Why a VM is not served at exactly one host, in words.
    fn unwell(&self, vm: usize) -> Option<String> {
        let running: Vec<usize> =
            (0..self.hosts.len()).filter(|host| self.qemu(*host, vm).is_some_and(Qemu::runs)).collect();
        let [host] = running[..] else {
            let names: Vec<String> = running.iter().map(|host| super::scene::host_name(*host)).collect();
            let names = if names.is_empty() { "nowhere".to_owned() } else { names.join(" and ") };
            return Some(format!("it runs {names}"));
        };
        for unit in self.disks_of(vm) {
            if !self.may_dispatch(host, vm, unit) {
                return Some(format!("it runs at kvm{}, and is not served there", host + 1));
            }
        }
        let process = self.hosts[host].process.as_ref()?;
        if !process.open_gates[vm] {
            return Some(format!("it runs at kvm{}, and its requests are held", host + 1));
        }
        let guest = self.qemu(host, vm).and_then(|qemu| qemu.guest.as_ref())?;
        let oldest = guest.disks.iter().flat_map(|ring| ring.open).flatten().min()?;
        let open_for = self.now.since(self.array.requests[oldest as usize].made);
        (open_for > ANSWERED_WITHIN)
            .then(|| format!("request {oldest} at kvm{} is open for {} s", host + 1, open_for.as_secs()))
    }

    pub(super) fn judge_end(&mut self) {
        for vm in 0..self.spec().vms.len() {
            self.tally.moves_left_over += u64::from(self.is_busy(vm));
            let Some(why) = self.unwell(vm) else { continue };
            let told = (0..self.hosts.len()).find_map(|host| {
                let moving =
                    self.hosts[host].process.as_ref().is_some_and(|p| p.controller.is_moving(VmId::at(vm)));
                let (kind, reason) = self.rules.last_word[host][vm].as_ref()?;
                (moving && *kind == JournalKind::MigrationHeld).then_some(reason)
            });
            match told {
                Some(_) => self.tally.told_why_not += 1,
                None => {
                    let state = self.state_words(vm);
                    return self.violated("forgotten", format!("vm{vm}: {why}; {state}"));
                }
            }
        }
        let verdict = self.array.check_final();
        self.check(verdict);
    }

    fn state_words(&self, vm: usize) -> String {
        let host = |host: usize| {
            let qemu = self.qemu(host, vm).map(|qemu| (qemu.vcpus, qemu.migration.clone()));
            let process = self.hosts[host].process.as_ref()?;
            let view = process.controller.view(self.now);
            let row = &view.vms[vm];
            let moves: Vec<_> = view.moves.iter().filter(|m| m.end.is_none()).map(|m| m.state).collect();
            let units = self.disks_of(vm);
            let known: Vec<_> = units.iter().map(|unit| process.told_owners[*unit].may_dispatch()).collect();
            let seat = &process.seats[vm];
            let arrival = seat.arrival.as_ref().map(|arrival| arrival.stage);
            let stands = (seat.attached, seat.barred, seat.departure.is_some(), arrival);
            Some(format!(
                "kvm{}: {:?} {qemu:?} {moves:?} owns {known:?} {stands:?} {:?}",
                host + 1,
                row.state,
                row.waits_for
            ))
        };
        let owners: Vec<_> = self.disks_of(vm).into_iter().map(|unit| self.store.owner(unit)).collect();
        let hosts: Vec<_> = (0..self.hosts.len()).filter_map(host).collect();
        format!("owners {owners:?}; {}", hosts.join("; "))
    }
}
