use super::super::{ByteRate, Failback, PathSelector, SchedulerKind};
use super::{good, small_with};
use crate::ids::{PathId, TargetId, VmId};
use crate::time::Duration;

const FULL: &str = include_str!("full.toml");

fn full_with(piece: &str, replacement: &str) -> String {
    assert!(FULL.contains(piece), "{piece}");
    FULL.replacen(piece, replacement, 1)
}

/// Reloads `text` over the full configuration.
fn refusals(text: &str) -> Vec<String> {
    good(text).rebase(&good(FULL)).expect_err("refused")
}

#[test]
fn order_makes_no_difference() {
    let running = good(FULL);
    let vms = FULL.find("[[vm]]").expect("there");
    let (head, vm) = FULL.split_at(vms);
    let second = head.find("[[target]]\nname = \"san1\"").expect("there");
    let (first, second) = head.split_at(second);
    let host_end = first.find("[[target]]").expect("there");
    let (host, first) = first.split_at(host_end);
    let mut disks = vm.split("[[vm.disk]]");
    let (vm, vda, vdb, vdc) = (disks.next(), disks.next(), disks.next(), disks.next());
    let pieces = [vm, vdc, vdb, vda].map(|piece| piece.expect("there")).join("[[vm.disk]]");
    let swapped = format!("{pieces}\n{second}\n{first}\n{host}");
    let other = good(&swapped);
    assert_ne!(other, running, "the rows differ before the rebase");
    assert_eq!(other.rebase(&running), Ok(running));
}

#[test]
fn settings_may_change() {
    let text = [
        ("failback = \"after 30s\"", "failback = \"manual\""),
        ("quiesce = \"10s\"", "quiesce = \"7s\""),
        ("capacity = \"400 MiB/s\"", "capacity = \"100 MiB/s\""),
        ("access = \"non-optimized\"", "access = \"optimized\""),
        ("priority = 200", "priority = 1"),
        ("reservation = \"80 MiB/s\"", "reservation = \"8 MiB/s\""),
        ("paths = [\"san0/a\", \"a\", \"fc0/b\"]\n", ""),
        ("avoid = [\"san0/b\", \"fc0/a\"]", "avoid = [\"san0/a\"]"),
        ("path_selector = \"queue-length\"", "path_selector = \"round-robin\""),
        ("scheduler = \"none\"", ""),
        ("limit_burst = \"20ms\"", "limit_burst = \"1s\""),
        ("shed_when = \"reserved\"", "shed_when = \"unmet\""),
    ]
    .iter()
    .fold(FULL.to_owned(), |text, (piece, replacement)| text.replacen(piece, replacement, 1));
    let spec = good(&text).rebase(&good(FULL)).expect("settings only");
    assert_eq!(spec.target(TargetId(0)).failback, Failback::Manual);
    assert_eq!(spec.path(PathId(0)).capacity, Some(ByteRate(100 << 20)));
    assert_eq!(spec.vm(VmId(0)).avoid_paths, [PathId(0)]);
    assert_eq!(spec.target(TargetId(0)).path_selector, PathSelector::RoundRobin);
    assert_eq!(spec.host.scheduler, SchedulerKind::Vmpath);
    assert_eq!(spec.groups[0].limit_burst, Duration::from_secs(1));
    assert_eq!(spec, good(&text));
}

#[test]
fn what_comes_or_goes_is_refused_once() {
    let new_path = full_with(
        "[[target.unit]]",
        "[[target.path]]\nname = \"c\"\nurl = \"nbd://10.0.3.5\"\n[[target.unit]]",
    );
    assert_eq!(refusals(&new_path), ["path san0/c is new: a restart is needed to add it"]);
    let new_vm = format!(
        "{FULL}\n[[vm]]\nname = \"web\"\n[[vm.disk]]\nname = \"vda\"\nunit = \"san1/web\"\nnbd_tcp = 10812\n"
    );
    assert_eq!(refusals(&new_vm), ["vm web is new: a restart is needed to add it"]);
    let new_disk =
        format!("{FULL}\n[[vm.disk]]\nname = \"vdd\"\nunit = \"san1/more\"\nvhost_user = \"/x\"\n");
    assert_eq!(refusals(&new_disk), ["disk db1/vdd is new: a restart is needed to add it"]);
    let renamed = FULL.replace("san1", "san2");
    assert_eq!(
        refusals(&renamed),
        [
            "target san2 is new: a restart is needed to add it",
            "target san1 is gone: a restart is needed to remove it",
            "disk db1/vdb: unit changes from san1/data to san2/data: a restart is needed",
        ]
    );
}

#[test]
fn what_is_connected_is_fixed() {
    let cases = [
        (
            "nbd://10.0.2.5",
            "nbd://10.0.2.6",
            "path san0/b: url changes from nbd://10.0.2.5:10809 to nbd://10.0.2.6:10809",
        ),
        ("connections = 4", "connections = 3", "target san0: connections changes from 4 to 3"),
        (
            "write_cache = \"volatile\"",
            "",
            "target san0: write_cache changes from volatile to survives-path-loss",
        ),
        (
            "export = \"lun-7\"",
            "export = \"lun-8\"",
            "unit san0/db1-root: export changes from \"lun-7\" to \"lun-8\"",
        ),
        (
            "qmp = \"/run/vmpath/db1.qmp\"",
            "qmp = \"/run/q\"",
            "vm db1: qmp changes from /run/vmpath/db1.qmp to /run/q",
        ),
        (
            "nbd = \"/run/vmpath/db1-vda.sock\"",
            "",
            "disk db1/vda: nbd changes from /run/vmpath/db1-vda.sock to none",
        ),
        (
            "nbd_tcp = 10810",
            "nbd_tcp = 10812",
            "disk db1/vda: nbd_tcp changes from 127.0.0.1:10810 to 127.0.0.1:10812",
        ),
        (
            "unit = \"san1/data\"",
            "unit = \"san1/other\"",
            "disk db1/vdb: unit changes from san1/data to san1/other",
        ),
        ("name = \"kvm1\"", "name = \"kvm2\"", "host: name changes from kvm1 to kvm2"),
        ("/run/vmpath/api.sock", "/run/a", "host: api_socket changes from /run/vmpath/api.sock to /run/a"),
        ("/srv/vmpath", "/srv/v", "host: state_dir changes from /srv/vmpath to /srv/v"),
        ("/run/vmpath-kvm1", "/run/v", "host: run_dir changes from /run/vmpath-kvm1 to /run/v"),
        ("workers = 4", "workers = 2", "host: workers changes from 4 to 2"),
        (
            "/run/vmpath/db1-vda.vhost",
            "/run/v",
            "disk db1/vda: vhost_user changes from /run/vmpath/db1-vda.vhost to /run/v",
        ),
        ("queues = 4", "queues = 2", "disk db1/vda: queues changes from 4 to 2"),
        ("read_only = true", "", "disk db1/vda: read_only changes from true to false"),
        ("queues = 4", "queues = 4\nwriters = \"many\"", "disk db1/vda: writers changes from one to many"),
        ("/dev/sdb", "/dev/sdc", "path fc0/a: url changes from block:///dev/sdb to block:///dev/sdc"),
        ("\"storage\"", "\"wheel\"", "host: admin_group changes from storage to wheel"),
    ];
    for (piece, replacement, expected) in cases {
        assert_eq!(refusals(&full_with(piece, replacement)), [format!("{expected}: a restart is needed")]);
    }
}

#[test]
fn everything_refused_is_said_at_once() {
    let text = full_with("connections = 4", "connections = 3").replace("nbd_tcp = 10810", "nbd_tcp = 10812");
    assert_eq!(refusals(&text).len(), 2);
    assert_eq!(good(&small_with("db1", "db2")).rebase(&good("")).expect_err("all new").len(), 2);
}
