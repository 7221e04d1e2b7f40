//! What is written down of writes, and what a new process makes of it.

use super::bench::{A, B, Bench, reason};
use crate::ids::UnitId;
use crate::plan::Gate;
use crate::router::Operation;
use crate::testing::vm;
use crate::view::HoldReason;
use crate::volume::verdict::TargetError;

fn one_vm() -> Bench {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b
}

#[test]
fn a_write_is_in_the_record_from_before_it_leaves_until_its_answer() {
    let mut b = one_vm();
    b.write(1, 0);
    b.write(2, 1);
    b.read(3, 5);
    assert_eq!(b.record(), "0..1 1..2", "reads leave no trace");
    b.answer(1, Ok(()));
    assert_eq!(b.record(), "1..2");
    b.answer(2, Err(TargetError::Invalid));
    b.write(4, 9);
    assert_eq!(b.record(), "9..10", "an error is an outcome too");
}

#[test]
fn a_lost_write_stays_in_it_until_the_fence() {
    let mut b = one_vm();
    b.write(1, 0);
    b.up(B);
    b.dead(A, &[]);
    assert_eq!((b.sent(), b.record()), ("1w@a 1w@b".into(), "0..1".into()), "its guest has it open");
    b.answer(1, Ok(()));
    assert_eq!(b.record(), "0..1<5000", "a ghost, from before it is acknowledged");
    b.pass(5000);
    assert_eq!(b.record(), "");
    b.write(2, 0);
    b.dead(B, &[2]);
    assert_eq!(b.record(), "", "it was not sent");
}

#[test]
fn a_resend_that_outlives_the_fence_stays_in_it_until_its_answer() {
    let mut b = one_vm();
    b.write(1, 0);
    b.up(B);
    b.dead(A, &[]);
    b.pass(6000);
    assert_eq!(b.record(), "0..1");
    b.answer(1, Ok(()));
    assert_eq!(b.record(), "");
}

#[test]
fn who_is_gone_leaves_a_ghost() {
    let mut b = one_vm();
    b.write(1, 0);
    b.abandon(1);
    assert_eq!(b.record(), "0..1<", "until its answer: it is nobody's any more");
    b.dead(A, &[]);
    assert_eq!((b.done(), b.record()), ("1:ShuttingDown".into(), "0..1<5000".into()));
    b.up(A);
    b.write(2, 4);
    b.dead(A, &[]);
    b.replan(|plan| plan.vms[0].gate = Gate::Bounce(reason()));
    assert_eq!(
        (b.done(), b.record()),
        ("2:Io".into(), "0..1<5000 4..5<5000".into()),
        "it failed to the guest"
    );
}

#[test]
fn a_replayed_write_that_was_sent_is_a_resend_and_one_that_was_not_is_new() {
    let mut b = one_vm();
    b.write(1, 0);
    b.crash();
    assert_eq!(b.record(), "0..1<5000", "nobody's as long as nobody has claimed it");
    b.replay(1, Operation::Write, (0, 1));
    b.replay(2, Operation::Write, (0, 2));
    b.replay(3, Operation::Write, (7, 1));
    b.replay(4, Operation::Read, (0, 1));
    assert_eq!(b.record(), "0..1");
    b.up(A);
    b.sent();
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)], "what only overlaps waits");
    b.answer(1, Ok(()));
    assert_eq!(b.record(), "0..1<5000 7..8");
    b.write(5, 0);
    assert_eq!(b.sent(), "");
    b.wake_after(5000);
    assert_eq!(b.sent(), "2w@a 5w@a");
}

#[test]
fn a_new_write_claims_nothing() {
    let mut b = one_vm();
    b.write(1, 0);
    b.crash();
    b.up(A);
    b.write(2, 0);
    assert_eq!((b.sent(), b.held()), ("1w@a".into(), vec![(HoldReason::Quarantine, 1)]));
    b.wake_after(5000);
    assert_eq!(b.sent(), "2w@a");
}

/// An acknowledged write's ghost has the range of one that waits for it: they are not one write.
#[test]
fn a_ghost_is_claimed_by_nobody() {
    let mut b = one_vm();
    b.write(1, 0);
    b.up(B);
    b.dead(A, &[]);
    b.answer(1, Ok(()));
    b.write(2, 0);
    b.pass(1000);
    b.crash();
    b.up(B);
    b.sent();
    b.replay(2, Operation::Write, (0, 1));
    assert_eq!((b.sent(), b.record()), (String::new(), "0..1<4000".into()), "its fence stays where it was");
    b.wake_after(4000);
    assert_eq!(b.sent(), "2w@b");
}

#[test]
fn what_nobody_claimed_in_time_is_nobodys_after_the_next_crash() {
    let mut b = one_vm();
    b.write(1, 0);
    b.crash();
    b.crash();
    b.up(A);
    b.sent();
    b.replay(2, Operation::Write, (0, 1));
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)]);
}

#[test]
fn two_lost_writes_of_one_range_are_claimed_one_by_one() {
    let mut b = one_vm();
    b.write(1, 0);
    b.write(2, 0);
    b.crash();
    b.replay(1, Operation::Write, (0, 1));
    b.replay(2, Operation::Write, (0, 1));
    b.up(A);
    b.answer(1, Ok(()));
    assert_eq!(b.sent(), "1w@a 2w@a 1w@a", "one is resent");
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)], "the other waits");
    b.wake_after(5000);
    assert_eq!(b.sent(), "2w@a");
}

/// What a kernel's driver still carries out for a dead process has no bound before the driver has given it back.
#[test]
fn what_the_kernel_still_has_is_fenced_a_bound_after_it_gave_it_back() {
    let mut b = one_vm();
    b.write(1, 0);
    b.write(2, 4);
    let kept = b.crash_with_undead();
    assert_eq!((kept.len(), b.record()), (2, "0..1< 4..5<".into()));
    b.replay(1, Operation::Write, (0, 1));
    b.up(A);
    b.answer(1, Ok(()));
    assert_eq!((b.done(), b.record()), ("1".into(), "0..1< 4..5<".into()), "a resend may go and end");
    b.write(3, 0);
    b.write(4, 4);
    b.pass(60_000);
    assert_eq!(
        (b.sent(), b.held()),
        ("1w@a 2w@a 1w@a".into(), vec![(HoldReason::Quarantine, 2)]),
        "not by time alone"
    );
    assert!(b.router.has_endless_quarantine(UnitId(0)));
    b.router.fence_begins(kept[0], b.now);
    b.router.fence_begins(kept[1], b.now);
    b.act();
    assert_eq!(b.record(), "0..1<5000 4..5<5000");
    assert!(!b.router.has_endless_quarantine(UnitId(0)));
    b.pass(4999);
    assert_eq!(b.sent(), "");
    b.wake_after(1);
    assert_eq!(b.sent(), "3w@a 4w@a");
    b.router.fence_begins(kept[0], b.now);
    b.act();
    assert!(!b.record().contains('<'), "too late is nothing: {}", b.record());
}

#[test]
fn what_the_kernel_still_has_outlives_another_crash_and_a_bound_that_runs_is_kept() {
    let mut b = one_vm();
    b.write(1, 0);
    b.crash_with_undead();
    assert_eq!(b.crash_with_undead().len(), 1, "nothing has been given back since");
    assert_eq!(b.record(), "0..1<");
    b.crash();
    assert_eq!(b.record(), "0..1<5000", "nothing is left of it in the kernel");
    b.pass(1000);
    assert_eq!((b.crash_with_undead().len(), b.record()), (0, "0..1<4000".into()));
}
