//! What a guest may never do: its ring breaks, with the reason, once; the session goes on, and a reset heals it.

use super::super::Fetched;
use super::super::fault::Fault;
use super::driver::{
    AVAILABLE, DATA, Guest, INDIRECT, Link, MEMORY, NEXT, READ, SIZE, STATUSES, USER, WRITE, ring_at,
};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VringConfigData};
use vmpath_protocol::virtio_blk::chain::{ChainFault, Descriptor};
use vmpath_protocol::virtio_blk::request::Status;

/// Breaks the ring of a device that has one request open, and heals it.
fn check(name: &str, misbehave: impl FnOnce(&mut Guest), expected: Fault) {
    let (mut link, mut guest) = Link::started();
    guest.ask(12, READ, 0, 512);
    link.fetch();
    misbehave(&mut guest);
    assert_eq!(link.session.fetch(0), Fetched::Broken(expected), "{name}");
    assert_eq!(link.error.read().unwrap(), 1, "{name}: the front end is told");
    guest.ask(6, READ, 0, 512);
    assert_eq!(link.session.fetch(0), Fetched::Empty, "{name}: said once");
    assert!(!link.session.poll_avail(0) && link.error.read().is_err(), "{name}");
    link.session.complete(0, 12, Status::Ok);
    link.session.notify();
    assert_eq!(guest.result(), Some((12, 0)), "{name}: what was good has its result");
    link.stop();
    guest.reset();
    link.start(&mut guest, 0);
    guest.ask(0, READ, 0, 512);
    assert_eq!(link.fetch().head, 0, "{name}: after a reset all is well");
}

fn table(guest: &Guest, entries: &[(u64, u32, u16, u16)]) -> u64 {
    let at = DATA + 0x3_8000;
    for (n, (addr, len, flags, next)) in entries.iter().enumerate() {
        let descriptor = Descriptor { addr: *addr, len: *len, flags: *flags, next: *next };
        guest.write(at + 16 * n as u64, &descriptor.encode());
    }
    at
}

#[test]
fn chains() {
    let header = |g: &Guest| g.header(0, READ, 0);
    let offer = |g: &mut Guest, descriptors: &[(u64, u32, u16, u16)]| {
        for (n, (addr, len, flags, next)) in descriptors.iter().enumerate() {
            g.describe(n as u16, *addr, *len, (*flags, *next));
        }
        g.offer(0);
    };
    let chain = Fault::Chain;
    check("a loop", |g| offer(g, &[(header(g), 16, NEXT, 0)]), chain(ChainFault::TooLong));
    check("beyond", |g| offer(g, &[(header(g), 16, NEXT, SIZE)]), chain(ChainFault::Index(SIZE)));
    check(
        "order",
        |g| offer(g, &[(DATA, 512, WRITE | NEXT, 1), (header(g), 16, 0, 0)]),
        chain(ChainFault::Order),
    );
    check("wraps", |g| offer(g, &[(u64::MAX - 3, 16, 0, 0)]), chain(ChainFault::Wraps));
    check("outside", |g| offer(g, &[(header(g), 16, NEXT, 1), (MEMORY, 512, WRITE, 0)]), Fault::Buffer);
    let long = (DATA, u32::MAX, WRITE, 0);
    check("half outside", |g| offer(g, &[(header(g), 16, NEXT, 1), long]), Fault::Buffer);
    let read_only = |g: &Guest| [(header(g), 16, NEXT, 1), (DATA, 512, NEXT, 2), (STATUSES, 1, 0, 0)];
    check("a status to read", |g| offer(g, &read_only(g)), Fault::Status);
    check("half a header", |g| offer(g, &[(header(g), 8, NEXT, 1), (STATUSES, 1, WRITE, 0)]), Fault::Header);
    check("a head beyond", |g| g.offer(SIZE), Fault::Head(SIZE));
    check("twice", |g| g.offer(12), Fault::Twice(12));
    let jump = |g: &mut Guest| g.write(AVAILABLE + 2, &(SIZE + 2).to_le_bytes());
    check("a jump", jump, Fault::Jump { expected: 1, found: SIZE + 2 });
    let back = |g: &mut Guest| g.write(AVAILABLE + 2, &0u16.to_le_bytes());
    check("a step back", back, Fault::Jump { expected: 1, found: 0 });
}

#[test]
fn indirect_tables() {
    let offer = |g: &mut Guest, at: u64, len: u32| {
        g.describe(0, at, len, (INDIRECT, 0));
        g.offer(0);
    };
    let chain = Fault::Chain;
    check("a bad length", |g| offer(g, table(g, &[]), 20), chain(ChainFault::TableLength(20)));
    check("no length", |g| offer(g, table(g, &[]), 0), chain(ChainFault::TableLength(0)));
    check("outside", |g| offer(g, MEMORY, 32), chain(ChainFault::Table));
    check("around the end", |g| offer(g, u64::MAX - 8, 32), chain(ChainFault::Wraps));
    let nest = |g: &mut Guest| offer(g, table(g, &[(DATA, 16, INDIRECT, 0)]), 16);
    check("nested", nest, chain(ChainFault::Nested));
    let around = |g: &mut Guest| offer(g, table(g, &[(DATA, 16, NEXT, 0)]), 16);
    check("a loop", around, chain(ChainFault::TooLong));
}

#[test]
fn a_good_indirect_request_is_fetched_whatever_its_framing() {
    let (mut link, guest) = Link::started();
    let mut guest = guest;
    let header = guest.header(0, READ, 0);
    let pieces = [
        (header, 10, NEXT, 1),
        (header + 10, 6, NEXT, 2),
        (DATA, 300, NEXT | WRITE, 3),
        (DATA + 1000, 213, WRITE, 0),
    ];
    guest.describe(0, table(&guest, &pieces), 64, (INDIRECT, 0));
    guest.offer(0);
    assert_eq!(link.fetch().length, 512);
    assert_eq!(link.receive(0, 0, &[4; 512]), 512);
    link.session.complete(0, 0, Status::Ok);
    assert_eq!(guest.read(DATA + 1000, 213), [vec![4; 212], vec![0]].concat(), "the last byte is the status");
}

#[test]
fn what_a_read_gives_to_read_is_not_its_data() {
    let (mut link, mut guest) = Link::started();
    let header = guest.header(0, READ, 0);
    let more = Guest::data_at(6);
    guest.write(more, &[3; 64]);
    let pieces =
        [(header, 16, NEXT, 1), (more, 64, NEXT, 2), (DATA, 512, NEXT | WRITE, 3), (STATUSES, 1, WRITE, 0)];
    guest.describe(0, table(&guest, &pieces), 64, (INDIRECT, 0));
    guest.offer(0);
    assert_eq!(link.fetch().length, 512);
    link.session.fill(0, 0, 0, &[4; 512]);
    assert_eq!((guest.read(DATA, 512), guest.read(more, 64)), (vec![4; 512], vec![3; 64]));
}

/// A ring that cannot start says why at the first fetch.
fn check_start(name: &str, size: u16, ring: VringConfigData, expected: Fault) {
    let (mut link, mut guest) = Link::started();
    link.stop();
    let kick = link.kick.try_clone().unwrap();
    link.with(move |front| {
        front.set_vring_num(0, size).unwrap();
        front.set_vring_addr(0, &ring).unwrap();
        front.set_vring_kick(0, &kick).unwrap();
        front.set_vring_enable(0, true).unwrap();
    });
    assert_eq!(link.session.fetch(0), Fetched::Broken(expected), "{name}");
    assert_eq!(link.session.fetch(0), Fetched::Empty, "{name}");
    link.stop();
    guest.reset();
    link.start(&mut guest, 0);
    guest.ask(0, READ, 0, 512);
    link.fetch();
}

#[test]
fn rings_that_cannot_be() {
    let good = ring_at(None);
    for size in [0, 3, 1025, 2048] {
        check_start("size", size, good, Fault::QueueSize(size.into()));
    }
    check_start("longer than its inflight buffer", 2 * SIZE, good, Fault::Inflight);
    for (descriptors, available, used) in [(8, 0, 0), (0, 1, 0), (0, 0, 2)] {
        let ring = VringConfigData {
            desc_table_addr: good.desc_table_addr + descriptors,
            avail_ring_addr: good.avail_ring_addr + available,
            used_ring_addr: good.used_ring_addr + used,
            ..good
        };
        check_start("not aligned", SIZE, ring, Fault::Misaligned);
    }
    let outside = VringConfigData { desc_table_addr: USER + MEMORY, ..good };
    check_start("outside", SIZE, outside, Fault::Ring);
    let over = VringConfigData { used_ring_addr: USER + MEMORY - 64, ..good };
    check_start("over the end", SIZE, over, Fault::Ring);
}
