//! Random histories: the scheduler picks, holds and wakes as the model does, whatever came before.

use super::model::{Model, target};
use super::{
    ByteRate, ClassId, Cost, Duration, GroupId, Instant, KIB, Phase, Scheduler, Spec, TargetId, VmId,
};
use super::{group, spec, vm};
use crate::schedule::Receipt;
use crate::spec::{GroupSpec, VmSpec};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Join(usize, u32),
    Leave(usize, u32),
    Pass(u64),
    /// One turn, of so many bytes.
    Turn(u32, u64),
    /// A charge that no turn asked for, as a request that is served again may bring.
    Charge(usize, u32, u64),
    /// Of one of the charges that are open.
    Refund(usize),
    Numbers(Vec<(Numbers, Numbers)>),
}

#[derive(Clone, Debug)]
struct Numbers {
    shares: u32,
    priority: u32,
    reservation: Option<u64>,
    limit: Option<u64>,
    iops: Option<u64>,
    burst: u64,
    group: Option<u16>,
}

const VMS: usize = 6;
/// Together no more than this is charged: at a fourth of the shares it weighs less than the lead that the model does not know.
const PAGES_MAX: u64 = 4000;

fn numbers() -> impl Strategy<Value = Numbers> {
    let rate = || proptest::option::weighted(0.4, 1_000_u64..50_000_000);
    (
        prop_oneof![Just(1000_u32), 500..=2000_u32],
        0..3_u32,
        rate(),
        rate(),
        proptest::option::weighted(0.3, 1_u64..5000),
        0..20_000_000_u64,
        proptest::option::weighted(0.4, 0..2_u16),
    )
        .prop_map(|(shares, priority, reservation, limit, iops, burst, group)| Numbers {
            shares,
            priority: priority * 10,
            reservation,
            limit,
            iops,
            burst,
            group,
        })
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(4 * KIB), 2 => 1..64 * KIB, 1 => Just(256 * KIB)]
}

fn op() -> impl Strategy<Value = Op> {
    let class = || 0..3_u32;
    let pass = prop_oneof![Just(0), 1..100_000_u64, 1..20_000_000_u64, Just(700_000_000)];
    prop_oneof![
        4 => (0..VMS, class()).prop_map(|(vm, class)| Op::Join(vm, class)),
        2 => (0..VMS, class()).prop_map(|(vm, class)| Op::Leave(vm, class)),
        4 => pass.prop_map(Op::Pass),
        8 => (class(), sizes()).prop_map(|(class, bytes)| Op::Turn(class, bytes)),
        1 => (0..VMS, class(), sizes()).prop_map(|(vm, class, bytes)| Op::Charge(vm, class, bytes)),
        3 => (0..1000_usize).prop_map(Op::Refund),
        1 => proptest::collection::vec((numbers(), numbers()), VMS).prop_map(Op::Numbers),
    ]
}

fn vm_of(index: usize, n: &Numbers) -> VmSpec {
    VmSpec {
        shares: n.shares,
        priority: n.priority,
        reservation: n.reservation.map(ByteRate),
        limit: n.limit.map(ByteRate),
        limit_iops: n.iops,
        limit_burst: Duration::from_nanos(n.burst),
        group: n.group.map(GroupId),
        ..vm(&format!("v{index}"))
    }
}

fn group_of(index: usize, n: &Numbers) -> GroupSpec {
    GroupSpec {
        shares: n.shares,
        reservation: n.reservation.map(ByteRate),
        limit: n.limit.map(ByteRate),
        limit_iops: n.iops,
        limit_burst: Duration::from_nanos(n.burst),
        ..group(&format!("g{index}"))
    }
}

fn spec_of(rows: &[(Numbers, Numbers)]) -> Spec {
    let vms = rows.iter().enumerate().map(|(i, (n, _))| vm_of(i, n)).collect();
    spec(vms, rows.iter().take(2).enumerate().map(|(i, (_, n))| group_of(i, n)).collect())
}

struct Pair {
    real: Scheduler,
    model: Model,
    now: u64,
    open: Vec<(usize, Receipt, u64)>,
    picks: [u32; 2],
    pages: u64,
}

impl Pair {
    fn new(spec: Spec) -> Self {
        let mut real = Scheduler::new(&spec);
        for class in 0..3 {
            assert_eq!(real.add_class(TargetId::at(target(class))), ClassId(class as u32));
        }
        Self { real, model: Model::new(spec), now: 1_000_000_000, open: vec![], picks: [0; 2], pages: 0 }
    }

    fn charge(&mut self, vm: usize, class: ClassId, phase: Phase, bytes: u64) {
        let cost = Cost { bytes: if self.pages < PAGES_MAX - 800 { bytes } else { 1 } };
        self.pages += cost.device_bytes() / 4096;
        assert!(self.pages <= PAGES_MAX, "or the model does not apply");
        let receipt = self.real.charge(VmId::at(vm), class, phase, cost, Instant::from_nanos(self.now));
        let number = self.model.charge(vm, class, phase, cost, self.now);
        self.open.push((vm, receipt, number));
    }

    fn apply(&mut self, op: &Op) {
        let now = Instant::from_nanos(self.now);
        match op {
            Op::Join(vm, class) => {
                self.real.join(VmId::at(*vm), ClassId(*class), now);
                self.model.join(*vm, *class as usize, self.now);
            }
            Op::Leave(vm, class) => {
                self.real.leave(VmId::at(*vm), ClassId(*class));
                self.model.leave(*vm, *class as usize);
            }
            Op::Pass(nanos) => self.now += nanos,
            Op::Turn(class, bytes) => {
                self.real.advance(now);
                self.model.advance(self.now);
                let turn = self.real.pick(ClassId(*class), now);
                let found = turn.map(|t| (t.vm.index(), t.phase));
                assert_eq!(found, self.model.pick(*class as usize, self.now), "at {now}");
                if let Some((vm, phase)) = found {
                    self.picks[usize::from(phase == Phase::Reservation)] += 1;
                    self.charge(vm, ClassId(*class), phase, *bytes);
                }
            }
            Op::Charge(vm, class, bytes) => self.charge(*vm, ClassId(*class), Phase::Weight, *bytes),
            Op::Refund(which) if !self.open.is_empty() => {
                let (vm, receipt, number) = self.open.swap_remove(which % self.open.len());
                self.real.refund(VmId::at(vm), receipt);
                self.model.refund(vm, number);
            }
            Op::Refund(_) => {}
            Op::Numbers(rows) => {
                let mut new = spec_of(rows);
                for (new, old) in new.vms.iter_mut().zip(&self.model.spec.vms) {
                    new.group = old.group;
                }
                self.real.configure(&new, now);
                self.model.configure(new, self.now);
                self.model.advance(self.now);
            }
        }
        let wake = self.real.wake().map(Instant::as_nanos);
        assert_eq!(wake, self.model.wake(), "after {op:?}");
        let tags = self.real.vms.iter().map(|vm| &vm.tags).chain(self.real.groups.iter().map(|g| &g.tags));
        let tags: Vec<_> = tags.map(|t| (t.weight, t.due(), t.allowed_at())).collect();
        assert_eq!(tags, self.model.tags(), "after {op:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn it_does_as_the_model(
        rows in proptest::collection::vec((numbers(), numbers()), VMS),
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut pair = Pair::new(spec_of(&rows));
        for op in &ops {
            pair.apply(op);
        }
        // A long backlog shows what is left of each difference.
        for _ in 0..20 {
            for class in 0..3 {
                pair.apply(&Op::Turn(class, 4096));
            }
            pair.apply(&Op::Pass(1_500_000));
        }
    }
}

/// The histories reach what they are to test: turns of both kinds, and refunds.
#[test]
fn the_random_histories_do_something() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut picks = [0; 2];
    for _ in 0..50 {
        let rows = proptest::collection::vec((numbers(), numbers()), VMS);
        let rows = rows.new_tree(&mut runner).expect("a tree").current();
        let ops = proptest::collection::vec(op(), 100).new_tree(&mut runner).expect("a tree").current();
        let mut pair = Pair::new(spec_of(&rows));
        ops.iter().for_each(|op| pair.apply(op));
        picks = [picks[0] + pair.picks[0], picks[1] + pair.picks[1]];
    }
    assert!(picks[0] > 200 && picks[1] > 50, "{picks:?}");
}
