//! The rules that a run is held against, each with a number.
//!
//! A second is any ten steps of a phase, not only the clock's. A reservation counts as met if in each second the VM got
//! 99 % of it, or of what it asked for, less one request. Shares are compared among VMs that are placed alike; two
//! requests are allowed for, because nobody gets a part of one, and only VMs that always had requests waiting count. Rejected: means over the whole run; they hide a second in
//! which somebody got nothing. It does not know: how the router decides.

use super::ledger::{Account, Faults, GRACE, Phase, PhaseAccount, STEP, step};
use super::scene::{Peers, Tier};
use super::world::Outcome;
use crate::report::{Bound, Report};
use std::collections::BTreeMap;
use vmpath_core::time::Duration;

/// What the paths of a phase must carry of their capacity, and what reservations may count on. In percent.
pub(super) const UTILISATION_MIN: f64 = 97.0;
const RESERVATION_MIN: f64 = 99.0;
const SHARE_ERROR_MAX: f64 = 3.0;
/// Small requests may be worth a little more bytes for a share than large ones, or less: that is the price of a request.
const BEYOND_MAX: f64 = 1.2;
/// No path may have nothing in flight for longer while a request that it could carry waits.
const IDLE_MAX: Duration = Duration::from_millis(1);
/// Every VM with requests waiting sends one within this.
const HUNGER_MAX: Duration = Duration::from_secs(1);
/// Gold's 99th percentile after the loss, as a multiple of the one before.
const GOLD_P99_MAX: f64 = 1.5;
/// Steps of a second.
const SECOND: usize = 10;

pub(super) fn judge(outcome: &Outcome) -> Report {
    let mut report = Report::new();
    let ledger = &outcome.ledger;
    never(&mut report, "requests not completed exactly once", &ledger.once);
    never(&mut report, "requests that ended in an error", &ledger.errors);
    never(&mut report, "requests sent over a path that is closed or avoided", &ledger.strays);
    never(
        &mut report,
        "seconds in which a VM was over its limit, its burst and one request",
        &ledger.over_limit,
    );
    for (phase, kept) in &ledger.phases {
        reservations(&mut report, outcome, phase);
        shares(&mut report, outcome, phase);
        beyond_reservations(&mut report, outcome, phase);
        conservation(&mut report, outcome, phase, kept);
    }
    gold_latency(&mut report, outcome);
    report
}

fn never(report: &mut Report, name: &str, faults: &Faults) {
    report.check(name, faults.count as f64, Bound::Equal(0.0), "").note = faults.details.join("; ");
}

/// Bytes per second that the phase's paths carry for sure.
fn capacity(outcome: &Outcome, phase: &Phase) -> f64 {
    (outcome.scene.capacity * phase.paths as u64) as f64 * UTILISATION_MIN / 100.0
}

/// Whether the phase's paths can carry all reservations.
fn all_fits(outcome: &Outcome, phase: &Phase) -> bool {
    let sum: u64 = Tier::ALL.iter().map(|tier| reserved(outcome, *tier).1).sum();
    sum as f64 <= capacity(outcome, phase)
}

/// What a tier has reserved: for each VM, and together.
fn reserved(outcome: &Outcome, tier: Tier) -> (Option<u64>, u64) {
    let of_tier = outcome.ledger.guests().iter().zip(&outcome.spec.vms).filter(|(g, _)| g.tier == tier);
    let each: Vec<u64> = of_tier.filter_map(|(_, vm)| vm.reservation.map(|r| r.0)).collect();
    (each.first().copied(), each.iter().sum())
}

/// From the highest priority down: a tier whose reservations fit has them met, each VM in each second; of the first that
/// does not fit, the VMs together get what is left; of those below nothing is asked.
fn reservations(report: &mut Report, outcome: &Outcome, phase: &Phase) {
    let mut left = capacity(outcome, phase);
    for tier in Tier::ALL {
        let (Some(each), sum) = reserved(outcome, tier) else { continue };
        let name = tier.name();
        if sum as f64 <= left {
            let worst = worst_reservation(outcome, phase, (tier, each));
            let check = report.check(
                &format!("{}: {name}'s reservations, worst VM in its worst second", phase.name),
                worst.map(|(part, _)| part),
                Bound::AtLeast(RESERVATION_MIN),
                "%",
            );
            check.note = worst.map_or_else(String::new, |(_, vm)| outcome.spec.vms[vm].name.clone());
            left -= sum as f64;
        } else {
            let got = tier_rate(outcome, phase, tier);
            report.check(
                &format!("{}: {name} together get what higher priorities leave", phase.name),
                Some(got * 100.0 / left.max(1.0)),
                Bound::AtLeast(UTILISATION_MIN),
                "%",
            );
            break;
        }
    }
}

/// The VM and the second with the least of what was due, in percent.
pub(super) fn worst_reservation(
    outcome: &Outcome,
    phase: &Phase,
    (tier, each): (Tier, u64),
) -> Option<(f64, usize)> {
    let guests = outcome.ledger.guests().iter().enumerate().filter(|(_, guest)| guest.tier == tier);
    let of_vm = |(vm, size): (usize, u32)| {
        let account = &outcome.ledger.accounts[vm];
        let parts = seconds(phase).map(move |from| met(account, from, (each, size)));
        parts.min_by(f64::total_cmp).map(|part| (part, vm))
    };
    guests.filter_map(|(vm, guest)| of_vm((vm, guest.size))).min_by(|a, b| a.0.total_cmp(&b.0))
}

/// What a VM got in a second of what was due to it, in percent.
fn met(account: &Account, from: usize, (each, size): (u64, u32)) -> f64 {
    let until = from + SECOND;
    let got = account.done[until] - account.done[from];
    // What came in the last moments of the second is not due in it.
    let late = account.late[until] - account.late[until - 1];
    let asked = (account.asked[until] - late).saturating_sub(account.done[from]);
    let due = each.min(asked);
    // One request may be on its way when the second ends.
    if due == 0 { 100.0 } else { ((got + u64::from(size)) as f64 * 100.0 / due as f64).min(100.0) }
}

/// The seconds of a phase, as the steps at which they begin.
fn seconds(phase: &Phase) -> impl Iterator<Item = usize> + use<> {
    let from = step(phase.from + (STEP - Duration::from_nanos(1)));
    from..(step(phase.until) + 1).saturating_sub(SECOND).max(from)
}

/// Bytes per second that a tier got in a phase.
pub(super) fn tier_rate(outcome: &Outcome, phase: &Phase, tier: Tier) -> f64 {
    let of_tier =
        outcome.ledger.guests().iter().zip(&outcome.ledger.accounts).filter(|(g, _)| g.tier == tier);
    let (from, until) = (step(phase.from), step(phase.until));
    let bytes: u64 = of_tier.map(|(_, account)| account.done[until] - account.done[from]).sum();
    bytes as f64 / phase.until.since(phase.from).as_secs_f64()
}

fn shares(report: &mut Report, outcome: &Outcome, phase: &Phase) {
    let mut peers: BTreeMap<Peers, Vec<usize>> = BTreeMap::new();
    for (vm, guest) in outcome.ledger.guests().iter().enumerate() {
        if let Some(with) = guest.peers {
            peers.entry(with).or_default().push(vm);
        }
    }
    // Where reservations do not fit, what is shared is nothing.
    let all_fits = all_fits(outcome, phase);
    for with in Peers::ALL {
        let Some(vms) = peers.get(&with).filter(|vms| vms.len() > 1 && all_fits) else { continue };
        let whole = (step(phase.from), step(phase.until));
        let any_second = seconds(phase).map(|from| (from, from + SECOND));
        let worst = any_second.filter_map(|span| share_error(outcome, vms, span)).max_by(f64::total_cmp);
        let rows = [("in any second", worst), ("over all of it", share_error(outcome, vms, whole))];
        for (span, error) in rows {
            let name = format!("{}: shares among {}, {span}, beyond two requests", phase.name, with.name());
            report.check(&name, error, Bound::AtMost(SHARE_ERROR_MAX), "%");
        }
    }
}

/// What silver gets beyond its reservation is divided by shares, too: for each share it is no more than noisy VMs get.
fn beyond_reservations(report: &mut Report, outcome: &Outcome, phase: &Phase) {
    let mean = |tier: Tier| {
        let of_tier = outcome.ledger.guests().iter().zip(&outcome.spec.vms).filter(|(g, _)| g.tier == tier);
        let shares: u32 = of_tier.map(|(_, vm)| vm.shares).sum();
        (tier_rate(outcome, phase, tier), f64::from(shares))
    };
    let ((silver, silver_shares), (noisy, noisy_shares)) = (mean(Tier::Silver), mean(Tier::Noisy));
    if !all_fits(outcome, phase) {
        return;
    }
    let beyond = (silver - reserved(outcome, Tier::Silver).1 as f64).max(0.0) / silver_shares;
    let part = beyond / (noisy / noisy_shares).max(1e-9);
    let name = format!("{}: a silver share beyond the reservation, by a noisy share", phase.name);
    report.check(&name, part, Bound::AtMost(BEYOND_MAX), "times");
}

/// How far the VM that is farthest off is from what all of them got for their shares, beyond two requests, in percent.
/// None if there were no two that always had something waiting.
fn share_error(outcome: &Outcome, vms: &[usize], (from, until): (usize, usize)) -> Option<f64> {
    let got = |vm: usize| {
        let account = &outcome.ledger.accounts[vm];
        (account.done[until] - account.done[from]) as f64
    };
    let shares = |vm: usize| f64::from(outcome.spec.vms[vm].shares);
    // Who had nothing waiting at some time was not entitled to more.
    let was_backlogged = |vm: &usize| {
        let dry = &outcome.ledger.accounts[*vm].dry;
        dry[until] == dry[from]
    };
    let vms: Vec<usize> = vms.iter().copied().filter(was_backlogged).collect();
    if vms.len() < 2 {
        return None;
    }
    let total: f64 = vms.iter().map(|vm| got(*vm)).sum();
    let for_share = total / vms.iter().map(|vm| shares(*vm)).sum::<f64>();
    let error = |vm: usize| {
        let entitled = for_share * shares(vm);
        let two = f64::from(outcome.ledger.guest(vm).size) * 2.0;
        ((got(vm) - entitled).abs() - two).max(0.0) * 100.0 / entitled.max(1.0)
    };
    vms.iter().map(|vm| error(*vm)).max_by(f64::total_cmp)
}

fn conservation(report: &mut Report, outcome: &Outcome, phase: &Phase, kept: &PhaseAccount) {
    let name = |what: &str| format!("{}: {what}", phase.name);
    let rate: f64 = Tier::ALL.iter().map(|tier| tier_rate(outcome, phase, *tier)).sum();
    let whole = (outcome.scene.capacity * phase.paths as u64) as f64;
    let carried = rate * 100.0 / whole;
    report.check(&name("carried of the paths' capacity"), carried, Bound::AtLeast(UTILISATION_MIN), "%");
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let idle = name("longest idle time of a path that somebody waits for");
    report.check(&idle, millis(kept.idle), Bound::AtMost(millis(IDLE_MAX)), "ms");
    // Where reservations do not fit, those without one may get nothing.
    if all_fits(outcome, phase) {
        let longest = kept.hunger.iter().enumerate().max_by_key(|(_, time)| **time);
        let hunger = name("longest time without progress of a VM that waits");
        let value = longest.map(|(_, time)| millis(*time));
        let check = report.check(&hunger, value, Bound::AtMost(millis(HUNGER_MAX)), "ms");
        check.note = longest.map_or_else(String::new, |(vm, _)| outcome.spec.vms[vm].name.clone());
    }
}

fn gold_latency(report: &mut Report, outcome: &Outcome) {
    let [(_, before), (after, kept), ..] = outcome.ledger.phases.as_slice() else { return };
    if !all_fits(outcome, after) {
        return;
    }
    let p99 = |kept: &PhaseAccount| kept.latency[Tier::Gold as usize].quantile(0.99).as_secs_f64();
    let factor = (p99(before) > 0.0).then(|| p99(kept) / p99(before));
    report.check("gold's p99, after by before", factor, Bound::AtMost(GOLD_P99_MAX), "times");
}

const _: () = assert!(STEP.as_millis() as usize * SECOND == 1000 && GRACE.as_millis() < STEP.as_millis());
