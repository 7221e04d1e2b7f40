//! The checkers over the real controller in seeded worlds, and over ones in which something is wrong on purpose.

mod config;
mod tamper;
mod world;

use super::super::violation::Violation;
use tamper::Tamper;
use world::World;

fn live(seed: u64, tamper: Tamper, steps: u32) -> Result<(), (Violation, String)> {
    let mut world = World::new(seed, tamper);
    world.live(steps).map_err(|violation| (violation, world.trace))
}

fn tail(trace: &str) -> String {
    let lines: Vec<_> = trace.lines().rev().take(300).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn the_rules_hold(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err((violation, trace)) = live(seed, Tamper::Nothing, 60) {
            panic!("seed {seed}: {violation:?}\n{}", tail(&trace));
        }
    }
}

#[test]
fn the_rules_hold_in_every_world() {
    the_rules_hold(0..200);
}

/// For a look at one world: `SEED=7 cargo test … one_seed -- --ignored`.
#[test]
#[ignore = "the world that SEED names"]
fn one_seed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    the_rules_hold(seed..seed + 1);
}

#[test]
#[ignore = "a minute"]
fn the_rules_hold_in_many_worlds() {
    let mut broken = vec![];
    for seed in 200..2000 {
        if let Err((violation, _)) = live(seed, Tamper::Nothing, 60) {
            broken.push(format!("seed {seed}: {violation:?}"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The rule that a fault breaks must be among those that are seen to break, within so many worlds.
fn caught(tamper: Tamper, rule: &str) {
    let mut seen = vec![];
    for seed in 0..400 {
        let Err((violation, _)) = live(seed, tamper, 60) else { continue };
        if violation.rule == rule {
            return;
        }
        seen.push(violation.rule);
    }
    panic!("{tamper:?} breaks {rule:?}, and only these were seen: {seen:?}");
}

#[test]
fn each_deliberate_fault_is_seen_by_its_rule() {
    let faults = [
        (Tamper::PublishTwice, "plan"),
        (Tamper::ContinueUnasked, "process"),
        (Tamper::ContinueAnyProcess, "process"),
        (Tamper::StopUntold, "process"),
        (Tamper::ForgetTheEnd, "explained"),
        (Tamper::OpenEveryGate, "gate"),
        (Tamper::ShutEveryGate, "gate"),
        (Tamper::FailEverybody, "fail-rung"),
        (Tamper::BounceEverybody, "gate"),
        (Tamper::SameIncident, "incident"),
        (Tamper::NoIncident, "incident"),
        (Tamper::CloseAtOnce, "incident"),
        (Tamper::NeverContinue, "forgotten"),
        (Tamper::NeverStop, "hold-bound"),
        (Tamper::ForgetVmsOverRestart, "forgotten"),
        (Tamper::ForgetNumbersOverRestart, "incident"),
        (Tamper::ShedAnother, "keep-set"),
        (Tamper::ShedNobody, "keep-set"),
        (Tamper::TrustAtOnce, "proof"),
        (Tamper::FailBackAtOnce, "failback"),
    ];
    for (tamper, rule) in faults {
        caught(tamper, rule);
    }
}
