//! Specs for tests, built by hand: one target `san0` with paths a, b, … and a disk per VM.

use crate::ids::{PathId, TargetId, UnitId, VmId};
use crate::spec::{
    Access, DiskSpec, Failback, HostSpec, OnNoPath, OnPathLoss, PathSelector, PathSpec, PathUrl, Presence,
    ResumeOn, SchedulerKind, ShedWhen, Spec, TargetSpec, UnitSpec, VmSpec, When, WriteCache,
};
use crate::time::Duration;
use proptest::prelude::ProptestConfig;
use std::path::PathBuf;

/// A property is tried so often, or as `PROPTEST_CASES` says: whoever explores wants more.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { usual };
    ProptestConfig { cases, ..config }
}

pub(crate) fn vm(name: &str) -> VmSpec {
    VmSpec {
        name: name.into(),
        priority: 100,
        shares: 1000,
        reservation: None,
        limit: None,
        limit_iops: None,
        limit_burst: Duration::from_millis(5),
        group: None,
        qmp: Some(PathBuf::from(format!("/run/{name}.qmp"))),
        on_path_loss: OnPathLoss::Failover,
        when: When::Always,
        on_no_path: OnNoPath::hold_then_suspend(Duration::from_secs(60)),
        min_paths: 1,
        may_suspend: false,
        may_migrate: true,
        resume: ResumeOn::Repair,
        launch: None,
        returns: false,
        move_dwell: Duration::from_secs(600),
        avoid_paths: Vec::<PathId>::new(),
        presence: Presence::Present,
    }
}

pub(crate) fn target(name: &str) -> TargetSpec {
    TargetSpec {
        name: name.into(),
        failback: Failback::Immediate,
        quiesce: Duration::from_secs(5),
        ping_budget: Duration::from_secs(5),
        repair_after: Duration::from_secs(1),
        write_cache: WriteCache::SurvivesPathLoss,
        connections: 2,
        path_selector: PathSelector::Vmpath,
    }
}

/// One target with `paths` paths; each VM has one disk on a unit of its own.
pub(crate) fn spec(paths: usize, vms: Vec<VmSpec>) -> Spec {
    let path = |i: usize| PathSpec {
        target: TargetId(0),
        name: char::from(b'a' + u8::try_from(i).unwrap()).to_string(),
        url: PathUrl::Nbd {
            address: ([127, 0, 0, 1], 10809 + u16::try_from(i).unwrap()).into(),
            export: None,
        },
        capacity: None,
        access: Access::Optimized,
        window_max: 1 << 20,
        via: vec![],
    };
    let unit = |vm: &VmSpec| UnitSpec {
        target: TargetId(0),
        name: format!("{}-root", vm.name),
        export: format!("{}-root", vm.name),
        assume_same: false,
    };
    let disk = |i: usize| DiskSpec {
        vm: VmId::at(i),
        name: "vda".into(),
        unit: UnitId::at(i),
        nbd_socket: Some(PathBuf::from(format!("/run/{i}.nbd"))),
        nbd_tcp: None,
        vhost_user: None,
        queues: 1,
        read_only: false,
        writers: crate::spec::Writers::One,
        presence: Presence::Present,
    };
    Spec {
        host: HostSpec {
            name: "kvm1".into(),
            api_socket: PathBuf::from("/run/vmpath/vmpath.sock"),
            admin_group: "vmpath".into(),
            shed_when: ShedWhen::Unmet,
            shed_after: Duration::from_secs(1),
            state_dir: PathBuf::from("/var/lib/vmpath"),
            journal_max: 32 << 20,
            journal_age: Duration::from_secs(3600),
            run_dir: PathBuf::from("/run/vmpath"),
            workers: 1,
            scheduler: SchedulerKind::Vmpath,
            fence_command: None,
        },
        cluster: None,
        groups: vec![],
        targets: vec![target("san0")],
        paths: (0..paths).map(path).collect(),
        units: vms.iter().map(unit).collect(),
        disks: (0..vms.len()).map(disk).collect(),
        vms,
    }
}
