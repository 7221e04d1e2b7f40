//! A run can be repeated, no rule is broken, enough happens for that to mean something, and each checker can fail.

use super::array::{Array, Attempt, Flight, Request};
use super::event::{Broken, Event};
use super::plane::Quarantine;
use super::store::Change;
use super::tally::{Fault, Tally};
use super::world::World;
use super::{REGRESSIONS, Trace, play};
use std::collections::BTreeMap;
use vmpath_core::cluster::Ask;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::ids::VmId;
use vmpath_core::migration::source::Act;
use vmpath_core::migration::{MoveId, RoomNeed};
use vmpath_core::time::{Duration, Instant};

/// Few: `vmpath simulate --hosts` plays the many.
const SEEDS: u64 = 40;

#[test]
fn no_rule_is_broken_and_everything_happens() {
    let mut sum = Tally::default();
    for seed in REGRESSIONS.iter().map(|(seed, _)| *seed).chain(1..=SEEDS) {
        let (tally, _, violation) = play(seed, 3, Trace::silent(), &[]);
        assert!(violation.is_none(), "seed {seed}: {violation:?}");
        sum.add(&tally);
    }
    let missing: Vec<_> = Fault::ALL.iter().filter(|fault| sum.of(**fault) == 0).map(|f| f.word()).collect();
    assert!(missing.len() <= 2, "no {missing:?} in {SEEDS} seeds");
    for (name, count) in sum.rows() {
        let may_be_none = matches!(name, "seeds" | "told_why_not" | "moves_left_over");
        assert!(count > 0 || may_be_none, "no {name} in {SEEDS} seeds");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for hosts in [2, 5] {
        let runs = [0, 1].map(|_| {
            let (tally, trace, _) = play(7, hosts, Trace::silent(), &[]);
            (tally.events, tally.dispatched, trace.hash())
        });
        assert_eq!(runs[0], runs[1], "{hosts} hosts");
    }
}

/// As it is when all VMs have begun.
fn begun() -> World {
    let mut world = World::new(1, 3, (Trace::silent(), &[]));
    world.play_until(Instant::from_millis(2500));
    assert!(world.violation.is_none());
    world
}

fn broken(world: &World) -> &'static str {
    world.violation.as_ref().map_or("nothing", |violation| violation.rule)
}

/// A VM's host, and one of its units.
fn home_of(world: &World, vm: usize) -> (usize, usize) {
    (world.scene.begins_at[vm], world.disks_of(vm)[0])
}

#[test]
fn who_sends_without_being_the_owner_is_found() {
    let mut world = begun();
    let (host, unit) = home_of(&world, 0);
    world.judge_sent(host, 0, unit);
    assert_eq!(broken(&world), "nothing");
    world.judge_sent((host + 1) % 3, 0, unit);
    assert_eq!(broken(&world), "two-writers");
}

#[test]
fn a_store_that_gives_units_away_is_found_at_once() {
    let mut world = begun();
    let (host, unit) = home_of(&world, 0);
    let epoch = world.store.records[unit].epoch;
    let units = [(unit, Some(epoch))];
    let change = Change::GiveBack { to: (host + 1) % 3 };
    assert!(world.store.change(host, &units, &change));
    world.owners_changed(host, &units, &change);
    assert_eq!(broken(&world), "false-owner");
}

#[test]
fn a_late_write_of_another_host_is_found_unless_the_owner_waits_for_it() {
    let mut world = begun();
    let (host, unit) = home_of(&world, 0);
    let other = (host + 1) % 3;
    let request = Request { vm: 0, unit, block: 3, write: true, executed_by: None, made: world.now };
    world.array.requests.push(request);
    let number = world.array.requests.len() as u32 - 1;
    let attempt = Attempt { request: number, host: other, life: 1, path: 0, flight: Flight::Lost };
    let attempt = world.array.sent(attempt);
    let until = world.now + Duration::from_secs(1);
    world.hosts[host].record[unit].push(Quarantine { block: 3, request: None, until });
    world.judge_writer(attempt);
    assert_eq!(broken(&world), "nothing");
    world.hosts[host].record[unit].clear();
    world.judge_writer(attempt);
    assert_eq!(broken(&world), "two-writers");
}

/// Nobody can say whose the units are, and the process before it has left it written.
#[test]
fn a_daemon_that_is_killed_while_etcd_is_away_serves_on_what_was_left_to_it_and_nothing_else() {
    let mut world = begun();
    let (host, unit) = home_of(&world, 0);
    let owns = |world: &World| {
        let process = world.hosts[host].process.as_ref();
        process.is_some_and(|process| process.told_owners[unit].may_dispatch())
    };
    assert!(owns(&world));
    // The last of them is over long after this test.
    (0..30).for_each(|_| world.breaks(Broken::Quorum, 60_000));
    for (left, then) in [(world.hosts[host].left.clone(), true), (BTreeMap::new(), false)] {
        world.crash(host);
        world.hosts[host].left = left;
        world.start(host);
        assert!(!owns(&world), "the store may answer yet");
        world.play_until(world.now + Duration::from_secs(2));
        assert!(!world.net.reaches_store(host));
        assert_eq!(owns(&world), then);
    }
    assert_eq!(broken(&world), "nothing");
}

fn write(array: &mut Array, block: usize) -> u32 {
    let request = Request { vm: 0, unit: 0, block, write: true, executed_by: None, made: Instant::ZERO };
    array.requests.push(request);
    array.requests.len() as u32 - 1
}

fn attempt(array: &mut Array, request: u32, host: usize) -> u32 {
    array.sent(Attempt { request, host, life: 1, path: 0, flight: Flight::Flying })
}

#[test]
fn the_array_sees_ghosts_and_what_is_executed_twice() {
    let mut array = Array::new(1);
    let first = write(&mut array, 0);
    let (a, again) = (attempt(&mut array, first, 0), attempt(&mut array, first, 1));
    assert_eq!(array.execute(a), Ok(()));
    assert!(array.acknowledged(first).is_ok());
    assert_eq!(array.execute(again).map_err(|(rule, _)| rule), Err("executed-twice"));
    let second = write(&mut array, 0);
    let _ = attempt(&mut array, second, 0);
    assert_eq!(array.execute(a).map_err(|(rule, _)| rule), Err("ghost"));
    assert_eq!(array.acknowledged(second).map_err(|(rule, _)| rule), Err("executed"));
}

fn ask(act: Act) -> Ask {
    Ask::Leave { vm: VmId(0), move_id: MoveId { host: "kvm1".into(), nonce: 1, number: 1 }, act }
}

#[test]
fn a_late_decision_is_found() {
    let mut world = begun();
    let claim = || ask(Act::Claim { to: "kvm2".into(), room: Vec::<RoomNeed>::new() });
    world.rules.probed(&MoveId { host: "kvm1".into(), nonce: 1, number: 1 }, world.now);
    world.judge_ask(0, &claim());
    assert_eq!(broken(&world), "nothing");
    world.now += Duration::from_millis(201);
    world.judge_ask(0, &claim());
    assert_eq!(broken(&world), "late-decision");
}

#[test]
fn a_second_commit_is_found() {
    let mut world = begun();
    let id = MoveId { host: "kvm1".into(), nonce: 1, number: 1 };
    for _ in 0..2 {
        world.owners_changed(0, &[], &Change::Commit { to: 1, id: id.clone() });
    }
    assert_eq!(broken(&world), "commit-twice");
}

#[test]
fn a_guest_that_is_sent_away_before_the_commit_is_found() {
    let mut world = begun();
    let id = MoveId { host: "kvm1".into(), nonce: 1, number: 1 };
    if let Some(process) = world.process(0) {
        process.leaving[0] = Some(id.clone());
    }
    world.judge_continue(0, 0);
    assert_eq!(broken(&world), "continue-early");
}

#[test]
fn a_hold_without_an_end_is_found() {
    let mut world = begun();
    let entry = JournalEntry {
        at: world.now,
        incident: None,
        kind: JournalKind::MigrationHeld,
        subject: Subject::Vm(VmId(0)),
        reason: "who knows".into(),
        until: None,
    };
    world.judge_record(0, &entry);
    assert_eq!(broken(&world), "no-end");
}

#[test]
fn a_vm_that_nobody_serves_is_found() {
    let mut world = begun();
    let (host, _) = home_of(&world, 0);
    world.hosts[host].qemus[0] = None;
    world.judge_end();
    assert_eq!(broken(&world), "forgotten");
}

#[test]
fn a_request_that_is_never_answered_is_found() {
    let mut world = begun();
    let (host, _) = home_of(&world, 0);
    let unit = world.disks_of(0)[0];
    let made = world.now;
    world.now += Duration::from_secs(11);
    world.array.requests.push(Request { vm: 0, unit, block: 1, write: true, executed_by: None, made });
    let number = world.array.requests.len() as u32 - 1;
    if let Some(guest) = world.hosts[host].qemus[0].as_mut().and_then(|qemu| qemu.guest.as_mut()) {
        guest.disks[0].open = [Some(number); super::scene::DEPTH];
    }
    world.judge_end();
    assert_eq!(broken(&world), "forgotten");
}

#[test]
fn events_of_a_dead_process_are_dropped() {
    let mut world = begun();
    let life = world.life(0).expect("it runs");
    world.crash(0);
    let event = Event::Saved(life);
    assert_ne!(world.life(0), event.life());
}
