//! The scheduler's rules, each against a world in virtual time, and against a model that scans.

mod entitlements;
mod groups;
mod limits;
mod model;
mod parts;
mod random;
mod refunds;
mod reload;
mod shares;
mod steps;

use super::{ClassId, Cost, Phase, Scheduler, Turn};
use crate::ids::{GroupId, TargetId, VmId};
use crate::spec::{ByteRate, GroupSpec, Spec, VmSpec};
use crate::testing::vm;
use crate::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const START: Instant = Instant::from_millis(1000);

fn spec(vms: Vec<VmSpec>, groups: Vec<GroupSpec>) -> Spec {
    Spec { vms, groups, disks: vec![], units: vec![], ..crate::testing::spec(1, vec![]) }
}

fn rate(mib: u64) -> Option<ByteRate> {
    Some(ByteRate(mib * MIB))
}

fn group(name: &str) -> GroupSpec {
    GroupSpec {
        name: name.into(),
        shares: 1000,
        reservation: None,
        limit: None,
        limit_iops: None,
        limit_burst: Duration::from_millis(5),
    }
}

fn member(of: u16, vm: VmSpec) -> VmSpec {
    VmSpec { group: Some(GroupId(of)), ..vm }
}

/// VMs that always have requests of one size waiting, before a device of some bytes per second.
struct World {
    scheduler: Scheduler,
    class: ClassId,
    now: Instant,
    sizes: Vec<u64>,
    /// (when, VM, bytes) of each dispatch.
    served: Vec<(Instant, usize, u64)>,
    idle: Duration,
}

impl World {
    fn new(spec: &Spec, sizes: &[u64]) -> Self {
        let mut scheduler = Scheduler::new(spec);
        let class = scheduler.add_class(TargetId(0));
        for vm in 0..spec.vms.len() {
            scheduler.join(VmId::at(vm), class, START);
        }
        let sizes = (0..spec.vms.len()).map(|vm| sizes[vm % sizes.len()]).collect();
        Self { scheduler, class, now: START, sizes, served: vec![], idle: Duration::ZERO }
    }

    /// Its limit, or its group's, does not let it go now.
    fn throttled(&self, vm: VmId) -> bool {
        self.scheduler.allowed_at(vm) > self.now
    }

    fn turn(&mut self) -> Option<Turn> {
        self.scheduler.advance(self.now);
        self.scheduler.pick(self.class, self.now)
    }

    /// One request, at once.
    fn step(&mut self) -> Option<Turn> {
        let turn = self.turn()?;
        let bytes = self.sizes[turn.vm.index()];
        drop(self.scheduler.charge(turn.vm, turn.class, turn.phase, Cost { bytes }, self.now));
        self.served.push((self.now, turn.vm.index(), bytes));
        Some(turn)
    }

    /// The device takes its time for each; when nobody may go, the world sleeps until the scheduler says.
    fn run(&mut self, capacity: u64, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            if let Some(turn) = self.step() {
                self.now += nanos(self.sizes[turn.vm.index()], capacity);
            } else {
                let wake = self.scheduler.wake().expect("somebody waits, and is held").min(end);
                assert!(wake > self.now, "the timer lies ahead");
                self.idle += wake.since(self.now);
                self.now = wake;
            }
        }
    }

    fn bytes_since(&self, from: Instant) -> Vec<u64> {
        let mut got = vec![0; self.sizes.len()];
        for (at, vm, bytes) in &self.served {
            got[*vm] += if *at >= from { *bytes } else { 0 };
        }
        got
    }
}

fn nanos(bytes: u64, per_second: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / per_second)
}

/// What a second of full backlog gives each.
fn second(vms: Vec<VmSpec>, groups: Vec<GroupSpec>, capacity_mib: u64) -> Vec<u64> {
    let mut world = World::new(&spec(vms, groups), &[64 * KIB]);
    world.run(capacity_mib * MIB, Duration::from_secs(1));
    world.bytes_since(START)
}

fn near(got: u64, mib: u64) -> bool {
    got.abs_diff(mib * MIB) * 100 <= mib * MIB * 2
}
