//! Targets that are short of resources, and units whose requests fail while others are served.

use super::bench::{A, B, Bench, failing, passing};
use crate::ids::{UnitId, VmId};
use crate::router::Operation;
use crate::testing::vm;
use crate::time::Duration;
use crate::volume::verdict::TargetError;

/// However often and however long: what becomes of it is the policy's to say.
#[test]
fn a_busy_target_never_becomes_an_error_by_count_or_time() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    for round in 0..500 {
        b.answer(1, Err(TargetError::Busy));
        let least = if round < 5 { 50 << round } else { 1000 };
        b.pass(least - 1);
        assert_eq!((b.sent(), b.done()), ("1w@a".into(), String::new()), "round {round}");
        b.pass(1);
    }
    let lasts = b.router.load_report(b.now).short[0].lasts;
    assert!(lasts > Duration::from_secs(400), "control is told: {lasts:?}");
    b.answer(1, Ok(()));
    assert_eq!((b.sent(), b.done()), ("1w@a".into(), "1".into()));
    assert_eq!(b.router.load_report(b.now).short, [], "served: that is over");
}

#[test]
fn a_busy_path_is_left_for_another_and_a_flush_goes_there_after_the_pause() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    b.write(1, 0);
    b.answer(1, Err(TargetError::Busy));
    assert_eq!(b.sent(), "1w@a 1w@b");
    b.answer(1, Ok(()));
    b.submit(2, Operation::Flush, (0, 0));
    b.answer(2, Err(TargetError::Busy));
    assert_eq!(b.sent(), "2f@a");
    b.wake_after(50);
    assert_eq!(b.sent(), "2f@b");
}

#[test]
fn what_a_target_refuses_reaches_the_guest_only_when_the_policy_lets_it_and_goes_there_first() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.replan(|plan| plan.vms[0].gate = passing(&[UnitId(0)]));
    b.write(1, 0);
    b.write(2, 4);
    assert_eq!((b.sent(), b.done()), ("1w@a 2w@a".into(), String::new()));
    b.answer(1, Err(TargetError::Busy));
    b.answer(2, Ok(()));
    assert_eq!(b.done(), "1:Io 2", "it is asked each time, so that its end is seen");
}

/// Guests that mirror over two arrays live by this.
#[test]
fn a_unit_that_fails_takes_no_other_with_it() {
    let mut b = Bench::with(2, vec![vm("a"), vm("b")], |spec| spec.disks[1].vm = VmId(0));
    b.up(A);
    b.replan(|plan| plan.vms[0].gate = failing(&[UnitId(1)]));
    b.write(1, 0);
    b.read(2, 4);
    assert_eq!((b.sent(), b.done()), ("1w@a 2r@a".into(), String::new()));
    b.dead(A, &[]);
    assert_eq!((b.done(), b.held().len()), (String::new(), 1), "held: its own loss has only begun");
    b.replan(|plan| plan.vms[0].gate = failing(&[UnitId(0)]));
    assert_eq!(b.done(), "1:Io 2:Io");
}
