//! The numbers that are asked for, held against what was measured.
//!
//! A ratio between contestants is taken within a round; what is judged is the median over the rounds.

use super::figures::{Extreme, Turn};
use super::ground::Ground;
use super::load::{BRONZE, CAPPED, GOLD, ROUND_ROBIN, SILVER, VMPATH, vms};
use super::phase::Phase;
use crate::bench::table::Spread;
use vmpath_lab::report::{Bound, Check, Report};

const PERCENT: f64 = 100.0;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) ground: Vec<Ground>,
    pub(super) turns: Vec<Turn>,
    /// Turns that could not be played, and why.
    pub(super) failures: Vec<String>,
}

/// Figures of one turn that are a contestant's own. In percent but for the last, which is a ratio.
pub(super) fn reservation(turn: &Turn, vm: &str) -> Option<f64> {
    extreme(&turn.reservations, vm).map(|worst| worst.by * PERCENT)
}

fn extreme<'a>(all: &'a [Extreme], vm: &str) -> Option<&'a Extreme> {
    all.iter().find(|extreme| extreme.vm == vm)
}

/// By how much the limit was exceeded in the best second.
pub(super) fn excess(turn: &Turn) -> Option<f64> {
    extreme(&turn.limits, CAPPED).map(|best| (best.by - 1.0) * PERCENT)
}

/// How far silver's bytes by bronze's are from their shares' ratio, in that phase.
fn share_error_in(turn: &Turn, phase: Phase) -> Option<f64> {
    let shares = |name: &str| vms().iter().find(|vm| vm.name == name).map(|vm| f64::from(vm.shares));
    let bytes = turn.row(phase, SILVER)?.throughput / turn.row(phase, BRONZE)?.throughput;
    Some((bytes / (shares(SILVER)? / shares(BRONZE)?) - 1.0).abs() * PERCENT)
}

/// The worst of the phases in which shares alone say who gets what: with one path silver's reservation is more.
pub(super) fn share_error(turn: &Turn) -> Option<f64> {
    let whole = Phase::ALL.into_iter().filter(|phase| phase.is_whole());
    whole.filter_map(|phase| share_error_in(turn, phase)).reduce(f64::max)
}

/// Gold's throughput from the loss on, by its healthy one.
pub(super) fn kept(turn: &Turn) -> Option<f64> {
    let healthy = turn.row(Phase::Healthy, GOLD)?.throughput;
    Some(turn.row(Phase::Lost, GOLD)?.throughput_whole / healthy * PERCENT)
}

/// Gold's p99 with one path by its healthy one, its wait for a slot included.
pub(super) fn slowdown(turn: &Turn) -> Option<f64> {
    let p99 = |phase| turn.row(phase, GOLD)?.response.map(|response| response.p99);
    Some(p99(Phase::Lost)? / p99(Phase::Healthy)?)
}

/// The same as its device sees it: what waits for a slot is not seen there.
pub(super) fn device_slowdown(turn: &Turn) -> Option<f64> {
    let p99 = |phase| turn.row(phase, GOLD)?.latency.map(|latency| latency.p99);
    Some(p99(Phase::Lost)? / p99(Phase::Healthy)?)
}

/// The same figure of one contestant, in each round.
pub(super) fn over_rounds(
    turns: &[Turn],
    who: &str,
    figure: impl Fn(&Turn) -> Option<f64>,
) -> Option<Spread> {
    Spread::of(turns.iter().filter(|turn| turn.contestant == who).filter_map(figure))
}

/// vmpath's total by that of the best of some others, in the same round and phase.
fn by_best(turns: &[Turn], phase: Phase, is_other: impl Fn(&str) -> bool) -> Option<Spread> {
    let ours = turns.iter().filter(|turn| turn.contestant == VMPATH);
    Spread::of(ours.filter_map(|turn| {
        let others = turns.iter().filter(|other| other.round == turn.round && is_other(other.contestant));
        let best = others.filter_map(|other| other.total(phase)).reduce(f64::max)?;
        Some(turn.total(phase)? / best)
    }))
}

/// Adds a check for each number.
pub(super) fn judge(report: &mut Report, found: &Findings) {
    let turns = &found.turns;
    let of = |figure: fn(&Turn) -> Option<f64>| over_rounds(turns, VMPATH, figure);
    for ground in &found.ground {
        let off = (ground.measured / ground.capacity - 1.0).abs() * PERCENT;
        let name = format!("portal {} without a hop: off its capacity by", ground.portal);
        report.check(&name, off, Bound::AtMost(1.0), "%");
    }
    for vm in [GOLD, SILVER] {
        let met = over_rounds(turns, VMPATH, |turn| reservation(turn, vm));
        let name = format!("{vm}: reservation met in its worst second");
        let check = put(report, &name, met, Bound::AtLeast(99.0), "%");
        check.note += &seconds(turns, |turn| extreme(&turn.reservations, vm));
    }
    let check = put(report, "limit exceeded in the best second", of(excess), Bound::AtMost(1.0), "%");
    check.note += &seconds(turns, |turn| extreme(&turn.limits, CAPPED));
    put(report, "silver by bronze: off their shares by", of(share_error), Bound::AtMost(3.0), "%");
    put(report, "one path lost: throughput that gold keeps", of(kept), Bound::AtLeast(98.0), "%");
    let name = "one path lost: gold's p99 by its healthy one";
    put(report, name, of(slowdown), Bound::AtMost(1.5), "times");
    let faster = by_best(turns, Phase::Slower, |other| other == ROUND_ROBIN);
    let name = "one path 20 ms slower: total by round-robin's";
    put(report, name, faster, Bound::AtLeast(1.5), "times");
    for phase in Phase::ALL {
        let used = by_best(turns, phase, |other| other != VMPATH).map(percent);
        let name = format!("{}: total by the best unscheduled one", phase.title());
        put(report, &name, used, Bound::AtLeast(97.0), "%");
    }
    let errors: u64 = turns.iter().map(|turn| turn.errors).sum();
    let all = found.failures.len() as f64 + errors as f64;
    report.check("turns and requests that failed", all, Bound::Equal(0.0), "").note =
        found.failures.join("; ");
}

fn percent(spread: Spread) -> Spread {
    let Spread { median, least, most } = spread;
    Spread { median: median * PERCENT, least: least * PERCENT, most: most * PERCENT }
}

/// When that second began, in each of vmpath's turns.
fn seconds<'a>(turns: &'a [Turn], of: impl Fn(&'a Turn) -> Option<&'a Extreme>) -> String {
    let ours = turns.iter().filter(|turn| turn.contestant == VMPATH);
    let when = |turn: &'a Turn| of(turn).map(|one| format!("{:.1} s ({})", one.at, turn.phase_at(one.at)));
    let when: Vec<String> = ours.filter_map(when).collect();
    if when.is_empty() { String::new() } else { format!("; from {}", when.join(", ")) }
}

fn put<'a>(
    report: &'a mut Report,
    name: &str,
    spread: Option<Spread>,
    bound: Bound,
    unit: &str,
) -> &'a mut Check {
    let note = spread.map(|s| format!("rounds: {:.2} to {:.2}", s.least, s.most)).unwrap_or_default();
    let check = report.check(name, spread.map(|s| s.median), bound, unit);
    check.note = note;
    check
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Percentiles, VmRow};
    use super::*;

    /// A turn in which everything is as it should be.
    fn good(round: u32, contestant: &'static str) -> Turn {
        let extreme = |vm: &str, by| Extreme { vm: vm.to_owned(), by, at: 1.0 };
        let all = Some(Percentiles { p50: 1.0, p99: 2.0, p999: 3.0 });
        let row = |phase, vm: &str, throughput| VmRow {
            phase,
            vm: vm.to_owned(),
            throughput,
            throughput_whole: throughput,
            iops: 1.0,
            latency: all,
            response: all,
        };
        let rows = |phase| [row(phase, GOLD, 36.0), row(phase, SILVER, 40.0), row(phase, BRONZE, 10.0)];
        Turn {
            round,
            contestant,
            marks: vec![],
            rows: Phase::ALL.into_iter().flat_map(rows).collect(),
            totals: Phase::ALL.map(|phase| (phase, 128.0)).to_vec(),
            reservations: vec![extreme(GOLD, 1.0), extreme(SILVER, 2.0)],
            limits: vec![extreme(CAPPED, 1.0)],
            unmet: vec![],
            errors: 0,
            given_up: 0,
            cpu: vec![],
            curves: vec![],
            samples: vec![],
        }
    }

    fn found(spoil: impl Fn(&mut Turn)) -> Findings {
        let mut turns = Vec::new();
        for round in 1..=3 {
            let mut ours = good(round, VMPATH);
            spoil(&mut ours);
            let mut theirs = good(round, ROUND_ROBIN);
            theirs.totals.iter_mut().filter(|(phase, _)| *phase == Phase::Slower).for_each(|t| t.1 = 64.0);
            turns.extend([ours, theirs]);
        }
        let ground = Ground { portal: "a".to_owned(), capacity: 64.0, measured: 63.9 };
        Findings { ground: vec![ground], turns, failures: vec![] }
    }

    fn failed(found: &Findings) -> Vec<String> {
        let mut report = Report::new();
        judge(&mut report, found);
        report.checks().iter().filter(|check| !check.passed()).map(|check| check.name.clone()).collect()
    }

    fn spoil_rows(turn: &mut Turn, is: impl Fn(&VmRow) -> bool, spoil: impl Fn(&mut VmRow)) {
        turn.rows.iter_mut().filter(|row| is(row)).for_each(spoil);
    }

    #[test]
    fn what_is_as_it_should_be_passes() {
        assert_eq!(failed(&found(|_| {})), [""; 0]);
    }

    /// Each number, missed alone, fails its own check and no other.
    #[test]
    fn each_check_can_fail() {
        type Spoil = fn(&mut Turn);
        let cases: [(&str, Spoil); 8] = [
            ("gold: reservation", |turn| turn.reservations[0].by = 0.98),
            ("silver: reservation", |turn| turn.reservations[1].by = 0.98),
            ("limit exceeded", |turn| turn.limits[0].by = 1.02),
            ("off their shares", |turn| {
                spoil_rows(turn, |r| r.vm == BRONZE && r.phase == Phase::Repaired, |r| r.throughput = 10.4);
            }),
            ("that gold keeps", |turn| {
                spoil_rows(
                    turn,
                    |r| r.vm == GOLD && r.phase == Phase::Lost,
                    |r| {
                        r.throughput_whole = 35.0;
                    },
                );
            }),
            ("gold's p99", |turn| {
                let slow = Some(Percentiles { p50: 1.0, p99: 3.2, p999: 4.0 });
                spoil_rows(turn, |r| r.vm == GOLD && r.phase == Phase::Lost, |r| r.response = slow);
            }),
            ("repaired: total", |turn| turn.totals[2].1 = 124.0),
            ("requests that failed", |turn| turn.errors = 1),
        ];
        for (name, spoil) in cases {
            let failed = failed(&found(spoil));
            assert!(failed.len() == 1 && failed[0].contains(name), "{name}: {failed:?}");
        }
        let slow = failed(&found(|turn| turn.totals[3].1 = 90.0));
        assert!(slow.len() == 1 && slow[0].contains("by round-robin's"), "{slow:?}");
    }

    #[test]
    fn a_portal_off_its_capacity_and_a_turn_not_played_fail() {
        let mut off = found(|_| {});
        off.ground[0].measured = 62.0;
        off.failures.push("round 2, vmpath: the load has ended early".to_owned());
        assert_eq!(failed(&off).len(), 2);
    }

    #[test]
    fn one_bad_round_of_three_is_no_failure_and_nothing_measured_is() {
        assert_eq!(
            failed(&found(|turn| turn.reservations[0].by = f64::from(turn.round.min(2)) - 0.5)),
            [""; 0]
        );
        let mut report = Report::new();
        judge(&mut report, &Findings::default());
        let measured = report.checks().iter().filter(|check| check.passed()).count();
        assert_eq!((report.checks().len(), measured), (13, 1), "only that no turn has failed");
    }
}
