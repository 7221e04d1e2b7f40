//! What one seed plays with: the spec, the units' traits, the guests' habits.

use super::rng::Rng;
use crate::ids::{DiskId, PathId, UnitId, VmId};
use crate::plan::{Gate, Health, PathRoute, RoutePlan, VmRoute};
use crate::router::{Sharing, Support, Traits};
use crate::spec::{Access, ByteRate, DiskSpec, Spec, UnitSpec, VmSpec, WriteCache};
use crate::testing;
use crate::time::Duration;
use std::sync::Arc;

pub(super) const BLOCKS: usize = 24;

pub(super) struct Scene {
    pub(super) spec: Arc<Spec>,
    /// By unit.
    pub(super) traits: Vec<Traits>,
    pub(super) connections: usize,
    /// Requests that a disk keeps open at most, and the pause before each, in microseconds.
    pub(super) depth: usize,
    pub(super) pause: u64,
    /// Microseconds in the target, at most.
    pub(super) latency: u64,
    /// By path, bytes per second.
    pub(super) rates: Vec<u64>,
    pub(super) quiesce: Duration,
}

impl Scene {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let paths = 2 + rng.index(2);
        let vms = (0..2 + rng.index(2)).map(|i| vm(rng, i, paths)).collect();
        let mut spec = testing::spec(paths, vms);
        add_disk(&mut spec, 0);
        let quiesce = rng.micros(10_000..60_000);
        spec.targets[0].quiesce = quiesce;
        if rng.percent(30) {
            spec.targets[0].write_cache = WriteCache::Volatile;
        }
        for path in &mut spec.paths {
            path.window_max = rng.pick(&[16, 64, 256, 1024]) << 10;
            path.capacity = rng.percent(50).then_some(ByteRate(100 << 20));
        }
        Self {
            traits: (0..spec.units.len()).map(|_| traits(rng)).collect(),
            connections: 1 + rng.index(2),
            depth: 1 + rng.index(16),
            pause: rng.pick(&[100, 1000, 3000]),
            latency: rng.pick(&[300, 2000, 8000]),
            rates: (0..paths).map(|_| rng.pick(&[20, 100, 500]) << 20).collect(),
            quiesce,
            spec: Arc::new(spec),
        }
    }

    /// All well: every path up and preferred, every gate open.
    pub(super) fn plan(&self, generation: u64) -> RoutePlan {
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        RoutePlan {
            link_reports: vec![],
            generation,
            spec: Arc::clone(&self.spec),
            paths: vec![route; self.spec.paths.len()],
            vms: vec![VmRoute { gate: Gate::Open }; self.spec.vms.len()],
            parts: crate::spread::Parts::default(),
        }
    }
}

fn vm(rng: &mut Rng, index: usize, paths: usize) -> VmSpec {
    let rate = |rng: &mut Rng, mib: &[u64]| rng.percent(25).then(|| ByteRate(rng.pick(mib) << 20));
    VmSpec {
        priority: rng.pick(&[50, 100, 200]),
        shares: rng.pick(&[1, 500, 1000, 2000]),
        reservation: rate(rng, &[1, 10, 80]),
        limit: rate(rng, &[2, 8, 40]),
        limit_iops: rng.percent(20).then(|| rng.pick(&[300, 2000])),
        avoid_paths: if rng.percent(25) { vec![PathId::at(rng.index(paths))] } else { Vec::new() },
        ..testing::vm(&format!("vm{index}"))
    }
}

fn add_disk(spec: &mut Spec, vm: usize) {
    let unit = UnitId::at(spec.units.len());
    spec.units.push(UnitSpec { name: "second".into(), export: "second".into(), ..spec.units[0].clone() });
    spec.disks.push(DiskSpec { name: "vdb".into(), vm: VmId::at(vm), unit, ..spec.disks[0].clone() });
    debug_assert_eq!(
        DiskId::at(spec.disks.len() - 1).index(),
        unit.index(),
        "disks and units go together here"
    );
}

fn traits(rng: &mut Rng) -> Traits {
    let support = |yes: bool| if yes { Support::Yes } else { Support::No };
    let flush = rng.percent(85);
    Traits {
        sharing: if rng.percent(30) { Sharing::OneConnection } else { Sharing::ManyConnections },
        fua: support(flush && rng.percent(60)),
        flush: support(flush),
    }
}
