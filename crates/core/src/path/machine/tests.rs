//! The transition table, written out as it is drawn, and the walks that matter.

use super::*;
use crate::spec::{PathSelector, WriteCache};

fn rules(failback: Failback) -> TargetSpec {
    TargetSpec {
        name: "san0".into(),
        failback,
        quiesce: Duration::from_secs(5),
        ping_budget: Duration::from_secs(5),
        repair_after: Duration::from_secs(1),
        write_cache: WriteCache::SurvivesPathLoss,
        connections: 2,
        path_selector: PathSelector::Vmpath,
    }
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn name(state: &PathState) -> &'static str {
    match state {
        PathState::Connecting { .. } => "connecting",
        PathState::Active { .. } => "active",
        PathState::Down { .. } => "down",
        PathState::Probation { .. } => "probation",
        PathState::Repaired { .. } => "repaired",
        PathState::Draining { stage: Drain::Shedding, .. } => "shedding",
        PathState::Draining { stage: Drain::Finishing, .. } => "finishing",
        PathState::Disabled { .. } => "disabled",
    }
}

/// Walks `(millisecond, signal)` and returns the states after each.
fn walk(failback: Failback, steps: &[(u64, Signal<'_>)]) -> Vec<&'static str> {
    let rules = rules(failback);
    let mut path = PathMachine::new(at(0));
    steps
        .iter()
        .map(|(ms, signal)| {
            path.step(at(*ms), *signal, &rules);
            name(path.state())
        })
        .collect()
}

#[test]
fn the_transition_table_is_as_drawn() {
    let fault = Fault::Reset;
    let rules = rules(Failback::After(Duration::from_secs(30)));
    let starts = [
        PathState::Connecting { since: at(0) },
        PathState::Active { since: at(0) },
        PathState::Down { since: at(0), fault: Fault::Closed },
        PathState::Probation { since: at(0), required: Duration::from_secs(1) },
        PathState::Repaired { since: at(0) },
        PathState::Draining { since: at(0), stage: Drain::Shedding },
        PathState::Draining { since: at(0), stage: Drain::Finishing },
        PathState::Disabled { since: at(0) },
    ];
    let signals = [
        Signal::Up,
        Signal::Down(&fault),
        Signal::Elapsed,
        Signal::Failback,
        Signal::Disable,
        Signal::Enable,
        Signal::Drain,
        Signal::Leave,
        Signal::Emptied,
    ];
    let table: Vec<String> = starts
        .iter()
        .map(|start| {
            let row: Vec<_> = signals
                .iter()
                .map(|signal| {
                    let mut path = PathMachine { state: start.clone(), damping: Damping::default() };
                    path.step(at(60_000), *signal, &rules).map_or("-", |_| name(path.state()))
                })
                .collect();
            format!("{}: {}", name(start), row.join(" "))
        })
        .collect();
    assert_eq!(
        table,
        [
            "connecting: active down - - disabled - shedding - -",
            "active: - down - - disabled - shedding - -",
            "down: probation - - - disabled - shedding - -",
            "probation: - down repaired - disabled - shedding - -",
            "repaired: - down active active disabled - shedding - -",
            "shedding: - - - - disabled connecting - finishing disabled",
            "finishing: - - - - disabled connecting - - disabled",
            "disabled: - - - - - connecting - - -",
        ]
    );
}

#[test]
fn failback_comes_at_once_later_or_by_hand() {
    use Signal::{Down, Elapsed, Failback as Back, Up};
    let reset = Fault::Reset;
    let lost = [(1, Up), (5000, Down(&reset)), (7000, Up), (7999, Elapsed), (8000, Elapsed), (8000, Elapsed)];
    let until_repaired = ["active", "down", "probation", "probation", "repaired"];
    let ends = |failback, more: &[(u64, Signal<'_>)]| {
        let states = walk(failback, &[&lost[..], more].concat());
        assert_eq!(states[..5], until_repaired);
        states[5..].to_vec()
    };
    assert_eq!(ends(Failback::Immediate, &[]), ["active"]);
    assert_eq!(
        ends(Failback::After(Duration::from_secs(30)), &[(37_999, Elapsed), (38_000, Elapsed)]),
        ["repaired", "repaired", "active"]
    );
    assert_eq!(
        ends(Failback::Manual, &[(9_000_000, Elapsed), (9_000_001, Back)]),
        ["repaired", "repaired", "active"]
    );
}

#[test]
fn a_relapse_doubles_the_probation_and_an_enable_needs_none() {
    let rules = rules(Failback::Immediate);
    let mut path = PathMachine::new(at(0));
    path.step(at(1), Signal::Up, &rules);
    path.step(at(1000), Signal::Down(&Fault::Reset), &rules);
    let mut required = vec![];
    for round in 1..5 {
        match path.step(at(round * 2000), Signal::Up, &rules) {
            Some(PathChange::Back { required: time, relapses, .. }) => {
                required.push((time.as_secs(), relapses));
            }
            other => panic!("expected it back, got {other:?}"),
        }
        path.step(at(round * 2000 + 500), Signal::Down(&Fault::Reset), &rules);
    }
    assert_eq!(required, [(1, 0), (2, 1), (4, 2), (8, 3)]);
    path.step(at(20_000), Signal::Disable, &rules);
    assert_eq!(path.step(at(21_000), Signal::Up, &rules), None);
    assert_eq!(path.step(at(22_000), Signal::Enable, &rules), Some(PathChange::Enabled));
    assert_eq!(path.step(at(22_001), Signal::Up, &rules), Some(PathChange::Connected));
}

#[test]
fn only_an_active_or_connecting_path_is_preferred() {
    let shown = |state: PathState| (state.health(), state.preferred());
    assert_eq!(shown(PathState::Active { since: at(0) }), (Health::Up, true));
    assert_eq!(shown(PathState::Repaired { since: at(0) }), (Health::Up, false));
    let probation = PathState::Probation { since: at(0), required: Duration::ZERO };
    assert_eq!(shown(probation), (Health::Marginal, false));
    assert_eq!(shown(PathState::Down { since: at(0), fault: Fault::Reset }), (Health::Down, false));
    assert_eq!(shown(PathState::Disabled { since: at(0) }), (Health::Disabled, false));
}
