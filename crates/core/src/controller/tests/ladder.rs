//! The rungs of `on_no_path` with their bounds, `min_paths`, and the ends of holds that have no rung.

use super::world::{World, check, check_in, spec};
use crate::effect::JournalKind;
use crate::spec::{OnPathLoss, Spec};

fn with(ladder: &str) -> Spec {
    let mut spec = spec(&[("gold", 100, 0)]);
    spec.vms[0].on_no_path = ladder.parse().expect("a ladder");
    spec
}

/// Its disk is a vhost-user device: an error reaches its guest.
fn vhost(ladder: &str) -> Spec {
    let mut spec = with(ladder);
    spec.disks[0].vhost_user = Some("/tmp/gold.sock".into());
    spec
}

fn reasons(world: &World, kind: JournalKind) -> Vec<&str> {
    world.journal.iter().filter(|entry| entry.kind == kind).map(|entry| entry.reason.as_str()).collect()
}

#[test]
fn after_the_bound_of_its_suspend_a_guest_is_continued_to_meet_its_errors() {
    check(
        vhost("hold 5s, then suspend 20s, then fail"),
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold hold, stop gold, gold vm-suspending
        > 6.005: gold vm-suspended
        > 26: gold fail, cont gold, gold vm-failing, gold vm-resuming
        > 26.005: gold vm-resumed
        @60 up a
        > 60: gold open, a path-up, gold vm-released
        > 61: a path-repaired, a failback
        @70 pass
        ",
    );
}

#[test]
fn no_error_can_reach_a_guest_that_stops_on_it_so_it_stays_suspended_and_that_is_told() {
    let mut world = World::new(with("hold 5s, then suspend 20s, then fail"));
    check_in(
        &mut world,
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold bounce, stop gold, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        > 26: gold policy-blocked
        > 86: gold policy-blocked
        > 206: gold policy-blocked
        @300 up a
        > 300: a path-up
        > 301: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 301.005: gold vm-resumed
        @310 pass
        ",
    );
    let told = reasons(&world, JournalKind::PolicyBlocked);
    assert!(told[0].contains("werror=stop") && told[0].ends_with("it stays suspended"), "{}", told[0]);
    assert!(told[1].starts_with("still: "), "{}", told[1]);
}

#[test]
fn a_path_that_is_up_when_the_bound_is_over_keeps_the_next_rung_away() {
    check(
        vhost("suspend 20s, then fail"),
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: gold hold, stop gold, b path-down, gold no-path, gold vm-suspending
        > 1.005: gold vm-suspended
        @20.5 up a
        > 20.5: a path-up
        > 21.5: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 21.505: gold vm-resumed
        @40 pass
        ",
    );
}

#[test]
fn a_suspend_that_cannot_be_done_is_a_hold_for_its_bound() {
    let mut world = World::new(with("hold 5s, then suspend 20s, then fail"));
    world.run("@0.5 lost gold");
    check_in(
        &mut world,
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold policy-blocked
        > 26: gold fail, gold vm-failing
        @60 up a
        > 60: gold open, a path-up, gold vm-released
        > 61: a path-repaired, a failback
        @70 pass
        ",
    );
}

#[test]
fn its_monitor_comes_back_within_that_bound() {
    let mut world = World::new(with("hold 5s, then suspend 20s, then fail"));
    world.run("@0.5 lost gold");
    check_in(
        &mut world,
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold policy-blocked
        @10 connect gold 1
        > 10: gold bounce, stop gold, gold vm-managed, gold vm-suspending
        > 10.005: gold hold, gold vm-suspended
        > 30: gold policy-blocked
        @50 pass
        ",
    );
}

#[test]
fn with_no_rung_left_it_is_told_again_and_again_until_a_path_comes() {
    let mut world = World::new(with("hold 5s, then suspend"));
    world.run("@0.5 lost gold");
    check_in(
        &mut world,
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        > 6: gold policy-blocked
        > 66: gold policy-blocked
        > 186: gold policy-blocked
        > 426: gold policy-blocked
        @500 up a
        > 500: a path-up, gold vm-released
        > 501: a path-repaired, a failback
        @510 pass
        ",
    );
}

#[test]
fn the_time_on_a_rung_goes_on_over_a_restart() {
    check(
        vhost("suspend 20s, then fail"),
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: gold hold, stop gold, b path-down, gold no-path, gold vm-suspending
        > 1.005: gold vm-suspended
        @10 restart; connect-paused gold 1
        > 10: host restarted
        > 10: gold vm-managed
        > 21: gold fail, cont gold, gold vm-failing, gold vm-resuming
        > 21.005: gold vm-resumed
        @30 pass
        ",
    );
}

#[test]
fn a_reload_may_end_a_suspend_that_had_no_end() {
    let mut world = World::new(vhost("suspend"));
    world.run("@1 obedient; down a; down b\n@100 pass");
    world.reload(vhost("suspend 2m, then fail"));
    let happened = world.run("@200 pass");
    assert!(happened.contains("> 121: gold fail, cont gold, gold vm-failing"), "{happened}");
}

#[test]
fn who_cannot_be_suspended_for_a_lost_path_is_held_for_its_hold_and_then_fails_over() {
    let mut spec = with("hold 5s, then suspend");
    spec.vms[0].on_path_loss = OnPathLoss::Suspend;
    let mut world = World::new(spec);
    world.run("@0.5 lost gold");
    check_in(
        &mut world,
        "
        @1 obedient; down a
        > 1: gold hold, san0 incident-opened, a path-down, gold vm-held, gold policy-blocked
        > 6: gold open, gold vm-released, gold policy-blocked
        @7 restart; up b
        > 7: host restarted
        > 7: b path-up, gold policy-blocked
        @10 connect gold 1
        > 10: gold bounce, stop gold, gold vm-managed, gold vm-suspending
        > 10.005: gold hold, gold vm-suspended
        @20 up a
        > 20: a path-up
        > 21: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 21.005: gold vm-resumed
        > 23.005: san0 incident-closed
        @30 pass
        ",
    );
    assert!(reasons(&world, JournalKind::PolicyBlocked)[1].ends_with("now its requests fail over"));
}

fn two_paths(ladder: &str) -> Spec {
    let mut spec = with(ladder);
    spec.vms[0].min_paths = 2;
    spec
}

#[test]
fn with_too_few_paths_its_requests_go_on_and_it_is_suspended_after_the_hold() {
    let world = check(
        two_paths("hold 5s, then suspend"),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a path-down, gold few-paths
        > 6: stop gold, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        @20 up a
        > 20: a path-up
        > 21: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 21.005: gold vm-resumed
        > 23.005: san0 incident-closed
        @30 pass
        ",
    );
    assert!(
        reasons(&world, JournalKind::FewPaths)[0].contains("1 usable path to san0/gold and min_paths = 2")
    );
}

#[test]
fn a_path_within_the_hold_is_enough() {
    check(
        two_paths("hold 5s, then suspend"),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a path-down, gold few-paths
        @4 up a
        > 4: a path-up, gold vm-released
        > 5: a path-repaired, a failback, san0 incident-closed
        @10 pass
        ",
    );
}

#[test]
fn nothing_fails_while_a_path_is_up_and_the_last_one_begins_a_new_ladder() {
    check(
        two_paths("hold 5s, then fail"),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a path-down, gold few-paths
        > 6: gold policy-blocked
        @10 down b
        > 10: b path-down, gold no-path
        > 15: gold fail, gold vm-failing
        @20 up b
        > 20: gold open, b path-up, gold vm-released, gold few-paths
        > 21: b path-repaired, b failback
        > 25: gold policy-blocked
        @30 pass
        ",
    );
}

#[test]
fn whoever_was_suspended_for_want_of_paths_waits_for_as_many_as_it_needs() {
    let mut world = World::new(two_paths("hold 5s, then suspend"));
    world.run("@1 obedient; down a; down b\n@20 up b\n@30 pass");
    let text = world.explain("gold");
    assert!(text.contains("it needs min_paths = 2, and 1 good"), "{text}");
    let happened = world.run("@40 up a\n@50 pass");
    assert!(happened.contains("> 41: gold open, cont gold"), "{happened}");
}

#[test]
fn whom_the_operator_lets_run_on_fewer_paths_runs_on() {
    check(
        two_paths("hold 5s, then suspend"),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a path-down, gold few-paths
        > 6: stop gold, gold vm-suspending
        > 6.005: gold hold, gold vm-suspended
        @10 resume gold
        > 10: gold open, cont gold, gold vm-resuming, answer ok
        > 10.005: gold vm-resumed
        @100 pass
        ",
    );
    // Also where nothing but the operator's own drain keeps the incident open.
    let mut world = World::new(two_paths("hold 5s, then suspend"));
    let happened = world.run("@1 obedient; drain-by-force a; cut a\n@10 resume gold\n@100 pass\n@101 enable a\n@102 up a\n@110 pass");
    assert_eq!(happened.matches("few-paths").count(), 1, "{happened}");
    assert!(happened.ends_with("san0 incident-closed\n@110 pass\n"), "{happened}");
}

#[test]
fn a_unit_that_is_there_again_is_resumed() {
    let mut world = World::new(with("hold 60s, then suspend 10m, then fail"));
    let happened = world.run("@1 obedient; gone a; gone b\n@100 up a\n@110 pass");
    assert!(happened.contains("> 1: gold bounce, stop gold"), "nothing is waited for:\n{happened}");
    assert!(happened.contains("> 101: gold open, cont gold"), "{happened}");
    let rules = reasons(&world, JournalKind::VmSuspending);
    assert!(rules[0].contains("the target says that it is gone"), "{rules:?}");
}
