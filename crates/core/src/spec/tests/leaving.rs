//! A reload that takes disks and VMs away, and brings them back: rows stay, and only their presence changes.

use super::super::{ByteRate, Presence, Spec};
use super::good;
use crate::ids::{DiskId, PathId, VmId};
use proptest::prelude::*;

const TARGETS: &str = "
[[target]]
name = \"san0\"
[[target.path]]
name = \"a\"
url = \"nbd://10.0.1.5\"
[[target.path]]
name = \"b\"
url = \"nbd://10.0.2.5\"
[[target]]
name = \"san1\"
[[target.path]]
name = \"a\"
url = \"nbd://10.0.3.5\"
";
const VMS: usize = 3;
const DISKS_OF_VM: usize = 2;

fn disk_name(disk: usize) -> String {
    format!("vm{}/d{}", disk / DISKS_OF_VM, disk % DISKS_OF_VM)
}

/// The VMs of which some disk is in `present`, with those disks, in the order given. Each VM avoids san0/a.
fn text(present: &[usize], reservation: u32) -> String {
    let mut text = TARGETS.to_owned();
    let mut vms: Vec<usize> = present.iter().map(|disk| disk / DISKS_OF_VM).collect();
    let mut seen = Vec::new();
    vms.retain(|vm| {
        !seen.contains(vm) && {
            seen.push(*vm);
            true
        }
    });
    for vm in vms {
        text += &format!(
            "[[vm]]\nname = \"vm{vm}\"\nreservation = \"{reservation} MiB/s\"\navoid = [\"san0/a\"]\n"
        );
        for disk in present.iter().filter(|disk| *disk / DISKS_OF_VM == vm) {
            let name = disk % DISKS_OF_VM;
            text += &format!(
                "[[vm.disk]]\nname = \"d{name}\"\nunit = \"san{name}/u{disk}\"\nvhost_user = \"/run/{disk}\"\n"
            );
        }
    }
    text
}

fn all() -> Vec<usize> {
    (0..VMS * DISKS_OF_VM).collect()
}

fn full() -> Spec {
    good(&text(&all(), 1))
}

fn leaving(spec: &Spec) -> Vec<String> {
    let leaving = spec.disk_ids().filter(|disk| spec.disk(*disk).presence == Presence::Leaving);
    leaving.map(|disk| spec.disk_name(disk)).collect()
}

#[test]
fn a_disk_that_is_gone_from_the_files_is_leaving_and_keeps_its_row() {
    let running = full();
    let spec = good(&text(&[0, 2, 3, 4, 5], 7)).rebase(&running).expect("a disk may leave");
    assert_eq!(leaving(&spec), ["vm0/d1"]);
    assert_eq!(spec.disk(DiskId(1)).vhost_user, running.disk(DiskId(1)).vhost_user);
    assert_eq!(spec.unit_name(spec.disk(DiskId(1)).unit), "san1/u1");
    assert_eq!(spec.vm(VmId(0)).presence, Presence::Present);
    assert_eq!(spec.vm(VmId(0)).reservation, Some(ByteRate(7 << 20)), "the VM's settings are the new ones");
}

/// What the files say of a target without a disk on it was not said with the leaving disk in mind.
#[test]
fn a_disk_that_leaves_keeps_the_affinity_it_had() {
    let running = full();
    for said in ["paths = [\"san1/a\"]", "avoid = [\"san0/a\", \"san0/b\"]", ""] {
        let text = text(&[1, 2, 3, 4, 5], 1).replacen("avoid = [\"san0/a\"]", said, 1);
        let spec = good(&text).rebase(&running).expect("a disk may leave");
        assert_eq!(leaving(&spec), ["vm0/d0"]);
        assert_eq!(spec.vm(VmId(0)).avoid_paths, [PathId(0)], "{said}");
    }
    let text = text(&[0, 2, 3, 4, 5], 1).replacen("avoid = [\"san0/a\"]", "paths = [\"a\"]", 1);
    let spec = good(&text).rebase(&running).expect("another disk leaves");
    assert_eq!(spec.vm(VmId(0)).avoid_paths, [PathId(1)], "where a disk stays the files rule");
}

#[test]
fn a_vm_that_is_gone_keeps_its_settings_and_all_its_disks() {
    let running = full();
    let spec = good(&text(&[4, 5, 0, 1], 7)).rebase(&running).expect("a VM may leave");
    assert_eq!(leaving(&spec), ["vm1/d0", "vm1/d1"]);
    let (before, after) = (running.vm(VmId(1)), spec.vm(VmId(1)));
    assert_eq!(after.presence, Presence::Leaving);
    assert_eq!((after.reservation, &after.avoid_paths), (before.reservation, &before.avoid_paths));
}

#[test]
fn it_comes_back_only_as_it_was() {
    let running = full();
    let without = good(&text(&[0, 2, 3, 4, 5], 1)).rebase(&running).expect("it leaves");
    assert_eq!(full().rebase(&without), Ok(running.clone()));
    for (piece, replacement, expected) in [
        (
            "san1/u1",
            "san1/other",
            "disk vm0/d1: unit changes from san1/u1 to san1/other: a restart is needed",
        ),
        ("/run/1", "/run/9", "disk vm0/d1: vhost_user changes from /run/1 to /run/9: a restart is needed"),
    ] {
        let other = good(&text(&all(), 1).replace(piece, replacement));
        assert_eq!(other.rebase(&without), Err(vec![expected.to_owned()]));
    }
    let renamed = good(&text(&all(), 1).replacen("\"d1\"", "\"d9\"", 1));
    assert_eq!(
        renamed.rebase(&without),
        Err(vec!["disk vm0/d9 is new: a restart is needed to add it".to_owned()])
    );
}

#[test]
fn what_a_disk_stands_on_may_not_leave_with_it() {
    let text = text(&[0, 2, 4], 1);
    let second = text.find("[[target]]\nname = \"san1\"").expect("there");
    let vms = text.find("[[vm]]").expect("there");
    let gone = good(&format!("{}{}", &text[..second], &text[vms..]));
    assert_eq!(
        gone.rebase(&full()),
        Err(vec!["target san1 is gone: a restart is needed to remove it".to_owned()])
    );
}

#[test]
fn all_vms_at_once_do_not_leave() {
    let none = || good(TARGETS);
    let refused = |running: &Spec, which: &str| {
        let why = format!(
            "{which} would leave at once, as if the files were cut short: a restart is needed to serve none"
        );
        assert_eq!(none().rebase(running), Err(vec![why]));
    };
    refused(&full(), "all 3 VMs");
    let one = good(&text(&[0, 1], 1)).rebase(&full()).expect("others may leave");
    refused(&one, "vm vm0, the only one,");
    assert!(none().rebase(&none()).is_ok(), "there was none");
    let nothing = good("").rebase(&full()).expect_err("no target, too");
    assert_eq!(nothing.len(), 3, "{nothing:?}");
}

/// A reload: which disks are in the files, in which order, and a reservation.
fn reload() -> impl Strategy<Value = (Vec<usize>, u32)> {
    let present = prop::sample::subsequence(all(), 1..=VMS * DISKS_OF_VM).prop_shuffle();
    (present, 1_u32..100)
}

proptest! {
    #[test]
    fn ids_mean_the_same_whatever_leaves_and_comes_back(reloads in prop::collection::vec(reload(), 1..8)) {
        let start = full();
        let mut running = start.clone();
        for (present, reservation) in reloads {
            let before = running.clone();
            running = good(&text(&present, reservation)).rebase(&running).expect("nothing but presence changes");
            let names = |spec: &Spec| {
                let disks: Vec<_> = spec.disk_ids().map(|d| (spec.disk_name(d), spec.unit_name(spec.disk(d).unit))).collect();
                let vms: Vec<_> = spec.vms.iter().map(|vm| vm.name.clone()).collect();
                let units: Vec<_> = spec.unit_ids().map(|unit| spec.unit_name(unit)).collect();
                (disks, vms, units, spec.paths.clone())
            };
            prop_assert_eq!(names(&running), names(&start));
            let absent: Vec<_> = all().into_iter().filter(|disk| !present.contains(disk)).map(disk_name).collect();
            prop_assert_eq!(leaving(&running), absent);
            for vm in running.vm_ids() {
                let all_leave = running.disks_of_vm(vm).all(|d| running.disk(d).presence == Presence::Leaving);
                let (now, then) = (running.vm(vm), before.vm(vm));
                prop_assert_eq!(now.presence == Presence::Leaving, all_leave);
                let expected = if all_leave { then.reservation } else { Some(ByteRate(u64::from(reservation) << 20)) };
                prop_assert_eq!(now.reservation, expected);
                prop_assert_eq!(&now.avoid_paths, &start.vm(vm).avoid_paths);
            }
        }
        let back = good(&text(&all(), 1)).rebase(&running);
        prop_assert_eq!(back, Ok(start));
    }
}
