//! What routing costs: nanoseconds per request of `vmpath_core`'s router, at depth 32 over two paths.
//!
//! `cargo run --release -p vmpath-lab --example router_cost`. Each row keeps 32 requests of 4 KiB in flight and answers
//! them in order, so many between two polls. Half of them are writes.

use anyhow::Result;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant as Clock;
use vmpath_core::ids::{DiskId, PathId, UnitId, WorkerId};
use vmpath_core::plan::{Gate, Health, PathRoute, RoutePlan, VmRoute};
use vmpath_core::router::{
    Action, ConnectionKey, Durability, Operation, Origin, Request, Router, Sharing, Support, Traits,
};
use vmpath_core::spec::{Access, Source, Spec, parse};
use vmpath_core::time::{Duration, Instant};

const DEPTH: u32 = 32;
/// Of a slice. The fastest of many is told: others run on this machine too.
const REQUESTS: u64 = 40_000;
const SLICES: u32 = 60;
const TRAITS: Traits = Traits { sharing: Sharing::ManyConnections, fua: Support::Yes, flush: Support::Yes };

fn main() -> Result<()> {
    println!("{:>5} {:>7} {:>6} {:>12}", "VMs", "active", "batch", "ns/request");
    for (vms, active) in [(1, 1), (100, 1), (100, 100), (1000, 1)] {
        for batch in [1, 8] {
            let mut bench = Bench::new(spec(vms)?, active);
            let slice = |_| {
                let start = Clock::now();
                bench.run(REQUESTS, batch);
                start.elapsed().as_nanos() / u128::from(REQUESTS)
            };
            let nanos = (0..SLICES).map(slice).min().unwrap_or(0);
            println!("{vms:>5} {active:>7} {batch:>6} {nanos:>12}");
        }
    }
    Ok(())
}

/// One target with two paths, and VMs with a disk each.
fn spec(vms: usize) -> Result<Spec> {
    let mut text = "[[target]]\nname = 't'\n".to_owned();
    for path in ["a", "b"] {
        write!(text, "[[target.path]]\nname = '{path}'\nurl = 'nbd+unix:///?socket=/{path}'\n")?;
    }
    for vm in 0..vms {
        write!(text, "[[vm]]\nname = 'v{vm}'\n[[vm.disk]]\nname = 'd'\nunit = 't/u{vm}'\nnbd = '/n{vm}'\n")?;
    }
    let parsed = parse(&[Source { name: "bench", text: &text }]);
    Ok(parsed.map_err(|faults| anyhow::anyhow!("{faults:?}"))?.spec)
}

struct Bench {
    router: Router,
    now: Instant,
    active: u32,
    flying: VecDeque<(ConnectionKey, u64)>,
    actions: Vec<Action>,
    submitted: u64,
}

impl Bench {
    fn new(spec: Spec, active: u32) -> Self {
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        let spec = Arc::new(spec);
        let plan = RoutePlan {
            generation: 1,
            link_reports: vec![],
            paths: vec![route; spec.paths.len()],
            vms: vec![VmRoute { gate: Gate::Open }; spec.vms.len()],
            parts: vmpath_core::spread::Parts::default(),
            spec: Arc::clone(&spec),
        };
        let now = Instant::from_millis(1000);
        let mut router = Router::new(Arc::new(plan), WorkerId(0), now);
        for unit in 0..spec.units.len() {
            for path in [PathId(0), PathId(1)] {
                router.connection_up(path, UnitId::at(unit), TRAITS);
            }
        }
        let (flying, actions) = (VecDeque::new(), Vec::new());
        let mut bench = Self { router, now, active, flying, actions, submitted: 0 };
        for _ in 0..DEPTH {
            bench.submit();
        }
        bench.act();
        bench
    }

    fn submit(&mut self) {
        let number = self.submitted;
        self.submitted += 1;
        let request = Request {
            disk: DiskId::at((number % u64::from(self.active)) as usize),
            token: (number % u64::from(DEPTH)) as u32,
            operation: if number.is_multiple_of(2) { Operation::Read } else { Operation::Write },
            offset: number % 1024 * 4096,
            length: 4096,
            durability: Durability::Volatile,
            origin: Origin::New,
        };
        self.router.submit(request, self.now);
    }

    fn act(&mut self) {
        self.router.poll(self.now);
        self.router.take_actions(&mut self.actions);
        for action in self.actions.drain(..) {
            if let Action::Dispatch { connection, cookie, .. } = action {
                self.flying.push_back((connection, cookie));
            }
        }
    }

    fn run(&mut self, requests: u64, batch: u64) {
        for _ in 0..requests / batch {
            self.now += Duration::from_micros(2);
            for _ in 0..batch {
                let (connection, cookie) =
                    self.flying.pop_front().expect("all that is submitted is in flight");
                self.router.reply(connection, cookie, Ok(()), self.now).expect("it is in flight");
                self.submit();
            }
            self.act();
        }
    }
}
