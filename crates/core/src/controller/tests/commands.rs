//! What an operator asks for, and what is answered. Reload.

use super::world::{World, add_vm, check, check_in, spec};
use crate::event::Command;
use crate::ids::{PathId, TargetId, VmId};
use crate::spec::{Access, Failback, OnPathLoss, Spec};

fn two() -> Spec {
    spec(&[("gold", 100, 0), ("bronze", 10, 0)])
}

fn answers(world: &World) -> Vec<String> {
    let text = |answer: &Result<String, crate::effect::CommandError>| match answer {
        Ok(text) => format!("ok: {text}"),
        Err(crate::effect::CommandError::Conflict(text)) => format!("conflict: {text}"),
        Err(crate::effect::CommandError::Unsupported(text)) => format!("unsupported: {text}"),
    };
    world.answers.iter().map(text).collect()
}

#[test]
fn a_path_is_taken_out_and_put_back() {
    let world = check(
        two(),
        "
        @1 disable a
        > 1: a path-disabled, answer ok
        @2 disable a
        > 2: answer conflict
        @3 disable b
        > 3: answer conflict
        @4 down a
        @5 enable a; enable a
        > 5: a path-enabled, answer ok
        > 5: answer conflict
        @6 up a
        > 6: a path-up
        @7 disable b
        > 7: b path-disabled, answer ok
        ",
    );
    assert_eq!(
        answers(&world),
        [
            "ok: san0/a is disabled; `vmpath path enable san0/a` puts it back",
            "conflict: san0/a is disabled already",
            "conflict: san0/b is the last usable path of gold, bronze: suspend them first (`vmpath vm suspend \
             gold`), or bring another path up",
            "ok: san0/a is enabled: it is used as soon as it connects",
            "conflict: san0/a is not disabled: it is connecting",
            "ok: san0/b is disabled; `vmpath path enable san0/b` puts it back",
        ]
    );
}

#[test]
fn the_last_path_may_go_when_its_vms_are_suspended() {
    check(
        two(),
        "
        @1 obedient; disable a
        > 1: a path-disabled, answer ok
        @2 suspend gold; suspend bronze; disable b
        > 2: stop gold, gold vm-suspending, answer ok
        > 2: stop bronze, bronze vm-suspending, answer ok
        > 2: answer conflict
        > 2.005: gold hold, gold vm-suspended
        > 2.005: bronze hold, bronze vm-suspended
        @3 disable b
        > 3: b path-disabled, answer ok
        @4 resume gold
        > 4: answer conflict
        @5 enable a
        > 5: a path-enabled, a path-up, answer ok
        @6 resume gold; resume bronze
        > 6: gold open, cont gold, gold vm-resuming, answer ok
        > 6: bronze open, cont bronze, bronze vm-resuming, answer ok
        > 6.005: gold vm-resumed
        > 6.005: bronze vm-resumed
        @9 pass
        ",
    );
}

#[test]
fn a_disabled_path_is_no_failure_for_any_vm() {
    let mut spec = two();
    spec.vms[1].on_path_loss = OnPathLoss::Suspend;
    check(
        spec,
        "
        @1 obedient; disable a
        > 1: a path-disabled, answer ok
        @2 down a
        @60 enable a
        > 60: a path-enabled, answer ok
        @61 up a
        > 61: a path-up
        @70 pass
        ",
    );
}

#[test]
fn an_enabled_path_that_does_not_connect_has_failed() {
    check(
        two(),
        "
        @1 obedient; disable a; down a
        > 1: a path-disabled, answer ok
        @2 enable a
        > 2: a path-enabled, answer ok
        @3 down a
        > 12: san0 incident-opened, a path-down
        @20 pass
        ",
    );
}

/// The worker hears of both, and what it tells of the first comes after the second.
#[test]
fn what_was_cut_for_a_disable_that_is_over_is_no_failure() {
    let mut spec = two();
    spec.vms[1].on_path_loss = OnPathLoss::Suspend;
    let mut world = check(
        spec,
        "
        @1 obedient; disable a; enable a; cut a
        > 1: a path-disabled, answer ok
        > 1: a path-enabled, a path-up, answer ok
        @2 up a
        @20 disable a; enable a; cut a
        > 20: a path-disabled, answer ok
        > 20: a path-enabled, a path-up, answer ok
        @20.5 pass
        ",
    );
    check_in(
        &mut world,
        "
        @21 down a
        > 30: bronze bounce, stop bronze, san0 incident-opened, a path-down, bronze vm-suspending
        > 30.005: bronze hold, bronze vm-suspended
        @31 pass
        ",
    );
}

#[test]
fn a_path_that_was_down_may_be_disabled_and_that_ends_its_incident() {
    check(
        two(),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a path-down
        @2 disable a
        > 2: a path-disabled, san0 incident-closed, answer ok
        @3 pass
        ",
    );
}

#[test]
fn access_is_set_and_survives_an_unrelated_reload() {
    let mut world = check(
        two(),
        "
        @1 non-optimized a
        > 1: a access-changed, answer ok
        @2 non-optimized a
        > 2: answer ok
        ",
    );
    assert_eq!(world.plan.paths[0].access, Access::NonOptimized);
    let mut next = (*world.spec).clone();
    next.vms[0].priority = 7;
    world.reload(next.clone());
    assert_eq!(world.plan.paths[0].access, Access::NonOptimized);
    // The configuration says something new: that counts.
    next.paths[0].access = Access::NonOptimized;
    world.reload(next.clone());
    next.paths[0].access = Access::Optimized;
    world.reload(next);
    assert_eq!(world.plan.paths[0].access, Access::Optimized);
}

#[test]
fn suspend_and_resume_by_hand() {
    let world = check(
        two(),
        "
        @1 obedient; suspend gold
        > 1: stop gold, gold vm-suspending, answer ok
        > 1.005: gold hold, gold vm-suspended
        @2 suspend gold
        > 2: answer conflict
        @3 resume bronze
        > 3: answer conflict
        @4 resume gold; resume gold
        > 4: gold open, cont gold, gold vm-resuming, answer ok
        > 4: answer conflict
        > 4.005: gold vm-resumed
        @5 down a; up a
        > 5: san0 incident-opened, a link-down
        > 5: a path-down
        > 5: a path-up
        > 5: a link-up
        > 6: a path-repaired, a failback, san0 incident-closed
        @9 pass
        ",
    );
    assert_eq!(
        answers(&world),
        [
            "ok: gold is being suspended; `vmpath vm resume gold` resumes it",
            "conflict: gold is suspended already; it waits for the operator: `vmpath vm resume gold`",
            "conflict: bronze is not suspended: it is running",
            "ok: gold is being resumed by hand; it is not suspended again for the same incident",
            "conflict: gold is being resumed: it waits for `cont` to take effect (attempt 1 of 8; again in 1.0 s)",
        ]
    );
}

#[test]
fn what_cannot_be_suspended_or_resumed_is_answered_with_the_reason() {
    let mut world = World::new(two());
    world.run(
        "@1 lost gold\n@2 suspend gold; resume gold\n@3 paused bronze\n@4 suspend bronze; resume bronze",
    );
    world.run("@5 connect-no-werror gold 2; down a; down b\n@6 suspend gold");
    assert_eq!(
        answers(&world),
        [
            "conflict: gold: it cannot be stopped: unmanaged, no monitor (connection refused)",
            "conflict: gold is unmanaged: vmpath did not suspend it",
            "conflict: bronze does not run: it is paused, and somebody else stopped it",
            "conflict: bronze is paused, but vmpath did not stop it: what somebody else stopped stays stopped; \
             continue it where it was stopped",
            "conflict: gold: it cannot be stopped with requests open: its disks lack werror=stop,rerror=stop, and \
             no path can answer them",
        ]
    );
}

#[test]
fn an_operators_resume_needs_a_path() {
    let mut spec = two();
    spec.vms[0].on_path_loss = OnPathLoss::Suspend;
    let world = check(
        spec,
        "
        @1 obedient; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a link-down, gold vm-suspending
        > 1: a path-down
        > 1.005: gold hold, gold vm-suspended
        @2 down b
        > 2: b link-down
        > 2: b path-down, bronze no-path
        @3 resume gold
        > 3: answer conflict
        @4 up b
        > 4: b path-up
        > 4: b link-up, bronze vm-released
        @4.5 resume gold
        > 4.5: gold open, cont gold, gold vm-resuming, answer ok
        > 4.505: gold vm-resumed
        > 5: b path-repaired, b failback
        @9 pass
        ",
    );
    assert!(answers(&world)[0].starts_with("conflict: gold has no usable path to san0/gold"));
}

#[test]
fn an_operator_may_release_a_held_vm_and_stop_a_stop() {
    let mut spec = two();
    spec.vms[0].on_path_loss = OnPathLoss::Suspend;
    spec.vms[1].on_path_loss = OnPathLoss::Suspend;
    let mut world = World::new(spec);
    world.run("@0.5 lost bronze");
    check_in(
        &mut world,
        "
        @1 deaf; down a
        > 1: gold bounce, stop gold, san0 incident-opened, a link-down, gold vm-suspending
        > 1: bronze hold, a path-down, bronze vm-held, bronze policy-blocked
        @2 resume bronze
        > 2: bronze open, bronze vm-released, answer ok
        @3 resume gold
        > 3: gold open, gold vm-resuming, answer ok
        @4 paused gold
        > 4: cont gold, gold vm-resuming
        > 5: cont gold, gold vm-resuming
        @5 running gold
        > 5: gold vm-resumed
        @9 pass
        ",
    );
}

#[test]
fn failback_without_anything_to_fail_back_says_how_things_are() {
    let mut spec = two();
    spec.targets[0].failback = Failback::Manual;
    let world = check(
        spec,
        "
        @1 failback
        > 1: answer conflict
        @2 down a
        > 2: san0 incident-opened, a link-down
        > 2: a path-down
        @3 failback
        > 3: answer conflict
        @4 up a
        > 4: a path-up
        > 4: a link-up
        @4.5 failback
        > 4.5: answer conflict
        > 5: a path-repaired
        @6 failback
        > 6: a failback, san0 incident-closed, answer ok
        ",
    );
    assert_eq!(
        answers(&world),
        [
            "conflict: nothing in san0 awaits failback: path san0/a is up and carries its traffic; path san0/b is \
             up and carries its traffic",
            "conflict: nothing in san0 awaits failback: path san0/a has been down for 1.0 s: connection reset by \
             the target (INC-1); path san0/b is up and carries its traffic",
            "conflict: nothing in san0 awaits failback: path san0/a has been up again for 500 ms; it must stay \
             good for 1.0 s before it counts; path san0/b is up and carries its traffic",
            "ok: traffic is back on san0/a",
        ]
    );
}

#[test]
fn what_does_not_exist_is_a_conflict() {
    let mut world = World::new(two());
    for command in [
        Command::DisablePath(PathId(9)),
        Command::EnablePath(PathId(9)),
        Command::SetAccess(PathId(9), Access::Optimized),
        Command::SuspendVm(VmId(9)),
        Command::ResumeVm(VmId(9)),
        Command::Failback(TargetId(9)),
    ] {
        world.command(command);
    }
    assert!(world.answers.iter().all(Result::is_err) && world.answers.len() == 6);
}

#[test]
fn a_reload_keeps_what_it_does_not_change() {
    let mut spec = two();
    spec.vms[1].on_path_loss = OnPathLoss::Suspend;
    let mut world = World::new(spec);
    world.run("@1 obedient; down a\n@3 pass");
    let generation = world.plan.generation;
    let mut next = (*world.spec).clone();
    add_vm(&mut next, "silver", 50, 0);
    next.vms[0].on_path_loss = OnPathLoss::FailoverSuspend;
    world.reload(next);
    assert_eq!((world.plan.generation, world.plan.vms.len()), (generation + 1, 3));
    // Gold's new rule applies to the path that is lost; bronze stays suspended; silver is new.
    check_in(
        &mut world,
        "
        > 3: stop gold, host reloaded, gold vm-suspending
        > 3.005: gold hold, gold vm-suspended
        @5 up b silver; connect silver 1; up a
        > 5: silver vm-managed
        > 5: a path-up
        > 5: a link-up
        > 6: gold open, cont gold, a path-repaired, a failback, gold vm-resuming
        > 6.005: gold vm-resumed
        > 6.5: bronze open, cont bronze, bronze vm-resuming
        > 6.505: bronze vm-resumed
        > 8.505: san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn a_vm_that_leaves_the_configuration_while_suspended_is_named() {
    let mut spec = two();
    spec.vms[1].on_path_loss = OnPathLoss::Suspend;
    let mut world = World::new(spec);
    world.run("@1 obedient; down a\n@3 pass");
    let mut next = (*world.spec).clone();
    next.vms.truncate(1);
    next.disks.truncate(1);
    next.units.truncate(1);
    next.paths.truncate(1);
    world.reload(next);
    let told = world.journal.iter().rev().find(|e| e.kind.as_str() == "vm-released").expect("told");
    assert!(told.reason.starts_with("bronze left the configuration while it was suspended"));
    check_in(
        &mut world,
        "
        > 3: host vm-released, host reloaded, gold no-path
        @4 up a
        > 4: a path-up, gold vm-released
        > 5: a path-repaired, a failback, san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn a_reload_of_the_same_configuration_publishes_it_once_and_changes_nothing() {
    let mut world = World::new(two());
    let generation = world.plan.generation;
    world.reload((*world.spec).clone());
    assert_eq!(world.plan.generation, generation + 1);
    world.run("@9 pass");
    assert_eq!(world.plan.generation, generation + 1);
}

/// The repair resumes what the path loss has stopped; an operator's word outlasts it.
#[test]
fn an_operators_suspend_outlasts_the_cause_that_came_first() {
    let mut spec = two();
    spec.vms[0].on_path_loss = OnPathLoss::Suspend;
    let mut world = World::new(spec);
    let happened =
        world.run("@1 obedient; down a\n@3 suspend gold; suspend gold\n@4 up a\n@60 resume gold\n@62 pass");
    let of_gold: Vec<_> = happened.lines().filter(|line| line.contains("gold")).collect();
    let gold = of_gold.join("\n");
    assert_eq!(gold.matches("cont gold").count(), 1, "{happened}");
    let cont = of_gold.iter().find(|line| line.contains("cont gold"));
    assert!(cont.is_some_and(|line| line.starts_with("> 60:")), "{happened}");
    let answers = answers(&world);
    assert_eq!(
        answers[0],
        "ok: gold is suspended already, and stays so after its paths are back: `vmpath vm resume gold` resumes it"
    );
    assert!(
        answers[1].starts_with("conflict: gold is suspended already; it waits for the operator"),
        "{answers:?}"
    );
}
