//! A restart of vmpath in the middle of an incident: what it still knows, whom it resumes, and whom it leaves alone.

use super::world::{World, check, spec};
use crate::saved::Saved;
use crate::spec::{Failback, OnPathLoss, ResumeOn, Spec};
use crate::time::Duration;
use crate::view::VmState;

fn suspends() -> Spec {
    let mut spec = spec(&[("gold", 100, 0)]);
    spec.vms[0].on_path_loss = OnPathLoss::FailoverSuspend;
    spec
}

#[test]
fn who_was_suspended_is_resumed_by_the_next_process() {
    check(
        suspends(),
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 restart
        > 5: host restarted
        @5.1 up b; connect-paused gold 1
        > 5.1: b path-up
        > 5.1: gold vm-managed
        @20 up a
        > 20: a path-up
        > 21: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 21.005: gold vm-resumed
        > 23.005: san0 incident-closed
        @60 pass
        ",
    );
}

/// On a path that had failed, the first connection of the new process is a wait like any other: the VM would be suspended again.
#[test]
fn a_path_that_was_proving_itself_is_waited_for_though_its_link_only_connects() {
    check(
        suspends(),
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 down b
        > 5: b path-down
        @6 up a; up b
        > 6: a path-up
        > 6: b path-up
        @6.5 restart; up a; connect-paused gold 1
        > 6.5: host restarted
        > 6.5: a path-up
        > 6.5: gold vm-managed
        > 7.5: a path-repaired, a failback
        @12 up b
        > 12: b path-up
        > 13: gold open, cont gold, b path-repaired, b failback, gold vm-resuming
        > 13.005: gold vm-resumed
        > 15.005: san0 incident-closed
        @60 pass
        ",
    );
}

#[test]
fn it_explains_as_before() {
    let mut world = World::new(suspends());
    world.run("@1 obedient; down a\n@2 pass");
    let before = world.explain("gold");
    assert!(before.contains("on_path_loss = \"failover+suspend\"") && before.contains("INC-1"), "{before}");
    world.run("@2 restart; up b; connect-paused gold 1");
    assert_eq!(world.explain("gold"), before);
    // The path still does not connect, for another reason.
    world.run("@2 gone a");
    let after = world.explain("gold");
    assert!(after.contains("connection reset by the target; now: the target has no such unit"), "{after}");
}

#[test]
fn a_new_process_under_the_same_name_is_not_continued() {
    check(
        suspends(),
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 restart; connect-paused gold 2; up b
        > 5: host restarted
        > 5: gold open, gold vm-managed, gold vm-released
        > 5: b path-up
        @20 up a
        > 20: a path-up
        > 21: a path-repaired, a failback, san0 incident-closed
        @60 pass
        ",
    );
}

#[test]
fn who_runs_meanwhile_was_continued_by_somebody_else_and_is_left_alone() {
    check(
        suspends(),
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 restart; up b; connect gold 1
        > 5: host restarted
        > 5: b path-up
        > 5: gold open, gold vm-managed, gold vm-resumed
        @10 restart; up b; connect gold 1
        > 10: host restarted
        > 10: b path-up
        > 10: gold vm-managed
        @60 pass
        ",
    );
}

#[test]
fn what_somebody_else_stopped_stays_stopped() {
    check(
        suspends(),
        "
        @1 obedient; paused gold
        @2 restart; up a; up b; connect-paused gold 1
        > 2: host restarted
        > 2: a path-up
        > 2: b path-up
        > 2: gold vm-managed
        @3 restart; up a; up b; connect-io-error gold 1
        > 3: host restarted
        > 3: a path-up
        > 3: b path-up
        > 3: gold vm-managed
        @60 pass
        ",
    );
}

#[test]
fn a_guest_that_met_the_absence_of_its_disks_is_continued() {
    check(
        suspends(),
        "
        @1 obedient; restart; connect-io-error gold 1
        > 1: host restarted
        > 1: gold hold, gold vm-managed, gold vm-suspended
        @1.2 up a
        > 1.2: a path-up
        > 1.5: gold open, cont gold, gold vm-resuming
        > 1.505: gold vm-resumed
        @5 up b
        > 5: b path-up
        @6 io-error gold
        @7 restart; up a; up b; connect-io-error gold 1
        > 7: host restarted
        > 7: a path-up
        > 7: b path-up
        > 7: gold vm-managed
        @8 connect gold 2
        > 8: gold vm-managed
        @9 restart; connect-io-error gold 3; up a; up b
        > 9: host restarted
        > 9: gold vm-managed
        > 9: a path-up
        > 9: b path-up
        @60 pass
        ",
    );
}

/// However often we are killed: the limit of two resumes in five minutes is for what paths do, and stands as it stood.
#[test]
fn what_our_own_restarts_stopped_neither_waits_for_the_limit_nor_counts() {
    let mut world = World::new(suspends());
    world.run("@1 obedient");
    let state = |world: &World| world.controller.view(world.now).vms[0].state;
    let after = |world: &World, seconds: f64| world.now.as_nanos() as f64 / 1e9 + seconds;
    let kill = |world: &mut World| {
        let at = after(world, 10.0);
        world.run(&format!("@{at} restart; up a; up b; connect-io-error gold 1\n@{} pass", at + 5.0));
        assert_eq!(state(world), VmState::Running, "{}", world.explain("gold"));
    };
    let lose = |world: &mut World, then: VmState| {
        let at = after(world, 10.0);
        world.run(&format!("@{at} down a; down b\n@{} up a; up b\n@{} pass", at + 2.0, at + 25.0));
        assert_eq!(state(world), then, "{}", world.explain("gold"));
    };
    (0..4).for_each(|_| kill(&mut world));
    (0..2).for_each(|_| lose(&mut world, VmState::Running));
    kill(&mut world);
    lose(&mut world, VmState::Suspended);
    let is_limited = |world: &World| world.explain("gold").contains("at most 2 times in 5 minutes");
    assert!(is_limited(&world), "{}", world.explain("gold"));
    world.run(&format!("@{} restart; up a; up b; connect-paused gold 1", after(&world, 10.0)));
    world.pass_until(world.now + Duration::from_secs(20));
    assert!(is_limited(&world), "what a path did waits over a restart too: {}", world.explain("gold"));
}

#[test]
fn a_stop_that_may_have_been_lost_is_sent_again() {
    check(
        suspends(),
        "
        @1 down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        @1.1 restart; up b; obedient; connect gold 1
        > 1.1: gold hold, host restarted
        > 1.1: gold open, b path-up
        > 1.1: stop gold, gold vm-managed, gold vm-suspending
        > 1.105: gold hold, gold vm-suspended
        @2 pass
        ",
    );
}

#[test]
fn a_cont_that_may_have_been_lost_is_sent_again() {
    check(
        suspends(),
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 deaf; up a
        > 5: a path-up
        > 6: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        @6.1 restart; up a; up b; obedient; connect-paused gold 1
        > 6.1: host restarted
        > 6.1: a path-up
        > 6.1: b path-up
        > 6.1: gold vm-managed
        > 8.1: cont gold, gold vm-resuming
        > 8.105: gold vm-resumed
        > 10.105: san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn whom_the_operator_suspended_waits_for_the_operator() {
    check(
        suspends(),
        "
        @1 obedient; suspend gold
        > 1: stop gold, gold vm-suspending, answer ok
        > 1.005: gold hold, gold vm-suspended
        @5 stop-and-start; up a; up b; connect-paused gold 1
        > 5: host restarted
        > 5: a path-up
        > 5: b path-up
        > 5: gold vm-managed
        @60 resume gold
        > 60: gold open, cont gold, gold vm-resuming, answer ok
        > 60.005: gold vm-resumed
        @70 pass
        ",
    );
}

#[test]
fn whom_the_operator_resumed_by_hand_is_not_suspended_again() {
    check(
        suspends(),
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @2 resume gold
        > 2: gold open, cont gold, gold vm-resuming, answer ok
        > 2.005: gold vm-resumed
        @10 restart; up b; connect gold 1
        > 10: host restarted
        > 10: b path-up
        > 10: gold vm-managed
        @60 pass
        ",
    );
}

#[test]
fn a_disabled_path_stays_disabled_and_a_hand_set_access_stays_set() {
    let mut world = check(
        suspends(),
        "
        @1 disable a; non-optimized b
        > 1: a path-disabled, answer ok
        > 1: b access-changed, answer ok
        @2 restart; up b
        > 2: host restarted
        > 2: b path-up
        @60 pass
        ",
    );
    let word = |world: &World| {
        let view = world.controller.view(world.now);
        let row = |p: &crate::view::PathView| format!("{} {}", p.health, p.access);
        view.paths.iter().map(row).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(word(&world), "disabled optimized, up non-optimized");
    world.run("@61 boot");
    assert_eq!(word(&world), "disabled optimized, down non-optimized");
    // The configuration says something else now.
    let mut spec = (*world.spec).clone();
    spec.paths[1].access = crate::spec::Access::NonOptimized;
    world.reload(spec.clone());
    spec.paths[1].access = crate::spec::Access::Optimized;
    world.spec = std::sync::Arc::new(spec);
    world.run("@62 restart");
    assert_eq!(word(&world), "disabled optimized, down optimized");
}

#[test]
fn failback_by_hand_is_still_awaited() {
    let mut spec = suspends();
    spec.targets[0].failback = Failback::Manual;
    spec.vms[0].resume = ResumeOn::Failback;
    check(
        spec,
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 up a
        > 5: a path-up
        > 6: a path-repaired
        @10 restart; connect-paused gold 1; up a; up b
        > 10: host restarted
        > 10: gold vm-managed
        > 10: b path-up
        @60 failback
        > 60: gold open, cont gold, a failback, gold vm-resuming, answer ok
        > 60.005: gold vm-resumed
        > 62.005: san0 incident-closed
        @70 pass
        ",
    );
}

#[test]
fn traffic_does_not_return_to_a_path_that_is_not_connected_again() {
    let mut spec = suspends();
    spec.targets[0].failback = Failback::After(Duration::from_secs(5));
    spec.vms[0].on_path_loss = OnPathLoss::Failover;
    check(
        spec,
        "
        @1 down a
        > 1: san0 incident-opened, a path-down
        @2 up a
        > 2: a path-up
        > 3: a path-repaired
        @4 restart; up b
        > 4: host restarted
        > 4: b path-up
        > 14: a path-down
        @20 up a
        > 20: a path-up
        > 22: a path-repaired
        > 27: a failback, san0 incident-closed
        @60 pass
        ",
    );
}

#[test]
fn a_path_that_flapped_must_still_prove_itself() {
    let mut spec = suspends();
    spec.vms[0].on_path_loss = OnPathLoss::Failover;
    check(
        spec,
        "
        @1 down a
        > 1: san0 incident-opened, a path-down
        @2 up a
        > 2: a path-up
        @2.5 down a
        > 2.5: a path-down
        @3 up a
        > 3: a path-up
        @4 restart; up b; up a
        > 4: host restarted
        > 4: b path-up
        > 4: a path-up
        > 6: a path-repaired, a failback, san0 incident-closed
        @60 pass
        ",
    );
}

#[test]
fn the_hold_goes_on_and_no_rung_is_taken_before_the_monitors_are_heard() {
    let mut spec = suspends();
    spec.vms[0].on_path_loss = OnPathLoss::Failover;
    spec.vms[0].on_no_path = "hold 10s, then suspend, then fail".parse().expect("a ladder");
    check(
        spec.clone(),
        "
        @1 obedient; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        @5 restart; connect gold 1
        > 5: host restarted
        > 5: gold vm-managed
        > 11: gold bounce, stop gold, gold vm-suspending
        > 11.005: gold hold, gold vm-suspended
        @12 pass
        ",
    );
    check(
        spec,
        "
        @1 obedient; pass; down a; down b
        > 1: san0 incident-opened, a path-down
        > 1: b path-down, gold no-path
        @10.9 restart
        > 10.9: host restarted
        @12 connect gold 1
        > 12: gold vm-managed
        > 12.9: gold bounce, stop gold, gold vm-suspending
        > 12.905: gold hold, gold vm-suspended
        @13 pass
        ",
    );
}

#[test]
fn after_a_boot_nobody_is_suspended_and_numbers_go_on() {
    check(
        suspends(),
        "
        @1 obedient; down a
        > 1: stop gold, san0 incident-opened, a path-down, gold vm-suspending
        > 1.005: gold hold, gold vm-suspended
        @5 boot; up b; connect-paused gold 1
        > 5: gold open, san0 incident-closed, gold vm-released, host restarted
        > 5: b path-up
        > 5: gold vm-managed
        > 15: san0 incident-opened, a path-down
        @60 pass
        ",
    );
    let mut world = World::new(suspends());
    world.run("@1 down a\n@2 boot; up b\n@20 pass");
    assert_eq!(world.journal.last().and_then(|entry| entry.incident).map(|id| id.0), Some(2));
}

#[test]
fn what_has_left_the_configuration_is_told_or_forgotten() {
    let mut world = World::new(spec(&[("gold", 100, 0), ("silver", 50, 0)]));
    world.run("@1 obedient; suspend silver\n@2 down a\n@3 pass");
    let mut smaller = (*world.spec).clone();
    smaller.vms.pop();
    smaller.disks.pop();
    smaller.units.pop();
    smaller.paths[0].name = "c".into();
    world.spec = std::sync::Arc::new(smaller);
    let told = world.run("@4 restart; up b; up c\n@60 pass");
    assert!(told.contains("host vm-released, host restarted"), "{told}");
    assert!(told.contains("san0 incident-closed"), "{told}");
    assert!(world.journal.iter().any(|e| e.reason.contains("silver left the configuration")));
}

#[test]
fn a_restart_of_a_healthy_host_has_nothing_to_remember_but_who_runs() {
    let mut world = World::new(suspends());
    let saved = world.controller.save();
    assert_eq!(saved.vms.iter().map(|vm| vm.ran).collect::<Vec<_>>(), [Some(1)]);
    let rest = Saved { names: saved.names.clone(), vms: saved.vms.clone(), ..Saved::default() };
    assert_eq!(saved, rest);
    // Time alone changes nothing that would have to be saved.
    world.pass_until(super::world::at(100.0));
    assert_eq!(world.controller.save(), saved);
}
