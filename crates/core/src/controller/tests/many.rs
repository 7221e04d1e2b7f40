//! A host with many VMs: a decision may not cost what the square of their number costs in words.
//!
//! What is stated is how often a reason is put into words, and how old it may be.

use super::world::{MIB, World, add_disk, add_vm, path, spec, target};
use crate::effect::JournalKind;
use crate::event::{Event, Fault, LinkChange, LoadReport, VmLoad};
use crate::ids::{PathId, TargetId, VmId};
use crate::spec::{ByteRate, ShedWhen, Spec};
use crate::time::Duration;

/// Four targets of four paths, and VMs on two of them each, all with a reservation, for half of whom there is room.
fn host(vms: usize) -> Spec {
    let mut spec = spec(&[]);
    (spec.host.shed_when, spec.targets, spec.paths) = (ShedWhen::Reserved, vec![], vec![]);
    for t in 0..4 {
        spec.targets.push(target(&format!("san{t}")));
        for name in ["a", "b", "c", "d"] {
            let mut path = path(name);
            (path.target, path.capacity) = (TargetId::at(t), Some(ByteRate(vms as u64 * MIB / 8)));
            spec.paths.push(path);
        }
    }
    for at in 0..vms {
        add_vm(&mut spec, &format!("vm{at:04}"), at as u32 % 7, 4);
        spec.vms[at].may_suspend = false;
        spec.units.last_mut().expect("a unit").target = TargetId::at(at % 4);
        add_disk(&mut spec, VmId::at(at), TargetId::at((at + 1) % 4), &format!("second{at}"));
    }
    spec
}

/// Everybody asks for more than he gets.
fn load(vms: usize) -> Event {
    let row = VmLoad { bytes_completed: MIB / 10, requests_completed: 1, backlogged: 1.0, open: 1 };
    let interval = Duration::from_millis(200);
    Event::Load(LoadReport { interval, vms: vec![row; vms], ..LoadReport::default() })
}

fn lose(world: &mut World, path: PathId) {
    let spec = world.spec.clone();
    for unit in spec.unit_ids().filter(|u| spec.unit(*u).target == TargetId(0)) {
        world.link(path, unit, LinkChange::Down { fault: Fault::Reset, requests_outstanding: 0 });
    }
}

/// Who cannot be shed is told so once, and the numbers that explain it grow no older than a second.
#[test]
fn a_lost_reservation_is_told_once_and_explained_with_fresh_numbers() {
    let mut world = World::dark(host(24));
    world.all_at_once();
    lose(&mut world, PathId(0));
    let poor = |world: &World| {
        let views = world.controller.view(world.now).vms;
        let lost = |because: &Vec<String>| because.iter().any(|b| b.starts_with("its reservation is lost"));
        views.iter().find(|v| lost(&v.because)).map(|v| (v.vm, v.because.join("; "))).expect("one")
    };
    let (vm, before) = poor(&world);
    assert!(before.contains("may_suspend = false") && before.contains("san0/b and san0/c"), "{before}");
    lose(&mut world, PathId(1));
    world.now += Duration::from_secs(1);
    world.handle(load(24));
    let after = world.controller.view(world.now).vms[vm.index()].because.join("; ");
    assert!(!after.contains("san0/b and san0/c"), "the numbers are of before the second loss: {after}");
    let of = |kind: JournalKind, subject| {
        world.journal.iter().filter(|e| e.kind == kind && e.subject == subject).count()
    };
    for entry in world.journal.iter().filter(|e| e.kind == JournalKind::ReservationLost) {
        let lost = of(JournalKind::ReservationLost, entry.subject);
        let met = of(JournalKind::ReservationMet, entry.subject);
        assert!(lost <= met + 1, "{:?} is told {lost} times, and met again {met} times", entry.subject);
    }
}
