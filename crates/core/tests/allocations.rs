//! The I/O path allocates nothing once it has seen its depth: submit, poll, take the actions, reply.
//!
//! One test, alone in its process: the counter sees every thread.

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use vmpath_core::ids::{DiskId, PathId, WorkerId};
use vmpath_core::plan::{Gate, Health, PathRoute, RoutePlan, VmRoute};
use vmpath_core::router::{
    Action, ConnectionKey, Durability, Operation, Origin, Request, Router, Sharing, Support, Traits,
};
use vmpath_core::spec::{Access, Source, Spec, parse};
use vmpath_core::time::{Duration, Instant};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const DEPTH: u32 = 32;

fn spec(vms: usize) -> Spec {
    let mut text = "[[target]]\nname = 't'\n".to_owned();
    for path in ["a", "b"] {
        writeln!(
            text,
            "[[target.path]]\nname = '{path}'\nurl = 'nbd+unix:///?socket=/{path}'\nwindow = '64 KiB'"
        )
        .expect("memory");
    }
    for vm in 0..vms {
        writeln!(text, "[[vm]]\nname = 'v{vm}'\nlimit = '100 MiB/s'\n[[vm.disk]]\nname = 'd'\nunit = 't/u{vm}'\nnbd = '/n{vm}'")
            .expect("memory");
    }
    parse(&[Source { name: "test", text: &text }]).expect("good").spec
}

fn router(spec: Spec, now: Instant) -> Router {
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
    let mut router = Router::new(Arc::new(plan), WorkerId(0), now);
    let traits = Traits { sharing: Sharing::ManyConnections, fua: Support::No, flush: Support::Yes };
    for unit in spec.unit_ids() {
        for path in [PathId(0), PathId(1)] {
            router.connection_up(path, unit, traits);
        }
    }
    router
}

struct Load {
    router: Router,
    now: Instant,
    vms: u64,
    flying: VecDeque<(ConnectionKey, u64)>,
    actions: Vec<Action>,
    submitted: u64,
    completed: u64,
}

impl Load {
    /// Reads, writes, durable writes (here a write and a flush) and discards, to VMs in turn.
    fn submit(&mut self) {
        let number = self.submitted;
        self.submitted += 1;
        let request = Request {
            disk: DiskId::at((number % self.vms) as usize),
            token: (number % u64::from(DEPTH)) as u32,
            operation: [Operation::Read, Operation::Write, Operation::Write, Operation::Trim]
                [(number / 7 % 4) as usize],
            offset: number % 16 * 4096,
            length: 8192,
            durability: if number.is_multiple_of(5) { Durability::Stable } else { Durability::Volatile },
            origin: Origin::New,
        };
        self.router.submit(request, self.now);
    }

    fn round(&mut self) {
        self.now += Duration::from_micros(100);
        self.router.poll(self.now);
        self.router.take_actions(&mut self.actions);
        for at in 0..self.actions.len() {
            match &self.actions[at] {
                Action::Dispatch { connection, cookie, .. } => self.flying.push_back((*connection, *cookie)),
                Action::Complete { .. } => self.completed += 1,
                Action::FailedOver { .. } | Action::Remember { .. } | Action::Forget { .. } => {}
            }
        }
        self.actions.clear();
        for _ in 0..3 {
            if let Some((connection, cookie)) = self.flying.pop_front() {
                self.router.reply(connection, cookie, Ok(()), self.now).expect("it is in flight");
            }
        }
        while self.submitted - self.completed < u64::from(DEPTH) {
            self.submit();
        }
    }
}

#[test]
fn nothing_is_allocated_once_the_depth_is_known() {
    let now = Instant::from_millis(1000);
    for vms in [1_u16, 20] {
        let router = router(spec(usize::from(vms)), now);
        let (flying, actions) = (VecDeque::new(), Vec::new());
        let mut load = Load { router, now, vms: u64::from(vms), flying, actions, submitted: 0, completed: 0 };
        (0..5000).for_each(|_| load.round());
        let (completed, region) = (load.completed, Region::new(COUNTED));
        (0..20_000).for_each(|_| load.round());
        let change = region.change();
        assert!(load.completed > completed + 20_000, "{} requests are too few", load.completed - completed);
        assert_eq!((change.allocations, change.reallocations), (0, 0), "with {vms} VMs: {change:?}");
        // The counter counts.
        drop(load.router.view(load.now));
        assert!(region.change().allocations > 0);
        assert!(!load.router.is_idle());
    }
}
