//! Migration over QMP: replies as real QEMUs give them, replies of other shapes, commands as they leave.

use proptest::prelude::*;
use serde_json::{Value, json};
use vmpath_protocol::qmp::{
    self, MigrationInfo, MigrationLimits, MigrationState, QemuVersion, QmpCommandReader, QmpRequest, RamInfo,
};

fn read(value: &Value) -> MigrationInfo {
    MigrationInfo::from_return(value).expect("an object")
}

fn nothing(state: MigrationState) -> MigrationInfo {
    MigrationInfo {
        state,
        error: None,
        ram: None,
        downtime_ms: None,
        total_time_ms: None,
        listens: Vec::new(),
    }
}

#[test]
fn answers_of_a_source_at_each_state() {
    assert_eq!(read(&json!({})), nothing(MigrationState::None));
    assert_eq!(read(&json!({ "status": "setup" })), nothing(MigrationState::Setup));
    let waiting = read(&json!({
        "expected-downtime": 300, "status": "pre-switchover", "setup-time": 1, "total-time": 937,
        "ram": {
            "total": 268967936, "postcopy-requests": 0, "dirty-sync-count": 2, "multifd-bytes": 0,
            "pages-per-second": 120490, "downtime-bytes": 0, "page-size": 4096, "remaining": 97652736,
            "mbps": 2814.4, "transferred": 87907489, "duplicate": 20490, "dirty-pages-rate": 3, "normal": 21375,
        },
    }));
    let ram = RamInfo {
        total: 268_967_936,
        remaining: 97_652_736,
        transferred: 87_907_489,
        passes: 2,
        dirty_rate: 12_288,
        rate: 351_800_000,
    };
    let expected = nothing(MigrationState::PreSwitchover);
    assert_eq!(waiting, MigrationInfo { ram: Some(ram), total_time_ms: Some(937), ..expected });
    let done = read(&json!({ "status": "completed", "setup-time": 1, "downtime": 1156, "total-time": 1652 }));
    let expected = nothing(MigrationState::Completed);
    assert_eq!(done, MigrationInfo { downtime_ms: Some(1156), total_time_ms: Some(1652), ..expected });
    let failed = read(&json!({ "status": "failed", "error-desc": "Unable to write to socket: Broken pipe" }));
    assert_eq!(failed.state, MigrationState::Failed);
    assert_eq!(failed.error.as_deref(), Some("Unable to write to socket: Broken pipe"));
    assert_eq!(read(&json!({ "status": "failed" })).error, None);
}

#[test]
fn an_incoming_process_says_where_it_listens() {
    let inet = json!({ "port": "49152", "ipv4": true, "host": "127.0.0.1", "type": "inet" });
    let inet6 = json!({ "port": "1", "host": "fd00::2", "type": "inet" });
    let unix = json!({ "path": "/run/m", "type": "unix" });
    let info = read(&json!({ "socket-address": [inet, inet6, unix, { "type": "vsock" }, 7] }));
    assert_eq!(info.listens, ["tcp:127.0.0.1:49152", "tcp:[fd00::2]:1", "unix:/run/m"]);
    assert_eq!(info.state, MigrationState::None);
}

#[test]
fn a_reply_that_is_no_migration_is_not_taken_for_none() {
    for strange in [json!([]), json!(null), json!("active"), json!(3), json!({ "status": 4 })] {
        assert!(MigrationInfo::from_return(&strange).is_err(), "{strange}");
    }
    let odd =
        json!({ "status": "warping", "ram": [1], "downtime": -4, "socket-address": {}, "error-desc": 1 });
    assert_eq!(read(&odd), nothing(MigrationState::Other("warping".into())));
    let odd = read(&json!({ "status": "active", "ram": { "mbps": -1, "total": "x", "remaining": 1.5 } }));
    assert_eq!(odd.ram, Some(RamInfo::default()));
}

#[test]
fn states_keep_their_names() {
    let names = "none setup cancelling cancelled active postcopy-active postcopy-paused postcopy-recover completed \
                 failed colo pre-switchover device wait-unplug";
    for name in names.split_ascii_whitespace() {
        let state = MigrationState::from_name(name);
        assert!(!matches!(state, MigrationState::Other(_)), "{name}");
        assert_eq!(state.name(), name);
    }
    assert_eq!(MigrationState::from_name("warping").name(), "warping");
    let event = |data| MigrationState::from_event(&data);
    assert_eq!(event(json!({ "status": "device" })), Some(MigrationState::Device));
    assert_eq!(event(json!({ "status": 1 })), None);
    assert_eq!(event(Value::Null), None);
}

#[test]
fn memory_and_version_are_read_or_missing_but_never_guessed() {
    assert_eq!(
        qmp::memory_size(&json!({ "base-memory": 268435456, "plugged-memory": 4 })),
        Some(268_435_460)
    );
    assert_eq!(qmp::memory_size(&json!({ "base-memory": 5 })), Some(5));
    assert_eq!(qmp::memory_size(&json!({ "base-memory": u64::MAX, "plugged-memory": 1 })), None);
    assert_eq!(qmp::memory_size(&json!({ "plugged-memory": 5 })), None);
    assert_eq!(qmp::memory_size(&json!([])), None);
    let memdev = json!([{ "size": 268435456, "share": true, "id": "memory" }, { "size": 1 }]);
    assert_eq!(qmp::memory_of_backends(&memdev), Some(268_435_457));
    assert_eq!(qmp::memory_of_backends(&json!([])), None);
    assert_eq!(qmp::memory_of_backends(&json!([{ "size": 1 }, {}])), None);
    assert_eq!(qmp::memory_of_backends(&json!({})), None);
    let version = json!({ "qemu": { "micro": 22, "minor": 2, "major": 7 }, "package": "Debian" });
    let expected = QemuVersion { major: 7, minor: 2, micro: 22, package: "Debian".into() };
    assert_eq!(QemuVersion::from_return(&version), expected);
    assert_eq!(QemuVersion::from_return(&json!(7)), QemuVersion::default());
}

#[test]
fn commands_leave_as_qemu_takes_them() {
    let check = |line: Vec<u8>, name: &str, arguments: Value| {
        let fed = QmpCommandReader::new().feed(&line).expect("a short line");
        let Some(QmpRequest::Command(command)) = fed.event else { panic!("{fed:?}") };
        assert_eq!((command.name.as_str(), command.arguments, command.id), (name, arguments, Some(json!(9))));
    };
    let on = |name: &str| json!({ "capability": name, "state": true });
    check(
        qmp::migrate_set_capabilities(9, &qmp::MIGRATION_CAPABILITIES),
        "migrate-set-capabilities",
        json!({ "capabilities": [on("pause-before-switchover"), on("events"), on("return-path")] }),
    );
    let limits = MigrationLimits { downtime_ms: u64::MAX, bandwidth: 5 };
    check(
        qmp::migrate_set_parameters(9, limits),
        "migrate-set-parameters",
        json!({ "downtime-limit": 2_000_000, "max-bandwidth": 5 }),
    );
    check(qmp::migrate(9, "tcp:h:\"1\n"), "migrate", json!({ "uri": "tcp:h:\"1\n" }));
    check(qmp::migrate_continue(9), "migrate-continue", json!({ "state": "pre-switchover" }));
    check(qmp::migrate_incoming(9, "defer"), "migrate-incoming", json!({ "uri": "defer" }));
    for (line, name) in [
        (qmp::migrate_cancel(9), "migrate_cancel"),
        (qmp::query_migrate(9), "query-migrate"),
        (qmp::query_memory_size_summary(9), "query-memory-size-summary"),
        (qmp::query_memdev(9), "query-memdev"),
        (qmp::query_version(9), "query-version"),
    ] {
        check(line, name, Value::Null);
    }
}

/// JSON of a few levels, whose names are often those that are looked for.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["active", "failed", "inet", "unix"]).prop_map(Value::from),
    ];
    let names = vec![
        "status",
        "ram",
        "total",
        "remaining",
        "mbps",
        "page-size",
        "dirty-pages-rate",
        "socket-address",
        "type",
        "host",
        "port",
        "path",
        "downtime",
        "error-desc",
        "base-memory",
        "plugged-memory",
        "size",
        "qemu",
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let object = prop::collection::btree_map(prop::sample::select(names.clone()), inner.clone(), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            object.prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_reply_is_read_or_refused(value in any_json()) {
        let info = MigrationInfo::from_return(&value);
        let status = value.get("status");
        let readable = value.is_object() && status.is_none_or(Value::is_string);
        prop_assert_eq!(info.is_ok(), readable);
        if let Ok(info) = info {
            prop_assert_eq!(info.state.name(), status.and_then(Value::as_str).unwrap_or("none"));
            prop_assert_eq!(info.ram.is_some(), value["ram"].is_object());
        }
        let _ = (qmp::memory_size(&value), qmp::memory_of_backends(&value));
        let _ = (QemuVersion::from_return(&value), MigrationState::from_event(&value));
    }
}
