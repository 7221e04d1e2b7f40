//! What a run shows: a row for each tier and phase, and the checks.
//!
//! Invariant: the text is made of virtual time alone, so the same seed gives the same bytes. It does not know: the rules.

use super::checks::{tier_rate, worst_reservation};
use super::scene::Tier;
use super::world::Outcome;
use crate::report::Report;
use crate::units::MIB;
use crate::workload::stats::millis;
use serde::Serialize;
use std::fmt::Write as _;
use vmpath_core::view::HoldReason;

/// One tier in one phase.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) phase: &'static str,
    pub(super) tier: &'static str,
    pub(super) vms: usize,
    pub(super) mib_per_second: f64,
    /// Of the worst VM in its worst second; none without a reservation.
    pub(super) reservation_met_percent: Option<f64>,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Requests held at a time, on average, by reason; the commonest first.
    pub(super) held: Vec<(&'static str, f64)>,
}

pub(super) fn rows(outcome: &Outcome) -> Vec<Row> {
    let phases = 0..outcome.ledger.phases.len();
    let pairs = Tier::ALL.iter().flat_map(|tier| phases.clone().map(move |phase| (*tier, phase)));
    pairs.map(|(tier, phase)| row(outcome, tier, phase)).collect()
}

fn row(outcome: &Outcome, tier: Tier, at: usize) -> Row {
    let (phase, kept) = &outcome.ledger.phases[at];
    let guests = outcome.ledger.guests();
    let first = guests.iter().position(|guest| guest.tier == tier);
    let each = first.and_then(|vm| outcome.spec.vms[vm].reservation);
    let met = each.and_then(|each| worst_reservation(outcome, phase, (tier, each.0)));
    let latency = &kept.latency[tier as usize];
    Row {
        phase: phase.name,
        tier: tier.name(),
        vms: guests.iter().filter(|guest| guest.tier == tier).count(),
        mib_per_second: tier_rate(outcome, phase, tier) / MIB as f64,
        reservation_met_percent: met.map(|(part, _)| part),
        p50_ms: millis(latency.quantile(0.5)),
        p99_ms: millis(latency.quantile(0.99)),
        held: held(outcome, tier, at),
    }
}

fn held(outcome: &Outcome, tier: Tier, at: usize) -> Vec<(&'static str, f64)> {
    let (looks, sums) = &outcome.held[at];
    let mut of_tier: Vec<(HoldReason, u64)> =
        sums.iter().filter(|(t, _, _)| *t == tier).map(|(_, reason, sum)| (*reason, *sum)).collect();
    of_tier.sort_by_key(|(reason, sum)| (std::cmp::Reverse(*sum), *reason));
    let mean = |sum: u64| sum as f64 / (*looks).max(1) as f64;
    of_tier.into_iter().map(|(reason, sum)| (reason.as_str(), mean(sum))).collect()
}

/// The whole of what is printed.
pub(super) fn text(outcome: &Outcome, report: &Report) -> String {
    let scene = &outcome.scene;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} VMs over {} paths of {:.0} MiB/s; {} paths lost at {:.1} s of {:.1}; seed {}; {} requests\n",
        scene.vms,
        scene.paths,
        scene.capacity as f64 / MIB as f64,
        scene.lose,
        scene.lost_at.as_secs_f64(),
        scene.ends_at.as_secs_f64(),
        scene.seed,
        outcome.ledger.completed,
    );
    let _ = writeln!(
        out,
        "  {:<7} {:>4}  {:<8} {:>8} {:>12} {:>9} {:>9}  held, by reason",
        "tier", "VMs", "phase", "MiB/s", "reserved met", "p50", "p99"
    );
    for row in rows(outcome) {
        line(&mut out, &row);
    }
    out.push('\n');
    out.push_str(&report.table());
    out
}

fn line(out: &mut String, row: &Row) {
    let met = row.reservation_met_percent.map_or_else(|| "-".to_owned(), |part| format!("{part:.1} %"));
    let held: Vec<String> = row.held.iter().map(|(reason, mean)| format!("{reason} {mean:.1}")).collect();
    let _ = writeln!(
        out,
        "  {:<7} {:>4}  {:<8} {:>8.1} {:>12} {:>6.2} ms {:>6.1} ms  {}",
        row.tier,
        row.vms,
        row.phase,
        row.mib_per_second,
        met,
        row.p50_ms,
        row.p99_ms,
        held.join(", "),
    );
}
