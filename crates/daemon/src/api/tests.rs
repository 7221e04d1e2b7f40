//! The JSON that is promised in `docs/api.md`, and the server over a real socket.

mod forecasts;
mod moves;

use super::client::{Ask, CallError, Client};
use super::explain::{Facts, text};
use super::routes::access_in;
use super::show::Shown;
use super::{Listener, Server, wire};
use crate::control::handle::{ControlHandle, Input, Snapshot};
use crate::control::journal::{Bounds, Journal};
use crate::testing;
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use vmpath_core::effect::CommandError;
use vmpath_core::event::Command;
use vmpath_core::ids::{GroupId, PathId, VmId};
use vmpath_core::spec::{Access, ByteRate, GroupSpec};
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::{HoldReason, VmLoadView, VmView};

fn shown(snapshot: &Snapshot) -> Shown<'_> {
    Shown { snapshot, unix_us: |at| 1_000_000_000 + at.as_nanos() / 1000 }
}

fn json_of(row: impl serde::Serialize) -> Value {
    serde_json::to_value(row).expect("it is JSON")
}

/// Keys of a VM's row that are promised beside the rest.
const ALLOCATION: &[&str] = &[
    "limit_burst_ms",
    "group",
    "avoid_paths",
    "held_times",
    "entitled_bytes_per_second",
    "served_bytes_per_second",
    "reservation_unmet_bytes_per_second",
];

/// Moves keys of an object into one of their own.
fn taken(from: &mut Value, keys: &[&str]) -> Value {
    let from = from.as_object_mut().expect("an object");
    let taken = keys.iter().filter_map(|key| Some(((*key).to_owned(), from.remove(*key)?)));
    Value::Object(taken.collect())
}

/// Both VMs at work over path b and under one group; bronze is limited, may not use path a, and suffers.
fn contended() -> Snapshot {
    let mut snapshot = testing::snapshot();
    let mut host = (*snapshot.host).clone();
    let mut spec = (*host.spec).clone();
    spec.groups.push(GroupSpec {
        name: "tenant".into(),
        shares: 500,
        reservation: None,
        limit: Some(ByteRate(80 << 20)),
        limit_iops: Some(900),
        limit_burst: Duration::from_millis(20),
    });
    for vm in &mut spec.vms {
        vm.group = Some(GroupId::at(0));
    }
    spec.vms[1].limit = Some(ByteRate(20 << 20));
    spec.vms[1].avoid_paths = vec![PathId::at(0)];
    host.spec = Arc::new(spec);
    let calm = host.vms[0].clone();
    host.vms[1] = VmView { vm: VmId::at(1), ..calm };
    let mut worker = (**snapshot.worker.as_ref().expect("a report")).clone();
    worker.paths[1].carried = vec![(VmId::at(1), 10 << 20), (VmId::at(0), 60 << 20)];
    worker.vms[0].served = 60 << 20;
    worker.vms[1] = VmLoadView {
        in_flight: 1,
        held: 9,
        held_reasons: vec![(HoldReason::Headroom, 6), (HoldReason::Limit, 1), (HoldReason::Window, 2)],
        held_time: vec![
            (HoldReason::Limit, Duration::from_micros(2_500)),
            (HoldReason::Headroom, Duration::from_millis(1_250)),
            (HoldReason::Fence, Duration::from_micros(7)),
        ],
        entitled: Some(15 << 20),
        served: 10 << 20,
        reservation_unmet: 40 << 20,
        ..VmLoadView::default()
    };
    snapshot.host = Arc::new(host);
    snapshot.worker = Some(Arc::new(worker));
    snapshot.rates.vms[1] = 10 << 20;
    snapshot
}

#[test]
fn allocations_groups_and_shares_of_a_path_are_told() {
    let snapshot = contended();
    let shown = shown(&snapshot);
    let mut vms = json_of(shown.vms());
    let expect = json!({
        "limit_burst_ms": 5, "group": "tenant", "avoid_paths": ["san0/a"],
        "held_times": [{ "reason": "headroom", "held_us": 1_250_000 }, { "reason": "limit", "held_us": 2_500 },
                       { "reason": "fence", "held_us": 7 }],
        "entitled_bytes_per_second": 15_728_640, "served_bytes_per_second": 10_485_760,
        "reservation_unmet_bytes_per_second": 41_943_040,
    });
    assert_eq!(taken(&mut vms["vms"][1], ALLOCATION), expect);
    let group = json!({
        "name": "tenant", "shares": 500, "reservation_bytes_per_second": null, "limit_bytes_per_second": 83_886_080,
        "limit_requests_per_second": 900, "limit_burst_ms": 20, "served_bytes_per_second": 73_400_320,
        "vms": ["gold", "bronze"],
    });
    assert_eq!((&vms["groups"], &vms["counted_unix_us"]), (&json!([group]), &json!(1_019_900_000)));
    let paths = json_of(shown.paths());
    let shares = json!([{ "vm": "gold", "bytes_per_second": 62_914_560, "share_percent": 85.7 },
                        { "vm": "bronze", "bytes_per_second": 10_485_760, "share_percent": 14.3 }]);
    assert_eq!((&paths["paths"][1]["carried"], &paths["counted_unix_us"]), (&shares, &json!(1_019_900_000)));
    let one = json_of(shown.one_vm(VmId::at(1)).expect("the VM"));
    assert_eq!(
        (&one["vm"]["name"], &one["group"], &one["generation"]),
        (&json!("bronze"), &group, &json!(12))
    );
}

/// The sentences on one VM.
fn explained(snapshot: &Snapshot, index: usize) -> String {
    let shown = Shown { snapshot, unix_us: |at| at.as_nanos() / 1000 };
    let one = shown.one_vm(VmId::at(index)).expect("the VM");
    let (vm, group, paths) = (&one.vm, one.group.as_ref(), &shown.paths().paths);
    let (at_unix_us, unknown) = (shown.at(), &*snapshot.unknown);
    text(&Facts { at_unix_us, vm, group, paths, capacity: &[], forecasts: &[], unknown }).join("\n")
}

#[test]
fn holding_is_explained_with_the_numbers() {
    let mut snapshot = contended();
    assert_eq!(
        explained(&snapshot, 1),
        "bronze is running, for 20 s.\n\
         9 requests are held (6 by headroom kept for a higher priority, 1 by its limit, 2 by no room on a path); \
         1 is in flight.\n\
         6 wait because the room that is left is kept for VMs of higher priority than its 50 \
         (san0/b has 192 of 2048 KiB in flight).\n\
         1 waits for the limit: it may have 20.0 MiB/s and gets 10.0 MiB/s, its group tenant may have 80.0 MiB/s and \
         900 IO/s and gets 70.0 MiB/s.\n\
         2 wait for room: every path that it may use is full (san0/b has 192 of 2048 KiB in flight).\n\
         Its reservation of 50.0 MiB/s is not met: 10.0 MiB/s served, 40.0 MiB/s missing.\n\
         Added up over all its requests since the data plane's start, they were held for 1.2 s by headroom kept for a higher priority, \
         2 ms by its limit.\n\
         It gets 10.0 MiB/s and is entitled to 15.0 MiB/s now; reservation 50.0 MiB/s, limit 20.0 MiB/s, priority 50, \
         shares 1000, group tenant.\n\
         Path san0/a is down, optimized, not for this VM (affinity): connection reset by the target.\n\
         Path san0/b is up, optimized, preferred."
    );
    // The affinity's path works, the other is lost: nothing else says that there would be a way.
    let mut host = (*snapshot.host).clone();
    let mut spec = (*host.spec).clone();
    spec.vms[1].avoid_paths = vec![PathId::at(1)];
    host.spec = Arc::new(spec);
    snapshot.host = Arc::new(host);
    let mut worker = (**snapshot.worker.as_ref().expect("a report")).clone();
    worker.vms[1].held_reasons = vec![(HoldReason::NoPath, 9)];
    snapshot.worker = Some(Arc::new(worker));
    let text = explained(&snapshot, 1);
    let expect =
        "9 wait for a path: none that it may use works; san0/b would, and its affinity forbids it.\n";
    assert!(text.contains(expect), "{text}");
}

#[test]
fn every_reason_but_policy_has_a_sentence() {
    for reason in HoldReason::ALL {
        let mut snapshot = contended();
        let mut worker = (**snapshot.worker.as_ref().expect("a report")).clone();
        worker.vms[1].held_reasons = vec![(reason, 3)];
        snapshot.worker = Some(Arc::new(worker));
        let text = explained(&snapshot, 1);
        assert_eq!(text.contains("\n3 wait "), reason != HoldReason::Gate, "{}: {text}", reason.as_str());
    }
}

#[test]
fn a_lost_record_is_named_by_what_waits_for_it() {
    let mut snapshot = contended();
    snapshot.unknown = ["run_dir has no record".to_owned()].into();
    let mut worker = (**snapshot.worker.as_ref().expect("a report")).clone();
    worker.vms[1].held_reasons = vec![(HoldReason::Fence, 2)];
    snapshot.worker = Some(Arc::new(worker));
    let text = explained(&snapshot, 1);
    assert!(text.contains("can still arrive: run_dir has no record.\n"), "{text}");
}

#[test]
fn a_path_shows_decisions_and_load() {
    let paths = json_of(shown(&testing::snapshot()).paths());
    assert_eq!((&paths["at_unix_us"], &paths["generation"]), (&json!(1_020_000_000), &json!(12)));
    let expect = json!({
        "target": "san0", "name": "b", "url": "nbd://10.0.2.5:10809", "health": "up", "access": "optimized",
        "preferred": true, "reason": null, "since_unix_us": 1_008_000_000, "relapses": 0, "repair_after_ms": 1000,
        "incident": null, "capacity_bytes_per_second": 104_857_600, "pending_requests": 3, "pending_bytes": 196_608,
        "window_bytes": 2_097_152, "window_max_bytes": 67_108_864, "carried": [], "connections": 4, "service_time_us": 812, "rate_bytes_per_second": 62_914_560,
        "estimate_bytes_per_second": 103_000_000, "completed_requests": 9, "completed_bytes": 589_824, "errors": 0,
        "links": [{ "unit": "san0/gold", "state": "up", "fault": null }, { "unit": "san0/bronze", "state": "up", "fault": null }],
    });
    assert_eq!(paths["paths"][1], expect);
    let lost = &paths["paths"][0];
    assert_eq!(
        (&lost["health"], &lost["preferred"], &lost["incident"], &lost["links"][0]["fault"]),
        (&json!("down"), &json!(false), &json!("INC-1"), &json!("connection reset by the target"))
    );
}

#[test]
fn a_vm_shows_its_gate_and_what_it_waits_for() {
    let vms = json_of(shown(&testing::snapshot()).vms());
    let expect = json!({
        "name": "bronze", "presence": "present", "state": "suspended", "since_unix_us": 1_008_000_000, "run_state": "paused",
        "gate": { "state": "hold", "reason": "suspended: the reservations no longer fit", "incident": "INC-1" },
        "priority": 50, "shares": 1000, "reservation_bytes_per_second": 52_428_800, "limit_bytes_per_second": null,
        "limit_requests_per_second": null, "on_path_loss": "failover", "resume": "repair", "in_flight": 0, "held": 3,
        "held_reasons": [{ "reason": "policy", "requests": 3 }], "oldest_held_ms": 400, "rate_bytes_per_second": 0,
        "completed_requests": 0, "completed_bytes": 0, "failed_requests": 0, "retried_requests": 0,
        "because": ["110.0 MiB/s reserved, 100.0 MiB/s left"], "waits_for": "san0/a up and good for 1 s",
        "incident": "INC-1", "other_host": null, "home": null, "returns_to": null,
        "disks": [{ "name": "vda", "owner": null, "unit": "san0/bronze", "nbd_socket": "/run/vmpath/bronze.sock", "nbd_tcp": null, "vhost_user": null, "presence": "present", "clients": 1 }],
    });
    let mut bronze = vms["vms"][1].clone();
    let allocation = taken(&mut bronze, ALLOCATION);
    assert_eq!(bronze, expect);
    let expect = json!({
        "limit_burst_ms": 5, "group": null, "avoid_paths": [], "held_times": [], "entitled_bytes_per_second": null,
        "served_bytes_per_second": 0, "reservation_unmet_bytes_per_second": 0,
    });
    assert_eq!(allocation, expect);
    assert_eq!(vms["vms"][0]["gate"], json!({ "state": "open", "reason": null, "incident": null }));
}

#[test]
fn units_incidents_and_host_have_the_promised_shape() {
    let unit = &json_of(shown(&testing::snapshot()).units())["units"][1];
    let expect = json!({
        "target": "san0", "name": "bronze", "export": "bronze", "size_bytes": 1_073_741_824, "quarantined_ranges": 1,
        "quarantined_bytes": 65_536, "quarantined_for_ms": 3200, "remembered_places": 37,
        "links": [{ "path": "san0/a", "state": "down", "fault": "connection reset by the target" },
                  { "path": "san0/b", "state": "up", "fault": null }],
        "disks": [{ "vm": "bronze", "name": "vda" }],
    });
    assert_eq!(unit, &expect);
    let expect = json!([{ "incident": "INC-1", "opened_unix_us": 1_008_000_000, "closed_unix_us": null, "summary": "path san0/a lost",
                          "paths": ["san0/a"], "vms_affected": ["bronze"] }]);
    assert_eq!(json_of(shown(&testing::snapshot()).incidents())["incidents"], expect);
    let host = json_of(shown(&testing::snapshot()).host(Instant::from_millis(20_040), 5));
    assert_eq!(host["paths"], json!({ "up": 1, "marginal": 0, "down": 1, "draining": 0, "disabled": 0 }));
    assert_eq!(
        (&host["vms"]["running"], &host["vms"]["suspended"], &host["open_incidents"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(host["dataplane"], json!({ "generation": 12, "report_age_ms": 140 }));
    assert_eq!((&host["shed_when"], &host["last_event_seq"]), (&json!("unmet"), &json!(57)));
}

#[test]
fn before_the_first_report_every_row_is_there() {
    let mut snapshot = testing::snapshot();
    snapshot.worker = None;
    let shown = Shown { snapshot: &snapshot, unix_us: |_| 0 };
    assert_eq!((shown.paths().paths.len(), shown.vms().vms.len(), shown.units().units.len()), (2, 2, 2));
    assert_eq!(shown.host(Instant::ZERO, 0).dataplane, None);
}

#[test]
fn an_explanation_names_failure_rule_numbers_and_wait() {
    let snapshot = testing::snapshot();
    let explain = |index| explained(&snapshot, index);
    assert_eq!(
        explain(1),
        "bronze is suspended by vmpath, for 12 s.\n\
         Its requests are kept queued: suspended: the reservations no longer fit.\n\
         It belongs to incident INC-1.\n\
         Why: 110.0 MiB/s reserved, 100.0 MiB/s left.\n\
         3 requests are held (3 by policy), the oldest for 400 ms; 0 are in flight.\n\
         It gets 0.0 KiB/s; reservation 50.0 MiB/s, limit none, priority 50, shares 1000.\n\
         Path san0/a is down, optimized, not used: connection reset by the target.\n\
         Path san0/b is up, optimized, preferred.\n\
         It waits for: san0/a up and good for 1 s."
    );
    assert!(explain(0).starts_with("gold is running, for 20 s; nothing is the matter.\n"), "{}", explain(0));
}

#[test]
fn an_access_state_is_one_of_two_words() {
    assert_eq!(access_in(br#"{"access": "non-optimized"}"#).unwrap(), Access::NonOptimized);
    for bad in ["", "{}", r#"{"access": "fast"}"#, r#"{"access": "optimized", "x": 1}"#] {
        assert!(access_in(bad.as_bytes()).is_err(), "{bad}");
    }
}

/// A server whose owner is this test.
struct Served {
    server: Server,
    inputs: mpsc::Receiver<Input>,
    client: Client,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        Self::showing(testing::snapshot())
    }

    fn showing(snapshot: Snapshot) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("run/vmpath.sock");
        let (input, inputs) = mpsc::channel(4);
        let (reload, _) = mpsc::channel(1);
        let snapshots = Arc::new(ArcSwap::from_pointee(snapshot));
        let handle = ControlHandle::new(input, reload, snapshots);
        let server = Server::start(Listener::bind(&socket, Duration::ZERO).expect("a socket"), handle);
        Self { server, inputs, client: Client::new(&socket), socket, _dir: dir }
    }

    async fn call(&self, ask: Ask) -> Result<Value, CallError> {
        let client = self.client.clone();
        tokio::task::spawn_blocking(move || client.call(&ask)?.read()).await.expect("the call ends")
    }

    /// Asks, and answers as the owner would.
    async fn command(
        &mut self,
        ask: Ask,
        result: Result<String, CommandError>,
    ) -> (Command, Result<Value, CallError>) {
        let client = self.client.clone();
        let call = tokio::task::spawn_blocking(move || client.call(&ask)?.read());
        let Some(Input::Command { command, reply }) = self.inputs.recv().await else { panic!("no command") };
        reply.send(result).expect("somebody waits");
        (command, call.await.expect("the call ends"))
    }
}

fn refused(answer: Result<Value, CallError>) -> wire::Error {
    match answer {
        Err(CallError::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reads_changes_and_refusals_over_the_socket() {
    let mut served = Served::start();
    let vms = served.call(Ask::Get("/v1/vms".into())).await.unwrap();
    assert_eq!(vms["vms"][1]["name"], "bronze");

    let at = "/v1/paths/san0/a/access".to_owned();
    let ask = Ask::SetAccess { at, access: "non-optimized".into() };
    let (command, answer) = served.command(ask, Ok("done so".into())).await;
    assert_eq!(command, Command::SetAccess(PathId::at(0), Access::NonOptimized));
    assert_eq!(answer.unwrap(), json!({ "message": "done so" }));

    let ask = Ask::Post("/v1/vms/gold/resume".into());
    let (command, answer) = served.command(ask, Err(CommandError::Conflict("it runs".into()))).await;
    assert_eq!(command, Command::ResumeVm(VmId::at(0)));
    assert_eq!(refused(answer).error, "it runs");

    let one = served.call(Ask::Get("/v1/vms/bronze".into())).await.unwrap();
    assert_eq!(
        (&one["vm"]["name"], &one["vm"]["held"], &one["group"]),
        (&json!("bronze"), &json!(3), &Value::Null)
    );
    let wrong = refused(served.call(Ask::Get("/v1/vms/gald".into())).await);
    assert!(wrong.help.contains("did you mean `gold`"), "{wrong:?}");
    let wrong = refused(served.call(Ask::Post("/v1/vms/gald/suspend".into())).await);
    assert!(wrong.help.contains("did you mean `gold`"), "{wrong:?}");
    for (ask, words) in [
        (Ask::Get("/v1/nothing".into()), "nothing is at /v1/nothing"),
        (Ask::Get("/v1/reload".into()), "GET cannot be used"),
        (Ask::Get("/v1/events?after=x".into()), "after"),
        (Ask::Post("/v1/reload".into()), "busy or shutting down"),
    ] {
        let error = refused(served.call(ask).await);
        assert!(error.error.contains(words) && !error.help.is_empty(), "{error:?}");
    }
    served.server.stop().await;
    assert!(!served.socket.exists());
}

#[tokio::test]
async fn events_come_from_the_owner_and_a_dead_owner_is_said_to_be() {
    let mut served = Served::start();
    let client = served.client.clone();
    let call =
        tokio::task::spawn_blocking(move || client.get::<wire::Events>("/v1/events?after=3&limit=5000"));
    let Some(Input::Events { query, reply }) = served.inputs.recv().await else { panic!("no question") };
    assert_eq!((query.after, query.limit), (Some(3), 1000));
    reply.send(Journal::new(Bounds::of(&testing::spec().host)).read(&query)).expect("somebody waits");
    let events = call.await.unwrap().unwrap();
    assert_eq!((events.first_seq, events.last_seq, events.next_after), (1, 0, 0));
    served.inputs.close();
    let error = refused(served.call(Ask::Get("/v1/events".into())).await);
    assert!(error.help.contains("log"), "{error:?}");
}
