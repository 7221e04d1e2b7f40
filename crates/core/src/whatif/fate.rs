//! From what was decided to what an operator asks: where each VM ends up, since when, and with what.
//!
//! It does not know the rules: it reads rows and journal entries.

use super::{Fate, FloorForecast, Stage, Step, VmForecast, share};
use crate::effect::{JournalEntry, JournalKind, Subject};
use crate::ids::{PathId, UnitId, VmId};
use crate::plan::{Gate, Health};
use crate::spec::Spec;
use crate::time::Instant;
use crate::view::{HostView, LinkState, PartyView, Standing, VmState};

/// To which fate an entry brings its VM.
const BRINGS: [(JournalKind, Fate); 9] = [
    (JournalKind::NoPath, Fate::Held),
    (JournalKind::VmHeld, Fate::Held),
    (JournalKind::VmSuspending, Fate::Suspended),
    (JournalKind::VmSuspended, Fate::Suspended),
    (JournalKind::VmFailing, Fate::Failed),
    (JournalKind::VmReleased, Fate::Running),
    (JournalKind::VmResuming, Fate::Running),
    (JournalKind::VmResumed, Fate::Running),
    (JournalKind::VmMigrated, Fate::Elsewhere),
];

/// Of each VM; and the entries that are about none.
pub(super) fn forecasts(
    spec: &Spec,
    [before, after]: [&HostView; 2],
    from: Instant,
    told: Vec<JournalEntry>,
) -> (Vec<VmForecast>, Vec<JournalEntry>) {
    let mut steps: Vec<Vec<Step>> = vec![vec![]; spec.vms.len()];
    let mut others = vec![];
    for entry in told {
        match entry.subject {
            Subject::Vm(vm) => steps[vm.index()].push(Step {
                after: entry.at.since(from),
                kind: entry.kind,
                reason: entry.reason,
                until: entry.until,
            }),
            Subject::Host | Subject::Target(_) | Subject::Path(_) | Subject::Unit(_) => others.push(entry),
        }
    }
    let serving = [Serving::of(spec, before), Serving::of(spec, after)];
    let ends: Vec<_> = spec.vm_ids().map(|vm| fate(&serving[1], after, vm)).collect();
    let entitled = share::entitled(spec, after, &ends);
    let gets = gets(spec, after);
    let vms = spec.vm_ids().zip(steps).map(|(vm, steps)| {
        let (was, is) = (fate(&serving[0], before, vm), ends[vm.index()]);
        let floor = |reserved: u64| FloorForecast {
            reserved,
            gets: if is == Fate::Running { gets[vm.index()].unwrap_or(reserved) } else { 0 },
        };
        VmForecast {
            vm,
            before: was,
            fate: is,
            stages: stages(was, is, &steps),
            waits_for: after.vms[vm.index()].waits_for.clone(),
            paths: serving[1].paths[vm.index()].clone(),
            cut_off: serving[1].cut_off[vm.index()].clone(),
            // What it gets at another host is not known here.
            floor: spec.vm(vm).reservation.filter(|_| is != Fate::Elsewhere).map(|rate| floor(rate.0)),
            entitled: entitled[vm.index()],
            steps,
        }
    });
    (vms.collect(), others)
}

/// What the VM goes through, and since when; empty if it stays what it was.
fn stages(was: Fate, is: Fate, steps: &[Step]) -> Vec<Stage> {
    let mut stages: Vec<Stage> = vec![];
    let brings = |step: &Step| BRINGS.iter().find(|(kind, _)| *kind == step.kind).map(|(_, fate)| *fate);
    for (step, fate) in steps.iter().filter_map(|step| Some((step, brings(step)?))) {
        let last = stages.last().map_or(was, |last| last.fate);
        // A suspended VM is continued to meet its errors.
        let meets_errors =
            last == Fate::Failed && matches!(step.kind, JournalKind::VmResuming | JournalKind::VmResumed);
        if last != fate && !meets_errors {
            stages.push(Stage { after: step.after, fate });
        }
    }
    // The journal tells what was decided; where that leaves it may be told by nobody.
    if stages.last().map_or(was, |last| last.fate) != is {
        let after = steps.last().map(|step| step.after).unwrap_or_default();
        stages.push(Stage { after, fate: is });
    }
    stages
}

/// What serves each VM, by `VmId`.
struct Serving {
    paths: Vec<Vec<PathId>>,
    cut_off: Vec<Vec<UnitId>>,
}

impl Serving {
    fn of(spec: &Spec, view: &HostView) -> Self {
        let mut serving = Self { paths: vec![vec![]; spec.vms.len()], cut_off: vec![vec![]; spec.vms.len()] };
        let works = |path: PathId| match view.paths[path.index()].health {
            Health::Up | Health::Marginal => true,
            Health::Draining | Health::Down | Health::Disabled => false,
        };
        for disk in spec.disk_ids().filter(|disk| view.disks[disk.index()] != Standing::Gone) {
            let (vm, unit) = (spec.disk(disk).vm, spec.disk(disk).unit);
            let avoids = &spec.vm(vm).avoid_paths;
            let links = view.units[unit.index()].links.iter();
            let up = links.filter(|link| link.state == LinkState::Up).map(|link| link.path);
            let before = serving.paths[vm.index()].len();
            serving.paths[vm.index()].extend(up.filter(|path| works(*path) && !avoids.contains(path)));
            if serving.paths[vm.index()].len() == before {
                serving.cut_off[vm.index()].push(unit);
            }
        }
        for paths in &mut serving.paths {
            paths.sort_unstable();
            paths.dedup();
        }
        serving
    }
}

fn fate(serving: &Serving, view: &HostView, vm: VmId) -> Fate {
    let row = &view.vms[vm.index()];
    let is_served = serving.cut_off[vm.index()].is_empty();
    match (row.standing, row.state, &row.gate) {
        (Standing::Gone, _, _) => Fate::Gone,
        (_, VmState::Elsewhere, _) => Fate::Elsewhere,
        (_, VmState::Suspending | VmState::Suspended, _) => Fate::Suspended,
        (_, VmState::StoppedByOther, _) => Fate::Stopped,
        (
            _,
            VmState::Running | VmState::Resuming | VmState::Unmanaged | VmState::Migrating,
            Gate::Fail(..),
        ) => Fate::Failed,
        (
            _,
            VmState::Running | VmState::Resuming | VmState::Unmanaged | VmState::Migrating,
            Gate::Hold(_) | Gate::Bounce(_),
        ) => Fate::Held,
        (_, VmState::Running | VmState::Resuming | VmState::Unmanaged | VmState::Migrating, Gate::Open) => {
            if is_served {
                Fate::Running
            } else {
                Fate::Held
            }
        }
    }
}

/// What those who run get of their reservations, by `VmId`; the worst of its targets counts.
fn gets(spec: &Spec, view: &HostView) -> Vec<Option<u64>> {
    let mut gets: Vec<Option<u64>> = vec![None; spec.vms.len()];
    for PartyView { vm, gets: here, .. } in view.capacity.iter().flat_map(|target| &target.parties) {
        let known = &mut gets[vm.index()];
        *known = Some(known.map_or(*here, |known| known.min(*here)));
    }
    gets
}
