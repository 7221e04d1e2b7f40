//! What the kernel still carries out of what a former process had asked of block devices, and when it is done.
//!
//! Rule: a bound counts from the death of what carried a write. A dead process's sockets are destroyed before anything is served; what
//! a block device's driver has can be destroyed by nobody, so its death is awaited, for as long as it takes, and told of. Where that
//! cannot be seen the bound counts from the start. It does not know how the kernel shows it.

use super::recover::{Knowledge, Write};
use super::{Worker, WorkerReport};
use crate::sys::mark::{Marker, Marks};
use vmpath_core::ids::UnitId;
use vmpath_core::router::{FenceKey, Router};
use vmpath_core::spec::{PathUrl, Spec};
use vmpath_core::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Told after this, and then each time after twice as long, up to the longest pause.
const TOLD_FIRST: Duration = Duration::from_secs(1);
const TOLD_LEAST: Duration = Duration::from_secs(600);

/// The units of one worker for which the kernel is not done.
#[derive(Debug)]
pub(crate) struct Undead {
    marker: Marker,
    units: Vec<Waiting>,
    next_look: Instant,
    /// Units of which it was told that no mark can be set.
    unmarked: Vec<UnitId>,
}

#[derive(Debug)]
struct Waiting {
    unit: UnitId,
    fences: Vec<FenceKey>,
    /// Nothing goes to it meanwhile, because the record was not whole.
    hold: Hold,
    since: Instant,
    tell_at: Instant,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Ranges,
    Unit,
}

/// For the journal: how it stands with a unit.
#[derive(Clone, Debug)]
pub struct UndeadReport {
    pub unit: UnitId,
    pub waited: Duration,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The kernel still has requests.
    Waiting,
    /// It has given all of them back; from now on the target's `quiesce` is waited for.
    Over,
    /// It says no more whether it has: from now on `quiesce`, too.
    Unseen,
}

impl Undead {
    /// Puts what was recovered into the router, each write with the fence that it needs.
    pub(super) fn begin(
        router: &mut Router,
        (marker, marks): (Marker, &Marks),
        (recovered, knowledge): (Vec<Write>, Knowledge),
        (spec, its_units): (&Spec, &[UnitId]),
        now: Instant,
    ) -> Self {
        let mut units: Vec<Waiting> = Vec::new();
        let begun = |unit| Waiting {
            unit,
            fences: Vec::new(),
            hold: Hold::Ranges,
            since: now,
            tell_at: now + TOLD_FIRST,
            pause: TOLD_FIRST,
        };
        let still = |unit: UnitId| may_be_of(marks, spec, unit);
        for (unit, range, until) in recovered {
            if !still(unit) {
                router.restore(unit, range, until, now);
                continue;
            }
            let Some(fence) = router.restore_undead(unit, range, until, now) else { continue };
            match units.iter_mut().find(|waiting| waiting.unit == unit) {
                Some(waiting) => waiting.fences.push(fence),
                None => units.push(Waiting { fences: vec![fence], ..begun(unit) }),
            }
        }
        for unit in its_units.iter().copied() {
            if knowledge == Knowledge::Complete || !still(unit) {
                continue;
            }
            match units.iter_mut().find(|waiting| waiting.unit == unit) {
                Some(waiting) => waiting.hold = Hold::Unit,
                None => units.push(Waiting { hold: Hold::Unit, ..begun(unit) }),
            }
            router.hold_unit_until(unit, hold_until(spec, unit, now));
        }
        Self { marker, units, next_look: now + LOOK_EVERY, unmarked: Vec::new() }
    }
}

impl Worker {
    /// Asks the kernel again, where it was not done.
    pub(super) fn follow_undead(&mut self) {
        if self.undead.units.is_empty() || self.now < self.undead.next_look {
            return;
        }
        self.undead.next_look = self.now + LOOK_EVERY;
        let marks = self.undead.marker.former();
        let mut waiting = std::mem::take(&mut self.undead.units);
        waiting.retain_mut(|waiting| {
            let standing = match &marks {
                Ok(marks) if may_be_of(marks, &self.plan.spec, waiting.unit) => Standing::Waiting,
                Ok(_) => Standing::Over,
                Err(_) => Standing::Unseen,
            };
            self.follow_one(waiting, standing);
            standing == Standing::Waiting
        });
        self.undead.units = waiting;
    }

    fn follow_one(&mut self, waiting: &mut Waiting, standing: Standing) {
        let waited = self.now.since(waiting.since);
        if standing == Standing::Waiting {
            if waiting.hold == Hold::Unit {
                let until = hold_until(&self.plan.spec, waiting.unit, self.now);
                self.router.hold_unit_until(waiting.unit, until);
            }
            if self.now < waiting.tell_at {
                return;
            }
            waiting.pause = (waiting.pause * 2).min(TOLD_LEAST);
            waiting.tell_at = self.now + waiting.pause;
        } else {
            for fence in waiting.fences.drain(..) {
                self.router.fence_begins(fence, self.now);
            }
        }
        let report = UndeadReport { unit: waiting.unit, waited, standing };
        let _ = self.reports.send(WorkerReport::Undead(report));
    }

    /// From now on the kernel shows for as long as it has requests for the file that this process has not taken back, even if it dies.
    pub(crate) fn mark(&mut self, file: &std::os::fd::OwnedFd, unit: UnitId) {
        let name = self.plan.spec.unit_name(unit);
        let Err(error) = self.undead.marker.set(file, &name) else { return };
        if !self.undead.unmarked.contains(&unit) {
            self.undead.unmarked.push(unit);
            tracing::warn!(
                "{name}: after a crash it will not be seen until when the kernel carries out what was asked of it ({error}): only its \
                 target's `quiesce` fences then, counted from the new start"
            );
        }
    }
}

/// One look more than the bound, so that the hold is still there at the next.
fn hold_until(spec: &Spec, unit: UnitId, now: Instant) -> Instant {
    now + spec.target(spec.unit(unit).target).quiesce + LOOK_EVERY * 4
}

/// A mark of a unit that is not in the configuration may be that of any that the kernel reaches, under another name.
fn is_by_kernel(spec: &Spec, unit: UnitId) -> bool {
    spec.paths_of_unit(unit).any(|path| matches!(spec.path(path).url, PathUrl::Block { .. }))
}

fn may_be_of(marks: &Marks, spec: &Spec, unit: UnitId) -> bool {
    if marks.is_empty() {
        return false;
    }
    let names: Vec<String> = spec.unit_ids().map(|unit| spec.unit_name(unit)).collect();
    marks.has(&spec.unit_name(unit)) || is_by_kernel(spec, unit) && marks.has_others(&names)
}
