//! What was asked for, held against what was measured.
//!
//! One check for each number of the requirements that the demo can measure. Invariant: judged are the guests' own
//! reports, the array's counters and the daemon's journal, each of which can contradict the others.
//! Rejected: asserting in the script, which would end the demo at the first finding.
//! It does not know: how the run was made.

use super::journal::{Journal, seconds_since};
use super::load::{Phase, VmLines};
use super::scene::{LOST, Scene, TARGET};
use crate::report::{Bound, Report, Truth};
use crate::units::MIB;
use serde_json::{Value, json};
use std::time::Duration;

/// From the reset to the first request completed on the other path.
const FAILOVER_MS_MAX: f64 = 50.0;
/// Part of its reservation that the most important VM keeps in every second.
const RESERVATION_KEPT: f64 = 0.95;

/// Everything that a run has brought.
#[derive(Debug)]
pub(super) struct Findings {
    /// When the path was broken, in wall-clock microseconds.
    pub(super) broken_unix_us: u64,
    pub(super) journal: Journal,
    pub(super) vms: Vec<VmLines>,
    pub(super) phases: Vec<Phase>,
    /// The array's last `status`.
    pub(super) array: Value,
    pub(super) took: Duration,
    /// What the daemon said, a moment before the path was broken, that this would do.
    pub(super) forecast: Value,
    /// What it said of the suspended VM.
    pub(super) explanation: Value,
}

/// Judges a run.
pub(super) fn judge(scene: &Scene, found: &Findings) -> Report {
    let mut report = Report::new();
    failover(&mut report, found);
    reservation(&mut report, scene, found);
    data(&mut report, found);
    suspension(&mut report, scene, found);
    told(&mut report, scene, found);
    report.check("demo took", found.took.as_secs_f64(), Bound::AtMost(60.0), "s");
    attach(&mut report, scene, found);
    report
}

fn failover(report: &mut Report, found: &Findings) {
    let lost = found.broken_unix_us;
    let first = found.journal.entries.iter().find(|e| e.kind == "failed-over" && e.at_unix_us >= lost);
    let after = first.map(|entry| seconds_since(lost, entry.at_unix_us) * 1000.0);
    let check = report.check(
        "reset to first request completed on the other path",
        after,
        Bound::AtMost(FAILOVER_MS_MAX),
        "ms",
    );
    check.note = first.map_or_else(|| "no failed-over event".to_owned(), |entry| entry.reason.clone());
}

/// The most important VM is the scene's first.
fn reservation(report: &mut Report, scene: &Scene, found: &Findings) {
    let (Some(gold), Some(lines)) = (scene.vms.first(), found.vms.first()) else { return };
    let bound = RESERVATION_KEPT * gold.reservation as f64 / MIB as f64;
    for phase in found.phases.iter().filter(|phase| phase.name != LOSS) {
        let seconds = lines.progress.by_second(phase);
        let slowest = seconds.iter().copied().min_by(f64::total_cmp).map(|rate| rate / MIB as f64);
        let name = format!("{} in the slowest second of phase {}", gold.name, phase.name);
        report.check(&name, slowest, Bound::AtLeast(bound), "MiB/s").note = format!("of {} s", seconds.len());
    }
}

/// The phase in which the path dies.
pub(super) const LOSS: &str = "loss";

fn data(report: &mut Report, found: &Findings) {
    let sum = |key: &str| {
        let each = found.vms.iter().map(|vm| vm.report.as_ref()?[key].as_f64());
        each.sum::<Option<f64>>()
    };
    report.check("requests lost", sum("lost"), Bound::Equal(0.0), "requests");
    report.check("requests completed twice", sum("completed_twice"), Bound::Equal(0.0), "requests");
    report.check("requests failed to a guest", sum("errors"), Bound::Equal(0.0), "requests");
    let verified = sum("blocks_verified").unwrap_or(0.0);
    report.check("blocks with wrong data", sum("mismatches"), Bound::Equal(0.0), "blocks").note =
        format!("of {verified:.0} verified while running and at the end");
    let read_back = |turn: usize| {
        let each = found.vms.iter().map(|vm| vm.read_backs.get(turn)?["blocks"].as_f64());
        each.sum::<Option<f64>>().filter(|blocks| *blocks > 0.0)
    };
    for (turn, name) in
        ["blocks read back at the end", "blocks read back again, all ghosts being past"].iter().enumerate()
    {
        report.check(name, read_back(turn), Bound::AtLeast(1.0), "blocks");
    }
    let ghosts = |key: &str| {
        let portals = found.array["portals"].as_array()?;
        portals.iter().map(|portal| portal[key].as_f64()).sum::<Option<f64>>()
    };
    report
        .check(
            "ghost writes that the array executed late",
            ghosts("ghosts_executed"),
            Bound::AtLeast(1.0),
            "writes",
        )
        .note = "without any, the check of the data would prove less".to_owned();
    report.check(
        "ghost writes still to come at the end",
        ghosts("ghosts_pending"),
        Bound::Equal(0.0),
        "writes",
    );
}

fn suspension(report: &mut Report, scene: &Scene, found: &Findings) {
    let journal = &found.journal;
    let lost = found.broken_unix_us;
    let path = format!("{TARGET}/{LOST}");
    let failback = journal.first("failback", &path, lost);
    for plan in &scene.vms {
        let suspended = journal.first("vm-suspended", plan.name, lost);
        if plan.may_suspend {
            let named = suspended.is_some_and(|entry| entry.reason.contains("reserv"));
            let why = suspended.map_or("never suspended", |entry| &entry.reason);
            report.check_that(
                &format!("{} suspended, reservations named as the reason", plan.name),
                Truth::from(named),
                why,
            );
            let resumed = journal.first("vm-resumed", plan.name, lost);
            let after = resumed.zip(failback).map(|(r, f)| seconds_since(f.at_unix_us, r.at_unix_us));
            let check = report.check(
                &format!("{} resumed after failback", plan.name),
                after,
                Bound::AtLeast(0.0),
                "s",
            );
            check.note = resumed.map_or("never resumed", |entry| &entry.reason).to_owned();
        } else {
            let times = ["vm-suspending", "vm-suspended"].iter().map(|kind| journal.count(kind, plan.name));
            let times = times.sum::<usize>() as f64;
            report.check(&format!("{} suspended", plan.name), times, Bound::Equal(0.0), "times");
        }
    }
}

/// What was foreseen, held against what happened; and whether the explanation names failure, rule, numbers and end.
fn told(report: &mut Report, scene: &Scene, found: &Findings) {
    let foreseen = |name: &str| {
        let mut vms = found.forecast["vms"].as_array()?.iter();
        vms.find(|vm| vm["name"] == name)?["fate"].as_str().map(str::to_owned)
    };
    for plan in &scene.vms {
        let happened = match found.journal.first("vm-suspended", plan.name, found.broken_unix_us) {
            Some(_) => "suspended",
            None => "running",
        };
        let foreseen = foreseen(plan.name).unwrap_or_else(|| "nothing".into());
        let note = format!("foreseen: {foreseen}; happened: {happened}");
        let name = format!("what whatif foresaw of {} has happened", plan.name);
        report.check_that(&name, Truth::from(foreseen == happened), &note);
    }
    let sentences = found.explanation["text"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let text = sentences.collect::<Vec<_>>().join(" ");
    let lost = format!("{TARGET}/{LOST}");
    let missing: Vec<_> = [lost.as_str(), "shed_when", "are reserved there", "kept: ", "It waits for: "]
        .into_iter()
        .filter(|words| !text.contains(words))
        .collect();
    let note = if missing.is_empty() { "all are named".into() } else { format!("not named: {missing:?}") };
    report.check_that("explain names failure, rule, numbers and end", Truth::from(missing.is_empty()), &note);
}

fn attach(report: &mut Report, scene: &Scene, found: &Findings) {
    let zero = found.broken_unix_us;
    let timeline: Vec<Value> = found.journal.entries.iter().map(|entry| entry.to_json(zero)).collect();
    report.attach("timeline", &timeline);
    let phase = |phase: &Phase| {
        let rates = scene.vms.iter().zip(&found.vms).map(|(plan, lines)| {
            let rates: Vec<f64> = lines
                .progress
                .by_second(phase)
                .iter()
                .map(|rate| (rate / MIB as f64 * 10.0).round() / 10.0)
                .collect();
            (plan.name.to_owned(), json!(rates))
        });
        json!({
            "name": phase.name,
            "from_s": seconds_since(zero, phase.from),
            "to_s": seconds_since(zero, phase.to),
            "mib_per_second": rates.collect::<serde_json::Map<_, _>>(),
        })
    };
    report.attach("phases", &found.phases.iter().map(phase).collect::<Vec<_>>());
    let vms = scene.vms.iter().zip(&found.vms);
    let vms: Vec<Value> = vms
        .map(|(plan, lines)| json!({ "name": plan.name, "report": lines.report, "complaints": lines.complaints }))
        .collect();
    report.attach("vms", &vms);
    report.attach("array", &found.array);
}

#[cfg(test)]
mod tests;
