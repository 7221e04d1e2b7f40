//! Other hosts and moves: their rows, and what is refused before anybody is asked.

use super::{Served, json_of, refused, shown};
use crate::api::client::Ask;
use crate::api::moves::{TakeoverAsked, confirmed};
use crate::api::names;
use crate::cluster::{Claimed, Others};
use crate::control::handle::{Begun, Confirmed, Input, Snapshot};
use crate::control::hosts_view::{HostsView, OwnerRow, StoreState};
use crate::testing;
use serde_json::json;
use std::sync::Arc;
use vmpath_core::event::Command;
use vmpath_core::ids::{DiskId, VmId};
use vmpath_core::migration::MoveId;
use vmpath_core::ownership::{Owner, Ownership};
use vmpath_core::placement::{Accepts, Claim, HostSummary, TargetSummary, UnitSummary, VmPlace, VmSummary};
use vmpath_core::spec::{Source, Writers, parse};
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::{MoveEnd, MoveSide, MoveView, TransferView, VmState};

const CLUSTER: &str = r#"
[cluster]
etcd = ["https://10.0.0.9"]
etcd_ca = "/etc/vmpath/ca.pem"
peer_listen = "10.0.0.1:7420"
peer_ca = "/etc/vmpath/ca.pem"
peer_cert = "/etc/vmpath/kvm1.pem"
peer_key = "/etc/vmpath/kvm1.key"
"#;

fn summary(host: &str) -> Arc<HostSummary> {
    let unit = UnitSummary { unit: "gold".into(), size: Some(1 << 30), paths_up: vec!["b".into()] };
    let target = TargetSummary {
        target: "san0".into(),
        capacity: Some(100 << 20),
        reserved: 60 << 20,
        lost: 1,
        units: vec![unit],
    };
    let gold =
        VmSummary { name: "gold".into(), priority: 100, reservation: Some(60 << 20), place: VmPlace::Here };
    Arc::new(HostSummary {
        host: host.into(),
        version: "0.1.0".into(),
        peer: ([10, 0, 0, 1], 7420).into(),
        accepts: Accepts::No("it sheds VMs itself".into()),
        targets: vec![target],
        vms: vec![gold],
    })
}

/// kvm1 of a cluster: it owns gold's disk, kvm2 owns bronze's and is not heard any more, kvm3 is.
fn clustered() -> Snapshot {
    let mut snapshot = testing::snapshot();
    let mut host = (*snapshot.host).clone();
    let text = format!("{}{CLUSTER}", testing::CONFIG);
    let parsed = parse(&[Source { name: "test.toml", text: &text }]);
    host.spec = Arc::new(parsed.expect("a good configuration").spec);
    let moved = |number, end| MoveView {
        id: MoveId { host: "kvm1".into(), nonce: 0x7f, number },
        vm: "bronze".into(),
        from: "kvm1".into(),
        to: "kvm2".into(),
        side: MoveSide::Source,
        state: "transferring",
        began: Instant::from_millis(18_000),
        rule: "the operator asked for it".into(),
        incident: Some("INC-1".into()),
        transfer: Some(TransferView { sent: 5 << 20, left: 1 << 20 }),
        end,
    };
    let downtime = Some(Duration::from_millis(41));
    let end = MoveEnd { at: Instant::from_millis(19_500), why: None, downtime };
    let over = MoveView { state: "moved", transfer: None, ..moved(1, Some(end)) };
    host.moves = vec![moved(2, None), over];
    host.vms[1].state = VmState::Elsewhere;
    host.vms[1].other_host = Some("kvm2".into());
    snapshot.host = Arc::new(host);
    let claim = Claim { vm: "tin".into(), host: "kvm3".into(), target: "san0".into(), rate: 10 << 20 };
    let others = Others {
        hosts: vec![summary("kvm3"), summary("kvm1")],
        rooms: vec![Claimed { id: "kvm9.1.1".into(), claim, revision: 4 }],
    };
    let theirs = Ownership::Theirs(Owner { host: "kvm2".into(), epoch: 4, move_id: None });
    snapshot.hosts = Arc::new(HostsView {
        store: StoreState::Up,
        channel_trouble: None,
        hosts: HostsView::rows(&others, "kvm1"),
        owners: vec![
            OwnerRow::of("san0/gold", &Ownership::Ours { epoch: 3 }, "kvm1"),
            OwnerRow::of("san0/bronze", &theirs, "kvm1"),
        ],
    });
    snapshot
}

#[test]
fn hosts_and_moves_have_the_promised_shape() {
    let snapshot = clustered();
    let hosts = json_of(shown(&snapshot).hosts());
    let expect = json!({
        "name": "kvm3", "version": "0.1.0", "peer": "10.0.0.1:7420", "is_self": false, "accepts": false,
        "why_not": "it sheds VMs itself",
        "targets": [{ "name": "san0", "capacity_bytes_per_second": 104_857_600, "reserved_bytes_per_second": 62_914_560,
                      "claimed_bytes_per_second": 10_485_760, "lost_paths": 1,
                      "units": [{ "name": "gold", "size_bytes": 1_073_741_824, "paths_up": ["b"] }] }],
        "vms": [{ "name": "gold", "priority": 100, "reservation_bytes_per_second": 62_914_560, "place": "here" }],
    });
    assert_eq!(hosts["hosts"][1], expect);
    let owner =
        json!({ "unit": "san0/bronze", "owner": "kvm2", "epoch": 4, "words": "owned by kvm2 (epoch 4)" });
    assert_eq!((&hosts["cluster"], &hosts["owners"][1]), (&json!("up"), &owner));
    let moves = json_of(shown(&snapshot).migrations(Instant::from_millis(20_000)));
    let expect = json!({
        "id": "kvm1.7f.2", "vm": "bronze", "from": "kvm1", "to": "kvm2", "side": "source", "state": "transferring",
        "rule": "the operator asked for it", "incident": "INC-1", "began_unix_us": 1_018_000_000, "took_us": 2_000_000,
        "sent_bytes": 5_242_880, "left_bytes": 1_048_576, "ended_unix_us": null, "why": null, "downtime_us": null,
    });
    assert_eq!(moves["migrations"][0], expect);
    let over = &moves["migrations"][1];
    assert_eq!(
        (&over["ended_unix_us"], &over["took_us"], &over["downtime_us"], &over["sent_bytes"]),
        (&json!(1_019_500_000), &json!(1_500_000), &json!(41_000), &json!(null))
    );
    let bronze = &json_of(shown(&snapshot).vms())["vms"][1];
    assert_eq!((&bronze["state"], &bronze["other_host"]), (&json!("elsewhere"), &json!("kvm2")));
    assert_eq!(bronze["disks"][0]["owner"], owner);
    assert_eq!(json_of(shown(&snapshot).host(Instant::ZERO, 0))["vms"]["elsewhere"], 1);
}

#[test]
fn a_host_that_is_alone_says_so_and_one_that_has_just_begun_does_not() {
    let mut snapshot = testing::snapshot();
    let hosts = json_of(shown(&snapshot).hosts());
    assert_eq!((&hosts["cluster"], &hosts["hosts"]), (&json!("none"), &json!([])));
    assert_eq!(json_of(shown(&snapshot).vms())["vms"][0]["disks"][0]["owner"], json!(null));
    snapshot = clustered();
    snapshot.hosts = Arc::default();
    assert_eq!(json_of(shown(&snapshot).hosts())["cluster"], "connecting");
}

#[test]
fn a_host_that_nobody_knows_is_refused_with_those_that_are_known() {
    let snapshot = clustered();
    let (error, help) = names::host(&snapshot.hosts, "kvm4").expect_err("unknown").into_words();
    assert!(
        error.contains("`kvm4`") && help.contains("kvm1, kvm3") && help.contains("did you mean"),
        "{help}"
    );
    assert!(names::host(&snapshot.hosts, "kvm3").is_ok());
    // While nobody is heard of it cannot be told.
    assert!(names::host(&HostsView::default(), "kvm4").is_ok());
}

/// bronze's disk is taken from kvm2.
fn takes(change: impl FnOnce(&mut Snapshot), from: &str, dead: Option<&str>) -> Result<Confirmed, String> {
    let mut snapshot = clustered();
    change(&mut snapshot);
    let asked =
        TakeoverAsked { from: from.into(), confirmed_dead: dead.map(str::to_owned), never_ran_there: None };
    confirmed(&snapshot, DiskId::at(1), &asked).map_err(|error| error.into_words().0)
}

fn with_fence_command(snapshot: &mut Snapshot) {
    let mut host = (*snapshot.host).clone();
    let mut spec = (*host.spec).clone();
    spec.host.fence_command = Some("/usr/local/sbin/off".into());
    host.spec = Arc::new(spec);
    snapshot.host = Arc::new(host);
}

#[test]
fn a_disk_is_taken_over_only_with_a_proof() {
    assert_eq!(takes(|_| {}, "kvm2", Some("kvm2")), Ok(Confirmed::ByOperator));
    assert_eq!(takes(with_fence_command, "kvm2", None), Ok(Confirmed::ByFenceCommand));
    let refused = |change: fn(&mut Snapshot), from, dead: Option<&str>, words: &str| {
        let why = takes(change, from, dead).expect_err("it is refused");
        assert!(why.contains(words), "{why}");
    };
    refused(|_| {}, "kvm2", None, "nothing makes sure");
    refused(|_| {}, "kvm2", Some("kvm3"), "kvm3 is said to be dead");
    refused(with_fence_command, "kvm2", Some("kvm3"), "kvm3 is said to be dead");
    refused(|_| {}, "kvm1", Some("kvm1"), "is this host");
    refused(|_| {}, "kvm3", Some("kvm3"), "owned by kvm2, and not by kvm3");
    refused(|snapshot| *snapshot = testing::snapshot(), "kvm2", Some("kvm2"), "no cluster");
    let alive = |snapshot: &mut Snapshot| {
        let others = Others { hosts: vec![summary("kvm2")], rooms: vec![] };
        let hosts = HostsView::rows(&others, "kvm1");
        snapshot.hosts = Arc::new(HostsView { hosts, ..(*snapshot.hosts).clone() });
    };
    refused(alive, "kvm2", Some("kvm2"), "is not dead");
    let shared = |snapshot: &mut Snapshot| {
        let mut host = (*snapshot.host).clone();
        let mut spec = (*host.spec).clone();
        spec.disks[1].writers = Writers::Many;
        host.spec = Arc::new(spec);
        snapshot.host = Arc::new(host);
    };
    refused(shared, "kvm2", Some("kvm2"), "several writers");
}

#[tokio::test]
async fn moves_are_asked_for_over_the_socket() {
    let mut served = Served::showing(clustered());
    let at = "/v1/vms/gold/migrate";
    for (ask, wanted) in [
        (format!("{at}?to=kvm3"), Command::MigrateVm { vm: VmId::at(0), to: Some("kvm3".into()) }),
        (at.into(), Command::MigrateVm { vm: VmId::at(0), to: None }),
        (format!("{at}/cancel"), Command::CancelMigration(VmId::at(0))),
        ("/v1/vms/gold/return".into(), Command::ReturnVm(VmId::at(0))),
    ] {
        let (command, answer) = served.command(Ask::Post(ask), Ok("done so".into())).await;
        assert_eq!((command, answer.unwrap()), (wanted, json!({ "message": "done so" })));
    }
    for (ask, words) in [
        (format!("{at}?to=kvm4"), "no host `kvm4`"),
        (format!("{at}?two=kvm3"), "two"),
        ("/v1/vms/gald/migrate".into(), "no VM `gald`"),
        ("/v1/disks/gold/vdb/takeover?from=kvm2".into(), "no disk `gold/vdb`"),
        ("/v1/disks/bronze/vda/takeover".into(), "from"),
        ("/v1/disks/bronze/vda/takeover?from=kvm2".into(), "nothing makes sure"),
        ("/v1/disks/bronze/vda/takeover?from=kvm2&never_ran_there=gold".into(), "gold is said never"),
    ] {
        let error = refused(served.call(Ask::Post(ask)).await);
        assert!(error.error.contains(words) && !error.help.is_empty(), "{error:?}");
    }
    for (more, known) in [("", Begun::Perhaps), ("&never_ran_there=bronze", Begun::Never)] {
        let client = served.client.clone();
        let ask = Ask::Post(format!("/v1/disks/bronze/vda/takeover?from=kvm2&confirmed_dead=kvm2{more}"));
        let call = tokio::task::spawn_blocking(move || client.call(&ask)?.read::<serde_json::Value>());
        let Some(Input::TakeOver { disk, from, confirmed, begun, reply }) = served.inputs.recv().await else {
            panic!("nobody asks")
        };
        assert_eq!((disk, from.as_str()), (DiskId::at(1), "kvm2"));
        assert_eq!((confirmed, begun), (Confirmed::ByOperator, known));
        reply.send(Ok("begun".into())).expect("somebody waits");
        assert_eq!(call.await.expect("the call ends").unwrap(), json!({ "message": "begun" }));
    }
    served.server.stop().await;
}
