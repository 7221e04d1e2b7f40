//! Random stories of a move, and some that were chosen.

use super::world::{Coming, Leaving, Wire, World};
use crate::migration::{destination, source};
use crate::testing::cases;
use proptest::prelude::*;

/// Everything works again: each question is answered, and each hypervisor does what it is told.
fn heal(world: &mut World) {
    world.tell_source(source::Input::StoreHeard);
    for _ in 0..1000 {
        settle(world);
        world.operator_helps();
        let before = (world.leaving, world.coming);
        world.advance_hypervisors();
        settle(world);
        if (world.leaving, world.coming) != before {
            continue;
        }
        let deadlines = [
            world.source.as_ref().and_then(source::Source::deadline),
            world.destination.as_ref().and_then(destination::Destination::deadline),
        ];
        if deadlines == [None, None] {
            return;
        }
        world.pass_time();
        world.check();
    }
}

/// Until nothing is on its way.
fn settle(world: &mut World) {
    for _ in 0..1000 {
        if world.wires.is_empty() {
            return;
        }
        let wire = world.wires.remove(0);
        world.carry(wire);
        world.check();
    }
    panic!("they never come to rest: {:?}", world.wires);
}

fn step(world: &mut World, choice: u32) {
    let (kind, which) = (choice % 100, (choice / 100) as usize);
    let wire = (!world.wires.is_empty()).then(|| which % world.wires.len());
    match (kind, wire) {
        (0..=54, Some(at)) => {
            let wire = world.wires.remove(at);
            world.carry(wire);
        }
        // Lost, and that is known.
        (55..=62, Some(at)) => {
            let wire = world.wires.remove(at);
            world.tell_unknown(&wire);
        }
        // Lost without a word.
        (63..=65, Some(at)) => {
            world.wires.remove(at);
        }
        // Given up by whoever asked, and still on its way.
        (66..=71, Some(at)) => {
            let wire = world.wires[at].clone();
            world.tell_unknown(&wire);
        }
        (72..=76, Some(at)) => {
            let wire = world.wires[at].clone();
            world.carry(wire);
        }
        (77..=84, _) => world.pass_time(),
        (91, _) if which % 2 == 0 => world.tell_source(source::Input::StoreAway("it is silent".into())),
        (91, _) => world.tell_source(source::Input::StoreHeard),
        (93..=94, _) => world.crash_source(),
        (95..=96, _) => world.crash_destination(),
        (97, _) => world.kill_coming(),
        (98, _) if which % 4 == 0 => world.kill_leaving(),
        (99, _) => world.tell_source(source::Input::Cancel("the operator has cancelled it".into())),
        _ => world.advance_hypervisors(),
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn never_two_writers_and_always_an_end(choices in prop::collection::vec(any::<u32>(), 0..160)) {
        let mut world = World::new();
        world.check();
        for choice in choices {
            step(&mut world, choice);
            world.check();
        }
        heal(&mut world);
        world.check_end();
    }
}

#[test]
fn when_nothing_goes_wrong_it_moves() {
    let mut world = World::new();
    heal(&mut world);
    assert_eq!(world.word(), "moved");
    assert_eq!((world.leaving, world.coming), (Leaving::Completed, Coming::Landed));
    assert!(world.is_taken());
    world.check_end();
}

/// Delivers everything in order until the source is there.
fn until(world: &mut World, word: &str) {
    for _ in 0..50 {
        while world.word() != word && !world.wires.is_empty() {
            let wire = world.wires.remove(0);
            world.carry(wire);
        }
        if world.word() == word {
            return;
        }
        world.advance_hypervisors();
    }
    panic!("it never came to {word}");
}

fn commit_at(world: &World) -> usize {
    let commits = |wire: &Wire| matches!(wire, Wire::FromSource(_, source::Act::Commit { .. }));
    world.wires.iter().position(commits).expect("the commit is on its way")
}

#[test]
fn a_commit_whose_answer_is_lost_has_moved_it() {
    let mut world = World::new();
    until(&mut world, "committing");
    let at = commit_at(&world);
    let commit = world.wires.remove(at);
    world.carry(commit.clone());
    world.wires.clear();
    world.tell_unknown(&commit);
    assert_eq!(world.word(), "uncertain");
    heal(&mut world);
    assert_eq!(world.word(), "moved");
    world.check_end();
}

#[test]
fn a_commit_that_travels_for_long_has_no_effect() {
    let mut world = World::new();
    until(&mut world, "committing");
    let at = commit_at(&world);
    let commit = world.wires.remove(at);
    world.tell_unknown(&commit);
    heal(&mut world);
    assert_eq!(world.word(), "stayed");
    assert!(world.source_dispatches());
    world.carry(commit);
    world.check();
    assert!(world.source_dispatches(), "it arrived under an epoch that is over");
    world.check_end();
}

#[test]
fn a_source_that_dies_after_the_commit_goes_on_with_it() {
    let mut world = World::new();
    until(&mut world, "committing");
    let at = commit_at(&world);
    let commit = world.wires.remove(at);
    world.crash_source();
    world.carry(commit);
    world.check();
    heal(&mut world);
    assert_eq!(world.word(), "moved");
    world.check_end();
}

#[test]
fn a_source_that_dies_before_the_commit_stays() {
    for word in ["preparing", "transferring", "settling", "handing-over"] {
        let mut world = World::new();
        until(&mut world, word);
        world.crash_source();
        heal(&mut world);
        assert_eq!(world.word(), "stayed", "killed while {word}");
        world.check_end();
    }
}

#[test]
fn a_destination_that_dies_after_the_commit_and_before_it_lands_is_given_back() {
    let mut world = World::new();
    until(&mut world, "continuing");
    assert_eq!(world.coming, Coming::Waits);
    world.kill_coming();
    heal(&mut world);
    assert_eq!(world.word(), "stayed");
    assert_eq!(world.leaving, Leaving::Failed);
    world.check_end();
    assert!(world.source_dispatches());
}

#[test]
fn both_die_in_the_middle_of_the_commit() {
    let mut world = World::new();
    until(&mut world, "committing");
    let at = commit_at(&world);
    let commit = world.wires.remove(at);
    world.crash_source();
    world.crash_destination();
    world.carry(commit);
    world.check();
    heal(&mut world);
    assert_eq!(world.word(), "moved");
    world.check_end();
}

/// The checks are worth what they can find.
#[test]
#[should_panic(expected = "owns under other epochs than the store's")]
fn a_destination_that_believes_a_forged_read_is_found() {
    let mut world = World::new();
    until(&mut world, "committing");
    let owner = |unit: &crate::ownership::UnitEpoch| crate::ownership::Found {
        unit: unit.unit.clone(),
        owner: Some(crate::ownership::Owner {
            host: "kvm2".into(),
            epoch: unit.epoch + 1,
            move_id: Some(super::id(1)),
        }),
    };
    let found = super::plan().units().iter().map(owner).collect();
    world.tell_destination(destination::Input::Owners(Ok(found)));
}

#[test]
#[should_panic(expected = "cancelled while a commit may still take effect")]
fn a_cancel_beside_a_commit_that_travels_is_found() {
    let mut world = World::new();
    until(&mut world, "committing");
    world.cancel();
}

#[test]
#[should_panic(expected = "the source dispatches and is not the owner")]
fn a_source_that_forgets_its_move_is_found() {
    let mut world = World::new();
    until(&mut world, "continuing");
    world.forget_source();
    world.check();
}
