//! What the router does in the cases that have a name, each as a short script of what happens and what is expected.

mod ablation;
mod bench;
mod busy;
mod crash;
mod fencing;
mod halt;
mod owner;
mod path_loss;

use super::*;
use crate::ids::VmId;
use crate::plan::Health;
use crate::spec::{Access, ByteRate, VmSpec, WriteCache};
use crate::testing::vm;
use bench::{A, B, Bench, SAFE, reason};
use std::collections::VecDeque;

const IO: Result<(), TargetError> = Err(TargetError::Io);

#[test]
fn reads_and_writes_of_a_lost_path_go_over_the_other_at_once() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.read(1, 0);
    b.write(2, 4);
    assert_eq!(b.sent(), "1r@a 2w@a");
    b.up(B);
    b.dead(A, &[]);
    assert_eq!(b.sent(), "1r@b 2w@b", "in the order in which they came");
    b.answer(1, Ok(()));
    b.answer(2, Ok(()));
    assert_eq!(b.done(), "1 2");
    assert_eq!(b.failovers(), [(A, B)], "told once for the loss, not for each request");
    b.write(3, 4);
    b.write(4, 5);
    assert_eq!(b.sent(), "4w@b", "the ghost of 2 may still come");
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)]);
    b.wake_after(5000);
    assert_eq!(b.sent(), "3w@b");
}

#[test]
fn each_loss_is_told_once() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.read(1, 0);
    b.up(B);
    b.dead(A, &[]);
    b.answer(1, Ok(()));
    assert_eq!(b.failovers(), [(A, B)]);
    b.read(2, 0);
    b.up(A);
    b.dead(B, &[]);
    b.answer(2, Ok(()));
    assert_eq!(b.failovers(), [(B, A)]);
    b.dead(A, &[]);
    b.up(A);
    b.read(3, 0);
    b.answer(3, Ok(()));
    assert_eq!(b.failovers(), [], "nothing was lost with it");
    b.read(4, 0);
    b.dead(A, &[]);
    b.up(A);
    b.answer(4, Ok(()));
    assert_eq!(b.failovers(), [], "completed over the path on which it was lost");
}

#[test]
fn what_was_not_sent_leaves_no_quarantine() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.up(B);
    b.dead(A, &[1]);
    b.answer(1, Ok(()));
    b.write(2, 0);
    assert_eq!(b.sent(), "1w@a 1w@b 2w@b");
    assert_eq!(b.view().units[0].quarantined_ranges, 0);
}

#[test]
fn nothing_moves_before_the_connection_is_dead() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.write(2, 8);
    b.up(B);
    b.closing(A);
    assert_eq!(b.sent(), "1w@a 2w@a");
    b.answer(1, Ok(()));
    assert_eq!(b.done(), "1", "a reply that was on its way counts");
    b.write(3, 16);
    assert_eq!(b.sent(), "3w@b", "nothing new goes on it");
    b.dead(A, &[]);
    assert_eq!(b.sent(), "2w@b");
}

#[test]
fn an_io_error_tries_each_other_path_once() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    b.write(1, 0);
    b.answer(1, IO);
    b.answer(1, IO);
    assert_eq!((b.sent(), b.done()), ("1w@a 1w@b".into(), "1:Io".into()));
    b.read(2, 0);
    b.answer(2, IO);
    b.answer(2, Ok(()));
    assert_eq!((b.sent(), b.done()), ("2r@a 2r@b".into(), "2".into()));
    let paths = b.view().paths;
    assert_eq!((paths[0].errors, paths[1].errors), (2, 1));
    assert_eq!((paths[0].completed_requests, paths[1].completed_requests), (0, 1), "errors are no work done");
}

/// It would go back to the path that failed it, for ever.
#[test]
fn a_path_that_may_not_be_used_is_no_alternative() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    b.replan(|plan| plan.paths[1].health = Health::Disabled);
    b.read(1, 0);
    b.answer(1, IO);
    assert_eq!((b.sent(), b.done()), ("1r@a".into(), "1:Io".into()));
}

#[test]
fn errors_of_the_command_are_not_retried() {
    for error in [TargetError::NoSpace, TargetError::Invalid, TargetError::NotPermitted] {
        let mut b = Bench::new(2, vec![vm("a")]);
        b.up(A);
        b.up(B);
        b.write(1, 0);
        b.answer(1, Err(error));
        assert_eq!((b.sent(), b.done()), ("1w@a".into(), format!("1:{error:?}")));
    }
}

#[test]
fn a_busy_target_is_asked_again_after_a_pause() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.answer(1, Err(TargetError::Busy));
    assert_eq!(b.sent(), "1w@a");
    assert_eq!(b.held(), [(HoldReason::RetryLater, 1)]);
    b.write(2, 0);
    assert_eq!(b.sent(), "2w@a", "the others do not wait for it");
    b.wake_after(50);
    assert_eq!(b.sent(), "1w@a");
}

#[test]
fn a_target_that_shuts_down_is_left_and_never_hammered() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    b.write(1, 0);
    b.answer(1, Err(TargetError::ShuttingDown));
    assert_eq!(b.sent(), "1w@a 1w@b");
    b.answer(1, Err(TargetError::ShuttingDown));
    assert_eq!(b.sent(), "", "both are shutting down");
    b.wake_after(50);
    assert_eq!(b.sent().len(), 4);
}

#[test]
fn a_hold_keeps_everything_and_lets_what_is_in_flight_finish() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.write(2, 4);
    b.up(B);
    b.replan(|plan| plan.vms[0].gate = Gate::Hold(reason()));
    b.write(3, 8);
    b.answer(1, Ok(()));
    b.dead(A, &[]);
    assert_eq!((b.sent(), b.done()), ("1w@a 2w@a".into(), "1".into()));
    assert_eq!(b.held(), [(HoldReason::Gate, 2)]);
    assert_eq!(b.wake(), b.now + SAFE, "for the fence; the gate has no time of its own");
    b.replan(|plan| plan.vms[0].gate = Gate::Open);
    assert_eq!(b.sent(), "2w@b 3w@b");
}

#[test]
fn a_bounce_answers_what_waits_and_what_is_lost_and_lets_live_ones_finish() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.write(2, 4);
    b.write(3, 8);
    b.answer(3, Err(TargetError::Busy));
    b.up(B);
    b.replan(|plan| plan.paths[0].preferred = false);
    b.write(4, 12);
    assert_eq!(b.sent(), "1w@a 2w@a 3w@a 4w@b");
    b.replan(|plan| plan.vms[0].gate = Gate::Bounce(reason()));
    assert_eq!(b.done(), "3:Io", "it waited");
    b.write(5, 16);
    assert_eq!(b.done(), "5:Io");
    b.dead(A, &[]);
    assert_eq!(b.done(), "2:Io 1:Io", "lost");
    b.answer(4, Ok(()));
    assert_eq!((b.sent(), b.done()), (String::new(), "4".into()), "its path lives");
    b.replan(|plan| plan.vms[0].gate = Gate::Open);
    b.write(6, 0);
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)], "the hypervisor's repetition meets its own ghost");
}

#[test]
fn a_bounce_answers_in_order_and_nobody_elses() {
    let mut b = Bench::new(1, vec![vm("a"), vm("b")]);
    b.up(A);
    b.submit_for(1, 10, (0, 1));
    b.replan(|plan| plan.vms.iter_mut().for_each(|route| route.gate = Gate::Hold(reason())));
    b.write(1, 0);
    b.write(2, 4);
    b.abandon(1);
    b.submit_for(1, 11, (4, 1));
    b.write(3, 8);
    assert_eq!(b.done(), "1:ShuttingDown");
    b.replan(|plan| plan.vms[0].gate = Gate::Bounce(reason()));
    assert_eq!(b.done(), "2:Io 3:Io");
    b.submit(4, Operation::Read, (0, 1));
    assert_eq!((b.done(), b.held()), ("4:Io".into(), vec![]));
    assert_eq!(b.view().vms[1].held, 1);
}

#[test]
fn a_bounce_waits_for_neither_a_busy_target_nor_a_path() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up_with(A, Traits { fua: Support::No, ..bench::TRAITS });
    b.write(1, 0);
    b.stable_write(2, 4);
    b.replan(|plan| plan.vms[0].gate = Gate::Bounce(reason()));
    b.answer(1, Err(TargetError::Busy));
    assert_eq!(b.done(), "1:Io");
    b.closing(A);
    b.answer(2, Ok(()));
    assert_eq!(b.done(), "2:Io", "its flush has no path to go by");
}

#[test]
fn an_abandoned_request_is_dropped_if_it_waits_and_ends_unheard_if_not() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.replan(|plan| plan.vms[0].gate = Gate::Hold(reason()));
    b.write(2, 4);
    b.abandon(2);
    assert_eq!(b.done(), "2:ShuttingDown");
    b.abandon(1);
    assert_eq!(b.done(), "", "it is in flight");
    b.answer(1, Ok(()));
    assert_eq!(b.done(), "1");
    b.replan(|plan| plan.vms[0].gate = Gate::Open);
    b.write(3, 0);
    b.abandon(3);
    b.dead(A, &[]);
    b.up(A);
    assert_eq!((b.sent(), b.done()), ("1w@a 3w@a".into(), "3:ShuttingDown".into()), "not sent again");
    b.write(4, 0);
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)]);
}

/// A client that comes back repeats its writes and goes on; what it left behind must not land over that.
#[test]
fn what_overlaps_an_abandoned_write_waits_for_its_answer() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    b.abandon(1);
    b.write(2, 0);
    b.write(3, 1);
    b.read(4, 0);
    assert_eq!(b.sent(), "1w@a 3w@a 4r@a");
    assert_eq!(b.held(), [(HoldReason::Quarantine, 1)]);
    b.answer(1, IO);
    assert_eq!(b.sent(), "2w@a");
}

#[test]
fn the_best_ranked_path_is_used_alone() {
    let mut b = Bench::new(3, vec![vm("a")]);
    let c = PathId(2);
    b.up(c);
    b.up(B);
    b.up(A);
    b.replan(|plan| {
        plan.paths[0].preferred = false;
        plan.paths[2].access = Access::NonOptimized;
    });
    for token in 1..=20 {
        b.submit(token, Operation::Read, (u64::from(token) * 16, 16));
    }
    let window = "1r@b 2r@b 3r@b 4r@b 5r@b 6r@b 7r@b 8r@b 9r@b 10r@b 11r@b 12r@b 13r@b 14r@b";
    assert_eq!(b.sent(), window, "as much as the window takes");
    assert_eq!(b.held(), [(HoldReason::Window, 6)], "and nothing on the others");
    b.dead(B, &[]);
    let far = b.sent();
    assert!(far.starts_with("1r@c 2r@c") && !far.contains("@a"), "optimized comes before the standby: {far}");
    b.dead(c, &[]);
    assert!(b.sent().starts_with("1r@a"));
}

#[test]
fn load_goes_where_it_is_done_first() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    for token in 1..=4 {
        b.read(token, 0);
    }
    assert_eq!(b.sent(), "1r@a 2r@b 3r@a 4r@b");
}

/// The error was answered in no time; that says nothing of how fast the path works.
#[test]
fn a_path_that_fails_fast_does_not_look_fast() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    for round in 0..200 {
        b.submit(2 * round + 1, Operation::Read, (0, 64));
        b.submit(2 * round + 2, Operation::Read, (0, 64));
        b.pass(1);
        for sent in b.drain() {
            let sick = b.path_of(&sent) == A;
            b.answer(sent.request.token, if sick { Err(TargetError::NoSpace) } else { Ok(()) });
        }
    }
    let paths = b.view().paths;
    assert!(paths[0].rate <= paths[1].rate, "{} and {}", paths[0].rate, paths[1].rate);
}

#[test]
fn a_vm_leaves_headroom_to_one_of_higher_priority() {
    let mut b = Bench::new(1, vec![vm("a"), VmSpec { priority: 200, ..vm("b") }]);
    b.up(A);
    b.submit_for(1, 1, (0, 1));
    b.sent();
    for token in 2..40 {
        b.submit_for(0, token, (u64::from(token) * 16, 16));
    }
    let window = b.view().paths[0].window_bytes;
    let pending = b.view().paths[0].pending_bytes;
    assert!(pending <= window / 8 * 7 && pending > window / 8 * 6, "{pending}");
    b.submit_for(1, 100, (0, 16));
    assert!(b.sent().ends_with("100r@a"), "there is room for it at once");
    b.answer(1, Ok(()));
    b.answer(100, Ok(()));
    b.pass(51);
    b.answer(2, Ok(()));
    assert!(b.view().paths[0].pending_bytes > window / 8 * 7, "nobody to leave room for");
    b.replan(|plan| plan.vms[1].gate = Gate::Hold(reason()));
    b.submit_for(1, 101, (0, 16));
    for token in 3..20 {
        b.answer(token, Ok(()));
    }
    assert!(b.view().paths[0].pending_bytes > window / 8 * 7, "one that is held does not compete");
}

#[test]
fn a_vm_of_higher_priority_does_not_shut_the_others_out() {
    let got = compete(vec![vm("a"), VmSpec { priority: 200, ..vm("b") }], [16, 16]);
    assert!(got[0].abs_diff(got[1]) <= 4, "shares divide what is not reserved: {got:?}");
}

#[test]
fn headroom_does_not_take_a_reservation() {
    let reserved = VmSpec { reservation: Some(ByteRate(20 << 20)), shares: 1, ..vm("a") };
    let got = compete(vec![reserved, VmSpec { priority: 200, ..vm("b") }], [16, 16]);
    assert!(got[0] >= 19, "of 100 MiB/s reserved 20: {got:?}");
}

#[test]
fn small_requests_do_not_keep_a_large_one_out() {
    let got = compete(vec![vm("a"), vm("b")], [200, 1]);
    assert!(got[0] >= 40, "equal shares, large and small: {got:?}");
}

#[test]
fn a_request_larger_than_the_window_goes_when_the_path_is_empty() {
    let got = compete(vec![vm("a"), vm("b")], [512, 4]);
    assert!(got[0] >= 40, "twice the window, and small: {got:?}");
}

/// Two VMs that always have 64 requests waiting, of so many blocks each, on a path of 100 MiB/s that serves in order;
/// the MiB that each gets in a second.
fn compete(vms: Vec<VmSpec>, blocks: [u64; 2]) -> Vec<u64> {
    let mut b = Bench::new(1, vms);
    b.up(A);
    let mut owner = Vec::new();
    for number in 0..128 {
        owner.push(number % 2);
        b.submit_for(number % 2, number as u32, (0, blocks[number % 2]));
    }
    let mut line: VecDeque<_> = b.drain().into();
    let end = b.now + Duration::from_secs(1);
    let mut got = [0, 0];
    while b.now < end {
        let sent = line.pop_front().expect("a path with work waiting is busy");
        let bytes = u64::from(sent.request.length);
        b.now += Duration::from_nanos((bytes + 8192) * 1_000_000_000 / (100 << 20));
        let vm = owner[sent.request.token as usize];
        b.answer(sent.request.token, Ok(()));
        got[vm] += bytes;
        owner.push(vm);
        b.submit_for(vm, u32::try_from(owner.len() - 1).unwrap(), (0, blocks[vm]));
        line.extend(b.drain());
    }
    got.map(|bytes| bytes >> 20).to_vec()
}

#[test]
fn a_vm_that_was_held_is_owed_nothing() {
    let mut b = Bench::new(1, vec![vm("a"), vm("b")]);
    b.up(A);
    b.replan(|plan| plan.vms[0].gate = Gate::Hold(reason()));
    for token in 0..30 {
        b.submit_for(0, token, (0, 16));
    }
    for token in 1000..1500 {
        b.submit_for(1, token, (0, 16));
        b.answer(token, Ok(()));
    }
    b.drain();
    for token in 100..130 {
        b.submit_for(1, token, (0, 16));
    }
    b.drain();
    b.replan(|plan| plan.vms[0].gate = Gate::Open);
    for token in 100..114 {
        b.answer(token, Ok(()));
    }
    let of_held = b.drain().iter().filter(|s| s.request.token < 100).count();
    assert!((6..=8).contains(&of_held), "{of_held} of 14");
}

#[test]
fn without_a_path_the_view_says_so_and_the_next_connection_takes_all() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.write(1, 0);
    b.read(2, 0);
    b.pass(30);
    assert_eq!(b.held(), [(HoldReason::NoPath, 2)]);
    assert_eq!(b.view().vms[0].oldest_held, Some(Duration::from_millis(30)));
    assert_eq!(b.wake(), Instant::FAR_FUTURE);
    b.up(A);
    assert_eq!(b.sent(), "1w@a 2r@a");
    b.dead(A, &[]);
    assert_eq!(b.held(), [(HoldReason::NoPath, 2)]);
}

#[test]
fn avoided_and_disabled_paths_are_no_paths() {
    let mut b = Bench::new(2, vec![VmSpec { avoid_paths: vec![A], ..vm("a") }]);
    b.up(A);
    b.read(1, 0);
    assert_eq!(b.held(), [(HoldReason::NoPath, 1)]);
    b.replan(|plan| plan.paths[1].health = Health::Disabled);
    b.up(B);
    assert_eq!(b.held(), [(HoldReason::NoPath, 1)]);
    b.replan(|plan| plan.paths[1].health = Health::Marginal);
    assert_eq!(b.sent(), "1r@b", "marginal is used last, not never");
}

#[test]
fn one_connection_is_left_only_when_nothing_is_in_flight_on_it() {
    let mut b = Bench::new(2, vec![vm("a")]);
    let alone = Traits { sharing: Sharing::OneConnection, ..bench::TRAITS };
    b.up_with(A, alone);
    b.up_with(B, alone);
    b.read(1, 0);
    b.read(2, 0);
    assert_eq!(b.sent(), "1r@a 2r@a");
    b.replan(|plan| plan.paths[0].health = Health::Marginal);
    b.read(3, 0);
    b.answer(1, Ok(()));
    assert_eq!(b.sent(), "", "2 is still on a");
    b.answer(2, Ok(()));
    assert_eq!(b.sent(), "3r@b");
    b.closing(B);
    b.read(4, 0);
    assert_eq!(b.sent(), "", "3 is still on b");
    b.dead(B, &[]);
    assert_eq!(b.sent(), "3r@a 4r@a");
}

#[test]
fn one_connection_stays_itself_though_its_path_has_others() {
    let mut b = Bench::new(1, vec![vm("a")]);
    let alone = Traits { sharing: Sharing::OneConnection, ..bench::TRAITS };
    b.up_with(A, alone);
    b.up_with(A, alone);
    b.read(1, 0);
    b.read(2, 0);
    let sent = b.drain();
    assert_eq!(sent.len(), 2, "the second does not wait for the first");
    assert_eq!(sent[0].connection, sent[1].connection);
}

#[test]
fn one_connection_waits_for_those_that_were_allowed_before() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.read(1, 0);
    b.up_with(B, Traits { sharing: Sharing::OneConnection, ..bench::TRAITS });
    b.read(2, 0);
    assert_eq!(b.sent(), "1r@a");
    b.answer(1, Ok(()));
    assert_eq!(b.sent(), "2r@a");
}

#[test]
fn an_io_error_moves_the_one_connection_even_to_a_worse_path() {
    let mut b = Bench::new(2, vec![vm("a")]);
    let alone = Traits { sharing: Sharing::OneConnection, ..bench::TRAITS };
    b.up_with(A, alone);
    b.up_with(B, alone);
    b.replan(|plan| plan.paths[1].health = Health::Marginal);
    b.read(1, 0);
    b.answer(1, IO);
    b.answer(1, IO);
    assert_eq!((b.sent(), b.done()), ("1r@a 1r@b".into(), "1:Io".into()));
    b.read(2, 0);
    assert_eq!(b.sent(), "2r@a");
}

#[test]
fn a_flush_for_the_cache_of_the_one_connection_waits_for_what_has_moved_on() {
    let mut b = Bench::with(2, vec![vm("a")], |spec| spec.targets[0].write_cache = WriteCache::Volatile);
    let alone = Traits { sharing: Sharing::OneConnection, fua: Support::No, ..bench::TRAITS };
    b.up_with(A, alone);
    b.up_with(B, alone);
    b.write(1, 0);
    b.write(2, 4);
    assert_eq!(b.sent(), "1w@a 2w@a");
    b.answer_all(&[(2, Ok(())), (1, IO)]);
    assert_eq!(b.sent(), "1w@b", "and not the flush of 2 on a, beside it");
    b.answer(1, Ok(()));
    assert_eq!(b.sent(), "1f@b");
    b.answer(1, Ok(()));
    assert_eq!((b.sent(), b.done()), ("2f@a".into(), "1".into()));
    b.answer(2, Ok(()));
    assert_eq!(b.done(), "2");
}

#[test]
fn a_durable_write_without_fua_is_a_write_and_a_flush() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up_with(A, Traits { fua: Support::No, ..bench::TRAITS });
    b.stable_write(1, 0);
    b.write(2, 4);
    b.answer(2, Ok(()));
    b.answer(1, Ok(()));
    assert_eq!((b.sent(), b.done()), ("1w@a 2w@a 1f@a".into(), "2".into()));
    b.up(B);
    b.dead(A, &[]);
    assert_eq!(b.sent(), "1f@b", "the cache survives the path: any flush will do");
    b.answer(1, Ok(()));
    assert_eq!(b.done(), "1");
    b.stable_write(3, 8);
    assert_eq!(b.sent(), "3W@b", "with FUA it is one request");
}

#[test]
fn where_the_cache_is_volatile_every_write_is_durable() {
    let mut b = Bench::with(2, vec![vm("a")], |spec| spec.targets[0].write_cache = WriteCache::Volatile);
    b.up(A);
    b.write(1, 0);
    assert_eq!(b.sent(), "1W@a");
    b.dead(A, &[1]);
    b.up_with(A, Traits { fua: Support::No, ..bench::TRAITS });
    b.answer(1, Ok(()));
    assert_eq!((b.sent(), b.done()), ("1w@a 1f@a".into(), String::new()));
    b.up(B);
    b.dead(A, &[]);
    assert_eq!(b.sent(), "1W@b", "the flush was for a cache that is gone: the write is due again");
    b.answer(1, Ok(()));
    assert_eq!(b.done(), "1");
}

#[test]
fn a_flush_that_fails_for_a_volatile_cache_takes_its_write_along() {
    let mut b = Bench::with(2, vec![vm("a")], |spec| spec.targets[0].write_cache = WriteCache::Volatile);
    b.up_with(A, Traits { fua: Support::No, ..bench::TRAITS });
    b.write(1, 0);
    b.answer(1, Ok(()));
    b.up(B);
    b.answer(1, IO);
    assert_eq!(b.sent(), "1w@a 1f@a 1W@b");
    b.answer(1, IO);
    assert_eq!(b.done(), "1:Io");
}

#[test]
fn a_flush_that_failed_is_not_repaired_by_one_on_another_path() {
    let mut b = Bench::new(2, vec![vm("a")]);
    let without_fua = Traits { fua: Support::No, ..bench::TRAITS };
    b.up_with(A, without_fua);
    b.stable_write(1, 0);
    b.answer(1, Ok(()));
    b.up_with(B, without_fua);
    b.answer(1, IO);
    b.answer(1, Ok(()));
    assert_eq!(b.sent(), "1w@a 1f@a 1w@b 1f@b", "the target tells of lost data once");
    b.answer(1, Ok(()));
    assert_eq!(b.done(), "1");
}

#[test]
fn sampling_holds_writes_to_its_ranges() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.write(1, 0);
    let ranges = b.router.begin_sampling(UnitId(0), &[0..8192, 65536..69632]);
    assert_eq!(ranges.len(), 2);
    b.write(2, 1);
    b.read(3, 1);
    b.write(4, 2);
    assert_eq!(b.sent(), "1w@a 3r@a 4w@a");
    assert_eq!(b.held(), [(HoldReason::Identity, 1)]);
    assert!(!b.router.sampling_is_quiet(UnitId(0)));
    b.answer(1, Ok(()));
    assert!(b.router.sampling_is_quiet(UnitId(0)));
    b.router.end_sampling(UnitId(0), b.now);
    b.act();
    assert_eq!(b.sent(), "2w@a");
}

#[test]
fn the_view_counts_what_is_there() {
    let mut b = Bench::new(2, vec![vm("a"), vm("b")]);
    b.up(A);
    b.up(A);
    b.write(1, 0);
    b.read(2, 0);
    b.submit_for(1, 3, (0, 2));
    let view = b.view();
    assert_eq!((view.paths[0].connections, view.paths[0].pending_requests), (4, 3), "two for each unit");
    assert_eq!(view.paths[0].pending_bytes, (1 + 1 + 2) * 4096 + 3 * 8192, "and a base for each");
    assert_eq!((view.vms[0].in_flight, view.vms[1].in_flight), (2, 1));
    b.pass(3);
    b.answer(1, Ok(()));
    b.answer(3, IO);
    b.dead(A, &[]);
    let view = b.view();
    assert_eq!((view.vms[0].completed_requests, view.vms[0].completed_bytes), (1, 4096));
    assert_eq!((view.vms[0].in_flight, view.vms[0].held, view.vms[0].retried_requests), (0, 1, 1));
    assert_eq!(
        (view.paths[0].connections, view.paths[0].pending_requests, view.paths[0].pending_bytes),
        (2, 0, 0)
    );
    assert_eq!((view.vms[1].failed_requests, view.vms[1].completed_requests), (1, 0));
    assert_eq!((view.paths[0].errors, view.paths[0].service_time), (1, Duration::from_millis(3)));
}

#[test]
fn the_report_tells_waiting_for_room_from_waiting_for_the_limit() {
    let limit_burst = Duration::from_micros(4625);
    let limited = VmSpec { limit: Some(ByteRate(1 << 20)), limit_burst, ..vm("b") };
    let mut b = Bench::new(2, vec![vm("a"), limited]);
    b.up(A);
    b.up(B);
    b.replan(|plan| plan.paths[1].preferred = false);
    for token in 1..=16 {
        b.submit(token, Operation::Read, (0, 16));
    }
    b.submit_for(1, 100, (0, 4));
    b.submit_for(1, 101, (0, 4));
    b.pass(30);
    for token in 1..=14 {
        b.answer(token, Ok(()));
    }
    // Its second request may go after 16 KiB at 1 MiB/s, less the burst.
    b.pass(11);
    b.pass(59);
    let report = b.router.load_report(b.now);
    assert_eq!(report.interval, Duration::from_millis(100));
    let near = |part: f64, expected: f64| (part - expected).abs() < 1e-6;
    assert!(near(report.vms[0].backlogged, 0.3), "{report:?}");
    assert!(near(report.vms[1].backlogged, 0.3), "until its limit is what keeps it: {report:?}");
    assert_eq!(report.vms[0].bytes_completed, 14 << 16);
    assert!(near(report.paths[0].saturated, 0.3), "{report:?}");
    assert!(
        near(report.paths[1].saturated, 0.0),
        "a standby that nobody may use yet is not full: {report:?}"
    );
    b.pass(50);
    let report = b.router.load_report(b.now);
    assert!(near(report.vms[0].backlogged, 0.0) && near(report.paths[0].saturated, 0.0), "{report:?}");
}

#[test]
fn the_report_tells_that_requests_wait_without_any_path() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.read(1, 0);
    b.pass(100);
    let report = b.router.load_report(b.now);
    assert_eq!((report.vms[0].open, report.vms[0].is_active()), (1, true), "{report:?}");
    assert!(report.vms[0].backlogged < 1e-9, "it waits for no room: {report:?}");
    b.abandon(1);
    assert!(!b.router.load_report(b.now).vms[0].is_active());
}

#[test]
fn a_limit_holds_back_new_requests_and_no_failover() {
    let limited = VmSpec { limit: Some(ByteRate(1 << 20)), ..vm("a") };
    let mut b = Bench::new(2, vec![limited]);
    b.up(A);
    b.submit(1, Operation::Read, (0, 256));
    b.read(2, 0);
    assert_eq!(b.sent(), "1r@a");
    assert_eq!(b.held(), [(HoldReason::Limit, 1)]);
    assert_eq!(b.wake(), b.now + Duration::from_millis(995), "a second's worth, less the burst");
    b.up(B);
    b.dead(A, &[]);
    assert_eq!(b.sent(), "1r@b", "it has been paid for");
    b.answer(1, Ok(()));
    b.wake_after(995);
    assert_eq!(b.sent(), "2r@b");
}

#[test]
fn a_disk_without_a_path_does_not_block_its_sibling() {
    let mut b = Bench::with(1, vec![vm("a"), vm("b")], |spec| spec.disks[1].vm = VmId(0));
    b.up(A);
    b.submit_on(DiskId(1), 1, (0, 1));
    b.read(2, 0);
    assert_eq!(b.sent(), "2r@a");
    assert_eq!(b.held(), [(HoldReason::NoPath, 1)]);
}

#[test]
fn a_reply_to_nothing_changes_nothing() {
    let mut b = Bench::new(1, vec![vm("a")]);
    b.up(A);
    b.read(1, 0);
    let sent = b.drain().remove(0);
    assert_eq!(b.router.reply(sent.connection, sent.cookie + (1 << 24), Ok(()), b.now), Err(UnknownCookie));
    assert_eq!(b.router.attempt(sent.connection, sent.cookie), Some(sent.request));
    assert_eq!(b.router.reply(sent.connection, sent.cookie, Ok(()), b.now), Ok(()));
    assert_eq!(b.router.reply(sent.connection, sent.cookie, Ok(()), b.now), Err(UnknownCookie), "twice");
}

#[test]
fn a_path_that_was_slow_once_gets_another_chance() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    for token in 0..16 {
        b.submit(token, Operation::Read, (u64::from(token), 1));
    }
    let (on_a, on_b): (Vec<_>, Vec<_>) = b.drain().into_iter().partition(|s| b.path_of(s) == A);
    b.pass(2);
    for attempt in on_b {
        b.answer(attempt.request.token, Ok(()));
    }
    b.pass(2000);
    for attempt in on_a {
        b.answer(attempt.request.token, Ok(()));
    }
    let slow = b.router.paths[0].capacity.device_rate();
    b.pass(2000);
    b.read(100, 0);
    let again = b.router.paths[0].capacity.device_rate();
    assert!(slow < again, "after a stall {slow}, after a while without requests {again}");
}

#[test]
fn a_flush_that_failed_is_not_tried_on_another_path() {
    let mut b = Bench::new(2, vec![vm("a")]);
    b.up(A);
    b.up(B);
    b.submit(1, Operation::Flush, (0, 0));
    b.sent();
    b.answer(1, Err(TargetError::Io));
    assert_eq!(b.done(), "1:Io", "the target tells of lost data once");
}

#[test]
fn a_floor_is_not_eaten_by_what_is_shared_at_a_higher_priority() {
    let gold = VmSpec { reservation: Some(ByteRate(60 << 20)), priority: 100, shares: 2000, ..vm("a") };
    let bronze = VmSpec { reservation: Some(ByteRate(60 << 20)), priority: 10, shares: 500, ..vm("b") };
    let got = compete(vec![gold, bronze], [16, 32]);
    assert!(got[0] >= 58, "the higher priority is whole: {got:?}");
    assert!(got[1] >= 30, "and what it has not reserved goes to the other's floor first: {got:?}");
}
