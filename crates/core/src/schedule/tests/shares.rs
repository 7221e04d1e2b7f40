//! Weight and reservation: who gets what of a second, and that nobody is starved or paid for idling.

use super::*;
use proptest::prelude::*;

#[test]
fn shares_divide_what_no_reservation_claims() {
    let got =
        second(vec![VmSpec { shares: 2000, ..vm("a") }, VmSpec { shares: 1000, ..vm("b") }], vec![], 90);
    assert!(near(got[0], 60) && near(got[1], 30), "{got:?}");
}

#[test]
fn reservations_come_before_shares() {
    let reserved = VmSpec { shares: 1, reservation: rate(60), ..vm("a") };
    let got = second(vec![reserved, VmSpec { shares: 100_000, ..vm("b") }], vec![], 100);
    assert!(near(got[0], 60) && near(got[1], 40), "{got:?}");
}

#[test]
fn when_reservations_do_not_fit_the_highest_priority_is_whole() {
    let reserved = |name: &str, priority| VmSpec { priority, reservation: rate(60), ..vm(name) };
    let got = second(vec![reserved("bronze", 10), reserved("gold", 100)], vec![], 80);
    assert!(near(got[1], 60), "{got:?}");
    assert!(near(got[0], 20), "work-conserving: {got:?}");
}

#[test]
fn idling_banks_no_credit() {
    let mut world = World::new(&spec(vec![vm("a"), vm("b")], vec![]), &[4 * KIB]);
    world.scheduler.leave(VmId(1), world.class);
    (0..1000).for_each(|_| assert!(world.step().is_some()));
    world.scheduler.join(VmId(1), world.class, world.now);
    world.served.clear();
    (0..100).for_each(|_| assert!(world.step().is_some()));
    let got = world.bytes_since(START);
    assert!(got[0].abs_diff(got[1]) <= 4 * KIB, "it does not catch up on a thousand requests: {got:?}");
}

#[test]
fn a_vm_that_could_not_be_served_is_owed_nothing() {
    let mut world = World::new(&spec(vec![vm("held"), vm("b")], vec![]), &[4 * KIB]);
    for _ in 0..1000 {
        world.scheduler.leave(VmId(0), world.class);
        world.step();
        world.scheduler.join(VmId(0), world.class, world.now);
    }
    world.served.clear();
    (0..100).for_each(|_| assert!(world.step().is_some()));
    let got = world.bytes_since(START);
    assert!(got[0].abs_diff(got[1]) <= 8 * KIB, "{got:?}");
}

#[test]
fn a_reservation_unmet_in_an_outage_is_not_all_made_up() {
    let spec = spec(vec![VmSpec { reservation: rate(10), ..vm("a") }], vec![]);
    let mut world = World::new(&spec, &[64 * KIB]);
    world.now = START + Duration::from_secs(60);
    while world.turn().is_some_and(|t| t.phase == Phase::Reservation) {
        world.step();
    }
    assert!(near(world.bytes_since(START)[0], 5), "half a second of it, not a minute");
}

/// A VM that works on two targets has one virtual time; where the other VMs get little, it still gets turns: one at the
/// latest after 64 MiB of another with as many shares.
#[test]
fn much_use_of_one_target_does_not_starve_a_vm_at_another() {
    let mut world = World::new(&spec(vec![vm("both"), vm("slow")], vec![]), &[64 * KIB]);
    let fast = world.scheduler.add_class(TargetId(1));
    world.scheduler.join(VmId(0), fast, world.now);
    let mut turns = 0;
    for _ in 0..3000 {
        for _ in 0..10 {
            drop(world.scheduler.charge(VmId(0), fast, Phase::Weight, Cost { bytes: MIB }, world.now));
        }
        turns += u32::from(world.step().is_some_and(|t| t.vm == VmId(0)));
    }
    assert!(turns >= 2, "{turns} turns while the other got 190 MiB");
}

fn vms() -> impl Strategy<Value = Vec<VmSpec>> {
    let one = (1..4_u32, 100..4000_u32, proptest::option::weighted(0.5, 1..20_u64));
    proptest::collection::vec(one, 2..8).prop_map(|rows| {
        let vm = |(priority, shares, reserved): (u32, u32, Option<u64>)| VmSpec {
            priority,
            shares,
            reservation: reserved.and_then(rate),
            ..vm("a")
        };
        rows.into_iter().map(vm).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// At most 7 × 20 MiB/s are reserved of 200: each 100 ms brings each its part, but for one request.
    #[test]
    fn a_reservation_that_fits_is_met_in_every_tenth_of_a_second(vms in vms(), size in 1..5_u64) {
        let bytes = size * 32 * KIB;
        let mut world = World::new(&spec(vms.clone(), vec![]), &[bytes]);
        world.run(200 * MIB, Duration::from_secs(1));
        for tenth in 0..10 {
            let from = START + Duration::from_millis(tenth * 100);
            let to = from + Duration::from_millis(100);
            for (index, vm) in vms.iter().enumerate() {
                let in_it = |(at, who, _): &&(Instant, usize, u64)| *who == index && (from..to).contains(at);
                let got = world.served.iter().filter(in_it).count() as u64 * bytes;
                let reserved = vm.reservation.map_or(0, |r| r.0) / 10;
                // The others that were due at the same time go first: their requests, too, take time.
                let wait = bytes * vms.len() as u64 * reserved / (20 * MIB);
                prop_assert!(got + bytes + wait >= reserved, "{index} in {tenth}: {got} of {reserved}");
            }
        }
    }

    #[test]
    fn shares_hold_within_two_percent_over_a_second(shares in proptest::collection::vec(200..4000_u64, 2..12)) {
        let one = |s: &u64| VmSpec { shares: *s as u32, ..vm("a") };
        let capacity = 1000;
        let mut world = World::new(&spec(shares.iter().map(one).collect(), vec![]), &[16 * KIB]);
        world.run(capacity * MIB, Duration::from_secs(1));
        let (got, all) = (world.bytes_since(START), shares.iter().sum::<u64>());
        for (got, shares) in got.iter().zip(&shares) {
            let fair = capacity * MIB * shares / all;
            prop_assert!(got.abs_diff(fair) * 50 <= fair, "{got} of {fair}");
        }
    }

    /// Between two turns of a VM nobody gets more than one request beyond what its shares are worth.
    #[test]
    fn nobody_waits_longer_than_its_shares_say(shares in proptest::collection::vec(100..4000_u64, 2..12)) {
        let one = |s: &u64| VmSpec { shares: *s as u32, ..vm("a") };
        let mut world = World::new(&spec(shares.iter().map(one).collect(), vec![]), &[16 * KIB]);
        let mut since = vec![vec![0_u64; shares.len()]; shares.len()];
        for _ in 0..5000 {
            let who = world.step().expect("all wait").vm.index();
            for (waiter, got) in since.iter_mut().enumerate() {
                got[who] += 1;
                let bound = shares[who].div_ceil(shares[waiter]) + 1;
                prop_assert!(waiter == who || got[who] <= bound, "{who} before {waiter}: {}", got[who]);
            }
            since[who].fill(0);
        }
    }

    /// While anybody may go the device works, and what is charged is what is served.
    #[test]
    fn it_is_work_conserving(vms in vms(), limits in proptest::collection::vec(5..40_u64, 8)) {
        let limit = |(vm, mib): (VmSpec, &u64)| VmSpec { limit: rate(*mib), reservation: None, ..vm };
        let vms: Vec<VmSpec> = vms.into_iter().zip(&limits).map(limit).collect();
        let together: u64 = vms.iter().filter_map(|vm| vm.limit).map(|l| l.0).sum();
        let mut world = World::new(&spec(vms, vec![]), &[16 * KIB]);
        world.run(100 * MIB, Duration::from_secs(1));
        let got: u64 = world.bytes_since(START).iter().sum();
        prop_assert!(got * 100 >= together.min(100 * MIB) * 98, "{got} of {together}");
        // Idle only for want of anybody whose limit allows it.
        prop_assert!(together < 100 * MIB || world.idle < Duration::from_millis(20), "{:?}", world.idle);
    }
}
