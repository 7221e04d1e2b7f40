//! Planned maintenance: who leaves, when a path stops to carry, when it is empty.

use super::world::{World, check, spec};
use crate::effect::{CommandError, JournalKind};
use crate::plan::Health;

#[test]
fn a_path_that_nobody_needs_gets_no_new_requests_and_is_empty_when_its_links_are_cut() {
    let mut world = check(
        spec(&[("gold", 100, 0), ("bronze", 10, 0)]),
        "
        @1 drain a
        > 1: a path-draining, a path-draining, answer ok
        @2 down a gold
        @3 down a bronze
        > 3: a path-drained
        @4 drain a; disable a
        > 4: answer conflict
        > 4: answer conflict
        @5 enable a
        > 5: a path-enabled, answer ok
        @6 up a
        > 6: a path-up
        @7 pass
        ",
    );
    world.run("@8 drain a");
    assert_eq!(world.plan.paths[0].health, Health::Draining);
    assert!(world.controller.view(world.now).incidents.is_empty(), "it is planned");
}

#[test]
fn who_does_not_fit_leaves_before_the_path_stops_to_carry() {
    let world = check(
        spec(&[("gold", 100, 60), ("bronze", 10, 60)]),
        "
        @1 deaf; drain a
        > 1: stop bronze, a path-draining, san0 incident-opened, bronze vm-suspending, answer ok
        > 1.5: bronze bounce
        @2 paused bronze
        > 2: bronze hold, bronze vm-suspended, a path-draining
        @3 cut a
        > 3: a path-drained
        @100 obedient; enable a
        > 100: a path-enabled, answer ok
        @101 up a
        > 101: a path-up
        > 101: bronze open, cont bronze, bronze vm-resuming
        > 101.005: bronze vm-resumed
        > 103.005: san0 incident-closed
        @110 pass
        ",
    );
    let shed = world.journal.iter().find(|entry| entry.reason.contains("shedding")).expect("it was shed");
    assert!(shed.reason.contains("san0/a is being drained"), "{}", shed.reason);
}

#[test]
fn a_stop_that_hangs_delays_a_drain_by_ten_seconds_at_most() {
    check(
        spec(&[("gold", 100, 60), ("bronze", 10, 60)]),
        "
        @1 deaf; drain a
        > 1: stop bronze, a path-draining, san0 incident-opened, bronze vm-suspending, answer ok
        > 1.5: bronze bounce
        @10.5 pass
        > 11: stop bronze, bronze vm-suspending, a path-draining
        @12 pass
        ",
    );
}

#[test]
fn the_last_path_of_a_vm_goes_by_force_only_and_who_needs_it_is_named() {
    let mut world = World::new(spec(&[("gold", 100, 0), ("bronze", 10, 0)]));
    let happened = world.run("@1 down b; drain a\n@2 drain-by-force a; cut a");
    assert!(
        happened.contains("> 2: a path-draining, a path-draining, gold no-path, bronze no-path"),
        "{happened}"
    );
    assert!(happened.contains("> 2: a path-drained"), "{happened}");
    let [Err(CommandError::Conflict(no)), Ok(yes)] = &world.answers[..] else {
        panic!("{:?}", world.answers)
    };
    assert!(no.contains("san0/a is the last usable path of gold, bronze") && no.contains("--force"), "{no}");
    assert!(yes.contains("by force: san0/a is the last usable path of gold, bronze"), "{yes}");
}

#[test]
fn min_paths_are_kept_as_well() {
    let mut spec = spec(&[("gold", 100, 0), ("bronze", 10, 0)]);
    spec.vms[1].min_paths = 2;
    let mut world = World::new(spec);
    world.run("@1 drain a");
    world.run("@2 disable a");
    for answer in &world.answers {
        let Err(CommandError::Conflict(no)) = answer else { panic!("{answer:?}") };
        assert!(no.contains("without san0/a fewer than min_paths are left to bronze"), "{no}");
    }
}

#[test]
fn a_drain_that_is_taken_back_leaves_the_path_as_it_was() {
    check(
        spec(&[("gold", 100, 0)]),
        "
        @1 drain a; enable a
        > 1: a path-draining, a path-draining, answer ok
        > 1: a path-enabled, a path-up, answer ok
        @5 pass
        ",
    );
}

#[test]
fn a_drain_is_over_with_the_process() {
    let mut world = World::new(spec(&[("gold", 100, 0)]));
    world.run("@1 drain a\n@2 restart\n@3 pass");
    assert_eq!(world.plan.paths[0].health, Health::Disabled);
    let trouble = world.controller.view(world.now).paths[0].reason.clone().unwrap_or_default();
    assert!(trouble.contains("vmpath path enable san0/a"), "{trouble}");
}

/// It is empty, but what it carried was not finished there: whoever reads it must not think so.
#[test]
fn a_path_that_fails_while_it_is_drained_is_said_to_have_failed() {
    let mut world = World::new(spec(&[("gold", 100, 0), ("bronze", 10, 0)]));
    world.run("@1 down a bronze; drain a\n@2 down-with a gold 2");
    let told = |world: &World| {
        let mut drained = world.journal.iter().filter(|entry| entry.kind == JournalKind::PathDrained);
        drained.next_back().expect("it is drained").reason.clone()
    };
    let reason = told(&world);
    let words = ["failed while", "connection reset", "2 requests were outstanding", "for 5.0 s"];
    assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
    // What was lost before the drain began is another story.
    world.run("@3 enable a\n@4 up a gold\n@5 drain a\n@6 cut a");
    let reason = told(&world);
    assert!(
        reason.starts_with("nothing of it is in flight any more, after 1.0 s"),
        "{reason}: {:#?}",
        world.journal
    );
}
