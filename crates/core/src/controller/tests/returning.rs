//! Who goes back by itself, and where to.

use super::moves::{BRONZE, arriving, clustered, coming, transfers, until_owned, until_stored, waiting};
use super::world::{World, check, check_in, connected};
use crate::cluster::{Ask, Heard, Whereto};
use crate::event::{Event, RunState, StopsOnError};
use crate::migration::{Move, VmCarry, destination, source};
use crate::spec::{Failback, OnPathLoss};
use crate::time::Duration;

/// A VM that has come here by this move, on a target with this `failback`; `return = true`.
fn come(plan: Move, failback: Failback) -> World {
    let mut spec = waiting().spec.as_ref().clone();
    spec.targets[0].failback = failback;
    let mut world = super::moves::waiting_with(spec);
    world.handle(Event::Cluster(Heard::Invited(Box::new(plan))));
    arriving(&mut world, destination::Input::Launched(Ok("tcp:10.0.0.1:49152".into())));
    until_stored(&mut world, VmCarry::Running);
    until_owned(&mut world);
    world.report(BRONZE, connected(8, RunState::Running, StopsOnError::No));
    assert_eq!(super::moves::state_word(&world), "here");
    world
}

fn asked(world: &World) -> Vec<Whereto> {
    let place = |ask: &Ask| if let Ask::Place { whereto, .. } = ask { Some(whereto.clone()) } else { None };
    world.asks.iter().filter_map(place).collect()
}

/// Where it goes by itself within a day.
fn goes_to(world: &mut World) -> Option<Whereto> {
    let until = world.now + Duration::from_secs(24 * 3600);
    while asked(world).is_empty() && world.now < until {
        world.pass_until(world.now + Duration::from_secs(600));
    }
    asked(world).first().cloned()
}

fn fled(hosts: &[&str]) -> Move {
    let fled = hosts.iter().map(|host| (*host).to_owned()).collect();
    Move { home: "kvm3".into(), fled, ..coming(1 << 28) }
}

#[test]
fn what_an_operator_has_moved_stays_until_it_is_sent_back() {
    let mut world = come(fled(&[]), Failback::Immediate);
    assert_eq!(goes_to(&mut world), None);
    assert!(world.controller.view(world.now).vms[BRONZE.index()].returns_to.is_none());
    world.forget_log();
    check_in(&mut world, "@90000 return bronze\n> 90000: ask place vm#0, answer ok");
    assert_eq!(asked(&world), [Whereto::Named("kvm3".into())]);
}

#[test]
fn what_has_fled_goes_back_to_where_it_was_first() {
    let mut world = come(fled(&["kvm4", "kvm2"]), Failback::Immediate);
    assert_eq!(goes_to(&mut world), Some(Whereto::Home("kvm4".into())));
}

#[test]
fn with_followover_only_the_host_that_has_moved_it_has_it_back() {
    let mut world = come(fled(&["kvm4", "kvm2"]), Failback::Followover);
    assert_eq!(goes_to(&mut world), Some(Whereto::Home("kvm2".into())));
    let text = world.explain("bronze");
    assert!(text.contains("kvm2, which has moved it, has its paths back"), "{text}");
    // Once it is there, that one sends it on to whoever had moved it before.
    world.handle(Event::Cluster(Heard::Placed { vm: BRONZE, result: Ok("kvm2".into()) }));
    assert_eq!(plan(&world).fled, ["kvm4"]);
}

fn plan(world: &World) -> Move {
    world.controller.leaving_plan(BRONZE).expect("it leaves").clone()
}

#[test]
fn a_failure_says_from_where_it_has_driven_a_vm() {
    let mut world = check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; down a; pass
        > 1: bronze hold, ask place vm#0, san0 incident-opened, a path-down
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    assert_eq!((plan(&world).fled, plan(&world).home), (vec!["kvm1".to_owned()], "kvm1".to_owned()));
    // One that is given up leaves nothing behind.
    transfers(&mut world);
    super::moves::leaving(&mut world, source::Input::Replaced);
    assert_eq!(world.controller.vms[BRONZE.index()].travel.fled, [""; 0]);
}

#[test]
fn an_operator_s_move_says_nothing_of_a_failure() {
    let world = check(
        clustered(OnPathLoss::Migrate, "hold 60s, then suspend"),
        "
        @1 etcd; owner kvm1; migrate bronze
        > 1: ask place vm#0, answer ok
        @1.1 placed bronze kvm2
        > 1.1: ask leave vm#0 probe, bronze vm-migrating
        ",
    );
    assert_eq!((plan(&world).fled, plan(&world).home), (vec![], "kvm1".to_owned()));
}

#[test]
fn the_way_back_survives_a_restart() {
    let world = come(fled(&["kvm4", "kvm2"]), Failback::Immediate);
    let saved = world.controller.save_moves();
    let (mut next, _) = crate::controller::Controller::new(world.spec.clone(), world.now);
    next.restore_moves(world.now, saved);
    assert_eq!(next.view(world.now).vms[BRONZE.index()].returns_to.as_deref(), Some("kvm4"));
}
