//! The rungs of `on_no_path` with their bounds, `min_paths`, and the ends of holds that have no rung.

use super::world::{World, check, check_in, spec};
use crate::effect::JournalKind;
use crate::event::{Event, LoadReport, Short};
use crate::ids::{DiskId, UnitId};
use crate::plan::Gate;
use crate::spec::{OnPathLoss, Spec};
use crate::time::Duration;

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

/// Gold has two disks, on units of their own; `gold` names the links of the first and `data` those of the second.
fn two_units(ladder: &str) -> Spec {
    let mut spec = spec(&[("gold", 100, 0), ("data", 10, 0)]);
    spec.disks[1].vm = spec.disks[0].vm;
    spec.vms[0].on_no_path = ladder.parse().expect("a ladder");
    spec
}

fn fails(world: &World) -> Vec<UnitId> {
    match &world.controller.view(world.now).vms[0].gate {
        Gate::Fail(_, failing) => failing.cut_off.clone(),
        Gate::Open | Gate::Hold(_) | Gate::Bounce(_) => vec![],
    }
}

#[test]
fn only_the_disk_without_a_path_fails() {
    let mut world = World::new(two_units("hold 3s, then fail"));
    world.run("@1 obedient; down a data; down b data\n@3.9 pass");
    assert_eq!(fails(&world), []);
    world.run("@4.1 pass");
    assert_eq!(fails(&world), [UnitId(1)]);
}

/// A loss in the last moment of another's hold has its whole hold before it.
#[test]
fn each_unit_fails_by_its_own_clock_and_is_named() {
    let mut world = World::new(two_units("hold 3s, then fail"));
    world.run("@1 obedient; down a data; down b data\n@3.5 down a gold; down b gold\n@6.4 pass");
    assert_eq!(fails(&world), [UnitId(1)], "root was lost 2.9 s ago");
    world.run("@6.6 pass");
    assert_eq!(fails(&world), [UnitId(1), UnitId(0)]);
    let told = reasons(&world, JournalKind::VmFailing);
    let names: Vec<_> =
        world.spec.unit_ids().map(|unit| format!("no path to {}", world.spec.unit_name(unit))).collect();
    assert!(told.len() == 2 && told[0].contains(&names[1]) && told[1].contains(&names[0]), "{told:?}");
    // The first is back: what still fails is named, and the one that is served is not touched.
    world.run("@7 up a data\n@8 pass");
    assert_eq!(fails(&world), [UnitId(0)]);
    let view = &world.controller.view(world.now).vms[0];
    let words = format!("{:?} {:?}", view.because, view.waits_for);
    assert!(words.contains(&names[0]) && !words.contains(&names[1]), "{words}");
}

#[test]
fn what_is_served_again_ends_its_errors_though_another_unit_is_only_held() {
    let mut world = World::new(two_units("hold 3s, then fail"));
    world
        .run("@1 obedient; down a data; down b data\n@4.5 down a gold; down b gold\n@5 up a data\n@7.4 pass");
    assert_eq!(fails(&world), []);
    world.run("@7.6 pass");
    assert_eq!(fails(&world), [UnitId(0)], "3 s after its own loss");
    world.run("@8 up a gold");
    assert_eq!(fails(&world), []);
}

/// Also the unit whose own errors were still to come: all of them have the new ladder before them.
#[test]
fn a_reload_without_fail_ends_the_errors_and_the_new_ladder_begins() {
    let mut world = World::new(two_units("hold 3s, then fail"));
    world.run("@1 obedient; down a data; down b data\n@3 down a gold; down b gold\n@10 pass");
    assert_eq!(fails(&world), [UnitId(1), UnitId(0)]);
    world.reload(two_units("hold 5s, then suspend"));
    assert_eq!(
        world.controller.view(world.now).vms[0].gate,
        Gate::Open,
        "where there is no path, it is held"
    );
    let told = reasons(&world, JournalKind::NoPath);
    assert!(told.last().is_some_and(|why| why.contains("names no `fail` any more")), "{told:?}");
    let happened = world.run("@14.9 pass\n@16 pass");
    assert!(happened.contains("> 15: gold bounce, stop gold, gold vm-suspending"), "{happened}");
    let happened = world.run("@20 up a data; up a gold\n@30 pass");
    assert!(happened.contains("cont gold") && happened.contains("gold vm-resumed"), "{happened}");
}

/// It was continued to meet its errors, and its hypervisor has not obeyed yet.
#[test]
fn a_reload_without_fail_takes_back_a_cont_that_was_for_the_errors() {
    let mut world = World::new(vhost("suspend 20s, then fail"));
    world.run("@1 obedient; down a; down b\n@15 deaf\n@21.5 pass");
    assert_eq!(fails(&world), [UnitId(0)]);
    world.reload(vhost("suspend"));
    assert_eq!(fails(&world), []);
    world.run("@100 pass");
    assert_eq!(world.controller.view(world.now).vms[0].state, crate::view::VmState::Suspended);
}

#[test]
fn a_reload_of_another_ladder_with_fail_changes_nothing_for_whose_requests_fail() {
    let mut world = World::new(vhost("hold 3s, then fail"));
    world.run("@1 obedient; down a; down b\n@10 pass");
    world.reload(vhost("hold 60s, then fail"));
    world.run("@12 pass");
    assert_eq!(fails(&world), [UnitId(0)]);
}

/// What was past every rung is not past those of another ladder.
#[test]
fn a_reload_gives_whoever_is_stranded_the_rungs_of_the_new_ladder() {
    for (ladder, fails_at) in [("hold 60s, then fail", 61), ("hold 20s, then suspend 30s, then fail", 51)] {
        let mut world = World::new(with("hold 3s, then suspend"));
        world.run("@0.5 lost gold\n@1 obedient; down a; down b\n@10 pass");
        assert_eq!(reasons(&world, JournalKind::PolicyBlocked).len(), 1, "it is stranded");
        world.reload(with(ladder));
        let happened = world.run("@100 pass");
        assert!(happened.contains(&format!("> {fails_at}: gold fail, gold vm-failing")), "{happened}");
    }
    let mut world = World::new(two_paths("hold 3s, then fail"));
    world.run("@1 obedient; down a\n@10 pass");
    world.reload(two_paths("hold 60s, then suspend"));
    let happened = world.run("@100 pass");
    assert!(happened.contains("> 61: stop gold, gold vm-suspending"), "{happened}");
}

/// A unit that comes and goes must not keep another's errors away for ever.
#[test]
fn a_unit_that_flaps_delays_no_other() {
    let mut world = World::new(two_units("hold 3s, then fail"));
    world.run("@1 obedient; down a data; down b data; down b gold");
    for at in 0..8 {
        let (down, up) = (1.1 + f64::from(at) * 0.4, 1.3 + f64::from(at) * 0.4);
        world.run(&format!("@{down:.1} down a gold\n@{up:.1} up a gold"));
    }
    assert_eq!(fails(&world), [UnitId(1)]);
}

fn refuses(world: &mut World, lasts: u64) {
    let short = vec![Short { disk: DiskId(0), lasts: Duration::from_millis(lasts) }];
    world.handle(Event::Load(LoadReport { short, ..LoadReport::default() }));
}

#[test]
fn a_target_that_refuses_everything_is_an_incident_and_the_ladder_decides() {
    let mut world = World::new(with("hold 10s, then fail"));
    world.run("@1 obedient");
    refuses(&mut world, 900);
    assert!(reasons(&world, JournalKind::TargetShort).is_empty());
    world.run("@2 pass");
    refuses(&mut world, 1900);
    let told = reasons(&world, JournalKind::TargetShort);
    assert!(told.len() == 1 && told[0].contains("short of resources"), "{told:?}");
    assert_eq!(world.controller.view(world.now).incidents.len(), 1);
    assert_eq!(
        world.controller.view(world.now).vms[0].gate,
        Gate::Open,
        "they are held where they are refused"
    );
    world.run("@12.1 pass");
    refuses(&mut world, 12_000);
    let gate = world.controller.view(world.now).vms[0].gate.clone();
    let Gate::Fail(_, failing) = gate else { panic!("{gate:?}") };
    assert_eq!((failing.cut_off, failing.refused), (vec![], vec![UnitId(0)]));
    // Something was served.
    world.run("@13 pass");
    world.handle(Event::Load(LoadReport::default()));
    let view = world.controller.view(world.now);
    assert_eq!((&view.vms[0].gate, view.incidents.len()), (&Gate::Open, 0));
}

/// A VM that stands still asks its target nothing, so nobody would know when to continue it.
#[test]
fn a_refusing_target_suspends_nobody_and_no_error_comes_that_no_ladder_names() {
    let mut world = World::new(with("hold 10s, then suspend"));
    world.run("@1 obedient");
    for second in 2..200 {
        world.run(&format!("@{second} pass"));
        refuses(&mut world, (second - 1) * 1000);
    }
    assert_eq!(world.controller.view(world.now).vms[0].gate, Gate::Open);
    let told = reasons(&world, JournalKind::PolicyBlocked);
    assert!(told.len() >= 2 && told[0].contains("not suspended for that"), "{told:?}");
}

/// An array that fails over from one controller to the other answers so for seconds.
#[test]
fn a_ladder_of_errors_alone_gives_a_refusing_target_a_moment() {
    let mut world = World::new(with("fail"));
    world.run("@1 obedient");
    let failing = |world: &World| matches!(world.controller.view(world.now).vms[0].gate, Gate::Fail(..));
    refuses(&mut world, 1000);
    assert!(!failing(&world));
    world.run("@6.1 pass");
    refuses(&mut world, 6100);
    assert!(failing(&world));
}

/// It was stopped by its errors, without a path, and is continued for them again: never for nothing.
#[test]
fn who_stops_on_its_errors_is_continued_only_to_meet_them_or_with_a_path() {
    let mut world = World::new(vhost("hold 5s, then suspend 20s, then fail"));
    world.run("@1 obedient; down a; down b\n@30 pass");
    assert_eq!(fails(&world), [UnitId(0)]);
    world.run("@40 io-error gold");
    assert_eq!(world.controller.view(world.now).vms[0].state, crate::view::VmState::Suspended);
    for second in 41..500 {
        world.run(&format!("@{second} pass"));
        let row = &world.controller.view(world.now).vms[0];
        let runs = row.state != crate::view::VmState::Suspended;
        assert!(!runs || fails(&world) == [UnitId(0)], "at {second} s: {row:?}");
    }
    assert_eq!(fails(&world), [UnitId(0)], "its time came");
}
