//! Several VMs under one allocation.

use super::*;

#[test]
fn a_group_competes_as_one_and_divides_by_its_members_shares() {
    let vms = vec![vm("alone"), member(0, vm("a")), member(0, VmSpec { shares: 2000, ..vm("b") })];
    let got = second(vms, vec![group("g")], 90);
    assert!(near(got[0], 45) && near(got[1], 15) && near(got[2], 30), "{got:?}");
}

#[test]
fn what_one_member_leaves_goes_to_the_others_of_its_group() {
    let vms = vec![vm("alone"), member(0, vm("idle")), member(0, vm("b"))];
    let mut world = World::new(&spec(vms, vec![group("g")]), &[64 * KIB]);
    world.scheduler.leave(VmId(1), world.class);
    world.run(90 * MIB, Duration::from_secs(1));
    let got = world.bytes_since(START);
    assert!(near(got[0], 45) && near(got[2], 45), "{got:?}");
}

#[test]
fn a_groups_limit_binds_its_members_together_and_their_own_apart() {
    let vms = vec![vm("alone"), member(0, vm("a")), member(0, VmSpec { limit: rate(5), ..vm("b") })];
    let got = second(vms, vec![GroupSpec { limit: rate(30), ..group("g") }], 90);
    assert!(near(got[0], 60) && near(got[1], 25) && near(got[2], 5), "{got:?}");
}

#[test]
fn a_groups_reservation_covers_its_members_and_contains_their_own() {
    let vms = vec![
        VmSpec { shares: 100_000, ..vm("alone") },
        member(0, VmSpec { reservation: rate(30), shares: 1, ..vm("a") }),
        member(0, vm("b")),
    ];
    let groups = vec![GroupSpec { shares: 1, reservation: rate(50), ..group("g") }];
    let got = second(vms, groups, 100);
    assert!(near(got[0], 50), "50 are reserved, not 80: {got:?}");
    assert!(near(got[1], 30) && near(got[2], 20), "{got:?}");
}

#[test]
fn a_member_of_low_priority_is_not_starved_by_its_own_group() {
    let vms = vec![vm("alone"), member(0, vm("high")), member(0, VmSpec { priority: 1, ..vm("low") })];
    let got = second(vms, vec![group("g")], 80);
    assert!(near(got[1], 20) && near(got[2], 20), "{got:?}");
}

#[test]
fn a_members_reservation_counts_at_its_own_priority() {
    let reserved = |name: &str, priority| VmSpec { priority, reservation: rate(60), ..vm(name) };
    let vms = vec![reserved("middle", 50), member(0, reserved("low", 10)), member(0, reserved("high", 100))];
    let got = second(vms, vec![group("g")], 90);
    assert!(near(got[2], 60) && near(got[0], 30), "{got:?}");
    assert!(got[1] < MIB, "{got:?}");
}

#[test]
fn the_timer_waits_for_the_group_and_for_a_member() {
    let limited = VmSpec { limit: rate(1), limit_burst: Duration::ZERO, ..vm("a") };
    let groups = vec![GroupSpec { limit: rate(4), limit_burst: Duration::ZERO, ..group("g") }];
    let mut world = World::new(&spec(vec![member(0, limited), member(0, vm("b"))], groups), &[MIB]);
    world.scheduler.leave(VmId(1), world.class);
    world.step();
    assert_eq!(world.scheduler.wake(), Some(START + Duration::from_secs(1)), "the group could after 250 ms");
    world.scheduler.join(VmId(1), world.class, world.now);
    assert_eq!(world.scheduler.wake(), Some(START + Duration::from_millis(250)));
}
