use super::super::{
    Access, ByteRate, Failback, GroupSpec, OnPathLoss, PathSelector, PathUrl, ResumeOn, SchedulerKind,
    ShedWhen, Source, Spec, When, WriteCache, Writers, parse,
};
use super::{SMALL, good, lines, parsed, small_with};
use crate::ids::{DiskId, GroupId, PathId, TargetId, UnitId, VmId};
use crate::time::Duration;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

#[test]
fn nothing_is_a_configuration() {
    let parsed = parsed("").expect("good");
    assert_eq!(parsed.warnings.len(), 1);
    let warning = parsed.warnings[0].to_string();
    assert!(warning.contains(":1:1: no target and no VM is configured"), "{warning}");
    let spec = parsed.spec;
    assert_eq!(spec.host.name, "localhost");
    assert_eq!(spec.host.api_socket, Path::new("/run/vmpath/vmpath.sock"));
    assert_eq!(spec.host.admin_group, "vmpath");
    assert_eq!((spec.host.shed_when, spec.host.shed_after), (ShedWhen::Unmet, Duration::from_secs(1)));
    assert_eq!(spec.host.state_dir, Path::new("/var/lib/vmpath"));
    assert_eq!((spec.host.journal_max, spec.host.journal_age), (32 << 20, Duration::from_secs(720 * 3600)));
    assert_eq!(spec.host.run_dir, Path::new("/run/vmpath"));
    assert_eq!(spec.host.workers, 1);
    assert_eq!((spec.host.scheduler, spec.groups), (SchedulerKind::Vmpath, vec![]));
}

#[test]
fn defaults_are_filled_in() {
    let parsed = parsed(SMALL).expect("good");
    assert_eq!(lines(&parsed.warnings), [""; 0]);
    let spec = parsed.spec;
    let target = spec.target(TargetId(0));
    assert_eq!(target.failback, Failback::Immediate);
    assert_eq!(target.quiesce, Duration::from_secs(5));
    assert_eq!(target.ping_budget, Duration::from_secs(5));
    assert_eq!(target.repair_after, Duration::from_secs(1));
    assert_eq!((target.write_cache, target.connections), (WriteCache::SurvivesPathLoss, 1));
    assert_eq!(target.path_selector, PathSelector::Vmpath);
    let path = spec.path(PathId(0));
    assert_eq!((path.capacity, path.access, path.window_max), (None, Access::Optimized, 64 * MIB));
    let unit = spec.unit(UnitId(0));
    assert_eq!((unit.export.as_str(), unit.assume_same), ("root", false));
    let vm = spec.vm(VmId(0));
    assert_eq!((vm.priority, vm.shares), (100, 1000));
    assert_eq!((vm.reservation, vm.limit, vm.limit_iops), (None, None, None));
    assert_eq!((vm.limit_burst, vm.group, &vm.avoid_paths), (Duration::from_millis(5), None, &vec![]));
    assert_eq!((vm.on_path_loss, vm.when, vm.resume), (OnPathLoss::Failover, When::Always, ResumeOn::Repair));
    assert_eq!(vm.on_no_path.to_string(), "hold 60s, then suspend");
    assert_eq!((vm.may_suspend, vm.may_migrate, vm.min_paths), (false, true, 1));
    let disk = spec.disk(DiskId(0));
    assert_eq!((&disk.vhost_user, disk.queues, disk.read_only), (&None, 1, false));
}

#[test]
fn every_key_is_read() {
    let spec = good(include_str!("full.toml"));
    assert_eq!(spec.host.name, "kvm1");
    assert_eq!(spec.host.api_socket, Path::new("/run/vmpath/api.sock"));
    assert_eq!(spec.host.admin_group, "storage");
    assert_eq!(
        (spec.host.shed_when, spec.host.shed_after),
        (ShedWhen::Reserved, Duration::from_millis(2500))
    );
    assert_eq!(spec.host.state_dir, Path::new("/srv/vmpath"));
    assert_eq!((spec.host.journal_max, spec.host.journal_age), (4 << 20, Duration::from_secs(48 * 3600)));
    assert_eq!((spec.host.run_dir.as_path(), spec.host.workers), (Path::new("/run/vmpath-kvm1"), 4));
    assert_eq!(spec.host.scheduler, SchedulerKind::None);
    let target = spec.target(TargetId(0));
    assert_eq!(target.path_selector, PathSelector::QueueLength);
    assert_eq!(target.failback, Failback::After(Duration::from_secs(30)));
    assert_eq!(target.quiesce, Duration::from_secs(10));
    assert_eq!(target.ping_budget, Duration::from_millis(500));
    assert_eq!(target.repair_after, Duration::from_secs(120));
    assert_eq!((target.write_cache, target.connections), (WriteCache::Volatile, 4));
    assert_eq!(spec.path(PathId(0)).window_max, 80 * MIB, "200 ms of 400 MiB/s");
    let b = spec.path(PathId(1));
    assert_eq!(b.capacity, Some(ByteRate(200_000_000)));
    assert_eq!((b.access, b.window_max), (Access::NonOptimized, 2 * MIB));
    let socket = PathBuf::from("/run/san 1.sock");
    assert_eq!(spec.path(PathId(2)).url, PathUrl::NbdUnix { socket, export: None });
    assert_eq!(spec.path(PathId(3)).url, PathUrl::Block { device: "/dev/sdb".into() });
    let unit = spec.unit(UnitId(0));
    assert_eq!((unit.export.as_str(), unit.assume_same), ("lun-7", true));
    let vm = spec.vm(VmId(0));
    assert_eq!((vm.priority, vm.shares), (200, 2000));
    assert_eq!((vm.reservation, vm.limit), (Some(ByteRate(80 * MIB)), Some(ByteRate(400 * MIB))));
    assert_eq!((vm.limit_iops, vm.limit_burst), (Some(20_000), Duration::ZERO));
    assert_eq!(vm.group, Some(GroupId(0)));
    assert_eq!(vm.qmp.as_deref(), Some(Path::new("/run/vmpath/db1.qmp")));
    assert_eq!(
        (vm.on_path_loss, vm.when, vm.resume),
        (OnPathLoss::FailoverSuspend, When::Outranked, ResumeOn::Failback)
    );
    assert_eq!(vm.on_no_path.to_string(), "hold 2m, then suspend, then fail");
    assert_eq!((vm.may_suspend, vm.may_migrate), (true, false));
    assert_eq!(vm.avoid_paths, [PathId(1), PathId(3)]);
    let via: Vec<_> = spec.paths.iter().map(|path| path.via.join("+")).collect();
    assert_eq!(via[..3], ["switch1", "switch2+hba1", ""]);
    groups_are_read(&spec);
    let tcp: Vec<_> = spec.disks.iter().filter_map(|d| d.nbd_tcp).map(|a| a.to_string()).collect();
    assert_eq!(tcp, ["127.0.0.1:10810", "[::1]:10811"]);
    let (vda, vdc) = (spec.disk(DiskId(0)), spec.disk(DiskId(2)));
    assert_eq!(vda.vhost_user.as_deref(), Some(Path::new("/run/vmpath/db1-vda.vhost")));
    assert_eq!((vda.queues, vda.read_only), (4, true));
    assert_eq!((vdc.nbd_socket.as_ref(), vdc.nbd_tcp), (None, None), "one front end is enough");
    assert_eq!((vdc.queues, vdc.read_only), (1, false));
}

fn groups_are_read(spec: &Spec) {
    let databases = GroupSpec {
        name: "databases".into(),
        shares: 3000,
        reservation: Some(ByteRate(90 * MIB)),
        limit: Some(ByteRate(500 * MIB)),
        limit_iops: Some(30_000),
        limit_burst: Duration::from_millis(20),
    };
    let tools = GroupSpec {
        name: "tools".into(),
        shares: 500,
        reservation: None,
        limit: None,
        limit_iops: None,
        limit_burst: Duration::from_millis(5),
    };
    assert_eq!(spec.groups, [databases, tools]);
    assert_eq!(spec.members_of(GroupId(0)).collect::<Vec<_>>(), [VmId(0)]);
    assert_eq!(spec.members_of(GroupId(1)).count(), 0);
}

#[test]
fn the_example_is_good() {
    let text = include_str!("../../../../../packaging/examples/vmpath.toml");
    let parsed = parsed(text).unwrap_or_else(|faults| panic!("{}", lines(&faults).join("\n")));
    assert_eq!(lines(&parsed.warnings), [""; 0]);
}

#[test]
fn every_key_is_documented_and_the_document_shows_a_good_configuration() {
    let text = include_str!("../../../../../docs/config.md");
    let keys = include_str!("full.toml").lines().filter_map(|line| line.split_once(" = "));
    for (key, _) in keys {
        assert!(text.contains(&format!("| `{key}` |")), "{key}");
    }
    let shown = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(lines(&parsed(shown.expect("an example")).expect("good").warnings), [""; 0]);
}

#[test]
fn several_files_are_one_configuration() {
    let vms = r#"
        [[vm]]
        name = "web1"
        [[vm.disk]]
        name = "vda"
        unit = "san0/web1"
        nbd_tcp = 10810
    "#;
    let host = "host.name = \"kvm1\"";
    let sources = [("vmpath.toml", SMALL), ("conf.d/10-web.toml", vms), ("conf.d/20-host.toml", host)];
    let sources = sources.map(|(name, text)| Source { name, text });
    let spec = parse(&sources).expect("good").spec;
    assert_eq!(spec.host.name, "kvm1");
    assert_eq!(spec.vm_by_name("web1"), Some(VmId(1)));
    assert_eq!(spec.unit_name(UnitId(1)), "san0/web1");
}

#[test]
fn shares_have_names_and_windows_follow_capacity() {
    for (shares, expected) in [("\"low\"", 500), ("\"normal\"", 1000), ("\"high\"", 2000), ("7", 7)] {
        let text = small_with("name = \"db1\"", &format!("name = \"db1\"\nshares = {shares}"));
        assert_eq!(good(&text).vm(VmId(0)).shares, expected);
    }
    for (capacity, expected) in [("128 KiB/s", 64 << 10), ("100 MiB/s", 20 * MIB), ("900 GiB/s", 1 << 30)] {
        let text = small_with("name = \"a\"", &format!("name = \"a\"\ncapacity = {capacity:?}"));
        assert_eq!(good(&text).path(PathId(0)).window_max, expected);
    }
}

/// The smallest configuration, its paths through these components.
fn via(a: &str, b: &str) -> String {
    let of = |name: &str, url: &str| format!("name = {name:?}\nurl = {url:?}");
    let path_a = of("a", "nbd://10.0.1.5");
    let text = small_with(&path_a, &format!("{path_a}\nvia = {a:?}"));
    let path_b = of("b", "nbd://10.0.2.5");
    text.replace(&path_b, &format!("{path_b}\nvia = [{b:?}]"))
}

/// Each makes sense to somebody, and is worth a word.
#[test]
fn warnings() {
    let vm = |more: &str| small_with("name = \"db1\"", &format!("name = \"db1\"\n{more}"));
    let qmp = "qmp = \"/q\"\n";
    let no_host = "no other host is configured: vm db1";
    let unmanaged = "vm db1: without qmp it cannot be suspended, only held";
    let cases = [
        (vm("on_path_loss = \"migrate\""), format!("12:16 {no_host} stays where it is")),
        (vm("on_path_loss = \"failover+migrate\""), format!("12:16 {no_host} stays where it is")),
        (vm("on_path_loss = \"suspend\""), format!("12:16 {unmanaged}")),
        (vm("on_path_loss = \"failover+suspend\""), format!("12:16 {unmanaged}")),
        (vm("on_no_path = \"hold 60s, then suspend\""), format!("12:14 {unmanaged}")),
        (vm("on_no_path = \"migrate, then fail\""), format!("12:14 {no_host} does not migrate, the next step comes")),
        (vm("may_suspend = true"), format!("12:15 {unmanaged}")),
        (vm(&format!("{qmp}on_no_path = \"hold 60s, then suspend, then fail\"")), "13:14 vm db1: `fail` comes only if the VM cannot be suspended: `suspend` has no time, so it lasts until a path is back".into()),
        (vm(&format!("{qmp}min_paths = 2\non_no_path = \"hold 60s, then fail\"")), "13:13 min_paths: on_no_path of vm db1 has neither `suspend` nor `migrate`, and nothing fails while a path is up: too few paths are told, and nothing follows".into()),
        (vm("limit_burst = \"1s\""), "12:15 limit_burst: there is neither limit nor limit_iops: this has no effect".into()),
        (vm("when = \"outranked\""), "12:8 when: on_path_loss is \"failover\", which needs no condition: this has no effect".into()),
        (small_with("nbd = \"/run/vmpath/db1-vda.sock\"", "nbd_tcp = \"10.0.0.1:10810\""), "15:11 nbd_tcp: NBD on 10.0.0.1:10810 is without TLS: anyone who reaches that address reads and writes this disk".into()),
        (format!("{SMALL}queues = 4"), "16:10 queues: only vhost_user has virtqueues: this has no effect".into()),
        (format!("{SMALL}[[vm]]\nname = \"idle\"\n"), "16:1 vm idle has no disk: nothing of it runs over vmpath".into()),
        (small_with("[[target.path]]\nname = \"b\"\nurl = \"nbd://10.0.2.5\"\n", ""), "2:1 this target has one path only: nothing to fail over to".into()),
        (small_with("[[vm]]", "[[target.unit]]\nname = \"root\"\n[[target.unit]]\nname = \"spare\"\n[[vm]]"), "13:8 no disk uses unit san0/spare".into()),
        (via("switch1", "switch1"), "7:7 via: all paths of san0 go via switch1: a single point of failure".into()),
    ];
    for (text, expected) in cases {
        let parsed = parsed(&text).unwrap_or_else(|faults| panic!("{}\n{text}", lines(&faults).join("\n")));
        assert_eq!(lines(&parsed.warnings), [expected]);
    }
    assert_eq!(lines(&parsed(&via("switch1", "switch2")).expect("good").warnings), [""; 0]);
    // What all of the target's paths share is not said again of each VM; what only its own share is.
    let third = "[[target.path]]\nname = \"c\"\nurl = \"nbd://10.0.3.5\"\n[[vm]]";
    let pinned = via("switch1", "switch1")
        .replace("[[vm]]", third)
        .replace("name = \"db1\"", "name = \"db1\"\navoid = [\"c\"]");
    let expected = "15:1 vm db1: all paths to san0 that it may use go via switch1: a single point of failure";
    assert_eq!(lines(&parsed(&pinned).expect("good").warnings), [expected]);
    for managed in ["on_path_loss = \"suspend\"", "on_no_path = \"suspend\"", "may_suspend = true"] {
        assert_eq!(lines(&parsed(&vm(&format!("{qmp}{managed}"))).expect("good").warnings), [""; 0]);
    }
}

/// The kernel's completion is a fence, if its drivers complete nothing without the device.
#[test]
fn a_block_device_needs_no_quiesce_bound() {
    let device = |text: &str| text.replacen("nbd://10.0.1.5", "block:///dev/sdb", 1);
    let both = device(SMALL).replacen("nbd://10.0.2.5", "block:///dev/sdc", 1);
    let spec = good(&both.replacen("name = \"san0\"", "name = \"san0\"\nquiesce = '0s'", 1));
    assert_eq!(spec.targets[0].quiesce, Duration::ZERO);
    let mixed = device(SMALL).replacen("name = \"san0\"", "name = \"san0\"\nquiesce = '0s'", 1);
    assert_eq!(super::faults(&mixed).len(), 1, "the path over the network has no other fence");
}

#[test]
fn several_writers_share_a_unit_if_each_says_so() {
    let shared = SMALL.replacen("unit =", "writers = 'many'\nunit =", 1);
    let other =
        "[[vm]]\nname = 'db2'\n[[vm.disk]]\nname = 'vda'\nunit = 'san0/root'\nwriters = 'many'\nnbd = '/x'";
    let spec = good(&format!("{shared}{other}"));
    assert_eq!((spec.units.len(), spec.disks.len()), (1, 2));
    assert!(spec.disks.iter().all(|disk| disk.writers == Writers::Many && disk.unit.index() == 0));
}
