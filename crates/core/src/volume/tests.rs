use super::*;

const FENCE: Instant = Instant::from_millis(5000);
const WAIT: Clearance = Clearance::Wait(HoldReason::Quarantine);

fn lose(volume: &mut Volume, key: RequestKey, range: Extent, record: &mut Record) {
    volume.dispatched(key, range, record);
    volume.lost(key, FENCE);
}

#[test]
fn only_the_lost_write_itself_may_touch_its_range_before_the_fence() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    lose(&mut v, 1, 0..4096, r);
    assert_eq!(v.clearance(2, &(0..4096)), WAIT);
    assert_eq!(v.clearance(2, &(4000..5000)), WAIT);
    assert_eq!(v.clearance(2, &(4096..8192)), Clearance::Go);
    assert_eq!(v.clearance(1, &(0..4096)), Clearance::Go);
    v.dispatched(1, 0..4096, r);
    v.answered(1, Answered::Written, r);
    assert_eq!(v.clearance(2, &(0..4096)), WAIT, "acknowledged, but the ghost is still out there");
    assert!(!v.expire(FENCE - crate::time::Duration::from_millis(1), r));
    assert!(v.expire(FENCE, r));
    assert_eq!(v.clearance(2, &(0..4096)), Clearance::Go);
}

#[test]
fn a_resend_waits_for_overlapping_writes_in_flight_elsewhere() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    v.dispatched(2, 0..8192, r);
    lose(&mut v, 1, 0..4096, r);
    assert_eq!(v.clearance(1, &(0..4096)), WAIT);
    v.answered(2, Answered::Written, r);
    assert_eq!(v.clearance(1, &(0..4096)), Clearance::Go);
}

#[test]
fn of_several_lost_writes_that_overlap_one_is_resent() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    v.dispatched(2, 2048..6144, r);
    lose(&mut v, 1, 0..4096, r);
    v.lost(2, FENCE);
    assert_eq!(v.clearance(1, &(0..4096)), Clearance::Go);
    v.dispatched(1, 0..4096, r);
    assert_eq!(v.clearance(2, &(2048..6144)), WAIT);
    v.answered(1, Answered::Written, r);
    assert_eq!(v.clearance(2, &(2048..6144)), WAIT, "until the fence");
    v.expire(FENCE, r);
    assert_eq!(v.clearance(2, &(2048..6144)), Clearance::Go);
}

#[test]
fn a_write_that_failed_to_the_guest_stays_quarantined() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    lose(&mut v, 1, 0..4096, r);
    v.given_up(1, r);
    assert_eq!(v.clearance(1, &(0..4096)), WAIT, "the key may be another request's by now");
    assert_eq!(v.quarantined(), (1, 4096));
}

#[test]
fn a_resend_that_is_lost_too_moves_the_fence() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    lose(&mut v, 1, 0..4096, r);
    v.dispatched(1, 0..4096, r);
    let later = Instant::from_millis(9000);
    v.lost(1, later);
    assert!(!v.expire(FENCE, r));
    assert_eq!(v.last_fence(), Some(later));
    assert_eq!(v.clearance(1, &(0..4096)), Clearance::Go);
}

#[test]
fn writes_to_sampled_ranges_wait_and_unsettled_ranges_are_not_sampled() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    lose(&mut v, 1, 0..4096, r);
    v.dispatched(3, 65536..69632, r);
    assert_eq!(v.begin_sampling(&[0..65536, 65536..131_072]), vec![65536..131_072]);
    assert!(!v.sampling_is_quiet());
    v.answered(3, Answered::Written, r);
    assert!(v.sampling_is_quiet());
    assert_eq!(v.clearance(4, &(70000..70001)), Clearance::Wait(HoldReason::Identity));
    v.end_sampling();
    assert_eq!(v.clearance(4, &(70000..70001)), Clearance::Go);
}

#[test]
fn what_overlaps_a_write_without_a_client_waits_for_its_answer() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    v.dispatched(1, 0..4096, r);
    assert_eq!(v.clearance(2, &(0..4096)), Clearance::Go, "the guest may let its own writes race");
    v.abandoned(1, r);
    v.abandoned(1, r);
    assert_eq!(v.clearance(2, &(0..4096)), WAIT);
    assert_eq!(v.clearance(2, &(4096..8192)), Clearance::Go);
    assert!(v.answered(1, Answered::Written, r), "somebody may have waited for it");
    assert_eq!(v.clearance(2, &(0..4096)), Clearance::Go);
    v.dispatched(3, 0..4096, r);
    v.abandoned(3, r);
    v.lost(3, FENCE);
    v.given_up(3, r);
    assert_eq!(v.clearance(2, &(0..4096)), WAIT, "lost: until the fence");
    v.expire(FENCE, r);
    assert_eq!(v.clearance(2, &(0..4096)), Clearance::Go);
}

#[test]
fn a_refused_resend_gives_its_turn_back() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    v.dispatched(2, 2048..6144, r);
    lose(&mut v, 1, 0..4096, r);
    v.lost(2, FENCE);
    v.dispatched(1, 0..4096, r);
    assert!(v.answered(1, Answered::Refused, r));
    assert_eq!(v.clearance(2, &(2048..6144)), Clearance::Go, "the other may be the one that is resent");
    v.dispatched(2, 2048..6144, r);
    assert_eq!(v.clearance(1, &(0..4096)), WAIT);
    v.given_up(1, r);
    v.answered(2, Answered::Written, r);
    assert_eq!(v.clearance(3, &(0..100)), WAIT, "what was given up stays");
}

#[test]
fn an_unsent_resend_keeps_the_quarantine_of_the_first_attempt() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    lose(&mut v, 1, 0..4096, r);
    v.dispatched(1, 0..4096, r);
    v.unsent(1, r);
    assert_eq!(v.clearance(2, &(0..4096)), WAIT);
    assert_eq!(v.clearance(1, &(0..4096)), Clearance::Go);
    assert_eq!(v.quarantined(), (1, 4096));
}

#[test]
fn an_answer_elsewhere_is_waited_for_by_nobody() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    lose(&mut v, 1, 0..4096, r);
    v.dispatched(2, 8192..12288, r);
    assert!(!v.answered(2, Answered::Written, r));
}

#[test]
fn a_write_lost_in_a_sampled_range_spoils_the_comparison() {
    let (mut v, r) = (Volume::default(), &mut Record::default());
    v.dispatched(1, 0..4096, r);
    v.begin_sampling(&[0..8192, 16384..20480]);
    assert!(!v.sampling_is_spoilt());
    v.lost(1, FENCE);
    assert!(v.sampling_is_quiet() && v.sampling_is_spoilt());
}
