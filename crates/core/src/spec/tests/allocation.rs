//! Affinity, groups, and reservations beside what the paths carry.

use super::super::Spec;
use super::{SMALL, check, faults, good, lines, parsed, small_with};
use crate::ids::{GroupId, VmId};

/// `SMALL` with more lines in its VM.
fn vm_with(more: &str) -> String {
    small_with("name = \"db1\"", &format!("name = \"db1\"\n{more}"))
}

fn warnings(text: &str) -> Vec<String> {
    let parsed = parsed(text).unwrap_or_else(|faults| panic!("{}\n{text}", lines(&faults).join("\n")));
    lines(&parsed.warnings)
}

/// A second target with paths `a` and `c`, and a disk of db1 on it.
const SECOND: &str = "
[[vm.disk]]
name = \"vdb\"
unit = \"san1/data\"
nbd = \"/run/vdb\"
[[target]]
name = \"san1\"
[[target.path]]
name = \"a\"
url = \"nbd://10.1.1.5\"
[[target.path]]
name = \"c\"
url = \"nbd://10.1.2.5\"
";

#[test]
fn affinity_faults() {
    check(
        "name = \"db1\"",
        &[
            ("avoid = 'a'", &["12:9 avoid: a list of strings is expected, and this is a string"]),
            ("paths = ['a', 1]", &["12:15 paths: a string is expected, and this is a whole number"]),
            ("paths = [1]", &["12:10 paths: a string is expected, and this is a whole number"]),
            ("avoid = ['a/b/c']", &["12:10 avoid: \"b/c\": '/' cannot be part of a name"]),
            ("avoid = ['']", &["12:10 avoid: the name is empty"]),
            ("avoid = ['c']", &["12:10 vm db1 has disks on san0, and there is no path named \"c\""]),
            ("paths = ['c']", &["12:10 vm db1 has disks on san0, and there is no path named \"c\""]),
            ("paths = ['a', 'san0/c']", &["12:15 target san0 has no path named \"c\""]),
            ("avoid = ['sna0/a']", &["12:10 no target is named \"sna0\""]),
            (
                "avoid = ['a', 'san0/b']",
                &["12:9 avoid: this leaves disk vda of vm db1 no path: it may use none of target san0"],
            ),
            (
                "paths = []",
                &["12:9 paths: this leaves disk vda of vm db1 no path: it may use none of target san0"],
            ),
            (
                "paths = ['a']\navoid = ['san0/a']",
                &["13:9 avoid: this leaves disk vda of vm db1 no path: it may use none of target san0"],
            ),
            ("avoid = ['a', 'a']", &["12:15 avoid: a stands there twice"]),
            ("avoid_paths = ['san0/a']", &["12:1 [[vm]] knows no key \"avoid_paths\""]),
        ],
    );
    let old = parsed(&vm_with("avoid_paths = ['san0/a']")).expect_err("renamed");
    assert!(old[0].hint.as_deref().is_some_and(|hint| hint.contains("avoid = ")), "{:?}", old[0].hint);
    let two = vm_with("paths = ['b']") + SECOND;
    let expected = "12:9 paths: this leaves disk vdb of vm db1 no path: it may use none of target san1";
    assert_eq!(faults(&two), [expected]);
    let idle = format!("{SMALL}[[vm]]\nname = \"idle\"\navoid = ['a']\n");
    assert_eq!(faults(&idle), ["18:10 vm idle has no disk, and so no path named \"a\""]);
}

/// A slip that has a fault already is not the reason for another.
#[test]
fn what_is_not_known_is_not_said_of_an_affinity() {
    let text = vm_with("paths = ['x']").replace("unit = \"san0/root\"", "unit = \"sna0/root\"");
    assert_eq!(faults(&text), ["15:8 no target is named \"sna0\""]);
    let text = vm_with("paths = ['x']").replace("name = \"b\"", "name = \"b b\"");
    assert_eq!(faults(&text), ["8:8 name: \"b b\": ' ' cannot be part of a name"]);
}

fn avoided(spec: &Spec) -> Vec<String> {
    spec.vm(VmId(0)).avoid_paths.iter().map(|p| spec.path_name(*p)).collect()
}

#[test]
fn avoid_takes_away_from_paths() {
    let cases: [(&str, &[&str]); 8] = [
        ("", &[]),
        ("paths = ['a']", &["san0/b", "san1/c"]),
        ("paths = ['san0/b', 'san1/a']", &["san0/a", "san1/c"]),
        ("avoid = ['a']", &["san0/a", "san1/a"]),
        ("avoid = ['san1/a']", &["san1/a"]),
        ("paths = ['a', 'b', 'c']\navoid = ['san0/a']", &["san0/a"]),
        ("paths = ['a', 'san1/c']\navoid = ['san1/a', 'b']", &["san0/b", "san1/a"]),
        ("avoid = ['b', 'c']\npaths = ['a', 'c']", &["san0/b", "san1/c"]),
    ];
    for (said, expected) in cases {
        let spec = good(&(vm_with(said) + SECOND));
        assert_eq!(avoided(&spec), *expected, "{said}");
        let used: Vec<_> = spec.paths_of_vm(VmId(0)).map(|p| spec.path_name(p)).collect();
        assert_eq!(used.len(), 4 - expected.len(), "{said}");
    }
}

#[test]
fn a_path_of_a_target_that_the_vm_does_not_use_has_no_effect() {
    let without_disk = SECOND.split_once("[[target]]").expect("there").1;
    for key in ["avoid", "paths"] {
        let text = format!("{}[[target]]{without_disk}", vm_with(&format!("{key} = ['a', 'san1/c']")));
        assert_eq!(warnings(&text), ["12:15 vm db1 has no disk on san1: this has no effect"]);
    }
}

#[test]
fn group_faults() {
    let group = "\n[[group]]\nname = 'g'\n";
    let cases = [
        (format!("{SMALL}[[group]]\nshares = 1\n"), vec!["16:1 [[group]]: name is missing"]),
        (format!("{SMALL}{group}shares = 0\n"), vec!["19:10 shares: this is not from 1 to 100000"]),
        (
            format!("{SMALL}{group}limit = '1 KiB/s'\n"),
            vec!["19:9 limit: \"1 KiB/s\" is too little for even one request of 4 KiB a second"],
        ),
        (format!("{SMALL}{group}limit_iops = 0\n"), vec!["19:14 limit_iops: 0 is not from 1 to 100000000"]),
        (
            format!("{SMALL}{group}limit_burst = '11s'\n"),
            vec!["19:15 limit_burst: \"11s\" is not from 0ms to 10s"],
        ),
        (
            format!("{SMALL}{group}reservation = '2 MiB/s'\nlimit = '1 MiB/s'\n"),
            vec!["19:15 reservation: 2 MiB/s is above the limit of 1 MiB/s at line 20"],
        ),
        (format!("{SMALL}{group}{group}"), vec!["21:8 another group is named \"g\"; first at line 18"]),
        (format!("{SMALL}{group}priority = 3\n"), vec!["19:1 [[group]] knows no key \"priority\""]),
        (vm_with("group = 'h'") + group, vec!["12:9 group: no group is named \"h\""]),
        (vm_with("group = 'h'"), vec!["12:9 group: no group is named \"h\""]),
        (vm_with("group = 'a b'") + group, vec!["12:9 group: \"a b\": ' ' cannot be part of a name"]),
        (vm_with("limit_burst = 5"), vec!["12:15 limit_burst: \"5\" has no unit"]),
        (
            vm_with("group = 'g'\nreservation = '2 MiB/s'") + group + "limit = '1 MiB/s'\n",
            vec!["13:15 reservation: 2 MiB/s is above the limit of 1 MiB/s of its group g at line 21"],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(&text), expected, "{text}");
    }
}

#[test]
fn group_warnings() {
    let alone = format!("{SMALL}[[group]]\nname = 'g'\nlimit_burst = '1s'\n");
    let expected = [
        "16:1 no vm is in group g: this has no effect",
        "18:15 limit_burst: there is neither limit nor limit_iops: this has no effect",
    ];
    assert_eq!(warnings(&alone), expected);
    let vm = |name: &str, more: &str| {
        format!(
            "[[vm]]\nname = '{name}'\n{more}\n[[vm.disk]]\nname = 'vda'\nunit = 'san0/{name}'\nnbd = '/run/{name}'\n"
        )
    };
    let mine = "group = 'g'\nreservation = '3 MiB/s'";
    let group = "[[group]]\nname = 'g'\nlimit = '5 MiB/s'\n";
    let text = format!("{SMALL}{}{}{group}", vm("x", mine), vm("y", mine));
    let expected = "34:9 limit: 5 MiB/s is below what the members of group g have reserved together, 6 MiB/s";
    assert_eq!(warnings(&text), [expected]);
}

/// One target with paths `a` and `b` of 100 MiB/s, and VMs as `(name, what else)`, each with one disk.
fn crowd(vms: &[(&str, &str)], rest: &str) -> String {
    let capacity = |text: &str, path: &str| {
        let name = format!("name = \"{path}\"");
        text.replace(&name, &format!("{name}\ncapacity = \"100 MiB/s\""))
    };
    let mut text = capacity(&capacity(SMALL.split_once("[[vm]]").expect("there").0, "a"), "b");
    for (name, more) in vms {
        text += &format!(
            "[[vm]]\nname = '{name}'\n{more}\n[[vm.disk]]\nname = 'vda'\nunit = 'san0/{name}'\nnbd = '/run/{name}'\n"
        );
    }
    text + rest
}

#[test]
fn who_goes_unmet_is_named() {
    let unmet = |vms: &[(&str, &str)], rest: &str| match warnings(&crowd(vms, rest)).as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        several => panic!("{several:?}"),
    };
    assert_eq!(unmet(&[("x", "reservation = '200 MiB/s'")], ""), "");
    assert_eq!(
        unmet(&[("x", "reservation = '201 MiB/s'")], ""),
        "2:1 the reservations on target san0, 201.0 MiB/s, do not fit what its paths carry, 200.0 MiB/s: even with every path up x (priority 100, 201.0 MiB/s) will go unmet"
    );
    // By priority, and a smaller one of a lower priority may still fit.
    let three = [
        ("low", "priority = 1\nreservation = '40 MiB/s'"),
        ("mid", "priority = 2\nreservation = '50 MiB/s'"),
        ("top", "priority = 3\nreservation = '160 MiB/s'"),
    ];
    assert!(unmet(&three, "").contains("every path up mid (priority 2, 50.0 MiB/s) will"));
    // The sums fit; the affinity does not let them.
    let narrow = "paths = ['a']\nreservation = '60 MiB/s'";
    let said = unmet(&[("x", narrow), ("y", narrow)], "");
    assert!(said.contains("carry, 200.0 MiB/s and by which of them each may use: "), "{said}");
    assert!(said.contains("every path up y (priority 100, 60.0 MiB/s) will"), "{said}");
    // Ties by name, and nobody who has reserved nothing.
    let many: Vec<(String, &str)> =
        (0..30).map(|i| (format!("v{i:02}"), "reservation = '50 MiB/s'")).collect();
    let mut many: Vec<(&str, &str)> = many.iter().map(|(name, more)| (name.as_str(), *more)).collect();
    many.push(("idle", ""));
    let said = unmet(&many, "");
    assert!(
        said.contains("every path up v04 (priority 100, 50.0 MiB/s), v05")
            && said.contains("and 6 more will")
    );
    assert!(!said.contains("idle"));
}

#[test]
fn a_group_counts_with_the_larger_of_its_own_and_its_members_reservations() {
    let group = |reserved: u64| format!("[[group]]\nname = 'g'\nreservation = '{reserved} MiB/s'\n");
    let vms = [
        ("x", "group = 'g'\nreservation = '60 MiB/s'\npriority = 7"),
        ("y", "group = 'g'\nreservation = '60 MiB/s'"),
        ("z", "reservation = '50 MiB/s'\npriority = 50"),
    ];
    for reserved in [1, 120, 150] {
        assert_eq!(warnings(&crowd(&vms, &group(reserved))), [""; 0], "{reserved}");
    }
    // x and y have 120 of 160, the group 40 more, at the priority of y; then z has no room, and the group has its own.
    let said = warnings(&crowd(&vms, &group(160)));
    assert!(said[0].contains("210.0 MiB/s, do not fit"), "{said:?}");
    assert!(said[0].contains("every path up x (priority 7, 60.0 MiB/s) will"), "{said:?}");
    let said = warnings(&crowd(&vms, &group(300)));
    assert!(said[0].contains("every path up group g (priority 100, 180.0 MiB/s) will"), "{said:?}");
}

#[test]
fn unknown_capacity_and_a_second_target_count_for_themselves() {
    let text = crowd(&[("x", "reservation = '500 MiB/s'")], "").replacen("capacity = \"100 MiB/s\"\n", "", 1);
    assert_eq!(warnings(&text), [""; 0]);
    // Half of the reservation lies on each disk.
    let on_san1 = "[[vm.disk]]\nname = 'vdb'\nunit = 'san1/u'\nnbd = '/run/u'\n[[target]]\nname = 'san1'\n[[target.path]]\nname = 'a'\nurl = 'nbd://10.9.1.1'\ncapacity = '150 MiB/s'\n[[target.path]]\nname = 'b'\nurl = 'nbd://10.9.1.2'\ncapacity = '50 MiB/s'\n";
    assert_eq!(warnings(&crowd(&[("x", "reservation = '400 MiB/s'")], on_san1)), [""; 0]);
    let said = warnings(&crowd(&[("x", "reservation = '402 MiB/s'")], on_san1));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].contains("target san1, 201.0 MiB/s"), "{said:?}");
}

fn grouped(workers: u16, of: [&str; 2], groups: &[&str]) -> Spec {
    let mut text = SMALL.split_once("[[vm]]").expect("there").0.to_owned();
    text += &format!("[host]\nworkers = {workers}\n");
    for group in groups {
        text += &format!("[[group]]\nname = '{group}'\n");
    }
    for (name, group) in ["x", "y"].iter().zip(of) {
        let group = if group.is_empty() { String::new() } else { format!("group = '{group}'\n") };
        text += &format!(
            "[[vm]]\nname = '{name}'\n{group}[[vm.disk]]\nname = 'vda'\nunit = 'san0/{name}'\nnbd = '/run/{name}'\n"
        );
    }
    good(&text)
}

fn groups_of(spec: &Spec) -> Vec<Option<&str>> {
    spec.vms.iter().map(|vm| vm.group.map(|group| spec.group(group).name.as_str())).collect()
}

#[test]
fn groups_come_and_go_and_vms_change_them_with_one_worker() {
    let running = grouped(1, ["g", "h"], &["g", "h"]);
    assert_eq!(grouped(1, ["g", "h"], &["h", "g"]).rebase(&running), Ok(running.clone()), "order is nothing");
    let changes: [([&str; 2], &[&str]); 5] = [
        (["g", "g"], &["g"]),
        (["new", "g"], &["new", "g"]),
        (["", "h"], &["h"]),
        (["h", "g"], &["g", "h"]),
        (["", ""], &[]),
    ];
    for (of, groups) in changes {
        let spec = grouped(1, of, groups).rebase(&running).expect("one worker");
        assert_eq!(groups_of(&spec), of.map(|name| (!name.is_empty()).then_some(name)), "{groups:?}");
        assert_eq!(spec.groups.len(), groups.len());
    }
    let two = grouped(2, ["g", "h"], &["g", "h"]);
    assert_eq!(grouped(2, ["g", "h"], &["new", "h", "g"]).rebase(&two).map(|s| s.groups.len()), Ok(3));
    assert_eq!(
        grouped(2, ["g", ""], &["g"]).rebase(&two),
        Err(vec![
            "vm y: group changes from h to none: with several workers a restart is needed, as it may have to move to another"
                .to_owned()
        ])
    );
}

#[test]
fn a_leaving_vm_keeps_its_group_while_there_is_one() {
    let running = grouped(1, ["h", "g"], &["g", "h"]);
    let without_x = |groups: &[&str]| {
        let mut spec = grouped(1, ["", "g"], groups);
        spec.vms.remove(0);
        spec.disks.remove(0);
        spec.disks[0].vm = VmId(0);
        spec
    };
    let kept = without_x(&["new", "h", "g"]).rebase(&running).expect("x leaves");
    assert_eq!(groups_of(&kept), [Some("h"), Some("g")]);
    let gone = without_x(&["g"]).rebase(&running).expect("x leaves");
    assert_eq!((groups_of(&gone), gone.vm(VmId(1)).group), (vec![None, Some("g")], Some(GroupId(0))));
}
