//! The handshake, requests in and results out.

use super::super::{Fetched, Handled, Session, SessionEnd};
use super::driver::{Guest, Link, OUT, READ, SIZE, UNTOUCHED, USED, memfd, ring_at, shape, whole};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::{VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmpath_protocol::virtio_blk::feature;
use vmpath_protocol::virtio_blk::request::{Access, Operation, Status};

#[test]
fn the_handshake_offers_what_the_disk_has() {
    let mut link = Link::new(shape());
    let ((features, protocol, queues, slots, config), _) = link.with(|front| {
        front.set_owner().unwrap();
        let features = front.get_features().unwrap();
        let protocol = front.get_protocol_features().unwrap();
        front.set_protocol_features(protocol).unwrap();
        front.set_features(features).unwrap();
        let queues = front.get_queue_num().unwrap();
        let slots = front.get_max_mem_slots().unwrap();
        let config = front.get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap().1;
        front.set_config(32, VhostUserConfigFlags::WRITABLE, &[1]).unwrap();
        (features, protocol, queues, slots, config)
    });
    for bit in [feature::MQ, feature::FLUSH, feature::EVENT_IDX, feature::VERSION_1, feature::DISCARD, 26, 30]
    {
        assert_ne!(features & 1 << bit, 0, "feature {bit}");
    }
    assert_eq!(features & 1 << feature::RO, 0);
    let wanted = VhostUserProtocolFeatures::INFLIGHT_SHMFD | VhostUserProtocolFeatures::LOG_SHMFD;
    assert!(protocol.contains(wanted | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS));
    assert_eq!((queues, slots), (2, 256));
    assert_eq!(config[..8], (131_072u64).to_le_bytes());
    let read_only = Link::new(super::super::Shape { access: Access::ReadOnly, ..shape() })
        .with(|front| front.get_features().unwrap())
        .0;
    assert_ne!(read_only & 1 << feature::RO, 0);
    assert_eq!(read_only & 1 << feature::DISCARD, 0);
}

#[test]
fn requests_come_out_and_results_go_in() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, READ, 8, 4096);
    guest.write(Guest::data_at(3), &[7; 1024]);
    guest.ask(3, OUT, 16, 1024);
    guest.ask(6, 4, 0, 0);
    let read = link.fetch();
    assert_eq!((read.operation, read.offset, read.length), (Operation::Read, 4096, 4096));
    let write = link.fetch();
    assert_eq!((write.operation, write.offset, write.length), (Operation::Write, 8192, 1024));
    assert_eq!(link.fetch().operation, Operation::Flush);
    assert_eq!(link.session.fetch(0), Fetched::Empty);
    assert_eq!(link.session.open().count(), 3);

    assert_eq!(link.send(3, 24, 2000), vec![7; 1000], "what there is, from there on");
    assert_eq!(link.receive(0, 0, &[5; 4000]), 4000);
    link.session.fill(0, 0, 4000, &[6; 96]);
    link.session.complete(0, 3, Status::Ok);
    link.session.complete(0, 0, Status::Ok);
    link.session.complete(0, 0, Status::IoErr);
    assert_eq!(guest.result(), None, "shown once a turn");
    link.session.notify();
    assert_eq!(link.call.read().unwrap(), 1);
    assert_eq!(guest.result(), Some((3, 0)));
    assert_eq!(guest.result(), Some((0, 0)));
    assert_eq!(guest.result(), None, "a second result is nobody's");
    let data = guest.read(Guest::data_at(0), 4096);
    assert!(data[..4000].iter().all(|b| *b == 5) && data[4000..].iter().all(|b| *b == 6));
    assert_eq!(guest.read(USED + 4 + 8 + 4, 4), 4097u32.to_le_bytes());
    link.session.complete(0, 6, Status::IoErr);
    link.session.notify();
    assert_eq!(guest.result(), Some((6, 1)));
    assert_eq!(link.session.open().count(), 0);
}

#[test]
fn what_needs_no_storage_is_answered_in_place() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, 8, 0, 20);
    guest.ask(3, 99, 0, 512);
    guest.ask(6, READ, 131_072, 512);
    guest.ask(9, OUT, 0, 100);
    for _ in 0..4 {
        assert_eq!(link.session.fetch(0), Fetched::Answered);
    }
    assert_eq!(link.session.fetch(0), Fetched::Empty);
    link.session.notify();
    let results: Vec<_> = std::iter::from_fn(|| guest.result()).collect();
    assert_eq!(results, [(0, 0), (3, 2), (6, 1), (9, 1)]);
    assert_eq!(guest.read(Guest::data_at(0), 20), b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn ranges_come_out_with_their_bounds() {
    let (mut link, mut guest) = Link::started();
    for (head, kind, flags) in [(0, 11, 0u32), (3, 13, 1)] {
        let range = [&100u64.to_le_bytes()[..], &8u32.to_le_bytes(), &flags.to_le_bytes()].concat();
        guest.write(Guest::data_at(head), &range);
        guest.ask(head, kind, 0, 16);
    }
    let discard = link.fetch();
    assert_eq!((discard.operation, discard.offset, discard.length), (Operation::Discard, 51200, 4096));
    assert_eq!(link.fetch().operation, Operation::WriteZeroes { may_unmap: true });
}

#[test]
fn a_driver_is_called_only_when_it_wants_to_be() {
    let (mut link, mut guest) = Link::started();
    // used_event: call when the second result is there.
    guest.write(super::driver::AVAILABLE + 4 + 2 * u64::from(SIZE), &1u16.to_le_bytes());
    for head in [0, 3] {
        guest.ask(head, 4, 0, 0);
        link.fetch();
        link.session.complete(0, head, Status::Ok);
        link.session.notify();
        assert_eq!(link.call.read().is_ok(), head == 3);
    }
    // avail_event: kick for the entry after the last that was fetched.
    assert!(!link.session.enable_kicks(0));
    assert_eq!(guest.read(USED + 4 + 8 * u64::from(SIZE), 2), 2u16.to_le_bytes());
    guest.ask(6, 4, 0, 0);
    assert!(link.session.poll_avail(0) && link.session.enable_kicks(0));
}

#[test]
fn half_a_message_is_waited_for_and_the_session_is_never_stuck() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut session = Session::new(ours, shape()).unwrap();
    let message: Vec<u8> =
        [8u32, 1, 8, 0, 0, 9].iter().flat_map(|word| word.to_ne_bytes()).take(20).collect();
    for byte in &message[..19] {
        theirs.write_all(&[*byte]).unwrap();
        assert!(matches!(session.handle_message(), Ok(Handled::Starved)));
    }
    theirs.write_all(&message[19..]).unwrap();
    assert!(matches!(session.handle_message(), Ok(Handled::Done(_))), "SET_VRING_NUM 0 of queue 0");
    assert!(matches!(session.handle_message(), Ok(Handled::Starved)));
    // GET_FEATURES without end, and no answer is read.
    let ask: Vec<u8> = [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = (0..1_000_000).find_map(|_| {
        theirs.write_all(&ask).unwrap();
        session.handle_message().err()
    });
    assert!(matches!(end, Some(SessionEnd::Deaf)), "{end:?}");
    drop(theirs);
}

#[test]
fn what_is_no_message_ends_the_session() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut session = Session::new(ours, shape()).unwrap();
    theirs.write_all(&[0xff; 64]).unwrap();
    assert!(matches!(session.handle_message(), Err(SessionEnd::Protocol(_))));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut session = Session::new(ours, shape()).unwrap();
    drop(theirs);
    assert!(matches!(session.handle_message(), Err(SessionEnd::Closed)));
}

#[test]
fn memory_that_is_not_in_its_file_is_refused() {
    let mut link = Link::new(shape());
    let file = memfd(4096);
    let lie = VhostUserMemoryRegionInfo { memory_size: 1 << 20, ..whole(&file) };
    link.front.set_mem_table(&[lie]).unwrap();
    assert!(matches!(link.end(), SessionEnd::Protocol(_)));
}

#[test]
fn slots_of_memory_come_and_go_while_the_ring_runs() {
    let (mut link, mut guest) = Link::started();
    let extra = memfd(1 << 16);
    extra.write_all_at(&[9; 512], 0).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 1 << 30,
        memory_size: 1 << 16,
        userspace_addr: super::driver::USER + (1 << 30),
        mmap_offset: 0,
        mmap_handle: extra.as_raw_fd(),
    };
    link.with(|front| front.add_mem_region(&region).unwrap());
    for (head, kind) in [(0, OUT), (3, READ)] {
        guest.lay(head, kind, 0, 512);
        let direction = if kind == READ { super::driver::WRITE } else { 0 };
        guest.describe(head + 1, 1 << 30, 512, (super::driver::NEXT | direction, head + 2));
        guest.offer(head);
        link.fetch();
    }
    link.with(|front| front.remove_mem_region(&region).unwrap());
    assert_eq!(link.send(0, 0, 512), vec![9; 512], "its bytes were kept");
    assert_eq!(link.receive(3, 0, &[1; 512]), 512, "nobody's, but not in the way");
    link.session.complete(0, 0, Status::Ok);
    link.session.complete(0, 3, Status::Ok);
    link.session.notify();
    assert_eq!((guest.result(), guest.result()), (Some((0, 0)), Some((3, 1))));
    guest.ask(6, READ, 0, 512);
    link.fetch();
}

#[test]
fn a_queue_that_is_not_enabled_is_not_fetched_from() {
    let (mut link, mut guest) = Link::started();
    guest.ask(0, 4, 0, 0);
    link.with(|front| front.set_vring_enable(0, false).unwrap());
    assert_eq!(link.session.fetch(0), Fetched::Empty);
    let (_, changes) = link.with(|front| front.set_vring_enable(0, true).unwrap());
    assert!(changes.started.contains(0));
    link.fetch();
    assert_eq!(guest.read(super::driver::STATUSES, 1), [UNTOUCHED]);
    link.front
        .set_vring_addr(0, &vhost::VringConfigData { desc_table_addr: super::driver::USER, ..ring_at(None) })
        .unwrap();
    assert!(matches!(link.end(), SessionEnd::Protocol(_)), "a ring that runs does not move");
}
