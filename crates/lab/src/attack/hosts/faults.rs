//! Everything that goes wrong between hosts, and its repair.
//!
//! Invariant: whatever is broken in the chaos is repaired before the calm; a fault has a number of its own in the counts. It does not
//! know what anybody makes of it.

use super::event::{Broken, Event};
use super::tally::Fault;
use super::world::{Weather, World};
use vmpath_core::event::{Command, Event as Told, Fault as Seen, HypervisorReport, LinkChange, LinkReport};
use vmpath_core::ids::{PathId, UnitId, VmId, WorkerId};
use vmpath_core::spec::Spec;
use vmpath_core::time::{Duration, Instant};

/// A path as a process sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Route {
    pub(super) up: bool,
    told: bool,
    /// As the controller was told last.
    pub(super) told_up: bool,
    /// How often the path had been lost when it was seen last.
    losses: u64,
    number: u64,
}

/// Each count is how many faults make it so.
#[derive(Debug)]
pub(super) struct Net {
    /// By host and path.
    lost: Vec<Vec<u32>>,
    hangs: Vec<Vec<u32>>,
    losses: Vec<Vec<u64>>,
    /// By target.
    pub(super) arrays_down: Vec<u32>,
    /// By target: since when no host reaches it.
    pub(super) array_since: Vec<Option<Instant>>,
    peers: Vec<Vec<u32>>,
    streams: Vec<Vec<u32>>,
    etcd: Vec<u32>,
    quorum: u32,
    slow: Vec<u32>,
    pub(super) store_slow: bool,
    pub(super) leases: Vec<Instant>,
}

impl Net {
    pub(super) fn new(hosts: usize, spec: &Spec) -> Self {
        let (paths, targets) = (spec.paths.len(), spec.targets.len());
        Self {
            lost: vec![vec![0; paths]; hosts],
            hangs: vec![vec![0; paths]; hosts],
            losses: vec![vec![0; paths]; hosts],
            arrays_down: vec![0; targets],
            array_since: vec![None; targets],
            peers: vec![vec![0; hosts]; hosts],
            streams: vec![vec![0; hosts]; hosts],
            etcd: vec![0; hosts],
            quorum: 0,
            slow: vec![0; hosts],
            store_slow: false,
            leases: vec![Instant::ZERO; hosts],
        }
    }

    pub(super) fn carries(&self, host: usize, path: usize, spec: &Spec) -> bool {
        !self.is_lost(host, path, spec) && self.hangs[host][path] == 0
    }

    fn is_lost(&self, host: usize, path: usize, spec: &Spec) -> bool {
        self.lost[host][path] > 0 || self.arrays_down[spec.paths[path].target.index()] > 0
    }

    /// A read of the unit by that host comes back.
    pub(super) fn reads(&self, host: usize, unit: usize, spec: &Spec) -> bool {
        let target = spec.units[unit].target;
        let its = |path: &usize| spec.paths[*path].target == target;
        (0..spec.paths.len()).filter(its).any(|path| self.carries(host, path, spec))
    }

    pub(super) fn are_apart(&self, a: usize, b: usize) -> bool {
        self.peers[a.min(b)][a.max(b)] > 0
    }

    pub(super) fn stream_is_cut(&self, a: usize, b: usize) -> bool {
        self.streams[a.min(b)][a.max(b)] > 0
    }

    pub(super) fn reaches_store(&self, host: usize) -> bool {
        self.quorum == 0 && self.etcd[host] == 0
    }

    pub(super) fn is_slow(&self, host: usize) -> bool {
        self.slow[host] > 0
    }

    fn count(&mut self, what: Broken) -> &mut u32 {
        match what {
            Broken::Path { host, path } => &mut self.lost[host][path],
            Broken::Hang { host, path } => &mut self.hangs[host][path],
            Broken::Array { target } => &mut self.arrays_down[target],
            Broken::Peers { a, b } => &mut self.peers[a.min(b)][a.max(b)],
            Broken::Stream { a, b } => &mut self.streams[a.min(b)][a.max(b)],
            Broken::Etcd { host } => &mut self.etcd[host],
            Broken::Quorum => &mut self.quorum,
            Broken::Slow { host } => &mut self.slow[host],
        }
    }
}

impl World {
    pub(super) fn fault(&mut self, fault: Fault, host: usize) {
        self.tally.fault(fault);
        self.trace.say(self.now, || format!("FAULT {} kvm{}", fault.word(), host + 1));
    }

    /// In a hundred.
    pub(super) fn lossy(&self) -> u64 {
        if self.is_calm() { 0 } else { self.scene.lossy }
    }

    pub(super) fn breaks(&mut self, what: Broken, longest_ms: u64) {
        let after = self.rng.millis(100..longest_ms + 101);
        self.breaks_for(what, after);
    }

    pub(super) fn breaks_for(&mut self, what: Broken, after: Duration) {
        *self.net.count(what) += 1;
        self.at(after, Event::Heal(what));
        self.has_changed(what);
    }

    pub(super) fn heal(&mut self, what: Broken) {
        let count = self.net.count(what);
        if *count == 0 {
            return;
        }
        *count -= 1;
        if *count == 0 {
            self.has_changed(what);
        }
    }

    fn has_changed(&mut self, what: Broken) {
        match what {
            Broken::Path { host, path } | Broken::Hang { host, path } => self.path_changes(host, path),
            Broken::Array { target } => {
                let down = self.net.arrays_down[target] > 0;
                let since = self.net.array_since[target].unwrap_or(self.now);
                self.net.array_since[target] = down.then_some(since);
                for host in 0..self.hosts.len() {
                    for path in 0..self.spec().paths.len() {
                        if self.spec().paths[path].target.index() == target {
                            self.path_changes(host, path);
                        }
                    }
                }
            }
            Broken::Etcd { host } => {
                let after = self.rng.millis(5..2500);
                self.session_changes(host, after);
            }
            Broken::Quorum => {
                for host in 0..self.hosts.len() {
                    let after = self.rng.millis(5..2500);
                    self.session_changes(host, after);
                }
            }
            Broken::Peers { .. } | Broken::Stream { .. } | Broken::Slow { .. } => {}
        }
    }

    fn path_changes(&mut self, host: usize, path: usize) {
        let lost = self.net.is_lost(host, path, self.spec());
        if lost {
            self.net.losses[host][path] += 1;
        }
        let hangs = self.net.hangs[host][path] > 0;
        if !lost && !hangs {
            self.wake_path(host, path);
        }
        let longest = if lost { 250 } else { 700 };
        if hangs && !lost {
            // Silence is noticed when its budget is over.
            let budget = self.spec().target(self.spec().paths[path].target).ping_budget;
            let after = budget + self.rng.millis(10..300);
            return self.see_path_after(host, path, after);
        }
        self.see_path(host, path, longest);
    }

    /// What was swallowed goes on.
    fn wake_path(&mut self, host: usize, path: usize) {
        use super::array::Flight;
        for vm in 0..self.spec().vms.len() {
            for attempt in self.flying_of(host, vm) {
                let its = self.array.attempts[attempt as usize];
                if its.path != path {
                    continue;
                }
                let after = self.rng.micros(100..5000);
                match its.flight {
                    Flight::Flying => self.at(after, Event::Execute(attempt)),
                    Flight::Executed => {
                        if let Some(life) = self.life(host) {
                            self.at(after, Event::Reply { life, attempt });
                        }
                    }
                    Flight::Lost | Flight::Over => {}
                }
            }
        }
    }

    pub(super) fn see_path(&mut self, host: usize, path: usize, longest_ms: u64) {
        let after = self.rng.millis(1..longest_ms + 2);
        self.see_path_after(host, path, after);
    }

    fn see_path_after(&mut self, host: usize, path: usize, after: Duration) {
        let Some(life) = self.life(host) else { return };
        let Some(process) = self.process(host) else { return };
        process.routes[path].number += 1;
        let number = process.routes[path].number;
        self.at(after, Event::Link { life, path, number });
    }

    /// The process finds out how a path stands.
    pub(super) fn link_seen(&mut self, host: usize, path: usize, number: u64) {
        let (carries, losses) = (self.net.carries(host, path, self.spec()), self.net.losses[host][path]);
        let Some(process) = self.process(host) else { return };
        let route = &mut process.routes[path];
        if route.number != number {
            return;
        }
        let was_lost = route.losses != losses;
        let (was_up, was_told) = (route.up, route.told);
        (route.losses, route.up, route.told) = (losses, carries, true);
        if was_up && (was_lost || !carries) {
            self.bury_path(host, path);
            let outstanding = Seen::Reset;
            self.tell_links(host, path, &LinkChange::Down { fault: outstanding, requests_outstanding: 0 });
        } else if !was_told && !carries {
            let fault = Seen::Refused("no answer".into());
            self.tell_links(host, path, &LinkChange::Down { fault, requests_outstanding: 0 });
        }
        if carries && (!was_up || was_lost) {
            self.tell_links(host, path, &LinkChange::Up);
        }
        for vm in 0..self.spec().vms.len() {
            self.pump_soon(host, vm);
        }
    }

    fn tell_links(&mut self, host: usize, path: usize, change: &LinkChange) {
        let target = self.spec().paths[path].target;
        if let Some(process) = self.process(host) {
            process.routes[path].told_up = matches!(change, LinkChange::Up);
        }
        let units: Vec<UnitId> =
            self.spec().unit_ids().filter(|unit| self.spec().unit(*unit).target == target).collect();
        for unit in units {
            let (at, path) = (self.now, PathId::at(path));
            let report = LinkReport { worker: WorkerId(0), path, unit, at, change: change.clone() };
            self.tell(host, Told::Link(report));
        }
    }

    pub(super) fn monitor_is_back(&mut self, host: usize, vm: usize) {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        if qemu.monitor_broken > 0 {
            qemu.monitor_broken = 0;
            self.announce(host, vm);
            self.report_migration(host, vm);
        }
    }

    fn monitor_lost(&mut self, host: usize, vm: usize) {
        let Some(qemu) = self.qemu(host, vm).filter(|qemu| qemu.monitor_broken == 0) else { return };
        let instance = qemu.instance;
        self.fault(Fault::MonitorLost, host);
        self.report(host, vm, HypervisorReport::Lost { why: "its monitor was closed".into() });
        if let Some(qemu) = self.qemu_of(host, vm, instance) {
            qemu.monitor_broken = 1;
        }
        let after = self.rng.millis(50..9000);
        self.at(after, Event::MonitorBack { host, vm });
    }

    /// Now and then something breaks.
    pub(super) fn trouble(&mut self) {
        if self.is_calm() {
            return;
        }
        let after = self.rng.millis(self.scene.calm_between.clone());
        self.at(after, Event::Trouble);
        let vm = self.rng.index(self.spec().vms.len());
        let home = self.lives_at(vm).unwrap_or_else(|| self.rng.index(self.hosts.len()));
        let other = self.rng.index(self.hosts.len());
        match self.rng.below(100) {
            0..22 => self.lose_path(home),
            22..42 => self.lose_paths(home),
            42..47 => self.array_fault(),
            47..62 => self.operator(home, vm),
            62..68 => self.hang(home),
            _ => self.strike(home, other, vm),
        }
    }

    /// Something of that host, of the other, or between them.
    pub(super) fn strike(&mut self, host: usize, other: usize, vm: usize) {
        if self.is_calm() {
            return;
        }
        if self.scene.extras.power && self.rng.percent(12) {
            let dies = if self.rng.percent(50) { host } else { other };
            return self.power_off(dies, Fault::PowerLost);
        }
        match self.rng.below(100) {
            0..18 => self.crash(host),
            18..32 => self.crash(other),
            32..37 => {
                self.crash(host);
                self.crash(other);
            }
            37..43 => self.kill_qemu(host, vm),
            43..50 => self.kill_qemu(other, vm),
            50..57 => {
                self.fault(Fault::Partition, other);
                self.breaks(Broken::Peers { a: host, b: other }, 9000);
            }
            57..64 => {
                self.fault(Fault::StreamCut, other);
                self.breaks(Broken::Stream { a: host, b: other }, 20_000);
            }
            64..72 => {
                let cut = if self.rng.percent(50) { host } else { other };
                self.fault(Fault::EtcdCut, cut);
                self.breaks(Broken::Etcd { host: cut }, 12_000);
            }
            72..79 => {
                self.fault(Fault::Quorum, host);
                self.breaks(Broken::Quorum, 9000);
            }
            79..84 => {
                let slow = if self.rng.percent(50) { host } else { other };
                self.fault(Fault::Slow, slow);
                self.breaks(Broken::Slow { host: slow }, 8000);
            }
            84..90 => self.monitor_lost(host, vm),
            90..93 => self.hang(host),
            93..96 => self.lose_paths(other),
            _ => self.operator(host, vm),
        }
    }

    fn lose_path(&mut self, host: usize) {
        let path = self.rng.index(self.spec().paths.len());
        self.fault(Fault::PathLost, host);
        self.breaks(Broken::Path { host, path }, 15_000);
    }

    fn lose_paths(&mut self, host: usize) {
        self.fault(Fault::PathsLost, host);
        let longest = self.rng.pick(&[2000, 8000, 30_000]);
        let target = self.rng.index(self.spec().targets.len());
        for path in 0..self.spec().paths.len() {
            if self.spec().paths[path].target.index() == target {
                self.breaks(Broken::Path { host, path }, longest);
            }
        }
    }

    fn hang(&mut self, host: usize) {
        let path = self.rng.index(self.spec().paths.len());
        self.fault(Fault::PathHangs, host);
        self.breaks(Broken::Hang { host, path }, 12_000);
    }

    fn array_fault(&mut self) {
        let target = self.rng.index(self.spec().targets.len());
        self.fault(Fault::Array, 0);
        self.breaks(Broken::Array { target }, 15_000);
    }

    fn kill_qemu(&mut self, host: usize, vm: usize) {
        let Some(instance) = self.qemu(host, vm).map(|qemu| qemu.instance) else { return };
        self.fault(Fault::QemuKilled, host);
        self.at(Duration::from_nanos(1), Event::Ends { host, vm, instance, why: "it was killed" });
    }

    fn operator(&mut self, host: usize, vm: usize) {
        self.fault(Fault::Operator, host);
        let to = self.rng.index(self.hosts.len());
        let named = self.rng.percent(50).then(|| super::scene::host_name(to));
        let vm = VmId::at(vm);
        let command = match self.rng.below(10) {
            0..7 => Command::MigrateVm { vm, to: named },
            7 => Command::ReturnVm(vm),
            _ => Command::CancelMigration(vm),
        };
        self.tell(host, Told::Command { ticket: 1, command });
    }

    /// Everything is repaired.
    pub(super) fn calm_down(&mut self) {
        self.weather = Weather::Calm { since: self.now };
        self.trace.say(self.now, || "from here on all is repaired".into());
        let mut all: Vec<Broken> = vec![Broken::Quorum];
        for host in 0..self.hosts.len() {
            self.power_on(host);
            all.extend([Broken::Etcd { host }, Broken::Slow { host }]);
            for path in 0..self.spec().paths.len() {
                all.extend([Broken::Path { host, path }, Broken::Hang { host, path }]);
            }
            for other in 0..self.hosts.len() {
                all.extend([Broken::Peers { a: host, b: other }, Broken::Stream { a: host, b: other }]);
            }
            for vm in 0..self.spec().vms.len() {
                self.monitor_is_back(host, vm);
            }
        }
        all.extend((0..self.spec().targets.len()).map(|target| Broken::Array { target }));
        for what in all {
            if std::mem::take(self.net.count(what)) > 0 {
                self.has_changed(what);
            }
        }
    }
}
