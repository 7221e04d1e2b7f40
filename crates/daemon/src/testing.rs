//! What several modules' tests need: one configuration, and one snapshot of it.

use crate::control::handle::Snapshot;
use crate::control::rates::Rates;
use std::sync::Arc;
use vmpath_core::event::{Fault, RunState};
use vmpath_core::ids::{DiskId, IncidentId, PathId, TargetId, UnitId, VmId};
use vmpath_core::plan::{Gate, GateReason, Health};
use vmpath_core::policy::fit::Kept;
use vmpath_core::spec::{Access, Source, Spec, parse};
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::{
    CapacityStanding, CapacityView, DiskLoadView, HoldReason, HostView, IncidentView, LinkState, LinkView,
    PartyView, PathLoadView, PathView, Standing, UnitLoadView, UnitView, VmLoadView, VmState, VmView,
    WorkerView,
};

pub(crate) const CONFIG: &str = r#"
[host]
name = "kvm1"

[[target]]
name = "san0"
[[target.path]]
name = "a"
url = "nbd://10.0.1.5:10809"
capacity = "100 MiB/s"
[[target.path]]
name = "b"
url = "nbd://10.0.2.5:10809"
capacity = "100 MiB/s"

[[vm]]
name = "gold"
priority = 100
reservation = "60 MiB/s"
qmp = "/run/vmpath/gold.qmp"
[[vm.disk]]
name = "vda"
unit = "san0/gold"
nbd = "/run/vmpath/gold.sock"

[[vm]]
name = "bronze"
priority = 50
reservation = "50 MiB/s"
may_suspend = true
qmp = "/run/vmpath/bronze.qmp"
[[vm.disk]]
name = "vda"
unit = "san0/bronze"
nbd = "/run/vmpath/bronze.sock"
"#;

pub(crate) fn spec() -> Arc<Spec> {
    let sources = [Source { name: "test.toml", text: CONFIG }];
    Arc::new(parse(&sources).expect("the tests' configuration is valid").spec)
}

/// Path a lost 12 s ago, bronze suspended for it, gold at work over b.
pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        host: Arc::new(host_view()),
        worker: Some(Arc::new(worker_view())),
        rates: Rates { paths: vec![0, 62_914_560], vms: vec![62_914_560, 0] },
        last_event_seq: 57,
        hosts: Arc::default(),
        unknown: Arc::default(),
    }
}

const LOST: &str = "connection reset by the target";

fn host_view() -> HostView {
    let incident = Some(IncidentId(1));
    let path = |index: usize, health, reason: Option<&str>| PathView {
        path: PathId::at(index),
        health,
        access: Access::Optimized,
        preferred: reason.is_none(),
        since: Instant::from_millis(8_000),
        reason: reason.map(Into::into),
        relapses: 0,
        repair_after: Duration::from_secs(1),
        incident: reason.and(incident),
    };
    let unit = |index: usize| UnitView {
        unit: UnitId::at(index),
        links: vec![
            LinkView { path: PathId::at(0), state: LinkState::Down(Fault::Reset) },
            LinkView { path: PathId::at(1), state: LinkState::Up },
        ],
    };
    let vm = |index: usize| VmView {
        vm: VmId::at(index),
        standing: Standing::Present,
        state: VmState::Running,
        run_state: Some(RunState::Running),
        gate: Gate::Open,
        since: Instant::ZERO,
        because: Vec::new(),
        waits_for: None,
        incident: None,
        other_host: None,
        home: None,
        returns_to: None,
    };
    let text = "suspended: the reservations no longer fit".to_owned();
    let bronze = VmView {
        state: VmState::Suspended,
        run_state: Some(RunState::Paused),
        gate: Gate::Hold(GateReason { incident, text }),
        since: Instant::from_millis(8_000),
        because: vec!["110.0 MiB/s reserved, 100.0 MiB/s left".into()],
        waits_for: Some("san0/a up and good for 1 s".into()),
        incident,
        ..vm(1)
    };
    HostView {
        at: Instant::from_millis(20_000),
        spec: spec(),
        generation: 12,
        paths: vec![path(0, Health::Down, Some(LOST)), path(1, Health::Up, None)],
        units: vec![unit(0), unit(1)],
        vms: vec![vm(0), bronze],
        disks: vec![Standing::Present; 2],
        incidents: vec![IncidentView {
            incident: IncidentId(1),
            opened: Instant::from_millis(8_000),
            summary: "path san0/a lost".into(),
            paths: vec![PathId::at(0)],
            vms_affected: vec![VmId::at(1)],
        }],
        moves: vec![],
        capacity: vec![capacity_view()],
    }
}

/// Path b is left, with room for gold; bronze does not run.
fn capacity_view() -> CapacityView {
    let gold = PartyView { vm: VmId::at(0), reserved: 60 << 20, kept: Kept::Stays, gets: 60 << 20 };
    CapacityView {
        target: TargetId::at(0),
        standing: CapacityStanding::Short,
        configured: Some(200 << 20),
        left: Some(100 << 20),
        up: vec![PathId::at(1)],
        reserved: 60 << 20,
        parties: vec![gold],
    }
}

fn worker_view() -> WorkerView {
    let busy = PathLoadView {
        pending_requests: 3,
        pending_bytes: 196_608,
        window_bytes: 2 << 20,
        window_max: 64 << 20,
        carried: Vec::new(),
        connections: 4,
        service_time: Duration::from_micros(812),
        rate: 103_000_000,
        completed_requests: 9,
        completed_bytes: 589_824,
        errors: 0,
    };
    let held = VmLoadView {
        held: 3,
        held_reasons: vec![(HoldReason::Gate, 3)],
        oldest_held: Some(Duration::from_millis(400)),
        ..VmLoadView::default()
    };
    WorkerView {
        at: Instant::from_millis(19_900),
        generation: 12,
        paths: vec![PathLoadView::default(), busy],
        vms: vec![VmLoadView { in_flight: 2, ..VmLoadView::default() }, held],
        disks: vec![DiskLoadView { disk: DiskId::at(1), clients: 1 }],
        units: vec![
            UnitLoadView { size: Some(1 << 30), ..UnitLoadView::default() },
            UnitLoadView {
                size: Some(1 << 30),
                quarantined_ranges: 1,
                quarantined_bytes: 65_536,
                quarantined_for: Some(Duration::from_millis(3200)),
                remembered_places: 37,
            },
        ],
    }
}
