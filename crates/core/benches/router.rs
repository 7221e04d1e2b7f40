//! A request's whole way through the router, with every VM backlogged: submitted, scheduled, its path chosen, answered.
//!
//! `cargo bench -p vmpath-core --bench router`. One iteration is one request of 8 KiB, with a poll of its own: what a
//! worker pays at worst. 16 paths, whose windows are full all the time.

use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use vmpath_core::ids::{DiskId, WorkerId};
use vmpath_core::plan::{Gate, Health, PathRoute, RoutePlan, VmRoute};
use vmpath_core::router::{
    Action, ConnectionKey, Durability, Operation, Origin, Request, Router, Sharing, Support, Traits,
};
use vmpath_core::spec::{Access, Source, Spec, parse};
use vmpath_core::spread::Parts;
use vmpath_core::time::{Duration, Instant};

const PATHS: usize = 16;
/// Waiting or in flight, for each VM.
const DEPTH: usize = 4;

fn spec(vms: usize) -> Spec {
    let mut text = "[[target]]\nname = 't'\n".to_owned();
    for path in 0..PATHS {
        let url = format!("nbd+unix:///?socket=/{path}");
        writeln!(text, "[[target.path]]\nname = 'p{path}'\nurl = '{url}'\nwindow = '512 KiB'")
            .expect("memory");
    }
    for vm in 0..vms {
        let (priority, shares) = (vm % 4 * 10 + 1, 500 + vm % 3 * 500);
        let reservation = if vm % 10 == 0 { "reservation = '1 MiB/s'\n" } else { "" };
        writeln!(
            text,
            "[[vm]]\nname = 'v{vm}'\npriority = {priority}\nshares = {shares}\n{reservation}\
             [[vm.disk]]\nname = 'd'\nunit = 't/u{vm}'\nnbd = '/n{vm}'"
        )
        .expect("memory");
    }
    parse(&[Source { name: "bench", text: &text }]).expect("good").spec
}

struct Load {
    router: Router,
    now: Instant,
    flying: VecDeque<(ConnectionKey, u64, u32)>,
    actions: Vec<Action>,
}

impl Load {
    fn new(vms: usize) -> Self {
        let spec = Arc::new(spec(vms));
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        let plan = RoutePlan {
            generation: 1,
            link_reports: vec![],
            paths: vec![route; spec.paths.len()],
            vms: vec![VmRoute { gate: Gate::Open }; spec.vms.len()],
            parts: Parts::default(),
            spec: Arc::clone(&spec),
        };
        let now = Instant::from_millis(1000);
        let mut router = Router::new(Arc::new(plan), WorkerId(0), now);
        let traits = Traits { sharing: Sharing::ManyConnections, fua: Support::Yes, flush: Support::Yes };
        for unit in spec.unit_ids() {
            for path in spec.path_ids() {
                router.connection_up(path, unit, traits);
            }
        }
        let mut load = Self { router, now, flying: VecDeque::new(), actions: Vec::new() };
        for token in 0..vms * DEPTH {
            load.submit(u32::try_from(token).expect("few"));
        }
        load.poll();
        load
    }

    /// A token names its VM, so that each has as many requests all the time.
    fn submit(&mut self, token: u32) {
        let request = Request {
            disk: DiskId::at(token as usize / DEPTH),
            token,
            operation: Operation::Read,
            offset: 0,
            length: 8192,
            durability: Durability::Volatile,
            origin: Origin::New,
        };
        self.router.submit(request, self.now);
    }

    fn poll(&mut self) {
        self.router.poll(self.now);
        self.router.take_actions(&mut self.actions);
        for action in self.actions.drain(..) {
            if let Action::Dispatch { connection, cookie, request } = action {
                self.flying.push_back((connection, cookie, request.token));
            }
        }
    }

    fn request(&mut self) {
        self.now += Duration::from_micros(2);
        let (connection, cookie, token) = self.flying.pop_front().expect("windows are never empty");
        self.router.reply(connection, cookie, Ok(()), self.now).expect("in flight");
        self.submit(token);
        self.poll();
    }
}

fn router(c: &mut Criterion) {
    let mut group = c.benchmark_group("router");
    for vms in [1, 100, 1000] {
        let mut load = Load::new(vms);
        group.bench_function(format!("{vms}x{PATHS}"), |b| b.iter(|| load.request()));
    }
    group.finish();
}

criterion_group!(benches, router);
criterion_main!(benches);
