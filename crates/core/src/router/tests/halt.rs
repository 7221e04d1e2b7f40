//! Disks that stand still.

use super::bench::{A, B, Bench, SAFE, reason};
use crate::ids::{DiskId, UnitId};
use crate::plan::Gate;
use crate::router::{Knowledge, Operation, held_until};
use crate::spec::{ByteRate, DiskSpec, VmSpec};
use crate::testing::vm;
use crate::time::{Duration, Instant};
use crate::view::HoldReason;
use crate::volume::verdict::TargetError;

const DISK: DiskId = DiskId(0);

#[test]
fn a_stopped_disk_keeps_what_waits_and_lets_what_is_in_flight_finish() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.read(1, 0);
    b.read(2, 1);
    b.router.pause_disk(DISK);
    b.read(3, 2);
    b.answer(1, Ok(()));
    b.answer(2, Err(TargetError::Busy));
    b.pass(1000);
    assert_eq!((b.sent(), b.done()), ("1r@a 2r@a".into(), "1".into()));
    assert_eq!(b.held(), [(HoldReason::Stopped, 2)]);
    b.router.resume_disk(DISK, b.now);
    b.act();
    assert_eq!(b.sent(), "2r@a 3r@a");
}

#[test]
fn what_is_lost_or_unparked_while_stopped_waits_too() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.up(B);
    b.router.pause_disk(DISK);
    b.dead(A, &[]);
    assert_eq!(b.sent(), "1w@a");
    b.pass(6000);
    b.router.pause_disk(DISK);
    b.router.resume_disk(DISK, b.now);
    b.act();
    assert_eq!(b.sent(), "1w@b", "pausing twice is pausing once");
}

#[test]
fn a_stopped_disk_is_neither_starved_nor_charged_and_the_other_goes_on() {
    let slow = VmSpec { limit: Some(ByteRate(1 << 20)), ..vm("a") };
    let mut b = Bench::with(1, vec![slow, vm("b")], |spec| {
        spec.disks.push(DiskSpec { name: "vdb".into(), unit: UnitId(1), ..spec.disks[0].clone() });
    });
    b.up(A);
    b.router.pause_disk(DISK);
    for token in 1..9 {
        b.read(token, u64::from(token));
    }
    b.submit_for(1, 20, (0, 1));
    b.submit_on(DiskId(2), 10, (0, 1));
    assert_eq!(b.sent(), "20r@a 10r@a", "the VM's other disk");
    b.pass(1000);
    let load = b.router.load_report(b.now);
    assert!(load.vms[0].backlogged < 1e-9, "{load:?}");
    assert_eq!([load.vms[0].open, load.vms[1].open], [1, 1], "only what its own standstill does not keep");
    b.router.resume_disk(DISK, b.now);
    b.act();
    assert!(b.sent().starts_with("1r@a 2r@a"), "its limit has not been used up meanwhile");
}

#[test]
fn abandoning_and_answering_gates_work_on_a_stopped_disk() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.router.pause_disk(DISK);
    b.read(1, 0);
    b.read(2, 0);
    b.abandon(1);
    assert_eq!(b.done(), "1:ShuttingDown");
    b.replan(|plan| plan.vms[0].gate = Gate::Bounce(reason()));
    assert_eq!(b.done(), "2:Io");
    b.replan(|plan| plan.vms[0].gate = Gate::Open);
    b.router.resume_disk(DISK, b.now);
    b.read(3, 0);
    assert_eq!(b.sent(), "3r@a");
}

/// What no record tells of may reach any place of it: whoever serves it next must know, and it is not idle meanwhile.
#[test]
fn a_held_unit_is_handed_over_as_one_range_until_its_time() {
    let mut b = Bench::new(2, vec![vm("a"), vm("b")]);
    b.router.hold_unit_until(UnitId(0), b.now + SAFE);
    let told = b.router.quarantines(UnitId(0), b.now);
    assert_eq!(
        told.iter().map(|q| (q.range.clone(), q.remaining)).collect::<Vec<_>>(),
        [(0..u64::MAX, SAFE)]
    );
    let unit = |now| b.router.view(now).units[0].clone();
    let shown = unit(b.now);
    assert_eq!((shown.quarantined_ranges, shown.quarantined_for), (1, Some(SAFE)));
    assert!(b.router.quarantines(UnitId(1), b.now).is_empty());
    let over = b.now + SAFE;
    assert!(b.router.quarantines(UnitId(0), over).is_empty());
    assert_eq!(unit(over).quarantined_ranges, 0);
}

#[test]
fn after_a_boot_one_bound_passes_and_what_is_unknown_waits_from_when_it_was_seen() {
    let (quiesce, at) = (Duration::from_secs(5), Instant::from_millis);
    let held = |knowledge, quiesce, now| held_until(knowledge, at(1000), quiesce, at(now));
    let unknown = Knowledge::Incomplete { since: at(58_000) };
    assert_eq!(held(Knowledge::Complete, quiesce, 2000), Some(at(6000)));
    assert_eq!(held(Knowledge::Complete, quiesce, 6000), None);
    assert_eq!(held(unknown, quiesce, 60_000), Some(at(63_000)));
    assert_eq!(held(unknown, quiesce, 63_000), None);
    assert_eq!(held(unknown, Duration::ZERO, 58_000), None);
}

#[test]
fn nothing_goes_to_a_held_unit_before_its_time() {
    let mut b = Bench::new(2, vec![vm("a"), vm("b")]);
    b.router.hold_unit_until(UnitId(0), b.now + SAFE);
    b.up(A);
    b.read(1, 0);
    b.submit(2, Operation::Write, (4, 1));
    b.submit_for(1, 3, (0, 1));
    assert_eq!((b.sent(), b.held()), ("3r@a".into(), vec![(HoldReason::Fence, 2)]));
    b.router.hold_unit_until(UnitId(0), b.now);
    b.router.pause_disk(DISK);
    b.wake_after(5000);
    assert_eq!(
        (b.sent(), b.held()),
        (String::new(), vec![(HoldReason::Stopped, 2)]),
        "the later time, and its ring"
    );
    b.router.resume_disk(DISK, b.now);
    b.act();
    assert_eq!(b.sent(), "1r@a 2w@a");
}
