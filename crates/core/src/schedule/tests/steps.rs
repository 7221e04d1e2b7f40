//! What a turn costs in steps, whatever the number of VMs.

use super::*;
use crate::schedule::tree::visits;

/// The most nodes looked at in one round (time, a turn, its charge, a leave and a join) with so many VMs.
fn most(vms: usize) -> u64 {
    let one = |i: usize| VmSpec {
        priority: [10, 100, 1000][i % 3],
        reservation: (i % 4 == 1).then_some(ByteRate(4096)),
        limit: (i % 4 == 2).then_some(ByteRate(64 * KIB)),
        group: (i % 8 == 3).then_some(GroupId((i / 8 % 4) as u16)),
        ..vm("a")
    };
    let groups = (0..4).map(|i| GroupSpec { limit: rate(50), ..group(&format!("g{i}")) }).collect();
    let mut world = World::new(&spec((0..vms).map(one).collect(), groups), &[4 * KIB]);
    let mut most = 0;
    for round in 0..4000 {
        let before = visits();
        // Released are as many as were held before: each is paid for by a charge.
        let released = world.scheduler.wake().is_some_and(|at| at <= world.now);
        let Some(turn) = world.turn() else {
            world.now += Duration::from_millis(1);
            continue;
        };
        drop(world.scheduler.charge(turn.vm, turn.class, turn.phase, Cost { bytes: 4096 }, world.now));
        if round % 3 == 0 {
            world.scheduler.leave(turn.vm, world.class);
            world.scheduler.join(turn.vm, world.class, world.now);
        }
        if !released {
            most = most.max(visits() - before);
        }
        world.now += Duration::from_micros(10);
    }
    most
}

#[test]
fn a_turn_takes_steps_by_the_logarithm() {
    for bits in [4_u64, 8, 12, 16] {
        let steps = most(1 << bits);
        assert!(steps <= 32 * bits, "{steps} with 2^{bits} VMs");
        assert!(steps >= bits, "the counter counts: {steps}");
    }
}
