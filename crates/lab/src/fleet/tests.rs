//! The fleet must keep its loops as they were ordered, and record what happens.

use super::*;
use crate::vhost::fake::{Fake, Faults};
use std::path::Path;

const SECOND: u64 = 1_000_000_000;

fn load(dir: &Path, name: &str, depth: u16, demand: Demand) -> (Fake, VmLoad) {
    let socket = dir.join(name);
    let fake = Fake::start(&socket, 256 << 10);
    (fake, VmLoad { name: name.to_owned(), socket, depth, demand })
}

fn start(vms: &[&VmLoad]) -> Fleet {
    let vms = vms.iter().map(|vm| (*vm).clone()).collect();
    Fleet::start(&FleetPlan { vms, request_bytes: 8192 }).unwrap()
}

/// Until a disk has seen that many requests, or the fleet has ended.
fn wait(fleet: &Fleet, so: impl Fn() -> bool) {
    while !so() && fleet.is_running() {
        std::thread::yield_now();
    }
}

#[test]
fn a_backlog_keeps_its_depth_and_every_completion_is_recorded_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (one, first) = load(dir.path(), "one", 3, Demand::Backlog);
    let (two, second) = load(dir.path(), "two", 1, Demand::Backlog);
    Faults::set(&one.faults.hold);
    let fleet = start(&[&first, &second]);
    wait(&fleet, || one.open() == 3);
    let began = Instant::now();
    wait(&fleet, || began.elapsed() > Duration::from_millis(50));
    assert_eq!(one.open(), 3);
    Faults::clear(&one.faults.hold);
    wait(&fleet, || began.elapsed() > Duration::from_millis(100));
    let record = fleet.stop().unwrap();
    drop(two);
    for vm in &record.vms {
        assert!(vm.completions.len() > 3 && vm.errors == 0 && vm.given_up == 0, "{}", vm.name);
        assert!(vm.completions.is_sorted_by_key(|done| done.at));
        assert!(vm.completions.iter().all(|done| done.latency == done.response), "nothing waits for a slot");
    }
    let held = record.vms[0].completions.iter().map(|done| done.latency).max();
    assert!(held > Some(SECOND / 25), "a request that was held 50 ms took {held:?} ns");
}

#[test]
fn an_open_loop_goes_on_while_nothing_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let paced = Demand::Paced { requests_per_second: 1000 };
    let (fake, vm) = load(dir.path(), "paced", 4, paced);
    Faults::set(&fake.faults.hold);
    let fleet = start(&[&vm]);
    wait(&fleet, || fleet.began().elapsed() > 2 * WAIT_MAX);
    Faults::clear(&fake.faults.hold);
    wait(&fleet, || fleet.began().elapsed() > 3 * WAIT_MAX);
    let spent = fleet.began().elapsed();
    let record = fleet.stop().unwrap();
    let vm = &record.vms[0];
    let turns = vm.completions.len() as u64 + vm.given_up;
    assert!(turns <= spent.as_millis() as u64 + 5 && turns > 100, "{turns} turns in {spent:?}");
    assert!(vm.given_up > 50, "what waited for longer than {WAIT_MAX:?} was given up");
    let waited = vm.completions.iter().filter(|done| done.response > done.latency).count();
    assert!(waited > 50, "{waited} waited for a slot, and the wait counts");
}

#[test]
fn failed_requests_are_counted_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, vm) = load(dir.path(), "failing", 2, Demand::Backlog);
    Faults::set(&fake.faults.fail);
    let fleet = start(&[&vm]);
    wait(&fleet, || fleet.began().elapsed() > Duration::from_millis(30));
    let record = fleet.stop().unwrap();
    assert!(record.vms[0].errors > 0 && record.vms[0].completions.is_empty());
}

#[test]
fn a_back_end_that_goes_away_ends_the_fleet_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, vm) = load(dir.path(), "gold", 2, Demand::Backlog);
    Faults::set(&fake.faults.hold);
    let fleet = start(&[&vm]);
    wait(&fleet, || fake.open() > 0);
    drop(fake);
    wait(&fleet, || false);
    let why = fleet.stop().unwrap_err();
    assert!(why.to_string().contains("gold: the back end has gone"), "{why}");
}
