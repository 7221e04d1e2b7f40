use super::*;
use std::collections::BTreeMap;

const FENCE: Instant = Instant::from_millis(5000);
const WAIT: Clearance = Clearance::Wait(HoldReason::Quarantine);

/// A volume whose writes have small numbers.
#[derive(Default)]
struct Bench {
    volume: Volume,
    record: Record,
    writes: BTreeMap<u32, WriteKey>,
}

impl Bench {
    fn clearance(&self, write: u32, range: Extent) -> Clearance {
        self.volume.clearance(self.writes.get(&write).copied(), &range)
    }

    fn dispatch(&mut self, write: u32, range: Extent) {
        let known = self.writes.get(&write).copied();
        let key = self.volume.dispatched(known, range, &mut self.record);
        self.writes.insert(write, key);
    }

    fn answer(&mut self, write: u32, result: Answered) {
        self.volume.answered(self.writes[&write], result, &mut self.record);
    }

    fn lose(&mut self, write: u32) {
        self.volume.lost(self.writes[&write], FENCE, &mut self.record);
    }

    fn sent_and_lost(&mut self, write: u32, range: Extent) {
        self.dispatch(write, range);
        self.lose(write);
    }

    fn give_up(&mut self, write: u32) {
        self.volume.given_up(self.writes[&write], &mut self.record);
    }

    fn abandon(&mut self, write: u32) {
        self.volume.abandoned(self.writes[&write], &mut self.record);
    }

    fn fence(&mut self, write: u32) -> bool {
        self.volume.fenced(self.writes[&write], &mut self.record)
    }

    fn bytes(&self) -> Vec<(u64, u64)> {
        self.volume.quarantines().map(|q| (q.range.start, q.range.end)).collect()
    }
}

#[test]
fn only_the_lost_write_itself_may_touch_its_range_before_the_fence() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    assert_eq!(b.clearance(2, 0..4096), WAIT);
    assert_eq!(b.clearance(2, 4000..5000), WAIT);
    assert_eq!(b.clearance(2, 4096..8192), Clearance::Go);
    assert_eq!(b.clearance(1, 0..4096), Clearance::Go);
    b.dispatch(1, 0..4096);
    b.answer(1, Answered::Written);
    assert_eq!(b.clearance(2, 0..4096), WAIT, "acknowledged, but the ghost is still out there");
    assert!(b.fence(1));
    assert_eq!(b.clearance(2, 0..4096), Clearance::Go);
}

#[test]
fn a_resend_waits_for_overlapping_writes_in_flight_elsewhere() {
    let mut b = Bench::default();
    b.dispatch(2, 0..8192);
    b.sent_and_lost(1, 0..4096);
    assert_eq!(b.clearance(1, 0..4096), WAIT);
    b.answer(2, Answered::Written);
    assert_eq!(b.clearance(1, 0..4096), Clearance::Go);
}

#[test]
fn of_several_lost_writes_that_overlap_one_is_resent() {
    let mut b = Bench::default();
    b.dispatch(2, 2048..6144);
    b.sent_and_lost(1, 0..4096);
    b.lose(2);
    assert_eq!(b.clearance(1, 0..4096), Clearance::Go);
    b.dispatch(1, 0..4096);
    assert_eq!(b.clearance(2, 2048..6144), WAIT);
    b.answer(1, Answered::Written);
    assert_eq!(b.clearance(2, 2048..6144), WAIT, "until the fence");
    b.fence(1);
    assert_eq!(b.clearance(2, 2048..6144), Clearance::Go);
}

#[test]
fn a_write_that_failed_to_the_guest_stays_quarantined() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    b.give_up(1);
    assert_eq!(b.clearance(2, 0..4096), WAIT);
    assert_eq!(b.clearance(1, 0..4096), WAIT, "nor may it go itself any more");
    assert_eq!(b.bytes(), vec![(0, 4096)]);
}

#[test]
fn a_resend_that_is_lost_too_waits_for_both_fences() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    b.dispatch(1, 0..4096);
    let later = Instant::from_millis(9000);
    b.volume.lost(b.writes[&1], later, &mut b.record);
    assert_eq!(b.volume.last_fence(), Some(later));
    assert!(!b.fence(1), "of one connection, whichever");
    assert_eq!((b.clearance(1, 0..4096), b.clearance(2, 0..4096)), (Clearance::Go, WAIT));
    assert!(b.fence(1));
    assert_eq!(b.clearance(2, 0..4096), Clearance::Go);
}

#[test]
fn a_resend_that_outlives_the_fence_is_a_write_like_any_other() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    b.dispatch(1, 0..4096);
    assert!(b.volume.is_quarantined(b.writes[&1]));
    assert!(b.fence(1));
    assert!(!b.volume.is_quarantined(b.writes[&1]));
    assert_eq!(b.clearance(2, 0..4096), Clearance::Go, "the guest may let its own writes race");
    b.lose(1);
    assert_eq!(b.clearance(2, 0..4096), WAIT);
    assert!(b.fence(1));
}

#[test]
fn writes_to_sampled_ranges_wait_and_unsettled_ranges_are_not_sampled() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    b.dispatch(3, 65536..69632);
    assert_eq!(b.volume.begin_sampling(&[0..65536, 65536..131_072]), vec![65536..131_072]);
    assert!(!b.volume.sampling_is_quiet());
    b.answer(3, Answered::Written);
    assert!(b.volume.sampling_is_quiet());
    assert_eq!(b.clearance(4, 70000..70001), Clearance::Wait(HoldReason::Identity));
    b.volume.end_sampling();
    assert_eq!(b.clearance(4, 70000..70001), Clearance::Go);
}

#[test]
fn what_overlaps_a_write_without_a_client_waits_for_its_answer() {
    let mut b = Bench::default();
    b.dispatch(1, 0..4096);
    assert_eq!(b.clearance(2, 0..4096), Clearance::Go, "the guest may let its own writes race");
    b.abandon(1);
    b.abandon(1);
    assert_eq!(b.clearance(2, 0..4096), WAIT);
    assert_eq!(b.clearance(2, 4096..8192), Clearance::Go);
    b.answer(1, Answered::Written);
    assert_eq!(b.clearance(2, 0..4096), Clearance::Go);
    b.dispatch(3, 0..4096);
    b.abandon(3);
    b.lose(3);
    b.give_up(3);
    assert_eq!(b.clearance(2, 0..4096), WAIT, "lost: until the fence");
    b.fence(3);
    assert_eq!(b.clearance(2, 0..4096), Clearance::Go);
}

#[test]
fn a_refused_resend_gives_its_turn_back() {
    let mut b = Bench::default();
    b.dispatch(2, 2048..6144);
    b.sent_and_lost(1, 0..4096);
    b.lose(2);
    b.dispatch(1, 0..4096);
    b.answer(1, Answered::Refused);
    assert_eq!(b.clearance(2, 2048..6144), Clearance::Go, "the other may be the one that is resent");
    b.dispatch(2, 2048..6144);
    assert_eq!(b.clearance(1, 0..4096), WAIT);
    b.give_up(1);
    b.answer(2, Answered::Written);
    assert_eq!(b.clearance(3, 0..100), WAIT, "what was given up stays");
}

#[test]
fn an_unsent_resend_keeps_the_quarantine_of_the_first_attempt() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    b.dispatch(1, 0..4096);
    b.volume.unsent(b.writes[&1], &mut b.record);
    assert_eq!(b.clearance(2, 0..4096), WAIT);
    assert_eq!(b.clearance(1, 0..4096), Clearance::Go);
    assert_eq!(b.bytes(), vec![(0, 4096)]);
}

/// The cache that held it is gone; its ghost is not.
#[test]
fn what_a_resend_has_written_may_go_again() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    b.dispatch(1, 0..4096);
    b.answer(1, Answered::Written);
    assert_eq!(b.clearance(1, 0..4096), WAIT, "it is done");
    b.volume.again(b.writes[&1], &mut b.record);
    assert_eq!((b.clearance(1, 0..4096), b.clearance(2, 0..4096)), (Clearance::Go, WAIT));
}

#[test]
fn a_write_lost_in_a_sampled_range_spoils_the_comparison() {
    let mut b = Bench::default();
    b.dispatch(1, 0..4096);
    b.volume.begin_sampling(&[0..8192, 16384..20480]);
    assert!(!b.volume.sampling_is_spoilt() && !b.volume.sampling_is_quiet());
    b.lose(1);
    assert!(b.volume.sampling_is_quiet() && b.volume.sampling_is_spoilt());
}

#[test]
fn a_key_of_a_write_that_is_over_names_no_other() {
    let mut b = Bench::default();
    b.sent_and_lost(1, 0..4096);
    b.fence(1);
    b.sent_and_lost(2, 0..4096);
    assert_eq!(b.writes[&1].at, b.writes[&2].at, "its place is used again");
    assert!(!b.volume.is_quarantined(b.writes[&1]));
    b.give_up(1);
    assert_eq!(b.clearance(1, 0..4096), WAIT);
    assert_eq!(b.clearance(2, 0..4096), Clearance::Go);
}

#[test]
fn what_is_handed_over_says_whose_it_is() {
    let mut b = Bench::default();
    b.dispatch(1, 0..4096);
    b.sent_and_lost(2, 4096..8192);
    b.sent_and_lost(3, 8192..12288);
    b.give_up(3);
    let all: Vec<_> = b.volume.quarantines().map(|q| (q.range, q.standing)).collect();
    assert_eq!(all, [(4096..8192, Standing::Open), (8192..12288, Standing::Ghost)]);
}
