//! `resume` and `failback`, pacing, flapping, and `cont` against a broken disk connection.

use super::world::{World, check, check_in, spec};
use crate::spec::{Failback, OnPathLoss, ResumeOn, Spec};
use crate::time::Duration;

fn with(resume: ResumeOn, failback: Failback) -> Spec {
    let mut spec = spec(&[("gold", 100, 0)]);
    spec.vms[0].on_path_loss = OnPathLoss::Suspend;
    spec.vms[0].resume = resume;
    spec.targets[0].failback = failback;
    spec
}

const AFTER: Failback = Failback::After(Duration::from_secs(30));

#[test]
fn repair_resumes_before_failback() {
    check(
        with(ResumeOn::Repair, Failback::Immediate),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @10 up a
        > 10: a path-up
        > 11: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 11.005: gold vm-resumed
        > 13.005: san0 incident-closed
        @60 failback
        > 60: answer conflict
        ",
    );
    check(
        with(ResumeOn::Repair, AFTER),
        "
        @1 obedient; pass; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @10 up a
        > 10: a path-up
        > 11: gold open, cont gold, a path-repaired, gold vm-resuming
        > 11.005: gold vm-resumed
        > 41: a failback, san0 incident-closed
        @60 failback
        > 60: answer conflict
        ",
    );
    check(
        with(ResumeOn::Repair, Failback::Manual),
        "
        @1 obedient; pass; pass; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @10 up a
        > 10: a path-up
        > 11: gold open, cont gold, a path-repaired, gold vm-resuming
        > 11.005: gold vm-resumed
        @60 failback
        > 60: a failback, san0 incident-closed, answer ok
        ",
    );
}

#[test]
fn failback_resumes_only_when_traffic_is_back() {
    check(
        with(ResumeOn::Failback, Failback::Immediate),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @10 up a; pass
        > 10: a path-up
        > 11: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 11.005: gold vm-resumed
        > 13.005: san0 incident-closed
        @60 pass
        ",
    );
    check(
        with(ResumeOn::Failback, AFTER),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @10 up a; pass; pass
        > 10: a path-up
        > 11: a path-repaired
        > 41: gold open, cont gold, a failback, gold vm-resuming
        > 41.005: gold vm-resumed
        > 43.005: san0 incident-closed
        @60 pass
        ",
    );
    check(
        with(ResumeOn::Failback, Failback::Manual),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @10 up a; pass; pass; pass
        > 10: a path-up
        > 11: a path-repaired
        @60 failback
        > 60: gold open, cont gold, a failback, gold vm-resuming, answer ok
        > 60.005: gold vm-resumed
        > 62.005: san0 incident-closed
        @70 pass
        ",
    );
}

#[test]
fn a_relapse_starts_the_wait_for_failback_again() {
    check(
        with(ResumeOn::Failback, AFTER),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @10 up a
        > 10: a path-up
        > 11: a path-repaired
        @30 down a
        > 30: a path-down
        @31 up a
        > 31: a path-up
        > 33: a path-repaired
        > 63: gold open, cont gold, a failback, gold vm-resuming
        > 63.005: gold vm-resumed
        > 65.005: san0 incident-closed
        @70 pass
        ",
    );
}

#[test]
fn every_relapse_doubles_the_time_until_it_counts() {
    check(
        with(ResumeOn::Repair, Failback::Immediate),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @2 up a
        > 2: a path-up
        @2.5 down a
        > 2.5: a path-down
        @3 up a
        > 3: a path-up
        @4.5 down a
        > 4.5: a path-down
        @5 up a
        > 5: a path-up
        > 9: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 9.005: gold vm-resumed
        > 11.005: san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn vms_are_resumed_one_at_a_time_highest_priority_first() {
    let mut spec = spec(&[("bronze", 10, 0), ("silver", 50, 0), ("gold", 100, 0), ("also-silver", 50, 0)]);
    for vm in &mut spec.vms {
        vm.on_path_loss = OnPathLoss::FailoverSuspend;
    }
    check(
        spec,
        "
        @1 obedient; pass; pass; pass; down a
        > 1: stop bronze, san0 incident-opened, a link-down, bronze vm-suspending
        > 1: stop silver, a link-down, silver vm-suspending
        > 1: stop gold, a link-down, gold vm-suspending
        > 1: stop also-silver, a path-down, also-silver vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        > 1.005: silver hold, silver vm-suspended
        > 1.005: gold hold, gold vm-suspended
        > 1.005: also-silver hold, also-silver vm-suspended
        @10 up a
        > 10: a path-up
        > 10: a link-up
        > 10: a link-up
        > 10: a link-up
        > 11: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 11.005: gold vm-resumed
        > 11.5: also-silver open, cont also-silver, also-silver vm-resuming
        > 11.505: also-silver vm-resumed
        > 12: silver open, cont silver, silver vm-resuming
        > 12.005: silver vm-resumed
        > 12.5: bronze open, cont bronze, bronze vm-resuming
        > 12.505: bronze vm-resumed
        > 14.505: san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn cont_is_repeated_while_the_disk_connection_is_broken() {
    check(
        with(ResumeOn::Repair, Failback::Immediate),
        "
        @1 down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @1.1 io-error gold
        > 1.1: gold vm-suspended
        > 6.1: gold hold
        @10 up a
        > 10: a path-up
        > 11: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        @11.01 running gold
        > 11.01: gold vm-resumed
        @11.02 io-error gold
        > 11.02: gold vm-resuming
        > 12.02: cont gold, gold vm-resuming
        @12.03 running gold
        > 12.03: gold vm-resumed
        @12.04 io-error gold
        > 12.04: gold vm-resuming
        > 14.04: cont gold, gold vm-resuming
        @14.05 running gold
        > 14.05: gold vm-resumed
        > 16.05: san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn after_eight_attempts_the_operator_has_to_look() {
    let mut world = World::new(with(ResumeOn::Repair, Failback::Immediate));
    world.run("@1 down a\n@1.1 io-error gold\n@10 up a\n@11.5 pass");
    check_in(
        &mut world,
        "
        > 12: cont gold, gold vm-resuming
        > 14: cont gold, gold vm-resuming
        > 18: cont gold, gold vm-resuming
        > 26: cont gold, gold vm-resuming
        > 42: cont gold, gold vm-resuming
        > 58: cont gold, gold vm-resuming
        > 74: cont gold, gold vm-resuming
        > 90: gold hold, gold policy-blocked
        @100 pass
        @200 resume gold; running gold
        > 200: gold open, cont gold, gold vm-resuming, answer ok
        > 200: gold vm-resumed
        > 202: san0 incident-closed
        @210 pass
        ",
    );
}

#[test]
fn a_resume_whose_path_is_lost_again_is_taken_back() {
    check(
        with(ResumeOn::Repair, Failback::Immediate),
        "
        @1 down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @1.1 paused gold
        > 1.1: gold hold, gold vm-suspended
        @10 up a
        > 10: a path-up
        > 11: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        @11.2 down a
        > 11.2: a path-down
        @11.3 down b
        > 11.3: b path-down
        > 12: gold hold, gold vm-suspended
        @13 up b
        > 13: b path-up
        > 14: b path-repaired, b failback
        @20 up a
        > 20: a path-up
        > 22: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 23: cont gold, gold vm-resuming
        > 25: cont gold, gold vm-resuming
        > 29: cont gold, gold vm-resuming
        @30 pass
        ",
    );
}
