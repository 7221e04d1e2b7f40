//! A refund gives back exactly what the charge took, and no credit.

use super::*;

#[test]
fn a_refund_at_once_undoes_a_charge() {
    let limited = VmSpec { limit: rate(1), limit_burst: Duration::ZERO, reservation: rate(10), ..vm("a") };
    let mut world = World::new(&spec(vec![limited, vm("b")], vec![]), &[MIB]);
    let turn = world.turn().expect("both wait");
    let receipt = world.scheduler.charge(turn.vm, turn.class, turn.phase, Cost { bytes: MIB }, world.now);
    assert!(world.throttled(turn.vm) && world.turn().is_some_and(|next| next != turn));
    world.scheduler.refund(turn.vm, receipt);
    assert_eq!(world.turn(), Some(turn));
    assert!(!world.throttled(turn.vm) && world.scheduler.wake().is_none());
}

#[test]
fn a_late_refund_gives_back_no_more_than_has_not_drained() {
    let limited = VmSpec { limit: rate(1), limit_burst: Duration::ZERO, ..vm("a") };
    let mut world = World::new(&spec(vec![limited], vec![]), &[MIB]);
    let cost = Cost { bytes: MIB };
    let receipt = world.scheduler.charge(VmId(0), world.class, Phase::Weight, cost, world.now);
    world.now += Duration::from_secs(60);
    world.step();
    world.scheduler.refund(VmId(0), receipt);
    assert_eq!(world.turn(), None, "the bucket was empty long before the second request");
    assert_eq!(world.scheduler.wake(), Some(world.now + Duration::from_secs(1)));
}

#[test]
fn a_refund_after_a_reload_is_in_bytes() {
    let vms = |mib| vec![VmSpec { limit: rate(mib), limit_burst: Duration::ZERO, ..vm("a") }];
    let mut world = World::new(&spec(vms(1), vec![]), &[MIB]);
    let charge = |world: &mut World, bytes| {
        world.scheduler.charge(VmId(0), world.class, Phase::Weight, Cost { bytes }, world.now)
    };
    let receipt = charge(&mut world, 3 * MIB);
    drop(charge(&mut world, MIB));
    world.scheduler.configure(&spec(vms(2), vec![]), world.now);
    world.scheduler.refund(VmId(0), receipt);
    assert_eq!(world.scheduler.wake(), Some(START + Duration::from_millis(500)));
}

#[test]
fn a_refund_reaches_the_group_that_was_charged() {
    let limited = |name: &str| GroupSpec { limit: rate(1), limit_burst: Duration::ZERO, ..group(name) };
    let groups = || vec![limited("x"), limited("y")];
    let vms = |of| vec![member(of, vm("a")), member(0, vm("b"))];
    let mut world = World::new(&spec(vms(0), groups()), &[MIB]);
    let receipt = world.scheduler.charge(VmId(0), world.class, Phase::Weight, Cost { bytes: MIB }, world.now);
    assert!(world.throttled(VmId(1)));
    world.scheduler.configure(&spec(vms(1), groups()), world.now);
    assert!(world.throttled(VmId(1)) && !world.throttled(VmId(0)));
    world.scheduler.refund(VmId(0), receipt);
    assert!(!world.throttled(VmId(1)));
}
