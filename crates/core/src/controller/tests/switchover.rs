//! A hypervisor that is found at the switch-over of a move that nobody remembers: by whose units they are.

use super::super::switchover::PATIENCE;
use super::moves::{BRONZE, clustered, migration, state_word};
use super::world::{World, connected};
use crate::cluster::{Ask, Heard};
use crate::event::{Event, RunState, StopsOnError};
use crate::ids::UnitId;
use crate::migration::{MigrationState, MoveId, source};
use crate::ownership::{Owner, Ownership};
use crate::spec::OnPathLoss;
use crate::time::Duration;

/// As a vmpath that was killed has left it, and the next one finds it.
fn found(owner: Ownership) -> World {
    let mut world = World::dark(clustered(OnPathLoss::Failover, "hold 60s, then suspend"));
    world.handle(Event::Cluster(Heard::Up { nonce: 9 }));
    is(&mut world, owner);
    world.report(BRONZE, connected(5, RunState::Other, StopsOnError::No));
    migration(&mut world, MigrationState::PreSwitchover);
    world
}

fn is(world: &mut World, ownership: Ownership) {
    world.handle(Event::Cluster(Heard::Owner { unit: UnitId::at(0), ownership }));
}

fn theirs(host: &str, by: Option<&str>) -> Ownership {
    let move_id = by.map(|host| MoveId { host: host.into(), nonce: 3, number: 4 });
    Ownership::Theirs(Owner { host: host.into(), epoch: 8, move_id })
}

fn pass(world: &mut World, time: Duration) {
    world.pass_until(world.now + time);
}

/// Orders to the process.
fn orders(world: &World) -> Vec<&'static str> {
    let order = |ask: &Ask| {
        let Ask::Leave { act, .. } = ask else { return None };
        if *act == (source::Act::Cancel { instance: 5 }) {
            return Some("cancel");
        }
        (*act == source::Act::Continue { instance: 5 }).then_some("continue")
    };
    world.asks.iter().filter_map(order).collect()
}

fn told(world: &World) -> Vec<String> {
    let of_it = |reason: &&str| reason.contains("switch-over");
    let told = world.journal.iter().map(|entry| entry.reason.as_str()).filter(of_it);
    told.map(str::to_owned).collect()
}

#[test]
fn it_goes_on_here_if_its_units_are_ours() {
    let mut world = found(Ownership::Ours { epoch: 7 });
    pass(&mut world, PATIENCE - Duration::from_millis(1));
    assert_eq!((orders(&world), told(&world).len()), (vec![], 0));
    pass(&mut world, Duration::from_millis(2));
    assert_eq!(orders(&world), ["cancel"]);
    pass(&mut world, Duration::from_secs(3));
    assert_eq!(orders(&world), ["cancel", "cancel"], "until it is seen to have been heard");
    assert_eq!(told(&world).len(), 1);
    assert!(world.explain("bronze").contains("stands at the switch-over"), "{}", world.explain("bronze"));
    migration(&mut world, MigrationState::Cancelled);
    pass(&mut world, Duration::from_secs(60));
    assert_eq!(orders(&world).len(), 2);
    assert_eq!(told(&world)[1], "its hypervisor has left the switch-over at which it stood");
}

#[test]
fn it_goes_on_there_if_a_move_of_ours_has_given_its_units_away() {
    let mut world = found(theirs("kvm2", Some("kvm1")));
    pass(&mut world, PATIENCE);
    assert_eq!(state_word(&world), "continuing");
    pass(&mut world, Duration::from_secs(1));
    migration(&mut world, MigrationState::PreSwitchover);
    assert_eq!(orders(&world), ["continue"]);
    migration(&mut world, MigrationState::Completed);
    let move_id = MoveId { host: "kvm1".into(), nonce: 3, number: 4 };
    let answer = crate::migration::Answer::Refused("it runs".into());
    let input = source::Input::Discarded(answer);
    world.handle(Event::Cluster(Heard::Leaving { vm: BRONZE, move_id, input }));
    assert_eq!(state_word(&world), "elsewhere");
}

#[test]
fn nothing_is_done_before_it_is_known_whose_it_is() {
    let unknown = [
        Ownership::Unknown,
        Ownership::Uncertain,
        Ownership::Free,
        theirs("kvm2", Some("kvm3")),
        theirs("kvm2", None),
    ];
    for owner in unknown {
        let mut world = found(owner.clone());
        pass(&mut world, Duration::from_secs(60));
        assert_eq!((orders(&world), state_word(&world)), (vec![], "here"), "{owner:?}");
        assert_eq!(told(&world).len(), 1, "{owner:?}: {:?}", told(&world));
        is(&mut world, Ownership::Ours { epoch: 9 });
        pass(&mut world, Duration::from_secs(3));
        assert!(orders(&world).contains(&"cancel"), "{owner:?}");
    }
}

/// Another program's migration goes on by itself, and without a cluster there are no moves that could have been forgotten.
#[test]
fn what_is_somebody_elses_business_is_left_alone() {
    let mut world = found(Ownership::Ours { epoch: 7 });
    pass(&mut world, PATIENCE / 2);
    migration(&mut world, MigrationState::Completed);
    pass(&mut world, Duration::from_secs(60));
    assert_eq!((orders(&world), told(&world).len()), (vec![], 0));

    let mut alone = clustered(OnPathLoss::Failover, "hold 60s, then suspend");
    alone.cluster = None;
    let mut world = World::dark(alone);
    world.report(BRONZE, connected(5, RunState::Other, StopsOnError::No));
    migration(&mut world, MigrationState::PreSwitchover);
    pass(&mut world, Duration::from_secs(60));
    assert_eq!((orders(&world), told(&world).len()), (vec![], 0));
}
