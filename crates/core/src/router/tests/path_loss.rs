//! `on_path_loss = "suspend"`: what such a VM has lost goes nowhere else before control has said so.

use super::bench::{A, B, Bench};
use crate::router::Loss;
use crate::spec::{OnPathLoss, VmSpec};
use crate::testing::vm;
use crate::view::HoldReason;

#[test]
fn a_vm_that_must_not_fail_over_waits_for_the_plan_that_knows_of_the_loss() {
    let stays = VmSpec { on_path_loss: OnPathLoss::Suspend, ..vm("a") };
    let mut b = Bench::new(2, vec![stays]);
    b.up(A);
    b.up(B);
    b.replan(|plan| plan.paths[1].preferred = false);
    b.read(1, 0);
    assert_eq!(b.sent(), "1r@a");
    b.lost(A, &[], Loss::OfLink { report: 3 });
    b.read(2, 1);
    b.replan(|plan| plan.link_reports = vec![2]);
    assert_eq!(b.sent(), "", "neither what was lost nor what is new goes to the other path");
    b.replan(|plan| plan.link_reports = vec![3]);
    assert_eq!(b.sent(), "1r@b 2r@b", "the policy knows of it and has left the gate open");
}

#[test]
fn another_workers_reports_are_not_waited_for() {
    let mut b = stays_on_a();
    b.closing(A);
    b.lost(A, &[], Loss::OfLink { report: 3 });
    b.replan(|plan| plan.link_reports = vec![2, 9]);
    assert_eq!(b.sent(), "");
    b.replan(|plan| plan.link_reports = vec![3, 0]);
    assert_eq!(b.sent(), "1r@b");
}

#[test]
fn a_vm_that_must_not_fail_over_repeats_on_the_path_while_it_has_a_connection() {
    let stays = VmSpec { on_path_loss: OnPathLoss::Suspend, ..vm("a") };
    let mut b = Bench::new(2, vec![stays]);
    b.up(A);
    b.up(B);
    b.replan(|plan| plan.paths[1].preferred = false);
    b.read(1, 0);
    b.sent();
    b.up(A);
    b.replan(|plan| (plan.paths[0].preferred, plan.paths[1].preferred) = (false, true));
    b.first_dead(A);
    assert_eq!(b.sent(), "1r@a", "though the other path is the better one now");
}

/// A VM that must not fail over, with `1r@a` sent, another connection of `a`, and a `b` that is as good as another.
fn stays_on_a() -> Bench {
    let mut b = Bench::new(2, vec![VmSpec { on_path_loss: OnPathLoss::Suspend, ..vm("a") }]);
    b.up(A);
    b.read(1, 0);
    assert_eq!(b.sent(), "1r@a");
    b.up(A);
    b.up(B);
    b
}

#[test]
fn a_vm_that_must_not_fail_over_waits_once_the_last_connection_is_cut() {
    let mut b = stays_on_a();
    b.closing(A);
    b.read(2, 1);
    assert_eq!(b.held(), [(HoldReason::Gate, 1)], "control does not even know of it yet");
    b.first_dead(A);
    b.replan(|plan| plan.link_reports = vec![2]);
    assert_eq!(b.sent(), "", "nor does what was lost go elsewhere before the other one is dead");
    b.lost(A, &[], Loss::OfLink { report: 3 });
    assert_eq!(b.sent(), "");
    b.replan(|plan| plan.link_reports = vec![3]);
    assert_eq!(b.sent(), "1r@b 2r@b", "the policy knows of it and has left the gate open");
}

#[test]
fn a_link_that_connects_again_before_it_is_lost_is_waited_for_no_longer() {
    let mut b = stays_on_a();
    b.closing(A);
    b.read(2, 1);
    assert_eq!(b.sent(), "");
    b.up(A);
    assert_eq!(b.sent(), "2r@b", "a new one goes where there is most room");
    b.first_dead(A);
    assert_eq!(b.sent(), "1r@a", "by the new one, and on the path on which it was lost");
    b.first_dead(A);
    b.read(3, 0);
    assert_eq!((b.sent().len(), b.held()), (4, vec![]), "nothing is left standing");
}

#[test]
fn a_vm_waits_only_for_links_to_its_own_units() {
    let stays = |name| VmSpec { on_path_loss: OnPathLoss::Suspend, ..vm(name) };
    let mut b = Bench::new(2, vec![stays("a"), stays("b"), vm("c")]);
    b.up(A);
    b.submit_for(1, 10, (0, 1));
    b.submit_for(2, 20, (0, 1));
    b.sent();
    b.closing(A);
    b.submit_for(1, 11, (0, 1));
    b.submit_for(2, 21, (0, 1));
    assert_eq!(b.sent(), "11r@a 21r@a", "by connections of their own");
}
