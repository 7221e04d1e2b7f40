//! From a snapshot to the rows on the wire: ids become names, durations numbers with a unit in their key.
//!
//! Invariant: a pure function of the snapshot and a way to tell the wall clock. A row exists for each thing in the
//! configuration, whether or not the data plane has spoken of it yet.

use super::{hosts, wire};
use crate::control::handle::Snapshot;
use crate::control::journal::{Line, Page};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;
use vmpath_core::event::RunState;
use vmpath_core::ids::{DiskId, GroupId, IncidentId, PathId, UnitId, VmId};
use vmpath_core::plan::{Gate, Health};
use vmpath_core::spec::{self, ShedWhen, Spec};
use vmpath_core::time::Instant;
use vmpath_core::view::{HoldReason, IncidentView, LinkState, PathLoadView, Standing, VmLoadView, VmState};

/// A snapshot and the wall clock by which it is shown.
pub(super) struct Shown<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// Microseconds since 1970 of a monotonic instant.
    pub(super) unix_us: fn(Instant) -> u64,
}

impl Shown<'_> {
    fn spec(&self) -> &Spec {
        &self.snapshot.host.spec
    }

    pub(super) fn at(&self) -> u64 {
        (self.unix_us)(self.snapshot.host.at)
    }

    pub(super) fn host(&self, now: Instant, daemon_started_unix_us: u64) -> wire::Host {
        let (view, host) = (&self.snapshot.host, &self.spec().host);
        wire::Host {
            at_unix_us: self.at(),
            name: host.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            daemon_started_unix_us,
            generation: view.generation,
            api_socket: host.api_socket.clone(),
            admin_group: host.admin_group.clone(),
            shed_when: match host.shed_when {
                ShedWhen::Unmet => "unmet".into(),
                ShedWhen::Reserved => "reserved".into(),
            },
            shed_after_ms: millis(host.shed_after),
            paths: count(HEALTHS.map(|h| h.to_string()), view.paths.iter().map(|p| p.health.to_string())),
            vms: count(
                VmState::ALL.map(|s| s.as_str().into()),
                view.vms.iter().map(|vm| vm.state.as_str().into()),
            ),
            open_incidents: view.incidents.len(),
            last_event_seq: self.snapshot.last_event_seq,
            dataplane: self.snapshot.worker.as_ref().map(|worker| wire::DataplaneState {
                generation: worker.generation,
                report_age_ms: millis(now.since(worker.at)),
            }),
        }
    }

    pub(super) fn paths(&self) -> wire::Paths {
        wire::Paths {
            at_unix_us: self.at(),
            generation: self.snapshot.host.generation,
            counted_unix_us: self.counted(),
            paths: self.spec().path_ids().filter_map(|id| self.path(id)).collect(),
        }
    }

    fn counted(&self) -> Option<u64> {
        self.snapshot.worker.as_ref().map(|worker| (self.unix_us)(worker.at))
    }

    pub(super) fn path(&self, id: PathId) -> Option<wire::Path> {
        let (spec, view) = (self.spec().path(id), self.snapshot.host.paths.get(id.index())?);
        let worker = self.snapshot.worker.as_ref();
        let load = worker.and_then(|worker| worker.paths.get(id.index())).cloned().unwrap_or_default();
        Some(wire::Path {
            target: self.spec().target(spec.target).name.clone(),
            name: spec.name.clone(),
            url: spec.url.to_string(),
            health: view.health.to_string(),
            access: view.access.to_string(),
            preferred: view.preferred,
            reason: view.reason.clone(),
            since_unix_us: (self.unix_us)(view.since),
            relapses: view.relapses,
            repair_after_ms: millis(view.repair_after),
            incident: incident(view.incident),
            capacity_bytes_per_second: spec.capacity.map(|rate| rate.0),
            pending_requests: load.pending_requests,
            pending_bytes: load.pending_bytes,
            window_bytes: if worker.is_some() { load.window_bytes } else { spec.window_start() },
            window_max_bytes: if worker.is_some() { load.window_max } else { spec.window_max },
            connections: load.connections,
            service_time_us: micros(load.service_time),
            rate_bytes_per_second: self.snapshot.rates.paths.get(id.index()).copied().unwrap_or(0),
            estimate_bytes_per_second: load.rate,
            carried: self.carried(&load),
            completed_requests: load.completed_requests,
            completed_bytes: load.completed_bytes,
            errors: load.errors,
            links: self.links_of_path(id),
        })
    }

    fn carried(&self, load: &PathLoadView) -> Vec<wire::Carried> {
        let total: u64 = load.carried.iter().map(|(_, rate)| rate).sum();
        let mut rows: Vec<_> = load
            .carried
            .iter()
            .filter_map(|(vm, rate)| {
                Some(wire::Carried {
                    vm: self.spec().vms.get(vm.index())?.name.clone(),
                    bytes_per_second: *rate,
                    share_percent: percent(*rate, total),
                })
            })
            .collect();
        rows.sort_by(|a, b| (Reverse(a.bytes_per_second), &a.vm).cmp(&(Reverse(b.bytes_per_second), &b.vm)));
        rows
    }

    fn links_of_path(&self, path: PathId) -> Vec<wire::LinkOfPath> {
        let links = self.snapshot.host.units.iter().flat_map(|unit| {
            unit.links.iter().filter(|link| link.path == path).map(|link| (unit.unit, link))
        });
        links
            .map(|(unit, link)| {
                let (state, fault) = link_state(&link.state);
                wire::LinkOfPath { unit: self.spec().unit_name(unit), state, fault }
            })
            .collect()
    }

    pub(super) fn vms(&self) -> wire::Vms {
        wire::Vms {
            at_unix_us: self.at(),
            generation: self.snapshot.host.generation,
            counted_unix_us: self.counted(),
            groups: (0..self.spec().groups.len()).map(|index| self.group(GroupId::at(index))).collect(),
            vms: self.spec().vm_ids().filter_map(|id| self.vm(id)).collect(),
        }
    }

    pub(super) fn one_vm(&self, id: VmId) -> Option<wire::OneVm> {
        Some(wire::OneVm {
            at_unix_us: self.at(),
            generation: self.snapshot.host.generation,
            counted_unix_us: self.counted(),
            group: self.spec().vm(id).group.map(|group| self.group(group)),
            vm: self.vm(id)?,
        })
    }

    fn group(&self, id: GroupId) -> wire::Group {
        let group = self.spec().group(id);
        let members = || self.spec().vm_ids().filter(|vm| self.spec().vm(*vm).group == Some(id));
        wire::Group {
            name: group.name.clone(),
            shares: group.shares,
            reservation_bytes_per_second: group.reservation.map(|rate| rate.0),
            limit_bytes_per_second: group.limit.map(|rate| rate.0),
            limit_requests_per_second: group.limit_iops,
            limit_burst_ms: millis(group.limit_burst),
            served_bytes_per_second: members().map(|vm| self.load_of(vm).served).sum(),
            vms: members().map(|vm| self.spec().vm(vm).name.clone()).collect(),
        }
    }

    fn load_of(&self, vm: VmId) -> VmLoadView {
        let worker = self.snapshot.worker.as_ref();
        worker.and_then(|worker| worker.vms.get(vm.index())).cloned().unwrap_or_default()
    }

    pub(super) fn vm(&self, id: VmId) -> Option<wire::Vm> {
        let (spec, view) = (self.spec().vm(id), self.snapshot.host.vms.get(id.index())?);
        let load = self.load_of(id);
        Some(wire::Vm {
            name: spec.name.clone(),
            presence: view.standing.as_str().into(),
            state: view.state.as_str().into(),
            since_unix_us: (self.unix_us)(view.since),
            run_state: view.run_state.map(run_state),
            gate: gate(&view.gate),
            priority: spec.priority,
            shares: spec.shares,
            reservation_bytes_per_second: spec.reservation.map(|rate| rate.0),
            limit_bytes_per_second: spec.limit.map(|rate| rate.0),
            limit_requests_per_second: spec.limit_iops,
            limit_burst_ms: millis(spec.limit_burst),
            group: spec.group.map(|group| self.spec().group(group).name.clone()),
            avoid_paths: spec.avoid_paths.iter().map(|path| self.spec().path_name(*path)).collect(),
            on_path_loss: spec.on_path_loss.to_string(),
            resume: spec.resume.to_string(),
            in_flight: load.in_flight,
            held: load.held,
            held_reasons: held_reasons(&load),
            oldest_held_ms: load.oldest_held.map(millis),
            held_times: held_times(&load),
            entitled_bytes_per_second: load.entitled,
            served_bytes_per_second: load.served,
            reservation_unmet_bytes_per_second: load.reservation_unmet,
            rate_bytes_per_second: self.snapshot.rates.vms.get(id.index()).copied().unwrap_or(0),
            completed_requests: load.completed_requests,
            completed_bytes: load.completed_bytes,
            failed_requests: load.failed_requests,
            retried_requests: load.retried_requests,
            because: view.because.clone(),
            waits_for: view.waits_for.clone(),
            incident: incident(view.incident),
            other_host: view.other_host.clone(),
            home: view.home.clone(),
            returns_to: view.returns_to.clone(),
            disks: self.spec().disks_of_vm(id).map(|disk| self.disk_of_vm(disk)).collect(),
        })
    }

    fn disk_of_vm(&self, id: DiskId) -> wire::DiskOfVm {
        let disk = self.spec().disk(id);
        let worker = self.snapshot.worker.as_ref();
        let load = worker.and_then(|worker| worker.disks.iter().find(|load| load.disk == id));
        wire::DiskOfVm {
            name: disk.name.clone(),
            presence: self.standing(id).as_str().into(),
            unit: self.spec().unit_name(disk.unit),
            nbd_socket: disk.nbd_socket.clone(),
            nbd_tcp: disk.nbd_tcp.map(|address| address.to_string()),
            vhost_user: disk.vhost_user.clone(),
            clients: load.map_or(0, |load| load.clients),
            owner: self.snapshot.hosts.owner(&self.spec().unit_name(disk.unit)).map(hosts::owner),
        }
    }

    pub(super) fn units(&self) -> wire::Units {
        let units = self.spec().unit_ids().map(|id| self.unit(id)).collect();
        wire::Units { at_unix_us: self.at(), generation: self.snapshot.host.generation, units }
    }

    fn unit(&self, id: UnitId) -> wire::Unit {
        let unit = self.spec().unit(id);
        let worker = self.snapshot.worker.as_ref();
        let load = worker.and_then(|worker| worker.units.get(id.index())).cloned().unwrap_or_default();
        let view = self.snapshot.host.units.iter().find(|view| view.unit == id);
        let links = view.into_iter().flat_map(|view| &view.links).map(|link| {
            let (state, fault) = link_state(&link.state);
            wire::LinkOfUnit { path: self.spec().path_name(link.path), state, fault }
        });
        let uses =
            |disk: &DiskId| self.spec().disk(*disk).unit == id && self.standing(*disk) != Standing::Gone;
        let disk = |id: DiskId| {
            let disk = self.spec().disk(id);
            wire::DiskOfUnit { vm: self.spec().vm(disk.vm).name.clone(), name: disk.name.clone() }
        };
        wire::Unit {
            target: self.spec().target(unit.target).name.clone(),
            name: unit.name.clone(),
            export: unit.export.clone(),
            size_bytes: load.size,
            quarantined_ranges: load.quarantined_ranges,
            quarantined_bytes: load.quarantined_bytes,
            quarantined_for_ms: load.quarantined_for.map(millis),
            remembered_places: load.remembered_places,
            links: links.collect(),
            disks: self.spec().disk_ids().filter(uses).map(disk).collect(),
        }
    }

    fn standing(&self, disk: DiskId) -> Standing {
        self.snapshot.host.disks.get(disk.index()).copied().unwrap_or(Standing::Present)
    }

    pub(super) fn incidents(&self) -> wire::Incidents {
        let incidents = self.snapshot.host.incidents.iter().map(|view| self.incident(view)).collect();
        wire::Incidents { at_unix_us: self.at(), incidents }
    }

    pub(super) fn incident(&self, view: &IncidentView) -> wire::Incident {
        wire::Incident {
            incident: view.incident.to_string(),
            opened_unix_us: (self.unix_us)(view.opened),
            closed_unix_us: None,
            summary: view.summary.clone(),
            paths: view.paths.iter().map(|id| self.spec().path_name(*id)).collect(),
            vms_affected: view.vms_affected.iter().map(|id| self.spec().vm(*id).name.clone()).collect(),
        }
    }
}

const HEALTHS: [Health; 5] = [Health::Up, Health::Marginal, Health::Down, Health::Draining, Health::Disabled];

fn count<const N: usize>(words: [String; N], found: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<_, _> = words.into_iter().map(|word| (word, 0)).collect();
    for word in found {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

fn incident(id: Option<IncidentId>) -> Option<String> {
    id.map(|id| id.to_string())
}

fn link_state(state: &LinkState) -> (String, Option<String>) {
    match state {
        LinkState::Connecting => ("connecting".into(), None),
        LinkState::Up => ("up".into(), None),
        LinkState::Down(fault) => ("down".into(), Some(fault.to_string())),
    }
}

fn run_state(state: RunState) -> String {
    let word = match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::IoError => "io-error",
        RunState::Sent | RunState::Other => "other",
    };
    word.into()
}

fn gate(gate: &Gate) -> wire::Gate {
    let (state, reason) = match gate {
        Gate::Open => ("open", None),
        Gate::Hold(reason) => ("hold", Some(reason)),
        Gate::Bounce(reason) => ("bounce", Some(reason)),
        Gate::Fail(reason, _) => ("fail", Some(reason)),
    };
    wire::Gate {
        state: state.into(),
        reason: reason.map(|reason| reason.text.clone()),
        incident: reason.and_then(|reason| incident(reason.incident)),
    }
}

fn held_reasons(load: &VmLoadView) -> Vec<wire::HeldReason> {
    let reason = |(reason, requests): &(HoldReason, u32)| wire::HeldReason {
        reason: reason.as_str().into(),
        requests: *requests,
    };
    load.held_reasons.iter().map(reason).collect()
}

fn held_times(load: &VmLoadView) -> Vec<wire::HeldTime> {
    let mut times = load.held_time.clone();
    times.sort_by_key(|(reason, time)| (Reverse(*time), *reason));
    let row = |(reason, time): (HoldReason, Duration)| wire::HeldTime {
        reason: reason.as_str().into(),
        held_us: micros(time),
    };
    times.into_iter().map(row).collect()
}

/// With one decimal; 0 of nothing.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 1000.0 / whole as f64).round() / 10.0 }
}

/// A page of the journal.
pub(super) fn events(page: &Page, daemon_started_unix_us: u64) -> wire::Events {
    wire::Events {
        daemon_started_unix_us,
        first_seq: page.first_seq,
        last_seq: page.last_seq,
        next_after: page.answered_to,
        events: page.lines.iter().map(|line| event(line)).collect(),
    }
}

pub(super) fn event(line: &Line) -> wire::Event {
    wire::Event {
        seq: line.seq,
        at_unix_us: line.at_unix_us,
        incident: incident(line.incident),
        kind: line.kind.as_str().into(),
        subject: wire::Subject { kind: line.subject.as_str().into(), name: line.subject_name.clone() },
        reason: line.reason.clone(),
        until: line.until.clone(),
    }
}

pub(super) fn fault(fault: spec::Fault) -> wire::Fault {
    wire::Fault {
        source: Some(fault.source),
        line: Some(fault.line),
        column: Some(fault.column),
        message: fault.message,
        hint: fault.hint,
    }
}

/// A fault that has no place in a file.
pub(super) const fn plain_fault(message: String) -> wire::Fault {
    wire::Fault { source: None, line: None, column: None, message, hint: None }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
