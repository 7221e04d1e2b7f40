//! VMs that stopped by themselves on what their target answered.

use super::world::{World, check, spec};
use crate::spec::Spec;

fn one() -> Spec {
    spec(&[("gold", 100, 0)])
}

#[test]
fn one_that_its_targets_error_stopped_is_resumed() {
    // The error is heard of before the stop, or after it.
    check(
        one(),
        "
        @1 obedient; erred gold 0
        @1.002 io-error gold
        > 1.002: gold hold, gold vm-suspended
        > 2.002: gold open, cont gold, gold vm-resuming
        > 2.007: gold vm-resumed
        @10 io-error gold
        @10.2 erred gold 201
        > 10.2: gold hold, gold vm-suspended
        > 11.2: gold open, cont gold, gold vm-resuming
        > 11.205: gold vm-resumed
        @30 pass
        ",
    );
}

#[test]
fn an_error_of_somebody_elses_disk_is_not_ours() {
    check(
        one(),
        "
        @1 obedient; erred gold 0; paused gold
        @5 running gold
        @10 io-error gold
        @30 pass
        ",
    );
}

#[test]
fn a_stop_is_told_when_all_that_was_open_is_answered() {
    check(
        one(),
        "
        @1 obedient; erred gold 0
        @40 io-error gold
        > 40: gold hold, gold vm-suspended
        > 41: gold open, cont gold, gold vm-resuming
        > 41.005: gold vm-resumed
        @60 pass
        ",
    );
}

#[test]
fn it_may_have_stopped_while_its_monitor_was_away() {
    check(
        one(),
        "
        @1 obedient; lost gold
        > 1: gold vm-unmanaged
        @4 erred gold 0
        @9 connect-io-error gold 1
        > 9: gold hold, gold vm-managed, gold vm-suspended
        > 10: gold open, cont gold, gold vm-resuming
        > 10.005: gold vm-resumed
        @11 lost gold
        > 11: gold vm-unmanaged
        @14 erred gold 0
        @19 connect-io-error gold 2
        > 19: gold vm-managed
        @30 pass
        ",
    );
}

/// A block that is bad for good stops it each time.
#[test]
fn an_error_that_stays_ends_with_the_operator() {
    let mut world = World::new(one());
    world.run("@1 obedient; erred gold 0; io-error gold");
    for at in 0..100 {
        world.run(&format!("@{} erred gold 0; io-error gold", 3.0 + f64::from(at)));
    }
    let told = world.explain("gold");
    assert!(told.starts_with("suspended hold"), "{told}");
    assert!(
        told.contains("EIO") && told.contains("failed too often") && told.contains("vmpath vm resume gold"),
        "{told}"
    );
    world.run("@110 resume gold; pass");
    world.run("@130 pass");
    assert!(world.explain("gold").starts_with("running"), "{}", world.explain("gold"));
}
