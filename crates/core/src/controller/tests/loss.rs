//! `on_path_loss` in its five forms, `when`, and links of single units.

use super::world::{World, check, check_in, spec};
use crate::event::{Event, LinkChange, LinkReport};
use crate::ids::{PathId, UnitId, WorkerId};
use crate::plan::Gate;
use crate::spec::{OnPathLoss, Spec, When};

fn with(policy: OnPathLoss, when: When) -> Spec {
    let mut spec = spec(&[("gold", 100, 0), ("bronze", 10, 0)]);
    spec.vms[1].on_path_loss = policy;
    spec.vms[1].when = when;
    spec
}

#[test]
fn failover_is_the_data_planes_alone() {
    check(
        with(OnPathLoss::Failover, When::Always),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a path-down
        @5 up a; pass
        > 5: a path-up
        > 5: a link-up
        > 6: a path-repaired, a failback, san0 incident-closed
        @7 pass
        ",
    );
}

#[test]
fn a_vm_with_vhost_user_disks_is_stopped_with_its_requests_held() {
    let mut spec = with(OnPathLoss::Suspend, When::Always);
    spec.disks[1].vhost_user = Some("/run/vmpath/bronze.sock".into());
    check(
        spec,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: bronze hold, stop bronze, a path-down, bronze vm-suspending
        ",
    );
}

#[test]
fn suspend_is_not_routed_from_the_same_moment() {
    check(
        with(OnPathLoss::Suspend, When::Always),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: bronze bounce, stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @20 up a
        > 20: a path-up
        > 20: a link-up
        > 21: bronze open, cont bronze, a path-repaired, a failback, bronze vm-resuming
        > 21.005: bronze vm-resumed
        > 23.005: san0 incident-closed
        @30 pass
        ",
    );
}

#[test]
fn failover_suspend_finishes_its_requests_elsewhere() {
    check(
        with(OnPathLoss::FailoverSuspend, When::Always),
        "
        @1 obedient; pass; down a
        > 1: san0 incident-opened, a link-down
        > 1: stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @20 up a
        > 20: a path-up
        > 20: a link-up
        > 21: bronze open, cont bronze, a path-repaired, a failback, bronze vm-resuming
        > 21.005: bronze vm-resumed
        > 23.005: san0 incident-closed
        @30 pass
        ",
    );
}

/// However long that takes: only what is shed for want of room is bounced.
#[test]
fn failover_suspend_bounces_nothing() {
    check(
        with(OnPathLoss::FailoverSuspend, When::Always),
        "
        @1 deaf; down a
        > 1: san0 incident-opened, a link-down
        > 1: stop bronze, a path-down, bronze vm-suspending
        @8 paused bronze
        > 8: bronze hold, bronze vm-suspended
        ",
    );
}

#[test]
fn migrate_is_blocked_without_another_host() {
    for policy in [OnPathLoss::Migrate, OnPathLoss::FailoverMigrate] {
        let world = check(
            with(policy, When::Always),
            "
            @1 obedient; down a; pass
            > 1: san0 incident-opened, a link-down
            > 1: a path-down, bronze policy-blocked
            @5 up a
            > 5: a path-up
            > 5: a link-up
            > 6: a path-repaired, a failback, san0 incident-closed
            @7 pass
            ",
        );
        let blocked = world.journal.iter().find(|e| e.kind.as_str() == "policy-blocked").expect("told");
        assert!(blocked.reason.contains("no other host is configured"), "{}", blocked.reason);
        assert!(blocked.incident.is_some());
    }
}

#[test]
fn outranked_applies_only_beside_a_running_vm_of_higher_priority() {
    for policy in [OnPathLoss::Suspend, OnPathLoss::FailoverSuspend, OnPathLoss::Migrate] {
        // Nobody above it runs: gold was stopped by somebody else.
        let mut world = World::new(with(policy, When::Outranked));
        world.run("@0.5 paused gold");
        check_in(
            &mut world,
            "
            @1 obedient; pass; pass; down a
            > 1: san0 incident-opened, a link-down
            > 1: a path-down
            ",
        );
    }
}

#[test]
fn outranked_is_looked_at_again_when_the_other_runs() {
    let mut world = World::new(with(OnPathLoss::Suspend, When::Outranked));
    check_in(
        &mut world,
        "
        @0.5 obedient; paused gold
        @1 down a
        > 1: san0 incident-opened, a link-down
        > 1: a path-down
        @2 running gold
        > 2: bronze bounce, stop bronze, bronze vm-suspending
        > 2.005: bronze hold, bronze vm-suspended
        @3 up a
        > 3: a path-up
        > 3: a link-up
        > 4: bronze open, cont bronze, a path-repaired, a failback, bronze vm-resuming
        > 4.005: bronze vm-resumed
        > 6.005: san0 incident-closed
        @10 pass
        ",
    );
}

#[test]
fn outranked_needs_a_higher_priority_not_an_equal_one() {
    let mut spec = with(OnPathLoss::Suspend, When::Outranked);
    spec.vms[0].priority = 10;
    check(
        spec,
        "
        @1 obedient; down a; pass; pass
        > 1: san0 incident-opened, a link-down
        > 1: a path-down
        ",
    );
}

#[test]
fn outranked_needs_a_shared_path() {
    let mut spec = with(OnPathLoss::Suspend, When::Outranked);
    // Gold is on paths of its own.
    let more = super::world::path("c");
    spec.paths.push(more);
    let c = spec.path_ids().nth(2).expect("c");
    spec.vms[0].avoid_paths = spec.path_ids().take(2).collect();
    spec.vms[1].avoid_paths = vec![c];
    check(
        spec,
        "
        @1 obedient; down a; pass; pass; pass
        > 1: san0 incident-opened, a link-down
        > 1: a path-down
        ",
    );
}

#[test]
fn the_highest_outranks_the_next_only_while_it_runs_itself() {
    let mut spec = spec(&[("gold", 100, 0), ("silver", 50, 0), ("bronze", 10, 0)]);
    for vm in &mut spec.vms {
        vm.on_path_loss = OnPathLoss::Suspend;
        vm.when = When::Outranked;
    }
    spec.vms[0].when = When::Always;
    // Gold leaves, so nothing outranks silver, which outranks bronze.
    check(
        spec,
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a link-down, gold vm-suspending
        > 1: a link-down
        > 1: bronze bounce, stop bronze, a path-down, bronze vm-suspending
        > 1.005: gold hold, gold vm-suspended
        > 1.005: bronze hold, bronze vm-suspended
        @2 pass
        ",
    );
}

#[test]
fn a_vm_loses_a_path_with_the_link_of_its_own_unit() {
    check(
        with(OnPathLoss::Suspend, When::Always),
        "
        @1 obedient; down a gold
        > 1: san0 incident-opened, a link-down
        @2 down a bronze
        > 2: bronze bounce, stop bronze, a path-down, bronze vm-suspending
        > 2.005: bronze hold, bronze vm-suspended
        @10 up a gold
        > 10: a path-up
        > 11: a path-repaired, a failback
        @20 up a bronze
        > 20: a link-up
        > 21: bronze open, cont bronze, bronze vm-resuming
        > 21.005: bronze vm-resumed
        > 23.005: san0 incident-closed
        @30 pass
        ",
    );
    check(
        with(OnPathLoss::Suspend, When::Always),
        "
        @1 obedient; down a bronze
        > 1: bronze bounce, stop bronze, san0 incident-opened, a link-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @10 up a bronze
        > 10: a link-up
        > 11: bronze open, cont bronze, bronze vm-resuming
        > 11.005: bronze vm-resumed
        > 13.005: san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn a_flapping_link_of_an_up_path_is_damped_as_well() {
    check(
        with(OnPathLoss::Suspend, When::Always),
        "
        @1 obedient; down a bronze
        > 1: bronze bounce, stop bronze, san0 incident-opened, a link-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @2 up a bronze
        > 2: a link-up
        @2.5 down a bronze
        > 2.5: a link-down
        @3 up a bronze
        > 3: a link-up
        > 5: bronze open, cont bronze, bronze vm-resuming
        > 5.005: bronze vm-resumed
        > 7.005: san0 incident-closed
        @9 pass
        ",
    );
}

#[test]
fn without_any_path_on_no_path_governs() {
    let mut spec = with(OnPathLoss::Suspend, When::Always);
    spec.paths.truncate(1);
    check(
        spec,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down, gold no-path
        > 1: a path-down, bronze no-path
        @5 up a
        > 5: a path-up, gold vm-released
        > 5: a link-up, bronze vm-released
        > 6: a path-repaired, a failback, san0 incident-closed
        @9 pass
        ",
    );
}

#[test]
fn what_cannot_be_stopped_is_held_and_told() {
    let mut world = World::new(with(OnPathLoss::Suspend, When::Always));
    world.run("@0.5 lost bronze");
    check_in(
        &mut world,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: bronze hold, a path-down, bronze vm-held, bronze policy-blocked
        @2 connect-no-werror bronze 1
        > 2: bronze vm-managed, bronze policy-blocked
        @3 connect bronze 1
        > 3: bronze bounce, stop bronze, bronze vm-suspending
        > 3.005: bronze hold, bronze vm-suspended
        @5 up a
        > 5: a path-up
        > 5: a link-up
        > 6: bronze open, cont bronze, a path-repaired, a failback, bronze vm-resuming
        > 6.005: bronze vm-resumed
        > 8.005: san0 incident-closed
        @9 pass
        ",
    );
    // It is released without having been stopped.
    let mut world = World::new(with(OnPathLoss::Suspend, When::Always));
    world.run("@0.5 connect-no-werror bronze 2");
    check_in(
        &mut world,
        "
        @1 obedient; down a; down a
        > 1: san0 incident-opened, a link-down
        > 1: bronze hold, a path-down, bronze vm-held, bronze policy-blocked
        @5 up a
        > 5: a path-up
        > 5: a link-up
        > 6: bronze open, a path-repaired, a failback, bronze vm-released, san0 incident-closed
        @9 pass
        ",
    );
}

#[test]
fn an_unmanaged_vm_goes_on_under_failover_suspend() {
    let mut world = World::new(with(OnPathLoss::FailoverSuspend, When::Always));
    world.run("@0.5 lost bronze");
    check_in(
        &mut world,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a path-down, bronze policy-blocked
        @5 up a; pass
        > 5: a path-up
        > 5: a link-up
        > 6: a path-repaired, a failback, san0 incident-closed
        @9 pass
        ",
    );
}

#[test]
fn a_graceful_stop_needs_no_werror_but_gets_no_eio_either() {
    let mut spec = with(OnPathLoss::FailoverSuspend, When::Always);
    spec.vms[0].on_path_loss = OnPathLoss::FailoverSuspend;
    let mut world = World::new(spec);
    world.run("@0.5 connect-no-werror bronze 2");
    // Both are asked to stop; then the other path dies too. Only gold stops on errors.
    check_in(
        &mut world,
        "
        @1 down a
        > 1: stop gold, san0 incident-opened, a link-down, gold vm-suspending
        > 1: stop bronze, a path-down, bronze vm-suspending
        @1.1 down b
        > 1.1: gold bounce, b link-down
        > 1.1: bronze hold, b path-down
        ",
    );
    let bronze = world.vm("bronze");
    assert!(matches!(world.plan.vms[bronze.index()].gate, Gate::Hold(_)));
}

#[test]
fn what_the_operator_resumed_is_not_suspended_again_in_the_same_incident() {
    check(
        with(OnPathLoss::Suspend, When::Always),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: bronze bounce, stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @2 resume bronze
        > 2: bronze open, cont bronze, bronze vm-resuming, answer ok
        > 2.005: bronze vm-resumed
        @10 up a
        > 10: a path-up
        > 10: a link-up
        > 11: a path-repaired, a failback, san0 incident-closed
        @20 down a
        > 20: san0 incident-opened, a link-down
        > 20: bronze bounce, stop bronze, a path-down, bronze vm-suspending
        > 20.005: bronze hold, bronze vm-suspended
        @21 pass
        ",
    );
}

#[test]
fn a_path_that_fails_in_an_open_incident_joins_it() {
    let world = check(
        with(OnPathLoss::Suspend, When::Always),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: bronze bounce, stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @2 down b
        > 2: b link-down, gold no-path
        > 2: b path-down
        @3 up a
        > 3: a path-up, gold vm-released
        > 3: a link-up
        > 4: a path-repaired, a failback
        @5 up b
        > 5: b path-up
        > 5: b link-up
        > 6: bronze open, cont bronze, b path-repaired, b failback, bronze vm-resuming
        > 6.005: bronze vm-resumed
        > 8.005: san0 incident-closed
        @9 pass
        ",
    );
    let incidents = world.journal.iter().filter(|e| e.kind.as_str() == "incident-opened").count();
    assert_eq!(incidents, 1);
}

#[test]
fn each_workers_reports_are_counted_for_themselves() {
    let mut world = World::new(spec(&[("gold", 100, 0)]));
    let report = |worker| {
        let change = LinkChange::Up;
        let (path, unit, at) = (PathId(0), UnitId(0), crate::time::Instant::ZERO);
        Event::Link(LinkReport { worker: WorkerId(worker), path, unit, at, change })
    };
    let before = world.plan.reports_of(WorkerId(0));
    for worker in [2, 0, 2] {
        world.handle(report(worker));
    }
    let counted = [0, 1, 2, 3].map(|worker| world.plan.reports_of(WorkerId(worker)));
    assert_eq!(counted, [before + 1, 0, 2, 0], "a worker of which nothing was heard counts for nothing");
}
