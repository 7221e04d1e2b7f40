//! The log of dirty pages.

use super::driver::{Guest, Link, OUT, READ, STATUSES, USED, memfd};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use vmpath_protocol::virtio_blk::request::Status;

/// Pages that are marked; the log is cleared, as QEMU does when it copies.
fn take(log: &File) -> BTreeSet<u64> {
    let mut bits = [0u8; 4096];
    log.read_exact_at(&mut bits, 0).unwrap();
    log.write_all_at(&[0; 4096], 0).unwrap();
    (0..8 * 4096).filter(|page| bits[*page as usize / 8] & 1 << (page % 8) != 0).collect()
}

fn pages(addresses: &[u64]) -> BTreeSet<u64> {
    addresses.iter().map(|at| at >> 12).collect()
}

#[test]
fn all_that_is_written_is_marked_and_nothing_else() {
    let (mut link, mut guest) = Link::started();
    let log = memfd(4096);
    link.log(Some(&log));
    guest.ask(0, READ, 0, 8192);
    guest.ask(3, OUT, 0, 512);
    link.fetch();
    link.fetch();
    assert_eq!(take(&log), BTreeSet::new());
    link.receive(0, 0, &[1; 8192]);
    link.session.complete(0, 0, Status::Ok);
    let data = Guest::data_at(0);
    assert_eq!(take(&log), pages(&[data, data + 4096, STATUSES, USED]));
    link.session.notify();
    assert_eq!(take(&log), pages(&[USED]), "the index");
    link.session.complete(0, 3, Status::Ok);
    assert_eq!(take(&log), pages(&[STATUSES, USED]), "a write writes only its status");
    assert!(!link.session.enable_kicks(0));
    assert_eq!(take(&log), pages(&[USED]), "the event");
    guest.ask(6, 8, 0, 20);
    link.session.fetch(0);
    assert!(take(&log).contains(&(Guest::data_at(6) >> 12)), "an id");
}

#[test]
fn a_part_of_a_read_is_marked_when_the_ring_stops_and_the_rest_after_it_runs_again() {
    let (mut link, mut guest) = Link::started();
    let log = memfd(4096);
    link.log(Some(&log));
    guest.ask(0, READ, 0, 8192);
    link.fetch();
    link.receive(0, 0, &[1; 4096]);
    let (base, _) = link.stop();
    let data = Guest::data_at(0);
    assert_eq!(take(&log), pages(&[data]));
    link.receive(0, 4096, &[2; 4096]);
    link.session.complete(0, 0, Status::Ok);
    assert_eq!(take(&log), BTreeSet::new(), "parked");
    link.start(&mut guest, base);
    assert!(take(&log).is_superset(&pages(&[data + 4096, STATUSES, USED])));
}

#[test]
fn a_migration_that_failed_ends_the_log() {
    let (mut link, mut guest) = Link::started();
    let log = memfd(4096);
    link.log(Some(&log));
    link.log(None);
    guest.ask(0, READ, 0, 4096);
    link.fetch();
    take(&log);
    link.receive(0, 0, &[1; 4096]);
    link.session.complete(0, 0, Status::Ok);
    link.session.notify();
    assert_eq!(take(&log), BTreeSet::new());
    link.log(Some(&log));
    guest.ask(3, READ, 0, 4096);
    link.fetch();
    link.session.complete(0, 3, Status::Ok);
    assert!(take(&log).contains(&(Guest::data_at(3) >> 12)), "and the next one begins it");
}
