//! The rules hold, a run can be repeated, and each rule fails when something is wrong.

use super::checks::judge;
use super::scene::Scene;
use super::table::text;
use super::world::{Outcome, Tamper, World};
use crate::report::Report;
use crate::units::MIB;
use std::sync::Arc;
use std::time::Duration;
use vmpath_core::plan::{Failing, Gate, GateReason, Health, RoutePlan};
use vmpath_core::router::Action;
use vmpath_core::spec::Spec;

fn scene(seed: u64) -> Scene {
    Scene {
        seed,
        vms: 60,
        paths: 8,
        lose: 4,
        lost_at: Duration::from_millis(2500),
        repaired_at: None,
        ends_at: Duration::from_millis(4200),
        // Below this the floor of a window is so long that a second cuts off more than a request.
        capacity: 25 * MIB,
        size: 16 << 10,
        noisy_size: 16 << 10,
        reserved: 30,
    }
}

fn small(seed: u64) -> Scene {
    Scene { vms: 20, paths: 4, lose: 2, ..scene(seed) }
}

fn run(scene: &Scene, tamper: Tamper) -> (Outcome, Report) {
    let outcome = World::new(scene, tamper).expect("a good configuration").run(|_, _| {});
    let report = judge(&outcome);
    (outcome, report)
}

fn failed(report: &Report) -> Vec<&str> {
    report.checks().iter().filter(|check| !check.passed()).map(|check| check.name.as_str()).collect()
}

fn check(scene: &Scene) {
    let (outcome, report) = run(scene, Tamper::NONE);
    assert!(report.passed(), "{}", text(&outcome, &report));
}

#[test]
fn the_rules_hold_when_half_of_the_paths_are_lost() {
    for seed in 1..=2 {
        check(&scene(seed));
    }
    check(&small(1));
}

#[test]
fn the_rules_hold_when_the_paths_come_back() {
    let repaired_at = Some(Duration::from_millis(4200));
    check(&Scene { repaired_at, ends_at: Duration::from_millis(5900), ..scene(4) });
}

#[test]
fn the_rules_hold_when_not_even_the_reservations_fit() {
    check(&Scene { lose: 6, ..scene(5) });
}

#[test]
fn the_rules_hold_when_the_noisy_ask_for_more_at_a_time() {
    check(&Scene { noisy_size: 32 << 10, ..scene(8) });
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let said = |seed| {
        let (outcome, report) = run(&small(seed), Tamper::NONE);
        text(&outcome, &report)
    };
    assert_eq!(said(6), said(6));
    assert_ne!(said(6), said(7));
}

/// With something wrong, the checks fail whose names contain what is expected.
fn check_fails(scene: &Scene, tamper: Tamper, expect: &[&str]) {
    let (outcome, report) = run(scene, tamper);
    let found = failed(&report);
    let is_there = |expect: &&str| found.iter().any(|name| name.contains(expect));
    assert!(expect.iter().all(is_there), "{}", text(&outcome, &report));
}

fn spec_of(plan: &mut RoutePlan) -> &mut Spec {
    Arc::make_mut(&mut plan.spec)
}

fn plan(plan: fn(&mut RoutePlan)) -> Tamper {
    Tamper { plan, ..Tamper::NONE }
}

#[test]
fn a_lost_or_a_second_completion_is_seen() {
    const ONE: u64 = 1500;
    let lost = |n: u64, action: &Action| u32::from(n != ONE || !matches!(action, Action::Complete { .. }));
    let twice =
        |n: u64, action: &Action| 1 + u32::from(n == ONE && matches!(action, Action::Complete { .. }));
    check_fails(&small(1), Tamper { action: lost, ..Tamper::NONE }, &["exactly once"]);
    check_fails(&small(1), Tamper { action: twice, ..Tamper::NONE }, &["exactly once"]);
}

#[test]
fn a_limit_that_is_not_kept_is_seen() {
    let unlimited = plan(|p| spec_of(p).vms.iter_mut().for_each(|vm| vm.limit = None));
    check_fails(&small(1), unlimited, &["over its limit"]);
    let unlimited = plan(|p| spec_of(p).vms.iter_mut().for_each(|vm| vm.limit_iops = None));
    check_fails(&small(1), unlimited, &["over its limit"]);
}

#[test]
fn a_reservation_that_is_not_met_is_seen() {
    let forgotten = plan(|p| spec_of(p).vms.iter_mut().for_each(|vm| vm.reservation = None));
    check_fails(&scene(1), forgotten, &["after: silver's reservations"]);
}

#[test]
fn priorities_that_are_not_kept_are_seen() {
    let level = plan(|p| spec_of(p).vms.iter_mut().for_each(|vm| vm.priority = 10));
    check_fails(&Scene { lose: 6, ..scene(5) }, level, &["after: gold's reservations"]);
}

#[test]
fn shares_that_are_not_kept_are_seen() {
    let level = plan(|p| spec_of(p).vms.iter_mut().for_each(|vm| vm.shares = 1000));
    check_fails(&scene(1), level, &["shares among noisy"]);
}

#[test]
fn a_path_that_is_left_idle_is_seen() {
    let idle = plan(|p| p.paths[3].health = Health::Disabled);
    let expect = ["before: longest idle time", "after: carried of the paths' capacity"];
    check_fails(&small(1), idle, &expect);
}

#[test]
fn a_vm_that_starves_is_seen() {
    let held = plan(|p| {
        p.vms[19].gate = Gate::Hold(GateReason { incident: None, text: "a test".into() });
    });
    check_fails(&small(1), held, &["longest time without progress"]);
}

#[test]
fn an_affinity_that_is_not_kept_is_seen() {
    let forgotten = plan(|p| spec_of(p).vms.iter_mut().for_each(|vm| vm.avoid_paths.clear()));
    check_fails(&small(1), forgotten, &["closed or avoided"]);
}

#[test]
fn an_error_that_reaches_a_guest_is_seen() {
    let failing = plan(|p| {
        let because = GateReason { incident: None, text: "a test".into() };
        let cut_off = p.spec.unit_ids().collect();
        p.vms[0].gate = Gate::Fail(because, Failing { cut_off, refused: vec![] });
    });
    check_fails(&small(1), failing, &["ended in an error", "before: gold's reservations"]);
}

#[test]
fn a_high_priority_that_feels_the_loss_is_seen() {
    let lowest = plan(|p| {
        let gold = &mut spec_of(p).vms[0];
        (gold.priority, gold.shares, gold.reservation) = (1, 500, None);
    });
    check_fails(&scene(1), lowest, &["gold's p99", "after: gold's reservations"]);
}

#[test]
fn shares_that_are_not_kept_between_tiers_are_seen() {
    let more = plan(|p| {
        let of_silver = |vm: &&mut vmpath_core::spec::VmSpec| vm.name.starts_with("silver");
        spec_of(p).vms.iter_mut().filter(of_silver).for_each(|vm| vm.shares = 20_000);
    });
    check_fails(&scene(1), more, &["before: a silver share beyond the reservation"]);
}
