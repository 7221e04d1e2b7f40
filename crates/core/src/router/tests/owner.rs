//! Whose a unit is, and open requests that change hosts.

use super::bench::{A, B, Bench, SAFE, failing};
use crate::ids::{DiskId, UnitId};
use crate::plan::Gate;
use crate::router::Operation;
use crate::spec::Writers;
use crate::testing::vm;
use crate::time::Duration;
use crate::view::HoldReason;
use crate::volume::verdict::TargetError;

const DISK: DiskId = DiskId(0);
const UNIT: UnitId = UnitId(0);

#[test]
fn nothing_goes_to_a_unit_that_is_anothers_and_what_was_in_flight_finishes() {
    let mut b = Bench::new(2, vec![vm("a"), vm("b")]);
    b.up(A);
    b.read(1, 0);
    b.write(2, 1);
    b.router.disown_unit(UNIT, b.now);
    b.read(3, 0);
    b.submit_for(1, 9, (0, 1));
    assert_eq!(b.sent(), "1r@a 2w@a 9r@a", "other units go on");
    assert_eq!(b.held(), [(HoldReason::Owner, 1)]);
    b.answer(1, Ok(()));
    b.answer(2, Err(TargetError::Busy));
    b.pass(1000);
    assert_eq!((b.sent(), b.done()), (String::new(), "1".into()), "no second attempt");
    b.router.own_unit(UNIT, b.now);
    b.act();
    assert_eq!(b.sent(), "2w@a 3r@a");
}

#[test]
fn what_is_lost_of_a_unit_that_is_anothers_is_not_resent() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.up(B);
    b.router.disown_unit(UNIT, b.now);
    b.dead(A, &[]);
    b.pass(10_000);
    assert_eq!(b.sent(), "1w@a");
    b.router.own_unit(UNIT, b.now);
    b.act();
    assert_eq!(b.sent(), "1w@b");
}

#[test]
fn the_ring_the_owner_and_the_move_each_hold_by_themselves() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.router.pause_disk(DISK);
    b.router.disown_unit(UNIT, b.now);
    b.router.begin_move(DISK);
    b.read(1, 0);
    assert_eq!(b.held(), [(HoldReason::Owner, 1)]);
    b.router.own_unit(UNIT, b.now);
    b.act();
    assert_eq!(b.held(), [(HoldReason::Owner, 1)], "its requests are still on their way");
    b.router.end_move(DISK, b.now);
    b.act();
    assert_eq!((b.sent(), b.held()), (String::new(), vec![(HoldReason::Stopped, 1)]));
    b.router.begin_move(DISK);
    b.router.resume_disk(DISK, b.now);
    b.act();
    assert_eq!(b.sent(), "", "the ring runs and the move holds");
    b.router.end_move(DISK, b.now);
    b.act();
    assert_eq!(b.sent(), "1r@a");
}

/// What was handed over must not be told to the guest by the host that it has left.
#[test]
fn no_gate_answers_what_is_being_handed_over() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.router.pause_disk(DISK);
    b.read(1, 0);
    b.router.begin_move(DISK);
    b.replan(|plan| plan.vms[0].gate = failing(&[UNIT]));
    b.read(2, 0);
    assert_eq!(b.done(), "");
    b.router.end_move(DISK, b.now);
    b.act();
    assert_eq!(b.done(), "1:Io 2:Io", "it stays, and its gate is what it is");
    b.read(3, 0);
    assert_eq!(b.done(), "3:Io");
    b.router.begin_move(DISK);
    b.read(4, 0);
    b.replan(|plan| plan.vms[0].gate = Gate::Open);
    b.router.end_move(DISK, b.now);
    b.router.resume_disk(DISK, b.now);
    b.act();
    assert_eq!((b.sent(), b.done()), ("4r@a".into(), String::new()));
}

#[test]
fn disks_with_several_writers_have_no_owner() {
    let mut b = Bench::with(1, vec![vm("a")], |spec| spec.disks[0].writers = Writers::Many);
    b.up(A);
    b.router.disown_unit(UNIT, b.now);
    b.read(1, 0);
    assert_eq!((b.sent(), b.router.is_owned(UNIT)), ("1r@a".into(), true));
}

#[test]
fn what_another_host_may_have_written_is_not_remembered_and_not_trusted() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.router.lay_out_samples(UNIT, 1 << 30, 4096);
    b.pass(1000);
    let (ticket, _) = b.router.sample_due(UNIT, b.now).expect("a place to read");
    b.router.sample_read(UNIT, ticket, Some(&[7; 4096]), b.now);
    assert!(!b.router.remembered_samples(UNIT).is_empty() && !b.router.has_many_writers(UNIT));
    b.router.disown_unit(UNIT, b.now);
    assert!(b.router.remembered_samples(UNIT).is_empty() && b.router.has_many_writers(UNIT));
    assert!(b.router.sample_due(UNIT, b.now + Duration::from_secs(60)).is_none());
}

/// What a hand-over says of each request is what its disk's connections have left of it.
#[test]
fn a_request_is_unknown_only_if_it_may_still_take_effect() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.write(2, 4);
    b.read(3, 8);
    b.router.pause_disk(DISK);
    b.write(4, 12);
    assert_eq!(b.fates(), "1:InFlight 2:InFlight 3:InFlight 4:Unsent");
    assert_eq!(b.router.carriers(DISK).len(), 1);
    b.dead(A, &[2]);
    assert_eq!(b.fates(), "1:Unknown 2:Unsent 3:Unsent 4:Unsent", "a read leaves nothing");
    assert!(b.router.carriers(DISK).is_empty());
    b.pass(5000);
    assert_eq!(b.fates(), "1:Unsent 2:Unsent 3:Unsent 4:Unsent", "after the fence nothing can come");
    b.abandon(1);
    assert_eq!(b.fates(), "2:Unsent 3:Unsent 4:Unsent");
}

/// The write of the quarantine goes at once on the other host; a different one that overlaps waits for what is left of the bound.
#[test]
fn open_requests_go_on_elsewhere_under_their_own_quarantine() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.router.pause_disk(DISK);
    b.write(2, 0);
    b.dead(A, &[]);
    b.pass(1000);
    assert_eq!(b.fates(), "1:Unknown 2:Unsent");
    let travelling = b.router.quarantines(UNIT, b.now);
    assert_eq!(travelling.len(), 1);
    let mut there = Bench::new(1, vec![vm("a")]);
    there.router.disown_unit(UNIT, there.now);
    there.router.begin_move(DISK);
    there.up(A);
    there.router.import_quarantine(UNIT, travelling, there.now);
    there.replay(1, Operation::Write, (0, 1));
    there.write(2, 0);
    there.router.own_unit(UNIT, there.now);
    there.act();
    assert_eq!(there.sent(), "", "owned, and not yet taken");
    there.router.end_move(DISK, there.now);
    there.act();
    assert_eq!(there.sent(), "1w@a");
    there.answer(1, Ok(()));
    there.wake_after((SAFE - Duration::from_secs(1)).as_millis() as u64);
    assert_eq!(there.sent(), "2w@a");
}
