//! Rows as the API sends them, for the tests of what is made of them.

use crate::api::wire;

/// Up, preferred and at work.
pub(super) fn path(name: &str) -> wire::Path {
    let link = |unit: &str| wire::LinkOfPath { unit: unit.into(), state: "up".into(), fault: None };
    wire::Path {
        target: "san0".into(),
        name: name.into(),
        url: format!("nbd://10.0.0.{}:10809", name.len()),
        health: "up".into(),
        access: "optimized".into(),
        preferred: true,
        reason: None,
        since_unix_us: 0,
        relapses: 0,
        repair_after_ms: 1000,
        incident: None,
        capacity_bytes_per_second: None,
        pending_requests: 3,
        pending_bytes: 196_608,
        window_bytes: 2 << 20,
        window_max_bytes: 64 << 20,
        connections: 4,
        service_time_us: 812,
        rate_bytes_per_second: 98 << 20,
        estimate_bytes_per_second: 0,
        carried: Vec::new(),
        completed_requests: 0,
        completed_bytes: 0,
        errors: 0,
        links: vec![link("san0/gold"), link("san0/bronze")],
    }
}

/// Running, and nothing is the matter.
pub(super) fn vm(name: &str, priority: u32) -> wire::Vm {
    wire::Vm {
        name: name.into(),
        presence: "present".into(),
        state: "running".into(),
        since_unix_us: 0,
        run_state: None,
        gate: wire::Gate { state: "open".into(), reason: None, incident: None },
        priority,
        shares: 1000,
        reservation_bytes_per_second: None,
        limit_bytes_per_second: None,
        limit_requests_per_second: None,
        limit_burst_ms: 5,
        group: None,
        avoid_paths: Vec::new(),
        on_path_loss: "failover".into(),
        resume: "repair".into(),
        in_flight: 2,
        held: 0,
        held_reasons: Vec::new(),
        oldest_held_ms: None,
        held_times: Vec::new(),
        entitled_bytes_per_second: None,
        served_bytes_per_second: 60 << 20,
        reservation_unmet_bytes_per_second: 0,
        rate_bytes_per_second: 60 << 20,
        completed_requests: 100,
        completed_bytes: 100 << 12,
        failed_requests: 0,
        retried_requests: 0,
        because: Vec::new(),
        waits_for: None,
        incident: None,
        other_host: None,
        home: None,
        returns_to: None,
        disks: vec![wire::DiskOfVm {
            name: "vda".into(),
            presence: "present".into(),
            unit: format!("san0/{name}"),
            nbd_socket: None,
            nbd_tcp: None,
            vhost_user: None,
            clients: 1,
            owner: None,
        }],
    }
}

pub(super) fn paths(paths: Vec<wire::Path>) -> wire::Paths {
    wire::Paths { at_unix_us: 5_000_000, generation: 1, counted_unix_us: Some(5_000_000), paths }
}

/// Under way from kvm1, this host, to kvm2.
pub(super) fn migration(id: &str, vm: &str) -> wire::Migration {
    wire::Migration {
        id: id.into(),
        vm: vm.into(),
        from: "kvm1".into(),
        to: "kvm2".into(),
        side: "source".into(),
        state: "transferring".into(),
        rule: "the operator asked for it".into(),
        incident: None,
        began_unix_us: 1_000_000,
        took_us: 2_300_000,
        sent_bytes: Some(120 << 20),
        left_bytes: Some(30 << 20),
        ended_unix_us: None,
        why: None,
        downtime_us: None,
    }
}

pub(super) fn migrations(migrations: Vec<wire::Migration>) -> wire::Migrations {
    wire::Migrations { at_unix_us: 5_000_000, cluster: "up".into(), why: None, migrations }
}
