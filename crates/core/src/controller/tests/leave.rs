//! What a reload takes away is served until its last front end lets go; then nothing is decided about it any more.

use super::world::{World, add_disk, check_in, connected, down, spec};
use crate::effect::{CommandError, JournalKind};
use crate::event::{Command, DiskFront, Event, Fault, LoadReport, RunState, StopsOnError};
use crate::ids::{DiskId, TargetId, VmId};
use crate::spec::{OnPathLoss, Presence, ShedWhen, Spec};
use crate::view::Standing;

const GOLD: VmId = VmId(0);
const BRONZE: VmId = VmId(1);

fn two() -> Spec {
    spec(&[("gold", 60, 60), ("bronze", 10, 60)])
}

/// As `Spec::rebase` leaves it when a VM is gone from the files.
fn without_bronze(mut spec: Spec) -> Spec {
    spec.vms[1].presence = Presence::Leaving;
    spec.disks[1].presence = Presence::Leaving;
    spec
}

fn reload(world: &mut World, change: impl FnOnce(Spec) -> Spec) {
    let next = change((*world.spec).clone());
    world.reload(next);
}

/// What the worker says by the plan of `generation`.
fn fronts(world: &mut World, generation: u64, fronts: &[(DiskId, DiskFront)]) {
    world.handle(Event::Load(LoadReport { generation, fronts: fronts.to_vec(), ..LoadReport::default() }));
}

fn front(world: &mut World, disk: DiskId, front: DiskFront) {
    let generation = world.plan.generation;
    fronts(world, generation, &[(disk, front)]);
}

fn open(attached: u32) -> DiskFront {
    DiskFront::Open { attached }
}

fn standing(world: &World, vm: VmId) -> Standing {
    world.controller.view(world.now).vms[vm.index()].standing
}

fn reasons(world: &World, kind: JournalKind) -> Vec<&str> {
    world.journal.iter().filter(|e| e.kind == kind).map(|e| e.reason.as_str()).collect()
}

#[test]
fn who_is_attached_is_told_and_the_policy_goes_on() {
    let mut spec = two();
    spec.vms[1].on_path_loss = OnPathLoss::Suspend;
    let mut world = World::new(spec);
    front(&mut world, DiskId(1), open(1));
    reload(&mut world, without_bronze);
    let words = "disk bronze/vda is no longer in the configuration; it is served until its front end lets go (1 attached)";
    assert_eq!(world.controller.leaving(), [words]);
    assert_eq!(reasons(&world, JournalKind::DiskLeaving), [words]);
    assert_eq!((standing(&world, GOLD), standing(&world, BRONZE)), (Standing::Present, Standing::Leaving));
    assert!(world.controller.view(world.now).vms[1].because.iter().any(|why| why == words));
    check_in(
        &mut world,
        "
        > 0: host reloaded, bronze disk-leaving
        @1 obedient; down a
        > 1: san0 incident-opened, a link-down
        > 1: bronze bounce, stop bronze, a path-down, bronze vm-suspending
        > 1.005: bronze hold, bronze vm-suspended
        @2 pass
        ",
    );
}

#[test]
fn a_vm_of_which_nothing_is_served_is_nobodys_business() {
    let mut spec = two();
    spec.host.shed_when = ShedWhen::Reserved;
    let mut world = World::new(spec);
    front(&mut world, DiskId(1), open(2));
    reload(&mut world, without_bronze);
    front(&mut world, DiskId(1), DiskFront::Closed);
    assert_eq!(standing(&world, BRONZE), Standing::Gone);
    assert_eq!(world.controller.view(world.now).disks, [Standing::Present, Standing::Gone]);
    assert_eq!(world.controller.leaving(), [""; 0]);
    assert_eq!(reasons(&world, JournalKind::DiskGone).len(), 1);
    // Both would not fit path b; gold alone does. And no order reaches bronze, whatever its monitor still says.
    world.report(BRONZE, connected(2, RunState::Running, StopsOnError::Yes));
    check_in(
        &mut world,
        "
        > 0: host reloaded, bronze disk-leaving
        > 0: let go of bronze, bronze disk-gone
        @1 down a
        > 1: san0 incident-opened, a path-down
        @90 down b
        > 90: b path-down, gold no-path
        @120 pass
        ",
    );
    world.command(Command::SuspendVm(BRONZE));
    assert!(
        matches!(world.answers.last(), Some(Err(CommandError::Conflict(why))) if why.contains("no longer in the"))
    );
}

#[test]
fn a_disk_that_is_gone_does_not_cut_its_vm_off() {
    let mut spec = two();
    let vdb = add_disk(&mut spec, GOLD, TargetId(0), "more");
    spec.disks[vdb.index()].name = "vdb".into();
    let more = spec.disk(vdb).unit;
    let mut world = World::new(spec);
    reload(&mut world, |mut spec| {
        spec.disks[vdb.index()].presence = Presence::Leaving;
        spec
    });
    for path in [world.path("a"), world.path("b")] {
        world.link(path, more, down(Fault::Reset));
    }
    let why = world.controller.view(world.now).vms[0].because.join("; ");
    assert!(why.contains("held: no path to san0/more"), "as long as it is served, it counts: {why}");
    front(&mut world, vdb, DiskFront::Closed);
    let view = world.controller.view(world.now);
    assert_eq!((&view.vms[0].because, view.vms[0].standing), (&vec![], Standing::Present));
    world.pass_until(super::world::at(200.0));
    assert!(!world.journal.iter().any(|e| e.kind == JournalKind::VmSuspending));
}

#[test]
fn what_comes_back_is_served_and_watched_again() {
    let mut world = World::new(two());
    let before = (*world.spec).clone();
    reload(&mut world, without_bronze);
    front(&mut world, DiskId(1), DiskFront::Closed);
    let stale = world.plan.generation;
    world.reload(before);
    assert_eq!(standing(&world, BRONZE), Standing::Present);
    // A report that was on its way is about the configuration before.
    fronts(&mut world, stale, &[(DiskId(1), DiskFront::Closed)]);
    assert_eq!(standing(&world, BRONZE), Standing::Present);
    check_in(
        &mut world,
        "
        > 0: host reloaded, bronze disk-leaving
        > 0: let go of bronze, bronze disk-gone
        > 0: monitor bronze, host reloaded, bronze disk-returned
        @1 pass
        ",
    );
    // So it is when it leaves again: what was said before does not close it.
    reload(&mut world, without_bronze);
    fronts(&mut world, stale, &[(DiskId(1), DiskFront::Closed)]);
    assert_eq!(standing(&world, BRONZE), Standing::Leaving);
}

#[test]
fn a_vm_that_lets_go_while_it_is_suspended_is_named_and_not_continued() {
    let mut world = World::new(two());
    world.run("@1 obedient; suspend bronze\n@2 pass");
    reload(&mut world, without_bronze);
    front(&mut world, DiskId(1), DiskFront::Closed);
    let told = reasons(&world, JournalKind::VmReleased);
    assert_eq!(told, ["bronze left the configuration while it was suspended: vmpath will not continue it"]);
    assert_eq!(world.controller.save().vms.iter().filter(|vm| vm.name == "bronze").count(), 0);
    let log = world.run("@100 pass");
    assert!(!log.contains("cont bronze"), "{log}");
}
