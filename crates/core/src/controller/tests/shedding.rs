//! Which VMs leave when what remains cannot carry the reservations, when, and when they come back.

use super::world::{MIB, World, add_disk, add_vm, check, check_in, path, spec, target};
use crate::event::{Event, LoadReport, VmLoad};
use crate::ids::{PathId, TargetId, UnitId, VmId};
use crate::spec::{ByteRate, Failback, ResumeOn, ShedWhen, Spec};
use crate::view::VmState;

const THREE: [(&str, u32, u64); 3] = [("gold", 60, 60), ("silver", 30, 30), ("bronze", 10, 30)];

fn reserved(vms: &[(&str, u32, u64)]) -> Spec {
    let mut spec = spec(vms);
    spec.host.shed_when = ShedWhen::Reserved;
    spec
}

/// Who is stopped, or being stopped, when path `a` is lost.
fn shed_by(spec: Spec) -> Vec<String> {
    let mut world = World::new(spec);
    let a = world.path("a");
    world.links(a, &super::world::down(crate::event::Fault::Reset));
    let views = world.controller.view(world.now).vms;
    let stopping = views.iter().filter(|v| v.state.as_str() == "suspending");
    stopping.map(|v| world.spec.vm(v.vm).name.clone()).collect()
}

#[test]
fn reserved_sheds_at_once_and_resumes_after_repair() {
    let world = check(
        reserved(&THREE),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @10 up a
        > 10: a path-up
        > 10: a link-up
        > 10: a link-up
        > 11: bronze open, cont bronze, a path-repaired, a failback, bronze vm-resuming
        > 11.005: bronze vm-resumed
        > 13.005: san0 incident-closed
        @20 pass
        ",
    );
    let shed = world.journal.iter().find(|e| e.kind.as_str() == "vm-suspending").expect("shed");
    assert_eq!(
        shed.reason,
        "shedding, shed_when = \"reserved\"; reservations of 120.0 MiB/s do not fit the 100.0 MiB/s that san0/b \
         carries; kept: gold (priority 60, 60.0 MiB/s), silver (priority 30, 30.0 MiB/s); no room for bronze \
         (priority 10, 30.0 MiB/s)"
    );
    assert!(shed.incident.is_some() && shed.until.as_deref().is_some_and(|u| u.contains("san0/a")));
}

#[test]
fn a_stop_waits_so_long_for_a_narrow_path_and_then_bounces_what_is_queued() {
    check(
        reserved(&THREE),
        "
        @1 deaf; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: stop bronze, a path-down, bronze vm-suspending
        > 1.5: bronze bounce
        @2 paused bronze
        > 2: bronze hold, bronze vm-suspended
        ",
    );
}

/// A `stop` that waits for requests that are held would never end.
#[test]
fn what_can_finish_is_not_held_from_a_stop() {
    check(
        reserved(&THREE),
        "
        @0.5 connect-no-werror bronze 2
        > 0.5: bronze vm-managed
        @1 deaf; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: stop bronze, a path-down, bronze vm-suspending
        @8 paused bronze
        > 8: bronze hold, bronze vm-suspended
        ",
    );
}

#[test]
fn unmet_sheds_only_once_a_reservation_has_really_gone_unmet() {
    let world = check(
        spec(&THREE),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: a path-down
        @2 load gold=60 silver=30 bronze=10
        > 3: stop bronze, bronze vm-suspending
        > 3.005: bronze hold, bronze vm-suspended
        @4 pass
        @10 up a
        > 10: a path-up
        > 10: a link-up
        > 10: a link-up
        > 11: bronze open, cont bronze, a path-repaired, a failback, bronze vm-resuming
        > 11.005: bronze vm-resumed
        > 13.005: san0 incident-closed
        @20 pass
        ",
    );
    let shed = world.journal.iter().find(|e| e.kind.as_str() == "vm-suspending").expect("shed");
    assert!(
        shed.reason.starts_with(
            "shedding, shed_when = \"unmet\": bronze gets 10.0 MiB/s of its 30.0 MiB/s for 1.0 s"
        ),
        "{}",
        shed.reason
    );
    // All get their reservations: nobody leaves, though the sums do not fit.
    check(
        spec(&THREE),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: a path-down
        @2 load gold=60 silver=30 bronze=30
        @20 pass
        ",
    );
}

#[test]
fn a_starved_gold_sheds_bronze_not_itself() {
    check(
        spec(&THREE),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: a path-down
        @2 load gold=40 silver=30 bronze=30
        > 3: stop bronze, bronze vm-suspending
        > 3.005: bronze hold, bronze vm-suspended
        @4 pass
        ",
    );
}

#[test]
fn the_keep_set_is_greedy_by_priority_with_ties_by_name() {
    let shed = |vms: &[(&str, u32, u64)]| shed_by(reserved(vms)).join(" ");
    assert_eq!(shed(&[("gold", 60, 60), ("silver", 30, 40), ("bronze", 10, 0)]), "");
    assert_eq!(shed(&[("gold", 60, 60), ("silver", 30, 50), ("bronze", 10, 40)]), "silver");
    assert_eq!(shed(&[("y", 10, 60), ("x", 10, 60)]), "y");
    assert_eq!(shed(&[("x", 10, 60), ("y", 11, 60)]), "x");
    assert_eq!(shed(&[("big", 100, 120), ("small", 1, 20)]), "big");
}

#[test]
fn fit_respects_the_paths_that_a_vm_avoids() {
    let spec = |avoid: &[u16]| {
        let mut spec = reserved(&[("gold", 60, 60), ("bronze", 10, 60)]);
        spec.paths.push(path("c"));
        spec.vms[1].avoid_paths = avoid.iter().map(|p| PathId(*p)).collect();
        spec
    };
    // b and c carry 200: both fit, gold makes room on the one path that bronze may use.
    assert!(shed_by(spec(&[])).is_empty());
    assert!(shed_by(spec(&[1])).is_empty());
    // Bronze may use a only, which is gone: that is not shedding but no path.
    assert!(shed_by(spec(&[1, 2])).is_empty());
    // Both may use b only.
    let mut both = spec(&[2]);
    both.vms[0].avoid_paths = vec![PathId(2)];
    assert_eq!(shed_by(both), ["bronze"]);
}

/// A path that fails is told of link by link. Whoever's is told first has no trusted path, and its leaving would help nobody.
#[test]
fn who_asks_nothing_of_the_paths_that_carry_is_not_shed() {
    let mut world = World::new(reserved(&[("gold", 60, 60), ("bronze", 10, 30)]));
    let (a, b, bronze) = (world.path("a"), world.path("b"), world.vm("bronze"));
    let is_up =
        |world: &World| world.controller.view(world.now).vms[bronze.index()].state.as_str() == "running";
    let gets = |world: &World| world.controller.capacity(world.now)[0].parties[1].gets;
    world.links(b, &super::world::down(crate::event::Fault::Reset));
    assert_eq!((is_up(&world), gets(&world)), (true, 30 * MIB));
    world.links(b, &crate::event::LinkChange::Up);
    world.link(a, UnitId(1), super::world::down(crate::event::Fault::Reset));
    assert_eq!((is_up(&world), gets(&world)), (true, 0));
    world.link(a, UnitId(0), super::world::down(crate::event::Fault::Reset));
    assert!(is_up(&world));
}

#[test]
fn unknown_capacity_and_whole_targets_shed_nobody() {
    let mut unknown = reserved(&THREE);
    unknown.paths[1].capacity = None;
    assert!(shed_by(unknown).is_empty());
    // More is reserved than both paths carry, but nothing is lost.
    check(
        reserved(&[("gold", 60, 150), ("bronze", 10, 150)]),
        "
        @1 obedient; pass
        @2 load gold=100 bronze=100
        > 3: gold reservation-lost, bronze reservation-lost
        @4 load gold=150 bronze=150
        > 4.4: gold reservation-met, bronze reservation-met
        @5 load gold=150 bronze=150
        @6 pass
        ",
    );
}

#[test]
fn a_reservation_is_split_over_disks_and_fits_per_target() {
    let mut spec = reserved(&[("gold", 60, 80), ("bronze", 10, 40)]);
    spec.targets.push(target("san1"));
    let mut c = path("c");
    c.target = TargetId(1);
    spec.paths.push(c);
    // Half of gold's 80 is on san1: with a lost, b carries 40 + 40.
    add_disk(&mut spec, VmId(0), TargetId(1), "gold-data");
    assert!(shed_by(spec.clone()).is_empty());
    spec.vms[1].reservation = Some(ByteRate(61 * MIB));
    assert_eq!(shed_by(spec), ["bronze"]);
}

#[test]
fn who_may_not_be_suspended_only_loses_its_reservation() {
    let mut spec = reserved(&THREE);
    spec.vms[2].may_suspend = false;
    check(
        spec,
        "
        @1 obedient; pass; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: a path-down, bronze reservation-lost
        @10 up a
        > 10: a path-up
        > 10: a link-up
        > 10: a link-up
        > 11: a path-repaired, a failback, bronze reservation-met, san0 incident-closed
        @20 pass
        ",
    );
    let mut world = World::new(reserved(&THREE));
    world.run("@0.1 load bronze=30\n@1.5 lost bronze");
    check_in(
        &mut world,
        "
        @2 obedient; down a
        > 2: san0 incident-opened, a link-down
        > 2: a link-down
        > 2: a path-down, bronze reservation-lost
        @10 up a; pass
        > 10: a path-up
        > 10: a link-up
        > 10: a link-up
        > 11: a path-repaired, a failback, bronze reservation-met, san0 incident-closed
        @20 pass
        ",
    );
}

#[test]
fn a_vm_that_does_not_run_reserves_nothing() {
    let mut world = World::new(reserved(&THREE));
    world.run("@0.1 lost gold");
    check_in(
        &mut world,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: a path-down
        @2 connect gold 2
        > 2: stop bronze, gold vm-managed, bronze vm-suspending
        > 2.005: bronze hold, bronze vm-suspended
        @3 pass
        ",
    );
}

#[test]
fn resume_by_failback_waits_for_it() {
    let mut spec = reserved(&THREE);
    spec.targets[0].failback = Failback::Manual;
    spec.vms[2].resume = ResumeOn::Failback;
    check(
        spec,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @10 up a
        > 10: a path-up
        > 10: a link-up
        > 10: a link-up
        > 11: a path-repaired
        @40 failback
        > 40: bronze open, cont bronze, a failback, bronze vm-resuming, answer ok
        > 40.005: bronze vm-resumed
        > 42.005: san0 incident-closed
        @50 pass
        ",
    );
}

#[test]
fn a_shed_vm_comes_back_only_where_it_fits() {
    // Three paths; two are lost. When one is back, bronze's own wait for both goes on.
    let mut spec = reserved(&[("gold", 60, 60), ("silver", 30, 30), ("bronze", 10, 30)]);
    spec.paths.push(path("c"));
    for path in &mut spec.paths {
        path.capacity = Some(ByteRate(70 * MIB));
    }
    check(
        spec,
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: a path-down
        @2 down b
        > 2: b link-down
        > 2: b link-down
        > 2: stop silver, stop bronze, b path-down, silver vm-suspending, bronze vm-suspending
        > 2.005: silver hold, silver vm-suspended
        > 2.005: bronze hold, bronze vm-suspended
        @10 up b
        > 10: b path-up
        > 10: b link-up
        > 10: b link-up
        > 11: b path-repaired, b failback
        @20 up a
        > 20: a path-up
        > 20: a link-up
        > 20: a link-up
        > 21: silver open, cont silver, a path-repaired, a failback, silver vm-resuming
        > 21.005: silver vm-resumed
        > 21.5: bronze open, cont bronze, bronze vm-resuming
        > 21.505: bronze vm-resumed
        > 23.505: san0 incident-closed
        @30 pass
        ",
    );
    // Resumed by the operator, it is not shed again in the same incident.
    check(
        reserved(&THREE),
        "
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: a link-down
        > 1: stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @3 resume bronze
        > 3: bronze open, cont bronze, bronze vm-resuming, bronze reservation-lost, answer ok
        > 3.005: bronze vm-resumed
        @20 up a
        > 20: a path-up
        > 20: a link-up
        > 20: a link-up
        > 21: a path-repaired, a failback, bronze reservation-met, san0 incident-closed
        @30 pass
        ",
    );
}

/// Silver fits or not, depending on which links it and gold are left with.
#[test]
fn a_path_that_loses_its_links_one_by_one_is_judged_when_no_more_follow() {
    check(
        reserved(&[("gold", 60, 80), ("silver", 30, 80), ("bronze", 10, 50)]),
        "
        @1 obedient; down a bronze
        > 1: san0 incident-opened, a link-down
        @1.5 up a bronze
        > 1.5: a link-up, san0 incident-closed
        @3 down a gold
        > 3: san0 incident-opened, a link-down
        @3.9 down a silver
        > 3.9: a link-down
        > 4.9: stop silver, silver vm-suspending
        > 4.905: silver hold, silver vm-suspended
        @6 pass
        ",
    );
}

#[test]
fn a_disabled_path_is_missing_as_well() {
    check(
        reserved(&THREE),
        "
        @1 obedient; disable a
        > 1: stop bronze, a path-disabled, san0 incident-opened, bronze vm-suspending, answer ok
        > 1.005: bronze hold, bronze vm-suspended
        @3 resume bronze
        > 3: bronze open, cont bronze, bronze vm-resuming, bronze reservation-lost, answer ok
        > 3.005: bronze vm-resumed
        @5 enable a
        > 5: a path-enabled, a path-up, bronze reservation-met, answer ok
        > 5.005: san0 incident-closed
        @9 pass
        ",
    );
    check(
        reserved(&THREE),
        "
        @1 obedient; disable a
        > 1: stop bronze, a path-disabled, san0 incident-opened, bronze vm-suspending, answer ok
        > 1.005: bronze hold, bronze vm-suspended
        @3 down a
        @5 enable a
        > 5: a path-enabled, answer ok
        @6 up a
        > 6: a path-up
        > 6: bronze open, cont bronze, bronze vm-resuming
        > 6.005: bronze vm-resumed
        > 8.005: san0 incident-closed
        @9 pass
        ",
    );
}

#[test]
fn a_new_vm_by_reload_is_weighed_with_the_others() {
    let mut world = World::new(reserved(&[("gold", 60, 60)]));
    world.run("@1 obedient; down a");
    let mut spec = (*world.spec).clone();
    add_vm(&mut spec, "bronze", 10, 60);
    world.reload(spec);
    check_in(
        &mut world,
        "
        > 1: host reloaded
        @2 up b bronze; connect bronze 1
        > 2: stop bronze, bronze vm-managed, bronze vm-suspending
        > 2.005: bronze hold, bronze vm-suspended
        @13 up a
        > 13: a path-up
        > 13: a link-up
        > 14: bronze open, cont bronze, a path-repaired, a failback, bronze vm-resuming
        > 14.005: bronze vm-resumed
        > 16.005: san0 incident-closed
        @20 pass
        ",
    );
}

/// A VM without a monitor has lost all its paths, and `open` of its requests wait: who is suspended when one path is back?
fn shed_after_an_outage(open: u32, outage: &str) -> String {
    let mut spec = reserved(&[("gold", 60, 60), ("silver", 30, 60)]);
    for vm in &mut spec.vms {
        vm.on_no_path = "hold 600s, then suspend".parse().expect("a ladder");
    }
    let mut world = World::new(spec);
    world.run(outage);
    let mut vms = vec![VmLoad::default(); 2];
    vms[0].open = open;
    world.handle(Event::Load(LoadReport { vms, ..LoadReport::default() }));
    world.run("@100 up b\n@120 pass");
    let views = world.controller.view(world.now).vms;
    let suspended = views.iter().filter(|vm| vm.state == VmState::Suspended);
    suspended.map(|vm| world.spec.vm(vm.vm).name.clone()).collect()
}

#[test]
fn a_vm_whose_monitor_says_nothing_is_alive_if_its_requests_wait_for_a_path() {
    // Longer than its last completed request is remembered, and over a restart, which remembers none.
    let outages = [
        "@1 obedient; lost gold; down a; down b\n@90 pass",
        "@1 obedient; lost gold; down a; down b\n@90 restart; connect silver 1; down a; down b\n@91 pass",
    ];
    for outage in outages {
        assert_eq!(shed_after_an_outage(1, outage), "silver", "{outage}");
        assert_eq!(shed_after_an_outage(0, outage), "", "{outage}");
    }
}
