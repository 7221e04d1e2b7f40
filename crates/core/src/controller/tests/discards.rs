//! Destinations that have not answered to a discard.

use super::moves::{BRONZE, clustered, leaving, state_word};
use super::world::{World, check};
use crate::cluster::{Ask, Heard};
use crate::event::Event;
use crate::migration::destination::WAIT_MAX;
use crate::migration::{Answer, MoveId, source};
use crate::spec::OnPathLoss;
use crate::time::Duration;

/// Given up while its hypervisor was being launched at kvm2.
fn given_up() -> (World, MoveId) {
    let mut world = check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; migrate bronze
        > 1: ask place vm#0, answer ok
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    let id = world.controller.leaving_plan(BRONZE).expect("it leaves").id.clone();
    leaving(&mut world, source::Input::Probed(Answer::Done(())));
    leaving(&mut world, source::Input::Claimed(Answer::Done(())));
    leaving(&mut world, source::Input::Cancel("somebody wants it".into()));
    assert_eq!((state_word(&world), told(&world)), ("here", 1));
    (world, id)
}

/// How often kvm2 was told.
fn told(world: &World) -> usize {
    let is_one =
        |ask: &&Ask| matches!(ask, Ask::Leave { act: source::Act::Discard { to, .. }, .. } if to == "kvm2");
    world.asks.iter().filter(is_one).count()
}

fn answer(world: &mut World, id: &MoveId, answer: Answer) {
    let input = source::Input::Discarded(answer);
    world.handle(Event::Cluster(Heard::Leaving { vm: BRONZE, move_id: id.clone(), input }));
}

fn pass(world: &mut World, time: Duration) {
    world.pass_until(world.now + time);
}

#[test]
fn it_is_told_again_until_it_answers() {
    for last in [Answer::Done(()), Answer::Refused("it runs here".into())] {
        let (mut world, id) = given_up();
        pass(&mut world, Duration::from_secs(4));
        assert_eq!(told(&world), 1);
        pass(&mut world, Duration::from_secs(2));
        assert_eq!(told(&world), 2);
        answer(&mut world, &id, Answer::Unknown("no answer".into()));
        pass(&mut world, Duration::from_secs(60));
        let so_far = told(&world);
        assert!((4..8).contains(&so_far), "more and more slowly: {so_far}");
        // That of another move says nothing of this one.
        answer(&mut world, &MoveId { number: 99, ..id.clone() }, last.clone());
        pass(&mut world, Duration::from_secs(31));
        assert_eq!(told(&world), so_far + 1);
        answer(&mut world, &id, last);
        pass(&mut world, Duration::from_secs(600));
        assert_eq!(told(&world), so_far + 1);
    }
}

#[test]
fn it_ends_when_the_destination_has_given_up_waiting_and_survives_a_restart_until_then() {
    let (mut world, _) = given_up();
    pass(&mut world, WAIT_MAX / 2);
    let saved = world.controller.save_moves();
    assert_eq!(saved.discards.len(), 1);
    let (mut next, _) = crate::controller::Controller::new(world.spec.clone(), world.now);
    next.restore_moves(world.now, saved.clone());
    assert_eq!(next.save_moves(), saved);
    pass(&mut world, WAIT_MAX / 2);
    let so_far = told(&world);
    pass(&mut world, WAIT_MAX);
    assert_eq!((told(&world), world.controller.save_moves().discards.len()), (so_far, 0));
}

/// The VM may be moved again meanwhile, also to there.
#[test]
fn the_vm_does_not_wait_for_it() {
    let (mut world, _) = given_up();
    world.forget_log();
    super::world::check_in(
        &mut world,
        "
        @3 migrate bronze
        > 3: ask place vm#0, answer ok
        @3.1 placed bronze kvm2
        > 3.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    assert_eq!(state_word(&world), "probing");
}
