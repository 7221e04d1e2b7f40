//! Numbers that change while requests wait.

use super::*;
use crate::schedule::tags::WEIGHT_MAX;

#[test]
fn what_is_owed_to_a_limit_is_owed_in_bytes() {
    let vms = |limit| vec![VmSpec { limit: rate(limit), limit_burst: Duration::ZERO, ..vm("a") }];
    let mut world = World::new(&spec(vms(1), vec![]), &[8 * MIB]);
    world.step();
    assert_eq!(world.scheduler.wake(), Some(START + Duration::from_secs(8)));
    world.now = START + Duration::from_secs(4);
    world.scheduler.configure(&spec(vms(2), vec![]), world.now);
    assert_eq!(world.scheduler.wake(), Some(START + Duration::from_secs(6)), "4 MiB at the new rate");
    world.scheduler.configure(&spec(vec![vm("a")], vec![]), world.now);
    assert!(world.scheduler.wake().is_none() && world.turn().is_some(), "no limit");
}

#[test]
fn new_shares_divide_the_very_next_second() {
    let vms = |shares| vec![VmSpec { shares, ..vm("a") }, vm("b")];
    let mut world = World::new(&spec(vms(100), vec![]), &[64 * KIB]);
    world.run(80 * MIB, Duration::from_secs(1));
    world.scheduler.configure(&spec(vms(3000), vec![]), world.now);
    let from = world.now;
    world.run(80 * MIB, Duration::from_secs(1));
    let got = world.bytes_since(from);
    assert!(near(got[0], 60) && near(got[1], 20), "{got:?}");
}

#[test]
fn a_reservation_ahead_of_time_is_so_in_bytes() {
    let vms = |mib| vec![VmSpec { reservation: rate(mib), ..vm("a") }];
    let mut world = World::new(&spec(vms(1), vec![]), &[10 * MIB]);
    assert_eq!(world.step().map(|t| t.phase), Some(Phase::Reservation));
    world.scheduler.configure(&spec(vms(100), vec![]), world.now);
    world.now += Duration::from_millis(99);
    assert_eq!(world.turn().map(|t| t.phase), Some(Phase::Weight));
    world.now += Duration::from_millis(1);
    assert_eq!(world.turn().map(|t| t.phase), Some(Phase::Reservation), "10 MiB at 100 MiB/s, not at 1");
}

#[test]
fn a_group_keeps_what_it_has_used_though_its_place_changes() {
    let limited = |name: &str| GroupSpec { limit: rate(1), limit_burst: Duration::ZERO, ..group(name) };
    let vms = |of| vec![member(of, vm("a"))];
    let mut world = World::new(&spec(vms(1), vec![limited("x"), limited("y")]), &[2 * MIB]);
    world.step();
    world.scheduler.configure(&spec(vms(0), vec![limited("y")]), world.now);
    assert_eq!(world.scheduler.wake(), Some(START + Duration::from_secs(2)));
    world.scheduler.configure(&spec(vms(0), vec![limited("z")]), world.now);
    assert!(world.scheduler.wake().is_none() && world.turn().is_some(), "another group owes nothing");
}

#[test]
fn one_that_comes_into_a_group_or_out_of_it_starts_level() {
    let both = || vec![vm("a"), member(0, vm("b")), member(0, vm("c"))];
    let mut world = World::new(&spec(both(), vec![group("g")]), &[64 * KIB]);
    world.run(100 * MIB, Duration::from_secs(10));
    let out = vec![vm("a"), vm("b"), member(0, vm("c"))];
    world.scheduler.configure(&spec(out, vec![group("g")]), world.now);
    let from = world.now;
    world.run(90 * MIB, Duration::from_secs(1));
    let got = world.bytes_since(from);
    assert!(got.iter().all(|g| near(*g, 30)), "{got:?}");
    let inside = vec![member(0, vm("a")), member(0, vm("b")), member(0, vm("c"))];
    world.scheduler.configure(&spec(inside, vec![group("g")]), world.now);
    let from = world.now;
    world.run(90 * MIB, Duration::from_secs(1));
    let got = world.bytes_since(from);
    assert!(got.iter().all(|g| near(*g, 30)), "{got:?}");
}

#[test]
fn without_a_scheduler_nothing_is_held_and_all_are_equal() {
    let limited = VmSpec { limit: rate(1), shares: 100, reservation: rate(50), ..vm("a") };
    let mut spec = spec(vec![limited, member(0, vm("b")), member(0, vm("c"))], vec![group("g")]);
    spec.host.scheduler = crate::spec::SchedulerKind::None;
    let mut world = World::new(&spec, &[64 * KIB]);
    world.run(90 * MIB, Duration::from_secs(1));
    let got = world.bytes_since(START);
    assert!(got.iter().all(|g| near(*g, 30)), "{got:?}");
}

/// Two worlds, one of them near the most that a weight may be: taking all weights down changes no turn, outside or inside of a
/// group, nor the place of one that comes later.
#[test]
fn weights_are_taken_down_long_before_they_overflow() {
    const NEAR: u64 = WEIGHT_MAX - (1 << 30);
    let vms = || vec![vm("a"), member(0, vm("b")), member(0, VmSpec { shares: 2000, ..vm("c") }), vm("late")];
    let spec = spec(vms(), vec![GroupSpec { shares: 3000, ..group("g") }]);
    let mut worlds = [World::new(&spec, &[64 * KIB]), World::new(&spec, &[64 * KIB])];
    for world in &mut worlds {
        world.scheduler.leave(VmId(3), world.class);
    }
    let high = &mut worlds[1].scheduler;
    high.vms.iter_mut().for_each(|vm| vm.tags.weight += NEAR);
    high.groups.iter_mut().for_each(|g| (g.tags.weight, g.clock.time) = (g.tags.weight + NEAR, NEAR));
    high.clocks.iter_mut().for_each(|clock| clock.time += NEAR);
    high.rebuild();
    for round in 0..5000 {
        let [low, high] = worlds.each_mut().map(|world| {
            if round % 700 == 600 {
                world.scheduler.join(VmId(3), world.class, world.now);
            } else if round % 700 == 699 {
                // Nobody waits for a moment: all join where the target was.
                (0..4).for_each(|vm| world.scheduler.leave(VmId(vm), world.class));
                (0..3).for_each(|vm| world.scheduler.join(VmId(vm), world.class, world.now));
            }
            world.step().map(|turn| turn.vm)
        });
        assert_eq!(low, high, "in round {round}");
    }
    let high = &worlds[1].scheduler;
    let weights = high.vms.iter().map(|vm| vm.tags.weight).chain(high.groups.iter().map(|g| g.tags.weight));
    assert!(weights.max() < Some(WEIGHT_MAX), "they have been taken down");
}
