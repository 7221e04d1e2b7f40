//! Rings that are left with requests open on one host and begin with them on another.

use super::super::fault::{Fault, Misfit};
use super::super::{Ending, Fetched, LeftFate, Origin};
use super::driver::{FEATURES, Guest, Link, OUT, READ, SIZE, merge, shape};
use crate::frontend::vhost_user::Changes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use vhost::VhostBackend;
use vmpath_core::migration::{Open, OpenRequest, QueueHandOver};
use vmpath_protocol::virtio_blk::request::Status;

/// As a worker tells it, where the requests of `unknown` were lost with a connection.
fn hand_over(link: &Link, unknown: &[u16]) -> QueueHandOver {
    let mut left = link.session.left().expect("its ring has run");
    assert_eq!(left.len(), 1, "the other queue never ran");
    let left = left.remove(0);
    let state = |head: u16, fate| match fate {
        LeftFate::Routed(token) => {
            assert_eq!(token, u32::from(head) + 100);
            if unknown.contains(&head) { Open::Unknown } else { Open::Unsent }
        }
        LeftFate::Ended(Status::Ok, Ending::WithData) => Open::Unsent,
        LeftFate::Ended(status, _) => Open::Done(status.code()),
        LeftFate::Untaken(open) => open,
    };
    let open = left.open.iter().map(|o| OpenRequest { head: o.head, state: state(o.head, o.fate) }).collect();
    QueueHandOver { queue: left.queue, base: left.base, open }
}

/// The other host's device: told to start, and waiting.
fn waiting(guest: &mut Guest, base: u16) -> (Link, Changes) {
    let mut link = Link::new(shape());
    link.session.hold_starts();
    link.negotiate(FEATURES);
    let changes = link.tell_start(guest, base, SIZE);
    (link, changes)
}

fn admit(link: &mut Link, incoming: &QueueHandOver) -> Changes {
    link.session.admit(vec![incoming.clone()]).expect("the session goes on")
}

/// Head 12 is done; 0 waits, 3 was written after the stop, 6 was read after it, 9 was lost.
fn left_behind() -> (Guest, QueueHandOver) {
    let (mut link, mut guest) = Link::started();
    guest.ask(12, OUT, 0, 512);
    guest.ask(0, READ, 8, 512);
    guest.write(Guest::data_at(3), &[3; 512]);
    guest.ask(3, OUT, 16, 512);
    guest.ask(9, OUT, 24, 512);
    guest.ask(6, READ, 32, 512);
    for _ in 0..5 {
        link.fetch();
    }
    link.session.complete(0, 12, Status::Ok);
    let (base, _) = link.stop();
    link.session.complete(0, 3, Status::Ok);
    link.session.complete(0, 6, Status::Ok);
    let left = hand_over(&link, &[9]);
    assert_eq!((base, guest.used_index()), (5, 1));
    let open = [(0, Open::Unsent), (3, Open::Done(0)), (9, Open::Unknown), (6, Open::Unsent)];
    let open = open.map(|(head, state)| OpenRequest { head, state }).to_vec();
    assert_eq!(left, QueueHandOver { queue: 0, base: 5, open }, "in the order of fetching");
    (guest, left)
}

#[test]
fn a_ring_begins_with_what_another_host_has_left_and_not_before_it_is_known() {
    let (mut guest, left) = left_behind();
    let mut guest = {
        guest.result();
        guest.moved()
    };
    let (mut link, changes) = waiting(&mut guest, 5);
    assert!(changes.started.iter().next().is_none() && link.session.awaits_admission());
    guest.ask(13, READ, 40, 512);
    assert_eq!(
        (link.session.fetch(0), guest.used_index()),
        (Fetched::Empty, 1),
        "answered, and not executed"
    );
    // Its VM may be stopped and go on meanwhile.
    assert_eq!(link.with(|front| front.set_features(FEATURES).unwrap()).1.started.iter().count(), 0);
    assert_eq!(link.stop().0, 5, "at once, and as it was told");
    link.tell_start(&mut guest, 5, SIZE);
    assert!(link.session.awaits_admission());

    let changes = admit(&mut link, &left);
    assert!(changes.started.contains(0) && changes.taken.contains(0) && !link.session.awaits_admission());
    let request = link.fetch();
    assert_eq!((request.head, request.origin), (0, Origin::New));
    assert_eq!(link.session.fetch(0), Fetched::Answered, "3 is told at once");
    link.session.notify();
    assert_eq!(guest.result(), Some((3, 0)));
    let request = link.fetch();
    assert_eq!((request.head, request.origin), (9, Origin::Replayed));
    assert_eq!(link.fetch().head, 6);
    let new = link.fetch();
    assert_eq!((new.head, new.origin), (13, Origin::New), "and on where the source had stopped");
    for head in [9, 0, 6, 13] {
        link.session.complete(0, head, Status::Ok);
    }
    link.session.notify();
    let results: Vec<_> = std::iter::from_fn(|| guest.result()).collect();
    assert_eq!(results, [(9, 0), (0, 0), (6, 0), (13, 0)]);
}

#[test]
fn it_is_taken_once_however_the_process_ends() {
    let (guest, left) = left_behind();
    let mut guest = guest.moved();
    // Killed before: the front end says its used index then.
    drop(waiting(&mut guest, 5));
    let (mut link, _) = waiting(&mut guest, 1);
    assert!(admit(&mut link, &left).taken.contains(0));
    assert_eq!(link.fetch().head, 0);
    link.session.complete(0, 0, Status::Ok);
    link.session.notify();
    // Killed after: what is open is in the inflight buffer, and the file may be there still.
    let (mut link, _) = waiting(&mut guest, 2);
    assert!(admit(&mut link, &left).taken.contains(0));
    let heads: Vec<u16> = (0..3).map(|_| link.fetch()).map(|request| request.head).collect();
    assert_eq!(heads, [3, 9, 6], "what was done is not done again");
    assert_eq!(link.session.fetch(0), Fetched::Empty);
    // And killed once more, with nobody who offers it any more.
    for head in heads {
        link.session.complete(0, head, Status::Ok);
    }
    link.session.notify();
    let mut link = Link::after_crash(&mut guest);
    assert_eq!((link.session.fetch(0), guest.used_index()), (Fetched::Empty, 5));
    guest.ask(13, READ, 40, 512);
    assert_eq!(link.fetch().head, 13);
}

#[test]
fn what_does_not_fit_is_not_begun() {
    let open = |head| OpenRequest { head, state: Open::Unsent };
    let misfit = |change: &dyn Fn(&mut QueueHandOver), base: u16| {
        let (guest, mut left) = left_behind();
        let mut guest = guest.moved();
        change(&mut left);
        let (mut link, _) = waiting(&mut guest, base);
        assert!(admit(&mut link, &left).taken.iter().next().is_none());
        guest.ask(13, READ, 40, 512);
        let Fetched::Broken(Fault::HandOver(misfit)) = link.session.fetch(0) else { panic!("it was begun") };
        assert_eq!((link.session.fetch(0), guest.used_index()), (Fetched::Empty, 1), "its guest waits");
        misfit
    };
    let count = |open| Misfit::Count { base: 5, used: 1, expected: 5, open };
    assert_eq!(misfit(&|left| left.open.truncate(3), 5), count(3));
    assert_eq!(misfit(&|left| left.open.push(open(1)), 5), count(5));
    assert_eq!(misfit(&|left| left.base = 4, 5), Misfit::Count { base: 5, used: 1, expected: 4, open: 4 });
    assert_eq!(misfit(&|_| {}, 6), Misfit::Count { base: 6, used: 1, expected: 5, open: 4 });
    assert_eq!(misfit(&|left| left.open[3] = open(0), 5), Misfit::Head(0));
    assert_eq!(misfit(&|left| left.open[3] = open(SIZE), 5), Misfit::Head(SIZE));
    assert_eq!(misfit(&|left| left.queue = 1, 5), Misfit::Nobody { base: 5, used: 1 });
}

#[test]
fn a_ring_with_requests_that_nobody_has_handed_over_is_not_begun() {
    let (guest, _) = left_behind();
    let mut guest = guest.moved();
    let mut link = Link::new(shape());
    link.negotiate(FEATURES);
    link.tell_start(&mut guest, 5, SIZE);
    let expected = Fault::HandOver(Misfit::Nobody { base: 5, used: 1 });
    assert_eq!(link.session.fetch(0), Fetched::Broken(expected));
    // With nothing open there is nothing to be handed over.
    let mut link = Link::new(shape());
    link.negotiate(FEATURES);
    guest.inflight = None;
    link.start(&mut guest, 1);
    assert_eq!(link.fetch().head, 0, "the next that is available");
}

#[test]
fn a_driver_that_starts_anew_has_nothing_to_do_with_what_was_handed_over() {
    // It was reset while the device waited.
    let (guest, left) = left_behind();
    let mut guest = guest.moved();
    let (mut link, _) = waiting(&mut guest, 5);
    link.stop();
    guest.reset();
    let changes = link.tell_start(&mut guest, 0, SIZE);
    assert!(changes.taken.contains(0), "nobody waits for it any more");
    // The worker offers it all the same.
    let changes = admit(&mut link, &left);
    assert!(changes.taken.contains(0) && changes.started.contains(0));
    guest.ask(0, READ, 0, 512);
    assert_eq!((link.fetch().origin, link.session.fetch(0)), (Origin::New, Fetched::Empty));

    // It was reset before the VM moved, and starts after.
    let (guest, left) = left_behind();
    let mut guest = guest.moved();
    guest.reset();
    let (mut link, _) = waiting(&mut guest, 0);
    assert!(admit(&mut link, &left).taken.contains(0));
    guest.ask(3, READ, 0, 512);
    assert_eq!((link.fetch().head, link.session.fetch(0)), (3, Fetched::Empty));
}

/// Of a move that nobody remembers. A ring of which nothing was ever told has the numbers of one that is new.
#[test]
fn what_was_handed_over_is_never_replayed_into_a_new_ring() {
    let left_by_a_young_guest = || {
        let (mut link, mut guest) = Link::started();
        guest.ask(3, OUT, 16, 512);
        guest.ask(9, OUT, 24, 512);
        let fetched = [link.fetch().head, link.fetch().head];
        assert_eq!(fetched, [3, 9]);
        assert_eq!(link.stop().0, 2);
        let left = hand_over(&link, &[9]);
        assert_eq!((left.base, left.open.len(), guest.used_index()), (2, 2, 0));
        (guest.moved(), left)
    };
    let (mut guest, left) = left_by_a_young_guest();
    guest.reset();
    let (mut link, _) = waiting(&mut guest, 0);
    assert!(admit(&mut link, &left).taken.contains(0));
    assert_eq!(link.session.fetch(0), Fetched::Empty, "nobody has asked for anything");
    guest.ask(5, READ, 0, 512);
    assert_eq!((link.fetch().head, link.session.fetch(0)), (5, Fetched::Empty));

    // It is the guest's own ring, and the front end knows only the used index: nothing of it is lost.
    let (mut guest, left) = left_by_a_young_guest();
    let (mut link, _) = waiting(&mut guest, 0);
    assert!(admit(&mut link, &left).taken.contains(0));
    assert_eq!([link.fetch().head, link.fetch().head], [3, 9]);
    assert_eq!(link.session.fetch(0), Fetched::Empty);

    let (mut guest, left) = left_by_a_young_guest();
    let (mut link, _) = waiting(&mut guest, 2);
    admit(&mut link, &left);
    assert_eq!(link.fetch().origin, Origin::New);
    assert_eq!(link.fetch().origin, Origin::Replayed, "as it has moved it is taken over");
}

/// What was not taken at the stop is handed on as it came.
#[test]
fn a_vm_may_move_on_before_it_has_arrived_whole() {
    let (guest, left) = left_behind();
    let mut guest = guest.moved();
    let (mut link, _) = waiting(&mut guest, 5);
    admit(&mut link, &left);
    link.fetch();
    assert_eq!(link.stop().0, 5);
    assert_eq!(hand_over(&link, &[]), left);
}

#[derive(Clone, Debug)]
enum Step {
    Ask,
    Fetch,
    Complete(usize),
    Show,
    Move,
    Kill,
}

/// A guest that asks without end, on hosts that change and die.
struct Journey {
    link: Link,
    guest: Guest,
    free: BTreeSet<u16>,
    /// Asked and not told, by head: how often.
    asked: BTreeMap<u16, u32>,
    routed: Vec<u16>,
}

impl Journey {
    fn new() -> Self {
        let (link, guest) = Link::started();
        let free = (0..5).map(|at| at * 3).collect();
        Self { link, guest, free, asked: BTreeMap::new(), routed: Vec::new() }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Ask => {
                if let Some(head) = self.free.pop_first() {
                    let kind = if head % 2 == 0 { READ } else { OUT };
                    self.guest.ask(head, kind, u64::from(head), 512);
                    self.asked.insert(head, 1);
                }
            }
            Step::Fetch => self.fetch(),
            Step::Complete(which) if !self.routed.is_empty() => {
                let head = self.routed.swap_remove(which % self.routed.len());
                self.link.session.complete(0, head, Status::Ok);
            }
            Step::Complete(_) => {}
            Step::Show => self.show(),
            Step::Move => self.travel(),
            Step::Kill => {
                self.link = Link::after_crash(&mut self.guest);
                self.routed.clear();
            }
        }
    }

    fn fetch(&mut self) {
        match self.link.session.fetch(0) {
            Fetched::Request(request) => {
                self.link.session.opened(0, request.head, u32::from(request.head) + 100);
                assert!(self.asked.contains_key(&request.head) && !self.routed.contains(&request.head));
                self.routed.push(request.head);
            }
            Fetched::Answered | Fetched::Empty => {}
            Fetched::Broken(fault) => panic!("{fault}"),
        }
    }

    fn show(&mut self) {
        self.link.session.notify();
        while let Some((head, status)) = self.guest.result() {
            assert_eq!((status, self.asked.remove(&head)), (0, Some(1)), "{head} is told once");
            self.free.insert(head);
        }
    }

    fn travel(&mut self) {
        let (base, _) = self.link.stop();
        // Some end after the stop.
        if let Some(head) = self.routed.pop() {
            self.link.session.complete(0, head, Status::Ok);
        }
        let left = hand_over(&self.link, &self.routed);
        self.routed.clear();
        self.guest = self.guest.moved();
        let (mut link, mut changes) = waiting(&mut self.guest, base);
        merge(&mut changes, admit(&mut link, &left));
        assert!(changes.taken.contains(0) && changes.started.contains(0));
        self.link = link;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens in whatever order: each request is told exactly once, and none is forgotten.
    #[test]
    fn each_request_ends_once_over_any_journey(
        steps in prop::collection::vec(
            prop_oneof![
                6 => Just(Step::Ask),
                6 => Just(Step::Fetch),
                4 => any::<usize>().prop_map(Step::Complete),
                2 => Just(Step::Show),
                1 => Just(Step::Move),
                1 => Just(Step::Kill),
            ], 0..60),
    ) {
        let mut journey = Journey::new();
        for step in &steps {
            journey.step(step);
        }
        for _ in 0..20 {
            journey.fetch();
            journey.step(&Step::Complete(0));
            journey.show();
        }
        prop_assert!(journey.asked.is_empty(), "forgotten: {:?}", journey.asked);
    }
}
