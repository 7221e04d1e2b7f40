//! What is seen of paths as such: components that they share, sickness, and units that come back as something else.

use super::world::{MIB, World, add_disk, add_vm, at, down, path, spec, target};
use crate::effect::JournalKind;
use crate::event::{Event, Fault, LinkChange, LoadReport, PathLoad, PathVitals, Took};
use crate::ids::{PathId, TargetId, UnitId, VmId};
use crate::plan::Health;
use crate::policy::Ladder;
use crate::saved::Before;
use crate::spec::OnNoPath;
use crate::spec::Spec;
use crate::time::Duration;

/// `san0` with a and b, `san1` with c and d, a VM on each: a and c via switch1, b and d via switch2.
fn switches() -> Spec {
    let mut spec = spec(&[("gold", 100, 0), ("silver", 50, 0)]);
    spec.targets.push(target("san1"));
    for name in ["c", "d"] {
        spec.paths.push(crate::spec::PathSpec { target: TargetId(1), ..path(name) });
    }
    add_disk(&mut spec, VmId(1), TargetId(1), "more");
    for (at, via) in ["switch1", "switch2", "switch1", "switch2"].into_iter().enumerate() {
        spec.paths[at].via = vec![via.into()];
    }
    spec
}

fn summaries(world: &World) -> Vec<String> {
    world.controller.view(world.now).incidents.iter().map(|i| i.summary.clone()).collect()
}

fn kinds(world: &World, kind: JournalKind) -> Vec<String> {
    world.journal.iter().filter(|entry| entry.kind == kind).map(|entry| entry.reason.clone()).collect()
}

#[test]
fn a_component_that_paths_of_two_targets_share_is_one_incident() {
    let mut world = World::new(switches());
    world.run("@1 down a\n@1.2 down c");
    let [summary] = &summaries(&world)[..] else { panic!("{:?}", summaries(&world)) };
    assert!(summary.starts_with("switch1: 2 of 2 paths; san0/a: connection reset"), "{summary}");
    assert_eq!(kinds(&world, JournalKind::IncidentOpened).len(), 1);
    let told = "switch1: 2 of 2 paths are lost: one failure of what they share";
    assert_eq!(kinds(&world, JournalKind::ComponentDown), [told]);
    // One of them is back: it is not over.
    world.run("@5 up a\n@10 pass");
    assert_eq!(summaries(&world).len(), 1);
    world.run("@11 up c\n@20 pass");
    assert_eq!(summaries(&world).len(), 0);
    let [over] = &kinds(&world, JournalKind::IncidentClosed)[..] else { panic!("closed once") };
    assert!(over.contains("every path of san0, san1 carries its traffic again"), "{over}");
}

#[test]
fn paths_that_share_nothing_are_incidents_of_their_own() {
    let mut world = World::new(switches());
    world.run("@1 down a\n@1.2 down d");
    assert_eq!(summaries(&world).len(), 2);
    assert_eq!(kinds(&world, JournalKind::ComponentDown).len(), 0);
    // And so they stay, whatever else fails: both are open.
    world.run("@2 down c");
    assert_eq!(summaries(&world).len(), 2);
}

#[test]
fn what_failed_through_the_same_component_and_is_back_is_another_matter() {
    let mut world = World::new(switches());
    world.run("@1 down a\n@2 up a\n@10 pass\n@11 down c");
    assert_eq!(kinds(&world, JournalKind::IncidentOpened).len(), 2, "the first was over");
}

#[test]
fn a_flapping_path_is_not_told_as_a_component_again_and_again() {
    let mut world = World::new(switches());
    world.run("@1 down a\n@1.1 down c\n@2 up c\n@2.1 down c\n@3 up c\n@3.1 down c");
    assert_eq!(kinds(&world, JournalKind::ComponentDown).len(), 1);
    assert!(summaries(&world)[0].starts_with("switch1: 2 of 2 paths; "));
}

#[test]
fn one_incident_of_two_targets_outlives_a_restart() {
    let mut world = World::new(switches());
    world.run("@1 down a\n@1.2 down c");
    world.restart(Before::Died);
    assert_eq!(summaries(&world).len(), 1);
    world.run("@3 up b\n@3 up d\n@4 up c\n@5 up a\n@20 pass");
    assert_eq!(summaries(&world).len(), 0, "{:?}", world.journal);
    assert_eq!(kinds(&world, JournalKind::IncidentOpened).len(), 1);
}

/// Every 200 ms, ten requests on each path: those of path a take so long.
fn load(world: &mut World, seconds: f64, millis: u64) {
    let until = world.now + Duration::from_secs_f64(seconds);
    while world.now < until {
        let to = world.now + Duration::from_millis(200);
        world.pass_until(to);
        let of = |path: u64| {
            let took = Duration::from_millis(if path == 0 { millis } else { 1 });
            let some = Took { count: 10, total: took * 10 };
            let vitals = PathVitals { requests: some, pings: some, failed: 0, answered: 10 };
            PathLoad { bytes_completed: MIB, vitals, ..PathLoad::default() }
        };
        let paths = (0..world.spec.paths.len() as u64).map(of).collect();
        let interval = Duration::from_millis(200);
        world.handle(Event::Load(LoadReport { interval, paths, ..LoadReport::default() }));
    }
}

#[test]
fn a_sick_path_is_marginal_in_the_plan_and_says_why_and_no_incident_opens() {
    let mut world = World::new(switches());
    load(&mut world, 5.0, 40);
    let health = |world: &World| world.plan.paths.iter().map(|route| route.health).collect::<Vec<_>>();
    assert_eq!(health(&world), [Health::Marginal, Health::Up, Health::Up, Health::Up]);
    let view = &world.controller.view(world.now).paths[0];
    let why = view.reason.clone().unwrap();
    assert_eq!(view.health, Health::Marginal);
    assert!(
        why.contains("its requests take 40.0 ms without queueing, those of its siblings 1.0 ms"),
        "{why}"
    );
    assert_eq!(kinds(&world, JournalKind::PathSick).len(), 1);
    assert_eq!(summaries(&world).len(), 0);
    load(&mut world, 20.0, 1);
    assert_eq!(health(&world), [Health::Up; 4]);
    assert_eq!(kinds(&world, JournalKind::PathWell).len(), 1);
}

#[test]
fn a_sick_path_serves_as_any_other_where_it_is_the_last() {
    let mut world = World::new(switches());
    load(&mut world, 5.0, 40);
    world.run("@6 down b\n@8 pass");
    assert_eq!(world.controller.network.cut_off_unit(VmId(0)), None);
    assert!(matches!(world.controller.vms[0].ladder, Ladder::Clear), "nobody is held for it");
}

#[test]
fn a_unit_that_comes_back_as_another_is_told_and_its_vm_is_not_resumed() {
    let mut spec = spec(&[("gold", 100, 0)]);
    spec.vms[0].on_no_path = OnNoPath::hold_then_suspend(Duration::from_secs(5));
    let mut world = World::new(spec);
    world.run("@1 obedient; down a; down b\n@10 pass");
    assert!(world.explain("gold").starts_with("suspended"), "{}", world.explain("gold"));
    let other = Fault::Identity("it announces 2097152 bytes, the unit has 1048576".into());
    for path in [PathId(0), PathId(1)] {
        world.link(path, UnitId(0), down(other.clone()));
        world.link(path, UnitId(0), down(other.clone()));
    }
    world.pass_until(at(600.0));
    assert!(world.explain("gold").starts_with("suspended"), "{}", world.explain("gold"));
    let summary = &summaries(&world)[0];
    assert!(summary.contains("it announces 2097152 bytes, the unit has 1048576"), "{summary}");
    let refused = world.journal.iter().filter(|e| e.reason.contains("it announces 2097152 bytes")).count();
    assert_eq!(refused, 2, "once for each path");
    // The unit itself again: all is well.
    world.links(PathId(0), &LinkChange::Up);
    world.pass_until(at(610.0));
    assert!(world.explain("gold").starts_with("running"), "{}", world.explain("gold"));
}

#[test]
fn what_one_portal_says_of_a_unit_is_of_that_portal_alone() {
    let mut spec = spec(&[]);
    add_vm(&mut spec, "gold", 100, 0);
    let mut world = World::new(spec);
    world.run("@1 obedient; gone a; down b\n@2 pass");
    assert!(!world.controller.network.gone_for_good(VmId(0), UnitId(0)), "b may still lead to it");
    world.run("@3 gone b\n@4 pass");
    assert!(world.controller.network.gone_for_good(VmId(0), UnitId(0)));
}
