//! What was done since the last report: for the controller, and as rates for displays.

use super::Router;
use crate::event::{GuestError, LoadReport, PathLoad as PathReport, VmLoad};
use crate::ids::{DiskId, PathId, VmId};
use crate::schedule::Cost;
use crate::spec::ByteRate;
use crate::spread::Asked;
use crate::time::{Duration, Instant};
use crate::volume::verdict::TargetError;

/// Where the counters stood at the last report, and the rates up to then.
#[derive(Clone, Debug)]
pub(super) struct ReportMark {
    at: Instant,
    /// By `VmId`.
    vms: Vec<VmMark>,
    /// By `PathId`: bytes answered, time saturated.
    paths: Vec<(u64, Duration)>,
}

#[derive(Clone, Debug, Default)]
struct VmMark {
    bytes: u64,
    requests: u64,
    starved: Duration,
    device_bytes: u64,
    /// By `PathId`.
    carried: Vec<u64>,
    recent: Recent,
}

/// Rates that a display can show: each report counts for half.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    /// Bytes per second.
    pub(super) served: u64,
    /// Bytes per second that a reservation was missed by, while requests waited.
    pub(super) unmet: u64,
    /// Bytes per second, by `PathId`.
    pub(super) carried: Vec<u64>,
    /// Part of the last interval in which requests waited for room.
    waited: f64,
    /// Device bytes for each 1024 bytes moved, in the last interval.
    device_parts: u64,
}

impl ReportMark {
    pub(super) fn new(at: Instant, vms: usize, paths: usize) -> Self {
        let zero = vec![0; paths];
        let recent = Recent { carried: zero.clone(), ..Recent::default() };
        let vm = VmMark { carried: zero, recent, ..VmMark::default() };
        Self { at, vms: vec![vm; vms], paths: vec![(0, Duration::ZERO); paths] }
    }

    pub(super) fn recent(&self, vm: usize) -> &Recent {
        &self.vms[vm].recent
    }
}

/// A part of the time in which a VM waited that counts as waiting: see [`crate::policy::Floor`].
const STARVED_FROM: f64 = 0.5;

impl Router {
    /// What was done since the last call.
    pub fn load_report(&mut self, now: Instant) -> LoadReport {
        self.now = self.now.max(now);
        let interval = now.since(self.last_report.at);
        let mut report = LoadReport { worker: self.worker, interval, ..LoadReport::default() };
        for vm in self.plan.spec.vm_ids() {
            self.account_all(vm, now);
            report.vms.push(self.vm_load(vm, interval));
        }
        for path in self.plan.spec.path_ids() {
            report.paths.push(self.path_load(path, interval, now));
        }
        report.short = self.shortages(now);
        report.errors = self.new_errors(now);
        if self.plan.spec.host.workers > 1 {
            self.add_demand(&mut report);
        }
        self.last_report.at = now;
        report
    }

    fn vm_load(&mut self, vm: VmId, interval: Duration) -> VmLoad {
        let lane = &self.lanes[vm.index()];
        let mark = &mut self.last_report.vms[vm.index()];
        let counters = &lane.counters;
        let bytes = counters.completed_bytes - std::mem::replace(&mut mark.bytes, counters.completed_bytes);
        let requests =
            counters.completed_requests - std::mem::replace(&mut mark.requests, counters.completed_requests);
        let starved = counters.starved.saturating_sub(std::mem::replace(&mut mark.starved, counters.starved));
        let backlogged = part(starved, interval);
        let device_bytes =
            counters.device_bytes - std::mem::replace(&mut mark.device_bytes, counters.device_bytes);
        mark.recent.device_parts = device_parts(device_bytes, bytes);
        mark.recent.waited = backlogged;
        let is_quiet = bytes == 0 && mark.recent.served == 0;
        let served = rate(bytes, interval);
        mark.recent.served = blend(mark.recent.served, served);
        let missed =
            self.plan.spec.vm(vm).reservation.map_or(0, |ByteRate(rate)| rate.saturating_sub(served));
        mark.recent.unmet = if backlogged > STARVED_FROM { missed } else { 0 };
        if !is_quiet {
            for (at, total) in lane.carried.iter().enumerate() {
                let bytes = total - std::mem::replace(&mut mark.carried[at], *total);
                mark.recent.carried[at] = blend(mark.recent.carried[at], rate(bytes, interval));
            }
        }
        let open = lane.queued + lane.in_flight;
        VmLoad { bytes_completed: bytes, requests_completed: requests, backlogged, open }
    }

    fn path_load(&mut self, path: PathId, interval: Duration, now: Instant) -> PathReport {
        let load = &mut self.paths[path.index()];
        let saturated = load.saturated(now);
        let (bytes, time) =
            std::mem::replace(&mut self.last_report.paths[path.index()], (load.completed_bytes, saturated));
        PathReport {
            bytes_completed: load.completed_bytes - bytes,
            saturated: part(saturated.saturating_sub(time), interval),
            vitals: load.take_vitals(),
            ..PathReport::default()
        }
    }
}

impl Router {
    pub(super) fn note_error(&mut self, vm: VmId, disk: DiskId, error: TargetError) {
        let lane = &mut self.lanes[vm.index()];
        let at = lane.place_of(disk);
        lane.queues[at].error = Some((self.now, error));
    }

    /// For the controller: a hypervisor that stands on an I/O error may have met one of these. Each is told once.
    fn new_errors(&self, now: Instant) -> Vec<GuestError> {
        let of_lane = |vm: VmId| {
            self.lanes[vm.index()].queues.iter().filter_map(|queue| {
                let (at, error) = queue.error.filter(|(at, _)| *at >= self.last_report.at)?;
                Some(GuestError { disk: queue.disk, error, ago: now.since(at) })
            })
        };
        self.plan.spec.vm_ids().flat_map(of_lane).collect()
    }

    /// What each VM and group asked of each path: from this control divides windows between workers.
    fn add_demand(&self, report: &mut LoadReport) {
        let groups = self.plan.spec.groups.len();
        let mut of_groups: Vec<Vec<Option<Asked>>> = vec![vec![None; self.paths.len()]; groups];
        for vm in self.plan.spec.vm_ids() {
            let (spec, recent) = (self.plan.spec.vm(vm), self.last_report.recent(vm.index()));
            for (path, paths) in self.paths_of(vm) {
                let carried = recent.carried[path.index()] * recent.device_parts / 1024;
                let reserved = |rate: Option<ByteRate>| rate.map_or(0, |r| r.0) * recent.device_parts / 1024;
                let asked = Asked {
                    priority: spec.priority,
                    shares: spec.shares,
                    reserved: reserved(spec.reservation),
                    paths,
                    carried,
                    waited: recent.waited,
                };
                let Some(group) = spec.group else {
                    report.paths[path.index()].demand.add(&asked);
                    continue;
                };
                let of_group = self.plan.spec.group(group);
                let sum = &mut of_groups[group.index()][path.index()];
                let known =
                    sum.unwrap_or(Asked { carried: 0, waited: 0.0, priority: 0, reserved: 0, ..asked });
                *sum = Some(Asked {
                    priority: known.priority.max(spec.priority),
                    shares: of_group.shares,
                    // Of the members' own; the group's is set against their sum below.
                    reserved: known.reserved + reserved(spec.reservation),
                    paths: known.paths.max(paths),
                    carried: known.carried + carried,
                    waited: known.waited.max(recent.waited),
                });
            }
        }
        for (group, sums) in self.plan.spec.groups.iter().zip(of_groups) {
            for (path, asked) in sums.into_iter().enumerate() {
                let Some(members) = asked else { continue };
                let reserved = members.reserved.max(group.reservation.map_or(0, |rate| rate.0));
                report.paths[path].demand.add(&Asked { reserved, ..members });
            }
        }
    }

    /// The paths that a VM may use now, each with how many there are to the same unit.
    fn paths_of(&self, vm: VmId) -> impl Iterator<Item = (PathId, u32)> {
        let mut seen: Vec<(PathId, u32)> = Vec::new();
        for queue in &self.lanes[vm.index()].queues {
            let Some(class) = queue.class.map(|at| self.classes.of(at)) else { continue };
            let paths = u32::try_from(class.paths.len()).unwrap_or(u32::MAX);
            for path in &class.paths {
                if !seen.iter().any(|(known, _)| known == path) {
                    seen.push((*path, paths));
                }
            }
        }
        seen.into_iter()
    }
}

/// What 1024 bytes moved cost in device bytes; what a page costs, if none were.
fn device_parts(device_bytes: u64, bytes: u64) -> u64 {
    let page = Cost { bytes: 4096 };
    let parts = (device_bytes * 1024).checked_div(bytes).unwrap_or(page.device_bytes() * 1024 / page.bytes);
    // Coarse, so that VMs with the same settings ask for the same.
    parts.next_multiple_of(64)
}

fn part(time: Duration, interval: Duration) -> f64 {
    (time.as_secs_f64() / interval.as_secs_f64().max(1e-9)).min(1.0)
}

/// Per second.
fn rate(bytes: u64, interval: Duration) -> u64 {
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / millis
}

fn blend(known: u64, new: u64) -> u64 {
    // Rounded up, or the last byte per second would never go; down to nothing when nothing came.
    if new == 0 && known < 1024 { 0 } else { known / 2 + new / 2 }
}
