//! From every completion to figures: of each phase and VM, and of any second.
//!
//! Invariant: a second is any second, not one of a clock's: windows slide from completion to completion.
//! Rejected: histograms; all latencies of a turn fit in memory, and their percentiles are exact.
//! It does not know: what is asked for.

use super::load::{self, VmPlan};
use super::phase::{Mark, Phase};
use super::turn::Seen;
use serde::Serialize;
use vmpath_lab::fleet::{Completion, VmRecord};

/// Width of a point of the curves, seconds.
pub(super) const BIN: f64 = 0.1;
const NANOS: f64 = 1e9;
const SECOND: u64 = 1_000_000_000;
/// Steps of the windows in which a VM gets the least: fine enough that none is missed by more than a hundredth.
const STEP: u64 = SECOND / 100;

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

/// One VM in the steady part of one phase.
#[derive(Debug, Clone, Serialize)]
pub(super) struct VmRow {
    pub(super) phase: Phase,
    pub(super) vm: String,
    /// Bytes a second in the steady part, and in the whole phase with its beginning.
    pub(super) throughput: f64,
    pub(super) throughput_whole: f64,
    pub(super) iops: f64,
    /// From the moment at which the device was told, in milliseconds; none without a request.
    pub(super) latency: Option<Percentiles>,
    /// From the moment at which its turn had come: the wait for a slot counts.
    pub(super) response: Option<Percentiles>,
}

/// Of a whole turn.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Turn {
    pub(super) round: u32,
    pub(super) contestant: &'static str,
    pub(super) marks: Vec<Mark>,
    pub(super) rows: Vec<VmRow>,
    /// Bytes a second of all VMs, in the steady part of each phase.
    pub(super) totals: Vec<(Phase, f64)>,
    /// By VM with a reservation: its worst second by what it must get in each; 1 is all of it.
    pub(super) reservations: Vec<Extreme>,
    /// By VM with a limit: its best second by its limit; 1 is exactly the limit.
    pub(super) limits: Vec<Extreme>,
    /// By VM with a reservation: the most by which the daemon said it was unmet, bytes a second.
    pub(super) unmet: Vec<(String, u64)>,
    /// Requests that failed, and requests of open loops that were given up.
    pub(super) errors: u64,
    pub(super) given_up: u64,
    pub(super) cpu: Vec<super::turn::Cpu>,
    pub(super) curves: Vec<Curve>,
    pub(super) samples: Vec<super::turn::Sample>,
}

/// The second in which a VM got the least or the most.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Extreme {
    pub(super) vm: String,
    /// What it got, by what it must or may get.
    pub(super) by: f64,
    /// When that second began, in seconds since the load began.
    pub(super) at: f64,
}

/// Bytes a second in each tenth of a second from the beginning of the load on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Curve {
    pub(super) vm: String,
    pub(super) throughput: Vec<u64>,
}

impl Turn {
    pub(super) fn of(round: u32, contestant: &'static str, seen: Seen) -> Self {
        let plans = load::vms();
        let bytes = f64::from(seen.record.request_bytes);
        let vms = &seen.record.vms;
        let pairs = || plans.iter().zip(vms);
        let rows = seen.marks.iter().flat_map(|mark| vms.iter().map(move |vm| row(vm, mark, bytes)));
        let rows: Vec<VmRow> = rows.collect();
        let total = |phase| rows.iter().filter(|row| row.phase == phase).map(|row| row.throughput).sum();
        let extreme = |plan: &VmPlan, (count, at): (usize, u64), rate: u64| Extreme {
            vm: plan.name.clone(),
            by: count as f64 * bytes / rate as f64,
            at: at as f64 / NANOS,
        };
        let of_reserved = |(plan, vm): (&VmPlan, &VmRecord)| {
            Some(extreme(plan, least_in_a_second(&vm.completions, span(&seen.marks))?, plan.due()?))
        };
        let of_limited = |(plan, vm): (&VmPlan, &VmRecord)| {
            Some(extreme(plan, most_in_a_second(&vm.completions)?, plan.limit?))
        };
        Self {
            round,
            contestant,
            totals: seen.marks.iter().map(|mark| (mark.phase, total(mark.phase))).collect(),
            reservations: pairs().filter_map(of_reserved).collect(),
            limits: pairs().filter_map(of_limited).collect(),
            unmet: pairs().filter_map(|(plan, _)| most_unmet(plan, &seen)).collect(),
            errors: vms.iter().map(|vm| vm.errors).sum(),
            given_up: vms.iter().map(|vm| vm.given_up).sum(),
            curves: curves(vms, &seen.marks, bytes),
            rows,
            marks: seen.marks,
            cpu: seen.cpu,
            samples: seen.samples,
        }
    }

    pub(super) fn row(&self, phase: Phase, vm: &str) -> Option<&VmRow> {
        self.rows.iter().find(|row| row.phase == phase && row.vm == vm)
    }

    /// What the paths went through at a time, in seconds since the load began.
    pub(super) fn phase_at(&self, time: f64) -> &'static str {
        let begun = self.marks.iter().rev().find(|mark| mark.began <= time);
        begun.map_or("", |mark| mark.phase.title())
    }

    pub(super) fn total(&self, phase: Phase) -> Option<f64> {
        self.totals.iter().find(|(of, _)| *of == phase).map(|(_, total)| *total)
    }
}

/// The time in which reservations must be met: all of it, without the beginning of the load.
fn span(marks: &[Mark]) -> (u64, u64) {
    let first = marks.first().map_or(0.0, |mark| mark.steady);
    let last = marks.last().map_or(0.0, |mark| mark.ended);
    (nanos(first), nanos(last))
}

fn nanos(seconds: f64) -> u64 {
    (seconds * NANOS) as u64
}

fn most_unmet(plan: &VmPlan, seen: &Seen) -> Option<(String, u64)> {
    let by = seen.samples.iter().flat_map(|sample| &sample.unmet).filter(|(vm, _)| *vm == plan.name);
    plan.reservation.map(|_| (plan.name.clone(), by.map(|(_, by)| *by).max().unwrap_or(0)))
}

fn row(vm: &VmRecord, mark: &Mark, bytes: f64) -> VmRow {
    let steady = between(&vm.completions, nanos(mark.steady), nanos(mark.ended));
    let whole = between(&vm.completions, nanos(mark.began), nanos(mark.ended));
    let iops = steady.len() as f64 / (mark.ended - mark.steady);
    VmRow {
        phase: mark.phase,
        vm: vm.name.clone(),
        throughput: iops * bytes,
        throughput_whole: whole.len() as f64 * bytes / (mark.ended - mark.began),
        iops,
        latency: percentiles(steady.iter().map(|done| done.latency)),
        response: percentiles(steady.iter().map(|done| done.response)),
    }
}

fn between(completions: &[Completion], from: u64, until: u64) -> &[Completion] {
    let at = |time: u64| completions.partition_point(|done| done.at < time);
    &completions[at(from)..at(until).max(at(from))]
}

fn percentiles(nanos: impl Iterator<Item = u64>) -> Option<Percentiles> {
    let mut all: Vec<u64> = nanos.collect();
    all.sort_unstable();
    let part = |q: f64| {
        let rank = (q * all.len() as f64).ceil().max(1.0) as usize;
        all.get(rank - 1).map(|nanos| *nanos as f64 / 1e6)
    };
    Some(Percentiles { p50: part(0.5)?, p99: part(0.99)?, p999: part(0.999)? })
}

/// Completions in the second in which there were most, and when it began: with one of them. None if there are none.
fn most_in_a_second(completions: &[Completion]) -> Option<(usize, u64)> {
    let mut end = 0;
    let counts = completions.iter().enumerate().map(|(begin, first)| {
        while completions.get(end).is_some_and(|done| done.at < first.at + SECOND) {
            end += 1;
        }
        (end - begin, first.at)
    });
    counts.max_by_key(|(count, _)| *count)
}

/// Completions in the second in which there were fewest, and when it began, inside a span; none if that is shorter.
fn least_in_a_second(completions: &[Completion], (from, until): (u64, u64)) -> Option<(usize, u64)> {
    let starts = (from..).step_by(STEP as usize).take_while(|start| start + SECOND <= until);
    let counts = starts.map(|start| (between(completions, start, start + SECOND).len(), start));
    counts.min_by_key(|(count, _)| *count)
}

fn curves(vms: &[VmRecord], marks: &[Mark], bytes: f64) -> Vec<Curve> {
    let bins = (marks.last().map_or(0.0, |mark| mark.ended) / BIN) as usize;
    let mut curves: Vec<Curve> = Vec::new();
    for vm in vms {
        let name = load::shown_name(&vm.name);
        if curves.last().is_none_or(|last| last.vm != name) {
            curves.push(Curve { vm: name.to_owned(), throughput: vec![0; bins] });
        }
        let Some(curve) = curves.last_mut() else { continue };
        for done in &vm.completions {
            if let Some(bin) = curve.throughput.get_mut((done.at as f64 / NANOS / BIN) as usize) {
                *bin += (bytes / BIN) as u64;
            }
        }
    }
    curves
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = SECOND / 1000;

    fn done(ms: impl IntoIterator<Item = u64>) -> Vec<Completion> {
        ms.into_iter().map(|ms| Completion { at: ms * MS, latency: ms * MS, response: 2 * ms * MS }).collect()
    }

    #[test]
    fn the_best_second_begins_anywhere() {
        let steady = || (0..3000).step_by(10);
        let most = |done: &[Completion]| most_in_a_second(done).map(|(count, _)| count);
        assert_eq!(most(&done(steady())), Some(100));
        let mut burst = done(steady().chain((1555..1560).chain(2550..2554)));
        burst.sort_by_key(|done| done.at);
        assert_eq!(most(&burst), Some(109), "both bursts lie in one second that no clock begins");
        assert_eq!(most(&[]), None);
    }

    #[test]
    fn the_worst_second_lies_in_the_span() {
        let gap = done((0..2005).chain(2205..5000));
        let least = |from, until| least_in_a_second(&gap, (from * MS, until * MS));
        assert_eq!(least(0, 5000), Some((800, 1210 * MS)));
        assert_eq!(least(0, 2000), Some((1000, 0)));
        assert_eq!(least(4500, 5000), None, "there is no second");
    }

    #[test]
    fn percentiles_are_of_ranks() {
        let found = percentiles((1..=1000).map(|ms| ms * MS));
        assert_eq!(found, Some(Percentiles { p50: 500.0, p99: 990.0, p999: 999.0 }));
        assert_eq!(percentiles(std::iter::empty()), None);
    }

    #[test]
    fn a_phase_is_cut_at_its_marks_and_the_unsteady_part_left_out() {
        let completions = done((0..1000).step_by(2).chain(1000..4000));
        let vm = VmRecord { name: "gold".to_owned(), completions, ..VmRecord::default() };
        let mark = Mark { phase: Phase::Healthy, began: 0.0, in_force: 0.0, steady: 1.0, ended: 3.0 };
        let row = row(&vm, &mark, 8192.0);
        assert_eq!((row.iops, row.throughput), (1000.0, 8_192_000.0));
        assert_eq!(row.throughput_whole, 2500.0 * 8192.0 / 3.0);
        let (latency, response) = (row.latency.expect("some"), row.response.expect("some"));
        assert_eq!((latency.p50, response.p50), (1999.0, 3998.0));
    }

    #[test]
    fn the_noisy_share_a_curve() {
        let vm =
            |name: &str, ms| VmRecord { name: name.to_owned(), completions: done(ms), ..VmRecord::default() };
        let vms = [vm("gold", vec![50]), vm("noisy01", vec![150]), vm("noisy02", vec![160, 250, 900])];
        let mark = Mark { phase: Phase::Healthy, began: 0.0, in_force: 0.0, steady: 0.1, ended: 0.35 };
        let curves = curves(&vms, &[mark], 1000.0);
        let shown: Vec<_> =
            curves.iter().map(|curve| (curve.vm.as_str(), curve.throughput.clone())).collect();
        assert_eq!(shown, [("gold", vec![10_000, 0, 0]), ("noisy", vec![0, 20_000, 10_000])]);
    }
}
