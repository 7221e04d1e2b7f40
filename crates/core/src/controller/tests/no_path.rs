//! `on_no_path`: hold, then the rungs.

use super::world::{World, check, check_in, spec};
use crate::effect::{JournalEntry, JournalKind, Subject};
use crate::ids::{PathId, VmId};
use crate::spec::{OnNoPath, OnPathLoss, ResumeOn, Spec};

/// Gold holds for 5 s, then this.
fn with(then: &str) -> Spec {
    let mut spec = spec(&[("gold", 100, 0)]);
    spec.vms[0].on_no_path = ladder(then);
    spec
}

fn ladder(then: &str) -> OnNoPath {
    format!("hold 5s, then {then}").parse().expect("a ladder")
}

#[test]
fn held_for_the_hold_then_suspended_then_resumed_after_repair() {
    check(
        with("suspend"),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a path-down
        @2 down b
        > 2: b path-down, gold no-path
        > 7: gold bounce, stop gold, gold vm-suspending
        > 7.005: gold hold, gold vm-suspended
        @10 pass
        @20 up b
        > 20: b path-up
        > 21: gold open, cont gold, b path-repaired, b failback, gold vm-resuming
        > 21.005: gold vm-resumed
        @30 up a
        > 30: a path-up
        > 31: a path-repaired, a failback, san0 incident-closed
        @40 pass
        ",
    );
}

#[test]
fn its_own_eio_stop_counts_as_the_stop() {
    check(
        with("suspend"),
        "
        @1 down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold bounce, stop gold, gold vm-suspending
        @6.002 io-error gold
        > 6.002: gold vm-suspended
        @6.004 io-error gold
        > 11.002: gold hold
        @20 up b
        > 20: b path-up
        > 21: gold open, cont gold, b path-repaired, b failback, gold vm-resuming
        @21.001 running gold
        > 21.001: gold vm-resumed
        @30 pass
        ",
    );
}

#[test]
fn a_path_within_the_hold_lets_it_go_on_and_the_next_loss_starts_anew() {
    check(
        with("suspend"),
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        @5 up b
        > 5: b path-up, gold vm-released
        @5.5 down b
        > 5.5: b path-down, gold no-path
        @10 up b
        > 10: b path-up, gold vm-released
        > 12: b path-repaired, b failback
        @20 pass
        ",
    );
}

#[test]
fn a_resumed_vm_has_its_whole_hold_again() {
    check(
        with("suspend"),
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold bounce, stop gold, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        @10 up b
        > 10: b path-up
        > 11: gold open, cont gold, b path-repaired, b failback, gold vm-resuming
        > 11.005: gold vm-resumed
        @15 down b
        > 15: b path-down, gold no-path
        > 20: gold bounce, stop gold, gold vm-suspending
        > 20.005: gold hold, gold vm-suspended
        @25 pass
        ",
    );
}

#[test]
fn resume_by_failback_waits_for_traffic_on_some_path() {
    let mut spec = with("suspend");
    spec.vms[0].resume = ResumeOn::Failback;
    spec.targets[0].failback = crate::spec::Failback::Manual;
    check(
        spec,
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold bounce, stop gold, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        @10 up b
        > 10: b path-up
        > 11: b path-repaired
        @20 failback
        > 20: gold open, cont gold, b failback, gold vm-resuming, answer ok
        > 20.005: gold vm-resumed
        @30 pass
        ",
    );
}

#[test]
fn impossible_rungs_are_passed_over() {
    check(
        with("migrate, then suspend"),
        "
        @1 obedient; down a; down b; pass
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold bounce, stop gold, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        @10 pass
        ",
    );
    let mut world = World::new(with("suspend, then migrate, then fail"));
    world.run("@0.5 connect-no-werror gold 1");
    check_in(
        &mut world,
        "
        @1 obedient; down a; down b; pass
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold fail, gold vm-failing
        @10 up a
        > 10: gold open, a path-up, gold vm-released
        > 11: a path-repaired, a failback
        @20 pass
        ",
    );
}

#[test]
fn with_no_rung_left_it_stays_held_until_a_path_or_a_monitor_comes() {
    let mut world = World::new(with("suspend"));
    world.run("@0.5 lost gold");
    check_in(
        &mut world,
        "
        @1 obedient; down a; down b; pass; pass
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold policy-blocked
        @10 connect gold 1
        > 10: gold bounce, stop gold, gold vm-managed, gold vm-suspending
        > 10.005: gold hold, gold vm-suspended
        @20 up a
        > 20: a path-up
        > 21: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 21.005: gold vm-resumed
        @30 pass
        ",
    );
}

#[test]
fn a_guest_that_stops_on_our_errors_is_ours_to_resume() {
    check(
        with("fail"),
        "
        @1 down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold fail, gold vm-failing
        @7 io-error gold
        > 7: gold hold, gold vm-suspended
        @20 up a
        > 20: a path-up
        > 21: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        @21.001 running gold
        > 21.001: gold vm-resumed
        @30 pass
        ",
    );
}

#[test]
fn a_unit_that_is_gone_is_not_waited_for() {
    check(
        with("suspend"),
        "
        @1 obedient; gone a
        > 1: san0 incident-opened, a path-down
        @2 gone b
        > 2: gold bounce, stop gold, b path-down, gold no-path, gold vm-suspending
        > 2.005: gold hold, gold vm-suspended
        @3 pass
        ",
    );
}

#[test]
fn a_vm_that_somebody_else_stopped_is_left_alone_until_it_runs() {
    check(
        with("suspend"),
        "
        @1 obedient; paused gold; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        @10 running gold
        > 10: gold bounce, stop gold, gold vm-suspending
        > 10.005: gold hold, gold vm-suspended
        @11 pass
        ",
    );
}

#[test]
fn nothing_is_resumed_into_a_rule_that_would_suspend_it_again() {
    // b comes back first: the VM could run, but a is still lost and on_path_loss would stop it at once.
    let mut spec = with("suspend");
    spec.vms[0].on_path_loss = OnPathLoss::Suspend;
    let mut world = World::new(spec);
    world.run("@1 obedient\n@1 paused gold\n@2 down a; down b\n@3 running gold");
    check_in(
        &mut world,
        "
        > 7: gold bounce, stop gold, gold vm-suspending
        > 7.005: gold hold, gold vm-suspended
        @10 pass
        @20 up b
        > 20: b path-up
        > 21: b path-repaired, b failback
        @30 up a
        > 30: a path-up
        > 31: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 31.005: gold vm-resumed
        > 33.005: san0 incident-closed
        @40 pass
        ",
    );
}

#[test]
fn at_the_start_a_path_has_ten_seconds_to_connect() {
    let mut world = World::dark(with("suspend"));
    check_in(
        &mut world,
        "
        @0.1 connect gold 1
        > 0.1: gold vm-managed
        @1 up a
        > 1: a path-up
        @2 down b
        > 10: san0 incident-opened, b path-down
        @20 pass
        ",
    );
    let mut world = World::dark(with("suspend"));
    check_in(
        &mut world,
        "
        @0.2 obedient; connect gold 1
        > 0.2: gold vm-managed
        > 10: san0 incident-opened, a path-down, b path-down, gold no-path
        > 15: gold bounce, stop gold, gold vm-suspending
        > 15.005: gold hold, gold vm-suspended
        @20 pass
        @30 up a
        > 30: a path-up
        > 31: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 31.005: gold vm-resumed
        @40 pass
        ",
    );
}

/// Gold may use a, bronze both.
fn affine(then: &str) -> World {
    let mut spec = spec(&[("gold", 100, 0), ("bronze", 10, 0)]);
    spec.vms[0].on_no_path = ladder(then);
    spec.vms[0].avoid_paths = vec![PathId(1)];
    World::new(spec)
}

/// What the journal says when gold has no path, without the beginning.
fn told(world: &World) -> Vec<String> {
    let is_gold = |entry: &&JournalEntry| entry.subject == Subject::Vm(VmId(0));
    let no_path = world.journal.iter().filter(is_gold).filter(|entry| entry.kind == JournalKind::NoPath);
    let text = |entry: &JournalEntry| {
        let rest = entry.reason.strip_prefix("no path to san0/gold: its requests are held");
        rest.unwrap_or_else(|| panic!("{}", entry.reason)).to_owned()
    };
    no_path.map(text).collect()
}

const BARRED: &str = "san0/b is up, but gold may not use it: its paths and avoid leave it only san0/a";

#[test]
fn paths_that_it_may_not_use_do_not_help_it_and_are_named() {
    let mut world = affine("suspend");
    check_in(
        &mut world,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down, gold no-path
        > 1: a path-down
        > 6: gold bounce, stop gold, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        @10 pass
        ",
    );
    assert_eq!(told(&world), [format!("; {BARRED}")]);
    assert_eq!(
        world.explain("gold").lines().filter(|line| *line == BARRED).count(),
        1,
        "{}",
        world.explain("gold")
    );
    assert!(!world.explain("bronze").contains("may not use"));
}

#[test]
fn they_are_named_on_each_rung_and_only_while_they_are_up() {
    let says = |world: &mut World, script: &str| {
        world.run(script);
        world.explain("gold").contains(BARRED)
    };
    for then in ["suspend", "migrate", "fail"] {
        let mut world = affine(then);
        assert!(!says(&mut world, "@0.5 obedient; pass"), "nothing is lost");
        assert!(says(&mut world, "@1 down a\n@2 pass"), "held");
        assert!(says(&mut world, "@10 pass"), "{then:?}");
        assert!(!says(&mut world, "@11 down b\n@12 pass"), "it is down too");
    }
    let mut both = affine("suspend");
    assert!(!says(&mut both, "@1 obedient; down b; down a\n@2 pass"));
    assert_eq!(told(&both)[0], "");
}

/// The guest of another process has neither waited nor met an error.
#[test]
fn another_process_has_its_whole_ladder_before_it() {
    check(
        with("fail"),
        "
        @1 down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        @4 connect gold 2
        > 4: gold vm-managed, gold no-path
        > 9: gold fail, gold vm-failing
        @20 lost gold
        > 20: gold vm-unmanaged
        @21 connect gold 2
        > 21: gold vm-managed
        @30 lost gold
        > 30: gold vm-unmanaged
        @31 connect gold 3
        > 31: gold open, gold vm-managed, gold no-path
        > 36: gold fail, gold vm-failing
        @50 pass
        ",
    );
}
