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

#[test]
fn the_rules_hold_in_every_world() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    for seed in 0..seeds {
        if let Err((violation, trace)) = live(seed, Tamper::Nothing, 60) {
            panic!("seed {seed}: {violation:?}\n{}", tail(&trace));
        }
    }
}
