use super::*;
use crate::testing::vm;

const MIB: u64 = 1 << 20;

/// Runs VMs that always have 64 KiB requests waiting over a device of `capacity` bytes per second for one second of
/// virtual time; returns the bytes that each got.
fn run(vms: &[VmSpec], capacity: u64) -> Vec<u64> {
    let mut scheduler = Scheduler::new(vms);
    let cost = Cost { bytes: 64 * 1024 };
    let mut now = Instant::from_millis(1000);
    let end = now + Duration::from_secs(1);
    let mut got = vec![0; vms.len()];
    for vm in 0..vms.len() {
        scheduler.backlogged(vm, now);
    }
    while now < end {
        if let Some((vm, phase)) = scheduler.pick(0..vms.len(), now) {
            scheduler.charge(vm, phase, cost, now);
            got[vm] += cost.bytes;
        }
        now += time_for(cost.bytes, capacity);
    }
    got
}

fn near(got: u64, mib: u64) -> bool {
    got.abs_diff(mib * MIB) * 100 <= mib * MIB * 4
}

#[test]
fn shares_divide_what_no_reservation_claims() {
    let got = run(&[VmSpec { shares: 2000, ..vm("a") }, VmSpec { shares: 1000, ..vm("b") }], 90 * MIB);
    assert!(near(got[0], 60) && near(got[1], 30), "{got:?}");
}

#[test]
fn a_limit_holds_and_the_rest_goes_to_the_others() {
    let got = run(&[VmSpec { limit: Some(ByteRate(10 * MIB)), ..vm("a") }, vm("b")], 100 * MIB);
    assert!(near(got[0], 10) && near(got[1], 90), "{got:?}");
}

#[test]
fn a_limit_on_requests_holds() {
    let got = run(&[VmSpec { limit_iops: Some(160), ..vm("a") }, vm("b")], 100 * MIB);
    assert!(near(got[0], 10), "160 requests of 64 KiB: {got:?}");
}

#[test]
fn reservations_come_before_shares() {
    let reserved = VmSpec { shares: 1, reservation: Some(ByteRate(60 * MIB)), ..vm("a") };
    let got = run(&[reserved, VmSpec { shares: 100_000, ..vm("b") }], 100 * MIB);
    assert!(near(got[0], 60) && near(got[1], 40), "{got:?}");
}

#[test]
fn when_reservations_do_not_fit_the_highest_priority_is_whole() {
    let reserved = |name: &str, priority, mib: u64| VmSpec {
        priority,
        reservation: Some(ByteRate(mib * MIB)),
        ..vm(name)
    };
    let got = run(&[reserved("bronze", 10, 60), reserved("gold", 100, 60)], 80 * MIB);
    assert!(near(got[1], 60), "{got:?}");
    assert!(near(got[0], 20), "work-conserving: {got:?}");
}

#[test]
fn idling_banks_no_credit() {
    let vms = [vm("a"), vm("b")];
    let mut scheduler = Scheduler::new(&vms);
    let now = Instant::from_millis(1);
    scheduler.backlogged(0, now);
    for _ in 0..1000 {
        scheduler.charge(0, Phase::Weight, Cost { bytes: 4096 }, now);
    }
    scheduler.backlogged(1, now);
    let mut turns = [0; 2];
    for _ in 0..100 {
        let (vm, phase) = scheduler.pick(0..2, now).unwrap();
        scheduler.charge(vm, phase, Cost { bytes: 4096 }, now);
        turns[vm] += 1;
    }
    assert_eq!(turns, [50, 50], "the newcomer does not catch up on a thousand requests");
}

#[test]
fn an_over_limit_vm_says_when_it_may_go() {
    let vms = [VmSpec { limit: Some(ByteRate(MIB)), ..vm("a") }];
    let mut scheduler = Scheduler::new(&vms);
    let now = Instant::from_millis(1000);
    scheduler.charge(0, Phase::Weight, Cost { bytes: MIB }, now);
    assert_eq!(scheduler.pick(0..1, now), None);
    let at = scheduler.tags(0).allowed_at();
    assert_eq!(at, now + Duration::from_secs(1) - LIMIT_BURST);
    assert_eq!(scheduler.pick(0..1, at), Some((0, Phase::Weight)));
}

#[test]
fn a_vm_that_could_not_be_served_is_owed_nothing() {
    let vms = [vm("held"), vm("b")];
    let mut scheduler = Scheduler::new(&vms);
    let now = Instant::from_millis(1);
    let cost = Cost { bytes: 4096 };
    scheduler.backlogged(0, now);
    scheduler.backlogged(1, now);
    for _ in 0..1000 {
        scheduler.idle(0);
        scheduler.charge(1, Phase::Weight, cost, now);
        scheduler.backlogged(0, now);
    }
    let mut turns = [0_u32; 2];
    for _ in 0..100 {
        let (vm, phase) = scheduler.pick(0..2, now).unwrap();
        scheduler.charge(vm, phase, cost, now);
        turns[vm] += 1;
    }
    assert!(turns[0].abs_diff(turns[1]) <= 2, "{turns:?}");
}

#[test]
fn within_any_time_no_more_than_the_limit_the_burst_and_one_request() {
    let (limit, size) = (10 * MIB, 256 * 1024);
    let mut scheduler = Scheduler::new(&[VmSpec { limit: Some(ByteRate(limit)), ..vm("a") }]);
    let mut dispatched = Vec::new();
    // It asks in bursts, with pauses of all lengths between.
    for step in 0..2000_u64 {
        let now = Instant::from_millis(1000 + step + step / 100 * 70);
        while let Some((vm, phase)) = scheduler.pick(0..1, now) {
            scheduler.charge(vm, phase, Cost { bytes: size }, now);
            dispatched.push(now);
        }
    }
    assert!(dispatched.len() > 50);
    for (first, from) in dispatched.iter().enumerate() {
        for (last, to) in dispatched.iter().enumerate().skip(first) {
            let bytes = u128::from(size) * (last - first + 1) as u128;
            let time = (to.since(*from) + LIMIT_BURST).as_nanos();
            assert!(
                bytes <= u128::from(limit) * time / 1_000_000_000 + u128::from(size) + 1,
                "{from} to {to}"
            );
        }
    }
}

#[test]
fn a_reservation_unmet_in_an_outage_is_not_all_made_up() {
    let reserved = VmSpec { reservation: Some(ByteRate(10 * MIB)), ..vm("a") };
    let mut scheduler = Scheduler::new(&[reserved]);
    scheduler.backlogged(0, Instant::from_millis(0));
    let now = Instant::from_millis(60_000);
    let mut owed = 0;
    while let Some((0, Phase::Reservation)) = scheduler.pick(0..1, now) {
        scheduler.charge(0, Phase::Reservation, Cost { bytes: 64 * 1024 }, now);
        owed += 64 * 1024;
    }
    assert!(near(owed, 5), "half a second of it, not a minute: {owed}");
}
