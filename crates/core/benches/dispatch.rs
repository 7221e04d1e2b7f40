//! What deciding costs per request: whose turn it is, which of 16 paths, the charges.
//!
//! All VMs always have something waiting. One iteration is one request; time advances as a device of 10 GB/s would let it.
//! `mixed` has what a host has: reservations, limits, priorities, groups. It does not measure queues, volumes or connections.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use vmpath_core::ids::{GroupId, PathId, TargetId, VmId};
use vmpath_core::plan::{Health, PathRoute};
use vmpath_core::schedule::{ClassId, Cost, Scheduler, Turn};
use vmpath_core::select::{Ask, Choice, Heard, Level, PathState, select};
use vmpath_core::spec::{Access, ByteRate, GroupSpec, PathSelector, Source, Spec, VmSpec, parse};
use vmpath_core::time::{Duration, Instant};

const PATHS: usize = 16;
const IN_FLIGHT: usize = 256;

/// One VM from the parser, and as many of its kind as are wanted: the parser itself stops at 1024.
fn spec(vms: usize, terms: fn(usize, &mut VmSpec)) -> Spec {
    let text = "[[target]]\nname = 't'\n[[target.path]]\nname = 'a'\nurl = 'nbd+unix:///?socket=/a'\n\
                [[vm]]\nname = 'v'\n[[vm.disk]]\nname = 'd'\nunit = 't/u'\nnbd = '/n'";
    let mut spec = parse(&[Source { name: "bench", text }]).expect("good").spec;
    let one = spec.vms[0].clone();
    spec.vms = (0..vms)
        .map(|i| {
            let mut vm = VmSpec { name: format!("v{i}"), ..one.clone() };
            terms(i, &mut vm);
            vm
        })
        .collect();
    spec.groups = (0..4)
        .map(|i| GroupSpec {
            name: format!("g{i}"),
            shares: 4000,
            reservation: None,
            limit: None,
            limit_iops: None,
            limit_burst: Duration::from_millis(5),
        })
        .collect();
    spec
}

fn equal(_: usize, _: &mut VmSpec) {}

fn mixed(i: usize, vm: &mut VmSpec) {
    vm.priority = [10, 100, 100, 1000][i % 4];
    vm.shares = [500, 1000, 2000][i % 3];
    vm.reservation = (i % 8 == 3).then_some(ByteRate(4 << 20));
    vm.limit = (i % 8 == 5).then_some(ByteRate(2 << 20));
    vm.group = (i % 16 == 6).then_some(GroupId((i / 16 % 4) as u16));
}

struct Worker {
    scheduler: Scheduler,
    class: ClassId,
    now: Instant,
    paths: Vec<PathState>,
    among: Vec<PathId>,
    /// (path, device bytes) of what is in flight, the oldest first from `next` on.
    in_flight: Vec<(PathId, u64, Level)>,
    next: usize,
    dispatches: u64,
}

impl Worker {
    fn new(spec: &Spec) -> Self {
        let mut scheduler = Scheduler::new(spec);
        let class = scheduler.add_class(TargetId(0));
        let now = Instant::from_millis(1000);
        (0..spec.vms.len()).for_each(|vm| scheduler.join(VmId::at(vm), class, now));
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        let path = PathState {
            heard: Heard::Lately,
            service: 100_000,
            window_requests: 1024,
            ..PathState::new(route, 512 << 10, 1 << 30)
        };
        let among: Vec<_> = (0..PATHS).map(PathId::at).collect();
        let mut worker = Self {
            scheduler,
            class,
            now,
            paths: vec![path; PATHS],
            among,
            in_flight: Vec::with_capacity(IN_FLIGHT),
            next: 0,
            dispatches: 0,
        };
        while worker.in_flight.len() < IN_FLIGHT {
            let sent = worker.dispatch().expect("room");
            worker.in_flight.push(sent);
        }
        worker
    }

    fn turn(&mut self) -> Option<(Turn, Cost)> {
        self.now += Duration::from_nanos(1_200);
        self.scheduler.advance(self.now);
        let turn = self.scheduler.pick(self.class, self.now)?;
        let cost = Cost { bytes: 4096 << (self.dispatches % 3) };
        drop(self.scheduler.charge(turn.vm, self.class, turn.phase, cost, self.now));
        self.dispatches += 1;
        Some((turn, cost))
    }

    fn dispatch(&mut self) -> Option<(PathId, u64, Level)> {
        let (turn, cost) = self.turn()?;
        let (cost, level) = (cost.device_bytes(), Level::below((1000 - turn.priority) as usize / 400));
        let ask = Ask { cost, level, tried: &[], only: None, patience: None };
        let Choice::Path(path) = select(PathSelector::Vmpath, &self.paths, &self.among, &ask) else {
            return None;
        };
        self.paths[path.index()].dispatched(cost, level, self.dispatches);
        Some((path, cost, level))
    }

    /// One is answered, and one is sent.
    fn request(&mut self) -> PathId {
        let (path, cost, level) = self.in_flight[self.next];
        self.paths[path.index()].ended(cost, level);
        let sent = self.dispatch().expect("there is room for as many as before");
        self.in_flight[self.next] = sent;
        self.next = (self.next + 1) % IN_FLIGHT;
        sent.0
    }
}

fn dispatch(c: &mut Criterion) {
    for vms in [1_000, 10_000] {
        let mut worker = Worker::new(&spec(vms, equal));
        c.bench_function(&format!("dispatch/{vms}x16"), |b| b.iter(|| black_box(worker.request())));
        let mut worker = Worker::new(&spec(vms, mixed));
        c.bench_function(&format!("dispatch/{vms}x16/mixed"), |b| b.iter(|| black_box(worker.request())));
        let mut worker = Worker::new(&spec(vms, equal));
        c.bench_function(&format!("turn/{vms}"), |b| b.iter(|| black_box(worker.turn())));
        let mut worker = Worker::new(&spec(vms, mixed));
        c.bench_function(&format!("turn/{vms}/mixed"), |b| b.iter(|| black_box(worker.turn())));
    }
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
