//! An adversary who sees everything: paths come back when a VM is suspended and go when it runs, at the worst moment. No VM
//! is suspended and resumed more than twice in five minutes, and all run again when the adversary tires.

use super::world::{World, down, spec};
use crate::effect::{JournalKind, Subject};
use crate::event::{Fault, LinkChange};
use crate::ids::{PathId, VmId};
use crate::policy::RESUMES_WITHIN;
use crate::saved::Before;
use crate::spec::{OnPathLoss, ResumeOn, ShedWhen, Spec};
use crate::testing::cases;
use crate::time::{Duration, Instant};
use crate::view::VmState;
use proptest::prelude::{any, prop, proptest};
use std::cell::Cell;

/// Three VMs under three rules; the configuration's other knobs by these bits.
fn troubled(bits: u16) -> Spec {
    let mut spec = spec(&[("gold", 100, 60), ("silver", 50, 60), ("bronze", 10, 0)]);
    let ladders = ["suspend", "hold 1s, then suspend", "suspend 10s, then fail", "hold 0s, then suspend 20s"];
    let rules = [OnPathLoss::Failover, OnPathLoss::Suspend, OnPathLoss::FailoverSuspend, OnPathLoss::Migrate];
    for (at, vm) in spec.vms.iter_mut().enumerate() {
        let part = usize::from(bits >> (at * 4));
        vm.on_no_path = ladders[part % 4].parse().expect("a ladder");
        vm.on_path_loss = rules[part / 4 % 4];
        vm.min_paths = if bits & (0x1000 << at) == 0 { 1 } else { 2 };
        vm.resume = if bits & 0x8000 == 0 { ResumeOn::Repair } else { ResumeOn::Failback };
    }
    if bits.is_multiple_of(2) {
        spec.host.shed_when = ShedWhen::Reserved;
    }
    // The gentlest proof of health: nothing but the dwell is in the adversary's way.
    spec.targets[0].repair_after = Duration::from_millis(100);
    if bits.is_multiple_of(3) {
        spec.disks[0].vhost_user = Some("/tmp/gold.sock".into());
    }
    spec
}

/// When a VM was resumed. Nobody else resumes in these worlds.
fn resumed(world: &World, vm: VmId) -> Vec<Instant> {
    let is_its = |entry: &&crate::effect::JournalEntry| {
        entry.kind == JournalKind::VmResuming
            && entry.subject == Subject::Vm(vm)
            && entry.reason.starts_with("`cont` is sent;")
    };
    world.journal.iter().filter(is_its).map(|entry| entry.at).collect()
}

fn is_stopped(world: &World, vm: VmId) -> bool {
    matches!(world.controller.view(world.now).vms[vm.index()].state, VmState::Suspended)
}

/// One move of the adversary, after some milliseconds.
fn harm(world: &mut World, (wait, what): (u64, u8)) {
    world.pass_until(world.now + Duration::from_millis(wait));
    let victim = VmId(u16::from(what % 3));
    let paths = [PathId(0), PathId(1)];
    let lost = || down(Fault::Reset);
    match what / 3 % 10 {
        0 => world.links(paths[0], &LinkChange::Up),
        1 => world.links(paths[1], &lost()),
        2 => world.reload((*world.spec).clone()),
        3 => world.restart(if what.is_multiple_of(2) { Before::Died } else { Before::Stopped }),
        4 => {
            for path in paths {
                world.links(path, &down(Fault::UnitGone("no such export".into())));
            }
        }
        // What hurts most: let it run when it stands, cut it off when it runs.
        _ if is_stopped(world, victim) => paths.iter().for_each(|path| world.links(*path, &LinkChange::Up)),
        _ => paths.iter().for_each(|path| world.links(*path, &lost())),
    }
    if what / 3 % 10 == 3 {
        world.run(&format!("@{} connect-as-they-are", world.now.as_nanos() as f64 / 1e9));
    }
}

thread_local! {
    /// Worlds in which the limit had to hold somebody back.
    static HELD_BACK: Cell<u32> = const { Cell::new(0) };
}

fn flap(bits: u16, moves: &[(u64, u8)]) {
    let mut world = World::new(troubled(bits));
    world.run("@0.1 obedient");
    let mut held_back = false;
    for step in moves {
        harm(&mut world, *step);
        let view = world.controller.view(world.now);
        held_back |=
            view.vms.iter().any(|vm| vm.waits_for.as_ref().is_some_and(|wait| wait.contains("at most 2")));
    }
    HELD_BACK.with(|many| many.set(many.get() + u32::from(held_back)));
    for vm in world.spec.vm_ids() {
        for three in resumed(&world, vm).windows(3) {
            assert!(three[2] >= three[0] + RESUMES_WITHIN, "{vm} resumed at {three:?}");
        }
    }
    for path in world.spec.path_ids() {
        world.links(path, &LinkChange::Up);
    }
    world.pass_until(world.now + Duration::from_secs(1800));
    for row in &world.controller.view(world.now).vms {
        assert_eq!(row.state, VmState::Running, "in the end: {row:?}");
    }
}

#[test]
fn no_vm_is_suspended_and_resumed_more_than_twice_in_five_minutes() {
    let waits = prop::sample::select(vec![5u64, 50, 120, 150, 600, 1100, 2100, 9000, 30_000]);
    let moves = prop::collection::vec((waits, any::<u8>()), 1..120);
    proptest!(cases(150), |(bits in any::<u16>(), moves in moves)| flap(bits, &moves));
    let held_back = HELD_BACK.with(Cell::get);
    assert!(held_back > 30, "the adversary is too weak: the limit was met in {held_back} worlds");
}
