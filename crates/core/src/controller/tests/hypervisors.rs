//! Monitors that come and go, processes that change, and what other people stop and continue.

use super::world::{World, check, check_in, spec};
use crate::spec::{OnPathLoss, Spec};

fn suspending() -> Spec {
    let mut spec = spec(&[("gold", 100, 0)]);
    spec.vms[0].on_path_loss = OnPathLoss::Suspend;
    spec
}

#[test]
fn what_somebody_else_stopped_stays_stopped() {
    check(
        suspending(),
        "
        @1 obedient; paused gold
        @2 down a
        > 2: san0 incident-opened, a path-down
        @3 up a
        > 3: a path-up
        > 4: a path-repaired, a failback, san0 incident-closed
        @10 io-error gold
        @11 down b
        > 11: san0 incident-opened, b path-down
        @12 up b
        > 12: b path-up
        > 13: b path-repaired, b failback, san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn what_somebody_else_continued_goes_on() {
    check(
        suspending(),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 running gold
        > 5: gold open, gold vm-resumed
        @10 up a
        > 10: a path-up
        > 11: a path-repaired, a failback, san0 incident-closed
        @20 down a
        > 20: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 20.005: gold hold, gold vm-suspended
        @21 pass
        ",
    );
}

#[test]
fn a_new_process_owes_us_nothing() {
    // The new process is subject to the rule like any other, but a paused one was paused by somebody else.
    check(
        suspending(),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 lost gold
        > 5: gold vm-unmanaged
        @6 connect gold 2
        > 6: gold bounce, stop gold, gold vm-managed, gold vm-released, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        @7 lost gold
        > 7: gold vm-unmanaged
        @8 connect-paused gold 3
        > 8: gold open, gold vm-managed, gold vm-released
        @10 up a
        > 10: a path-up
        > 11: a path-repaired, a failback, san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn a_suspended_vm_is_resumed_when_its_monitor_is_back() {
    let mut world = check(
        suspending(),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 lost gold
        > 5: gold vm-unmanaged
        @10 up a
        > 10: a path-up
        > 11: a path-repaired, a failback, san0 incident-closed
        @20 pass
        ",
    );
    check_in(
        &mut world,
        "
        @20 connect-paused gold 1
        > 20: gold open, cont gold, gold vm-managed, gold vm-resuming
        > 20.005: gold vm-resumed
        @30 pass
        ",
    );
}

#[test]
fn a_stop_without_an_answer_is_repeated_and_told() {
    check(
        suspending(),
        "
        @1 deaf; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 11: stop gold, gold vm-suspending
        > 21: stop gold, gold vm-suspending
        > 31: stop gold, gold policy-blocked
        @40 paused gold
        > 40: gold hold, gold vm-suspended
        @50 pass
        ",
    );
    check(
        suspending(),
        "
        @1 deaf; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @2 refuses gold
        > 2: gold policy-blocked
        > 3: stop gold, gold vm-suspending
        @3.5 refuses gold
        > 3.5: gold policy-blocked
        > 4.5: stop gold, gold vm-suspending
        @5 refuses gold
        > 5: gold policy-blocked
        > 65: stop gold, gold policy-blocked
        @70 pass
        ",
    );
}

#[test]
fn a_stop_that_is_no_longer_wanted_is_undone_when_it_takes_effect() {
    check(
        suspending(),
        "
        @1 deaf; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @2 up a
        > 2: a path-up
        > 3: gold open, a path-repaired, a failback, gold vm-resuming
        @9 paused gold
        > 9: cont gold, gold vm-resuming
        @9.1 running gold
        > 9.1: gold vm-resumed
        > 11.1: san0 incident-closed
        @20 pass
        ",
    );
    // ... and forgotten when it cannot any more: a later pause is somebody else's.
    check(
        suspending(),
        "
        @1 deaf; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @2 up a
        > 2: a path-up
        > 3: gold open, a path-repaired, a failback, gold vm-resuming
        > 63: san0 incident-closed
        @80 paused gold
        @90 pass
        ",
    );
}

#[test]
fn without_a_monitor_nothing_is_bounced() {
    check(
        suspending(),
        "
        @1 deaf; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @2 lost gold
        > 2: gold hold, gold vm-unmanaged
        @3 connect gold 1
        > 3: gold bounce, stop gold, gold vm-managed, gold vm-suspending
        @4 up a
        > 4: a path-up
        > 5: gold open, a path-repaired, a failback, gold vm-resuming
        @5.5 pass
        ",
    );
}

#[test]
fn states_that_are_not_ours_are_let_go() {
    check(
        suspending(),
        "
        @1 deaf; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @2 other gold
        > 2: gold open, gold vm-released
        @3 up a
        > 3: a path-up
        > 4: a path-repaired, a failback, san0 incident-closed
        @9 running gold
        @10 pass
        ",
    );
    // A suspended VM that is moved by somebody else keeps our memory of it, in case it comes back.
    check(
        suspending(),
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @2 other gold
        @3 up a
        > 3: a path-up
        > 4: a path-repaired, a failback, san0 incident-closed
        @9 paused gold
        > 9: gold open, cont gold, gold vm-resuming
        > 9.005: gold vm-resumed
        @20 pass
        ",
    );
}

#[test]
fn an_unmanaged_vm_is_served_and_told() {
    let mut spec = spec(&[("gold", 100, 0)]);
    spec.vms[0].on_no_path = "hold 60s, then suspend, then fail".parse().expect("a ladder");
    let mut world = World::new(spec);
    check_in(
        &mut world,
        "
        @1 lost gold
        > 1: gold vm-unmanaged
        @2 down a; down b
        > 2: san0 incident-opened, a path-down
        > 2: b path-down, gold no-path
        > 62: gold fail, gold vm-failing
        @70 up a
        > 70: gold open, a path-up, gold vm-released
        > 71: a path-repaired, a failback
        @80 pass
        ",
    );
    assert!(world.explain("gold").contains("unmanaged: no monitor (connection refused)"));
}

#[test]
fn reports_that_fit_nothing_change_nothing() {
    check(
        suspending(),
        "
        @1 refuses gold; running gold; lost gold; running gold; paused gold; lost gold
        > 1: gold vm-unmanaged
        @2 connect gold 1; connect gold 1
        > 2: gold vm-managed
        ",
    );
}

#[test]
fn a_silent_front_end_is_woken_by_a_stop_and_a_continue() {
    check(
        suspending(),
        "
        @1 obedient; silent gold; silent gold
        > 1: stop gold, gold vm-suspending, gold vm-resuming
        > 1.005: cont gold, gold vm-resuming
        > 1.01: gold vm-resumed
        @10 paused gold
        @11 silent gold
        @12 running gold
        @13 down a; down b
        > 13: gold bounce, stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 13: b path-down
        > 13.005: gold hold, gold vm-suspended
        @14 silent gold
        @15 pass
        ",
    );
    check(
        suspending(),
        "
        @1 lost gold
        > 1: gold vm-unmanaged
        @2 silent gold
        > 2: gold policy-blocked
        ",
    );
}

/// Its monitor was deaf: what it carries out at last was ours, and nobody has overruled anything.
#[test]
fn a_cont_of_our_own_that_comes_late_is_not_somebody_elses() {
    let mut world = World::new(spec(&[("gold", 100, 0)]));
    world
        .run("@1 obedient; down a; down b\n@62 pass\n@70 deaf\n@71 up a; up b\n@74 down a; down b\n@90 pass");
    let told = |world: &World, words: &str| world.journal.iter().any(|entry| entry.reason.contains(words));
    assert!(told(&world, "not resumed after all"), "{:#?}", world.journal);
    world.run("@95 running gold");
    assert!(told(&world, "took effect late: it is stopped again") && !told(&world, "somebody else"));
    assert_eq!(world.controller.view(world.now).vms[0].state, crate::view::VmState::Suspending);
    // Whoever continues it after that `stop` is somebody else.
    world.run("@96 paused gold\n@97 running gold");
    assert!(told(&world, "somebody else continued it"));
}
