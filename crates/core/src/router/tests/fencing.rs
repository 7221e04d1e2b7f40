//! Fences: what each kind of them frees and when, and what a disk with several writers is told only then.

use super::bench::{A, B, Bench, SAFE, failing, reason};
use crate::ids::UnitId;
use crate::plan::Gate;
use crate::router::{Confirmation, Fence, Operation, Standing, Support, Traits};
use crate::spec::{WriteCache, Writers};
use crate::testing::vm;
use crate::time::{Duration, Instant};
use crate::view::HoldReason;
use crate::volume::verdict::TargetError;

const IO: Result<(), TargetError> = Err(TargetError::Io);

fn bench() -> Bench {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b
}

/// A disk with several writers, and a write `1` that was lost on `a` and resent on `b`.
fn shared() -> Bench {
    let mut b = Bench::with(2, vec![vm("a")], |spec| spec.disks[0].writers = Writers::Many);
    b.up(A);
    b.write(1, 0);
    b.up(B);
    b.dead(A, &[]);
    assert_eq!(b.sent(), "1w@a 1w@b");
    b
}

/// A write that is lost with a connection that is fenced in this way.
fn lost_with(fence: Fence) -> Bench {
    let mut b = bench();
    b.write(1, 0);
    b.up(B);
    b.fence = fence;
    b.dead(A, &[]);
    b.answer(1, Ok(()));
    b.write(2, 0);
    b
}

#[test]
fn each_fence_has_its_time() {
    let by = Confirmation::CrossControllerReset;
    let promised = Duration::from_millis(700);
    for (fence, expected) in [
        (Fence::QuiesceBound, Some(SAFE)),
        (Fence::Promised(promised), Some(promised)),
        (Fence::Confirmed { by, at_latest: Some(promised) }, Some(promised)),
        (Fence::Confirmed { by, at_latest: None }, None),
    ] {
        let mut b = lost_with(fence);
        assert_eq!(b.sent(), "1w@a 1w@b", "{fence:?}");
        let Some(expected) = expected else {
            assert_eq!(b.wake(), Instant::FAR_FUTURE, "nothing but the event ends it");
            continue;
        };
        assert_eq!(b.wake(), b.now + expected, "{fence:?}");
        b.pass(expected.as_millis() as u64);
        assert_eq!(b.sent(), "2w@b", "{fence:?}");
    }
}

#[test]
fn what_the_kernel_has_completed_leaves_no_quarantine() {
    let mut b = lost_with(Fence::KernelCompletion);
    assert_eq!(b.sent(), "1w@a 1w@b 2w@b");
    assert_eq!((b.left, b.view().units[0].quarantined_ranges), (None, 0));
}

/// A kernel's EIO for a write whose transport was lost: the device may have it.
#[test]
fn an_error_that_proves_nothing_is_retried_and_leaves_a_quarantine() {
    let mut b = bench();
    b.up(B);
    b.write(1, 0);
    b.give_up(1);
    assert_eq!(b.sent(), "1w@a 1w@b", "on the other path at once");
    b.answer(1, Ok(()));
    b.write(2, 0);
    assert_eq!((b.done(), b.held()), ("1".into(), vec![(HoldReason::Quarantine, 1)]));
    b.read(3, 0);
    b.give_up(3);
    assert_eq!(b.record(), "0..1<5000", "a read leaves nothing");
    b.answer(3, Ok(()));
    b.wake_after(5000);
    assert_eq!(b.sent(), "3r@a 3r@b 2w@a");
    b.write(4, 8);
    b.give_up(4);
    b.give_up(4);
    assert_eq!((b.done(), b.record()), ("3 4:Io".into(), "0..1 8..9<5000".into()), "failed everywhere");
}

#[test]
fn a_fence_that_is_confirmed_frees_at_once_and_only_its_own() {
    let confirmed = Fence::Confirmed { by: Confirmation::SessionReinstatement, at_latest: Some(SAFE) };
    let mut b = bench();
    b.fence = confirmed;
    b.write(1, 0);
    b.up(B);
    b.dead(A, &[]);
    let first = b.left.expect("a write was lost");
    b.write(2, 4);
    b.up(A);
    b.dead(B, &[]);
    let second = b.left.expect("a write was lost");
    b.answer(2, Ok(()));
    b.write(3, 4);
    b.write(4, 0);
    b.sent();
    b.router.fenced(first, b.now);
    b.act();
    assert_eq!(b.record(), "0..1 4..5<5000", "1 was lost with the other connection too");
    b.router.fenced(second, b.now);
    b.act();
    assert_eq!(b.sent(), "3w@a 4w@a");
    b.router.fenced(second, b.now);
    b.pass(6000);
    assert_eq!(b.sent(), "", "twice is once, and its time comes to nothing");
}

#[test]
fn a_disk_with_several_writers_is_answered_after_the_fence() {
    let mut b = shared();
    b.answer(1, Ok(()));
    assert_eq!((b.done(), b.held()), (String::new(), vec![(HoldReason::Acknowledgement, 1)]));
    b.read(2, 0);
    b.write(3, 8);
    assert_eq!(b.sent(), "2r@b 3w@b", "nothing else waits");
    b.answer(3, Ok(()));
    assert_eq!(b.done(), "3", "what was not lost is answered at once");
    b.wake_after(5000);
    assert_eq!(b.done(), "1");
    let held = b.view().vms[0].held_time.clone();
    assert_eq!(held, [(HoldReason::Acknowledgement, SAFE)]);
}

#[test]
fn a_resend_that_is_answered_after_the_fence_is_told_at_once() {
    let mut b = shared();
    b.pass(5000);
    b.answer(1, Ok(()));
    assert_eq!(b.done(), "1");
}

/// Its guest would take an error for the end too, and let another host write there.
#[test]
fn several_writers_hear_of_a_failure_after_the_fence_too() {
    let mut b = shared();
    b.answer(1, IO);
    assert_eq!((b.done(), b.held()), (String::new(), vec![(HoldReason::Acknowledgement, 1)]));
    b.replan(|plan| plan.vms[0].gate = failing(&[UnitId(0)]));
    b.write(2, 9);
    assert_eq!(b.done(), "2:Io", "it was never sent");
    b.pass(4999);
    assert_eq!(b.done(), "");
    b.pass(1);
    assert_eq!(b.done(), "1:Io");
}

#[test]
fn a_bounce_does_not_wait_for_the_fence() {
    let mut b = shared();
    b.replan(|plan| plan.vms[0].gate = Gate::Bounce(reason()));
    b.answer(1, IO);
    assert_eq!(b.done(), "1:Io", "the hypervisor keeps it, the guest does not hear of it");
    b.replan(|plan| plan.vms[0].gate = Gate::Open);
    b.write(2, 0);
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)]);
}

#[test]
fn a_client_that_leaves_is_told_nothing_late() {
    let mut b = shared();
    b.answer(1, Ok(()));
    b.abandon(1);
    assert_eq!(b.done(), "1:ShuttingDown");
    b.pass(5000);
    assert_eq!((b.done(), b.record()), (String::new(), String::new()));
}

/// It covers what was acknowledged, and that was not.
#[test]
fn a_flush_does_not_wait_for_an_answer_that_waits_for_a_fence() {
    let mut b = shared();
    b.answer(1, Ok(()));
    b.submit(2, Operation::Flush, (0, 0));
    b.answer(2, Ok(()));
    assert_eq!(b.done(), "2");
}

#[test]
fn after_a_crash_what_was_not_acknowledged_is_still_open() {
    let mut b = shared();
    b.answer(1, Ok(()));
    b.crash();
    b.up(B);
    b.sent();
    b.replay(1, Operation::Write, (0, 1));
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)], "its resend was done; nobody else's is taken for it");
    b.wake_after(5000);
    b.answer(1, Ok(()));
    assert_eq!((b.sent(), b.done()), ("1w@b".into(), "1".into()));
}

/// The record tells ranges, not whose: an error to either of two could be the end of the one that was lost.
#[test]
fn after_a_crash_no_error_is_told_over_a_ghost_of_several_writers() {
    let mut b = shared();
    b.crash();
    b.replan(|plan| plan.vms[0].gate = failing(&[UnitId(0)]));
    b.write(7, 0);
    b.write(8, 4);
    assert_eq!((b.done(), b.held()), ("8:Io".into(), vec![(HoldReason::Acknowledgement, 1)]));
    b.wake_after(5000);
    assert_eq!(b.done(), "7:Io");
}

#[test]
fn a_quarantine_travels_as_what_remains_of_it() {
    let mut b = bench();
    b.write(1, 0);
    b.write(2, 8);
    b.up(B);
    b.dead(A, &[]);
    b.answer(2, Ok(()));
    b.pass(2000);
    let travelling = b.router.quarantines(UnitId(0), b.now);
    let rest = Duration::from_secs(3);
    assert!(travelling.iter().all(|q| q.remaining == rest));
    let standings: Vec<_> = travelling.iter().map(|q| (q.range.start / 4096, q.standing)).collect();
    assert_eq!(standings, [(0, Standing::Open), (8, Standing::Ghost)]);
    let mut there = bench();
    there.router.import_quarantine(UnitId(0), travelling, there.now);
    there.act();
    assert_eq!(there.record(), "0..1<3000 8..9<3000", "it outlives a crash there too");
    there.replay(1, Operation::Write, (0, 1));
    there.write(3, 8);
    there.write(4, 16);
    assert_eq!(there.sent(), "1w@a 4w@a");
    there.wake_after(3000);
    assert_eq!(there.sent(), "3w@a");
}

/// A reload with another `quiesce` holds for what is lost from then on, and for what a former process has left.
#[test]
fn a_reload_changes_no_fence_that_is_running() {
    let mut b = bench();
    b.write(1, 0);
    b.up(B);
    b.dead(A, &[]);
    b.answer(1, Ok(()));
    b.replan(|plan| {
        std::sync::Arc::make_mut(&mut plan.spec).targets[0].quiesce = Duration::from_secs(1);
    });
    assert_eq!(b.wake(), b.now + SAFE);
    b.write(2, 8);
    b.up(A);
    b.dead(B, &[]);
    assert_eq!(b.record(), "0..1<5000 8..9", "the new bound is for the new loss");
    assert_eq!(b.wake(), b.now + Duration::from_secs(1));
    b.crash();
    assert_eq!(b.record(), "0..1<1000 8..9<1000", "after a crash no longer than the bound that is set now");
}

/// A write whose resend was done, and whose flush died with a cache: the same bytes need not wait for their own ghost.
#[test]
fn a_resend_whose_cache_is_lost_goes_again_at_once() {
    let mut b = Bench::with(3, vec![vm("a")], |spec| spec.targets[0].write_cache = WriteCache::Volatile);
    let without_fua = Traits { fua: Support::No, ..super::bench::TRAITS };
    b.up_with(A, without_fua);
    b.write(1, 0);
    b.up_with(B, without_fua);
    b.dead(A, &[]);
    b.answer(1, Ok(()));
    assert_eq!(b.sent(), "1w@a 1w@b 1f@b");
    b.up_with(A, without_fua);
    b.dead(B, &[]);
    assert_eq!(b.sent(), "1w@a");
    b.answer(1, Ok(()));
    b.answer(1, Ok(()));
    assert_eq!((b.sent(), b.done()), ("1f@a".into(), "1".into()));
    b.write(2, 0);
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)]);
}

#[test]
fn a_flush_that_is_lost_is_repeated_elsewhere_and_leaves_nothing() {
    let mut b = bench();
    b.submit(1, Operation::Flush, (0, 0));
    b.up(B);
    b.dead(A, &[]);
    b.answer(1, Ok(()));
    assert_eq!((b.sent(), b.done(), b.record()), ("1f@a 1f@b".into(), "1".into(), String::new()));
}

/// Virtual time from submission to dispatch, for as long as a quarantine stands: a write elsewhere waits for nothing that a
/// read does not wait for.
#[test]
fn writes_beside_a_quarantine_wait_no_longer_than_reads() {
    let mut b = bench();
    b.write(1, 0);
    b.write(2, 3);
    b.up(B);
    b.dead(A, &[]);
    b.answer(1, Ok(()));
    b.answer(2, IO);
    b.sent();
    let mut submitted = std::collections::BTreeMap::new();
    let mut waited = [Duration::ZERO; 2];
    let mut unsent = 0;
    for round in 0..400_u32 {
        let token = 100 + round;
        let inside = round % 7 == 0;
        let block = if inside { 0 } else { 4 + u64::from(round % 40) };
        let operation = if round % 2 == 0 { Operation::Write } else { Operation::Read };
        submitted.insert(token, b.now);
        b.submit(token, operation, (block, 1));
        unsent += u32::from(inside && operation == Operation::Write);
        for sent in b.drain() {
            let of = usize::from(sent.request.operation == Operation::Read);
            waited[of] = waited[of].max(b.now.since(submitted[&sent.request.token]));
            b.answer(sent.request.token, Ok(()));
        }
        b.pass(10);
    }
    assert_eq!(waited, [Duration::ZERO; 2], "writes and reads");
    assert_eq!(b.held(), [(HoldReason::Quarantine, unsent)], "all that overlap it, and nothing else");
    assert!(unsent > 20);
}
