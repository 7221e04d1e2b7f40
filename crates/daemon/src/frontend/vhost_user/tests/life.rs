//! Stops with requests open, starts after them, and crashes.

use super::super::{Fetched, Origin};
use super::driver::{Guest, Link, OUT, READ, SIZE, UNTOUCHED};
use std::os::fd::AsRawFd;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;
use vmpath_protocol::virtio_blk::request::{Operation, Status};

#[test]
fn a_parked_result_is_shown_as_soon_as_the_ring_runs_again() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, READ, 0, 4096);
    link.fetch();
    let (base, _) = link.stop();
    link.session.complete(0, 0, Status::IoErr);
    assert_eq!(guest.used_index(), 0, "its ring is stopped");
    link.start(&mut guest, base);
    assert_eq!(guest.used_index(), 1, "though no other result comes");
}

#[test]
fn a_stop_is_answered_at_once_and_the_start_finds_everything() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, READ, 0, 4096);
    guest.write(Guest::data_at(3), &[3; 512]);
    guest.ask(3, OUT, 8, 512);
    guest.ask(6, 4, 0, 0);
    guest.ask(9, OUT, 16, 512);
    for _ in 0..4 {
        link.fetch();
    }
    assert_eq!(link.receive(0, 0, &[1; 1000]), 1000);
    assert_eq!(link.send(3, 0, 100), [3; 100]);

    let (base, changes) = link.stop();
    assert_eq!(base, 4, "all that was fetched, open or not");
    assert!(changes.stopped.contains(0) && changes.kicks.contains(0) && changes.abandoned.is_empty());
    assert!(link.session.kick(0).is_none());

    let before = guest.read(0, 1 << 20);
    assert_eq!(link.receive(0, 1000, &[2; 3096]), 3096, "into a buffer of ours");
    assert_eq!(link.send(3, 100, 412), [3; 412], "what has begun goes on from its copy");
    assert!(link.send(9, 0, 512).is_empty(), "what has not is not to be had");
    assert!(!link.session.read_data(0, 9, 0, &mut [0; 8]));
    link.session.complete(0, 0, Status::Ok);
    link.session.complete(0, 6, Status::IoErr);
    link.session.notify();
    assert_eq!(guest.read(0, 1 << 20), before, "nothing of a stopped guest's memory is touched");
    assert_eq!(link.session.open().map(|(_, head, _)| head).collect::<Vec<_>>(), [3, 9]);

    let changes = link.start(&mut guest, base);
    assert!(changes.started.contains(0) && changes.abandoned.is_empty());
    assert_eq!(link.session.fetch(0), Fetched::Empty, "nothing is fetched twice");
    link.session.notify();
    assert_eq!((guest.result(), guest.result(), guest.result()), (Some((0, 0)), Some((6, 1)), None));
    let data = guest.read(Guest::data_at(0), 4096);
    assert!(data[..1000].iter().all(|b| *b == 1) && data[1000..].iter().all(|b| *b == 2));
    assert_eq!(link.send(9, 0, 512).len(), 512);
    link.session.complete(0, 3, Status::Ok);
    link.session.notify();
    assert_eq!(guest.result(), Some((3, 0)));
}

#[test]
fn a_driver_that_starts_anew_has_nothing_to_do_with_what_was_open() {
    let (mut link, mut guest) = Link::started();
    guest.write(Guest::data_at(3), &[3; 512]);
    guest.ask(0, READ, 0, 512);
    guest.ask(3, OUT, 8, 512);
    link.fetch();
    link.fetch();
    assert_eq!(link.send(3, 0, 10).len(), 10);
    link.stop();
    guest.reset();
    let changes = link.start(&mut guest, 0);
    let tokens: Vec<u32> = changes.abandoned.iter().map(|a| a.token).collect();
    assert_eq!(tokens, [100, 103]);
    assert!(changes.abandoned[0].kept.is_none());
    let kept = changes.abandoned[1].kept.as_ref().unwrap();
    let mut bytes = [0; 512];
    kept.read(0, &mut bytes);
    assert_eq!(bytes, [3; 512]);
    link.session.complete(0, 3, Status::Ok);
    link.session.notify();
    assert_eq!(guest.result(), None, "a late result is nobody's");
    guest.ask(3, READ, 0, 512);
    assert_eq!(link.fetch().origin, Origin::New);
}

#[test]
fn a_fresh_inflight_buffer_gives_up_what_a_queue_had_open_though_it_never_starts_again() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, READ, 0, 512);
    link.fetch();
    link.stop();
    let (layout, file) = guest.inflight.take().unwrap();
    let (_, changes) = link.with(|front| front.set_inflight_fd(&layout, file.as_raw_fd()).unwrap());
    assert!(changes.abandoned.is_empty(), "with the buffer that it had, it may go on");
    let (_, changes) = link.with(|front| {
        let (layout, file) = front.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, SIZE)).unwrap();
        front.set_inflight_fd(&layout, file.as_raw_fd()).unwrap();
    });
    assert_eq!(changes.abandoned.iter().map(|a| a.token).collect::<Vec<_>>(), [100]);
    assert_eq!(link.session.open().count(), 0);
}

#[test]
fn another_base_is_another_driver() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, READ, 0, 512);
    link.fetch();
    assert_eq!(link.stop().0, 1);
    let changes = link.start(&mut guest, 0);
    assert_eq!(changes.abandoned.len(), 1);
    // The inflight buffer is the same one, and says that the guest still waits for it.
    assert_eq!(link.fetch().origin, Origin::Replayed);
}

#[test]
fn firmware_starts_and_stops_it_before_the_system_does() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, READ, 0, 512);
    link.fetch();
    link.session.complete(0, 0, Status::Ok);
    link.session.notify();
    assert_eq!(guest.result(), Some((0, 0)));
    let (base, _) = link.stop();
    assert_eq!(base, 1);
    guest.reset();
    assert!(link.start(&mut guest, 0).abandoned.is_empty());
    guest.ask(0, OUT, 0, 512);
    link.fetch();
    assert_eq!(link.stop().0, 1);
    assert_eq!(link.stop().0, 1, "a ring that does not run has the same base");
}

#[test]
fn a_new_process_replays_what_the_guest_still_waits_for() {
    let (mut link, mut guest) = Link::started();
    for head in [6, 0, 9, 3] {
        guest.write(Guest::data_at(head), &[head as u8; 512]);
        guest.ask(head, OUT, 8 * u64::from(head), 512);
        link.fetch();
    }
    link.session.complete(0, 0, Status::Ok);
    link.session.notify();
    assert_eq!(guest.result(), Some((0, 0)));
    guest.ask(0, 4, 0, 0);
    // Completed, but not yet shown to the guest: as good as not completed.
    link.session.complete(0, 9, Status::Ok);
    drop(link);

    let mut link = Link::after_crash(&mut guest);
    assert!(link.session.poll_avail(0));
    let heads: Vec<u16> = (0..3)
        .map(|_| {
            let request = link.fetch();
            assert_eq!((request.origin, request.operation), (Origin::Replayed, Operation::Write));
            assert_eq!(request.offset, 4096 * u64::from(request.head));
            request.head
        })
        .collect();
    assert_eq!(heads, [6, 9, 3], "in the order in which they were fetched");
    let next = link.fetch();
    assert_eq!((next.head, next.origin, next.operation), (0, Origin::New, Operation::Flush));
    assert_eq!(link.session.fetch(0), Fetched::Empty);
    for head in [3, 0, 9, 6] {
        link.session.complete(0, head, Status::Ok);
    }
    link.session.notify();
    let results: Vec<_> = std::iter::from_fn(|| guest.result()).collect();
    assert_eq!(results, [(3, 0), (0, 0), (9, 0), (6, 0)], "each once");
    drop(link);
    let mut link = Link::after_crash(&mut guest);
    assert_eq!(link.session.fetch(0), Fetched::Empty, "and never again");
}

#[test]
fn a_stop_before_the_replay_is_over_keeps_the_rest() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, READ, 0, 512);
    guest.ask(3, READ, 0, 512);
    link.fetch();
    link.fetch();
    drop(link);
    let mut link = Link::after_crash(&mut guest);
    assert_eq!(link.fetch().head, 0);
    let (base, _) = link.stop();
    assert_eq!(base, 2);
    assert!(link.start(&mut guest, base).abandoned.is_empty());
    assert_eq!(link.fetch().head, 3);
    assert_eq!(link.session.fetch(0), Fetched::Empty);
}

#[test]
fn a_session_that_is_over_touches_nothing_and_finishes_what_it_sends() {
    let (mut link, mut guest) = Link::started();
    guest.write(Guest::data_at(0), &[8; 512]);
    guest.ask(0, OUT, 0, 512);
    link.fetch();
    assert_eq!(link.send(0, 0, 1), [8]);
    assert!(link.session.close().is_empty());
    guest.write(Guest::data_at(0), &[9; 512]);
    assert_eq!(link.send(0, 1, 511), [8; 511]);
    link.session.complete(0, 0, Status::Ok);
    link.session.notify();
    assert_eq!((guest.result(), guest.read(super::driver::STATUSES, 1)), (None, vec![UNTOUCHED]));
}

#[test]
fn a_copy_is_what_the_guest_had_when_its_ring_stopped() {
    let (mut link, mut guest) = Link::started();
    guest.write(Guest::data_at(0), &[8; 512]);
    guest.ask(0, OUT, 0, 512);
    link.fetch();
    assert_eq!(link.send(0, 0, 512), [8; 512]);
    link.stop();
    guest.write(Guest::data_at(0), &[9; 512]);
    assert_eq!(link.send(0, 0, 512), [8; 512], "a resend has the same bytes");
    let mut bytes = [0; 4];
    assert!(link.session.read_data(0, 0, 508, &mut bytes) && bytes == [8; 4]);
    assert!(!link.session.read_data(0, 0, 509, &mut bytes), "beyond its end");
}
