//! A run can be repeated, no rule is broken, and enough happens for that to mean something.

use super::runner::{REGRESSIONS, play};
use super::tally::{Fault, Tally};
use super::trace::Trace;

/// Few: `vmpath simulate --seeds` plays the many.
const SEEDS: u64 = 12;

#[test]
fn no_rule_is_broken_and_everything_happens() {
    let mut sum = Tally::default();
    for seed in REGRESSIONS.iter().map(|(seed, _)| *seed).chain(1..=SEEDS) {
        let (tally, _, violation) = play(seed, Trace::silent(), &[]);
        assert!(violation.is_none(), "seed {seed}: {violation:?}");
        sum.add(&tally);
    }
    let missing: Vec<_> = Fault::ALL.iter().filter(|fault| sum.of(**fault) == 0).map(|f| f.word()).collect();
    assert!(missing.len() <= 1, "no {missing:?} in {SEEDS} seeds");
    for (name, count) in sum.rows() {
        assert!(
            count > 0 || matches!(name, "seeds" | "writes_of_another_host"),
            "no {name} in {SEEDS} seeds"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 7, 42] {
        let runs = [0, 1].map(|_| {
            let (tally, trace, _) = play(seed, Trace::silent(), &[]);
            (tally.events, tally.dispatched, trace.hash())
        });
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
    let hash = |seed| play(seed, Trace::silent(), &[]).1.hash();
    assert_ne!(hash(1), hash(2));
}
