//! The ladder as a table: what is to be done, by what is known.

use super::*;
use crate::event::StopsOnError;
use crate::time::Instant;

fn present(state: RunState, stops_on_error: StopsOnError) -> Monitor {
    Monitor::Present { instance: 1, state, stops_on_error, since: Instant::ZERO }
}

fn absent() -> Monitor {
    Monitor::Absent { why: "refused".into(), since: Instant::ZERO }
}

fn at(ladder: &str, monitor: &Monitor, lack: Lack, gone: Gone, on: On) -> Stand {
    let policy = ladder.parse().expect(ladder);
    stand(&policy, &Plight { monitor, lack, gone, migrating: alone() }, on).0
}

fn alone() -> Migrating {
    Migrating::Impossible(NO_OTHER_HOST.into())
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const FULL: &str = "hold 60s, then suspend 10m, then fail";
use NoPathAction::{Hold, Suspend as Stop};

#[test]
fn a_vm_that_stops_on_errors() {
    let monitor = present(RunState::Running, StopsOnError::Yes);
    let table = [
        (On::Start, Stand::Wait(Hold)),
        (On::Rung(Hold, secs(59)), Stand::Wait(Hold)),
        (On::Rung(Hold, secs(60)), Stand::Suspend),
        (On::Rung(Stop, secs(599)), Stand::Suspend),
        (On::Rung(Stop, secs(600)), Stand::Fail),
        (On::Past, Stand::Suspend),
    ];
    for (on, expected) in table {
        assert_eq!(at(FULL, &monitor, Lack::NoPath, Gone::No, on), expected, "{on:?}");
    }
    // It has stopped already, and no error can get past that.
    let Stand::Nothing(why) = at(FULL, &monitor, Lack::NoPath, Gone::No, On::AfterSuspend) else {
        panic!("its guest cannot see an error")
    };
    assert!(why.contains("werror=stop"), "{why}");
}

#[test]
fn a_suspend_that_cannot_be_done_is_waited_on_for_its_bound() {
    for monitor in [absent(), Monitor::Unknown, present(RunState::Running, StopsOnError::No)] {
        let table = [
            (FULL, On::Rung(Hold, secs(60)), Stand::Wait(Stop)),
            (FULL, On::Rung(Stop, secs(599)), Stand::Wait(Stop)),
            (FULL, On::Rung(Stop, secs(600)), Stand::Fail),
            ("suspend 10m, then fail", On::Start, Stand::Wait(Stop)),
            // Without a bound it is passed over: nothing would ever come after it.
            ("hold 60s, then suspend, then fail", On::Rung(Hold, secs(60)), Stand::Fail),
            ("suspend, then fail", On::Start, Stand::Fail),
        ];
        for (ladder, on, expected) in table {
            let stand = at(ladder, &monitor, Lack::NoPath, Gone::No, on);
            assert_eq!(stand, expected, "{ladder}: {on:?}, {monitor:?}");
        }
    }
}

#[test]
fn nothing_is_waited_for_when_the_unit_is_gone() {
    let (yes, none) = (present(RunState::Running, StopsOnError::Yes), absent());
    let gone = |ladder, monitor| at(ladder, monitor, Lack::NoPath, Gone::ForGood, On::Start);
    assert_eq!(gone(FULL, &yes), Stand::Suspend);
    assert_eq!(gone(FULL, &none), Stand::Fail);
    assert_eq!(gone("hold 60s, then fail", &yes), Stand::Fail);
    assert!(matches!(gone("hold 60s, then suspend", &none), Stand::Nothing(_)));
}

#[test]
fn with_too_few_paths_nothing_fails_and_any_vm_that_can_be_stopped_is() {
    let few = |ladder, monitor: &Monitor, on| at(ladder, monitor, Lack::FewPaths, Gone::No, on);
    let table = [
        (FULL, present(RunState::Running, StopsOnError::No), On::Start, Stand::Wait(Hold)),
        (FULL, present(RunState::Running, StopsOnError::No), On::Rung(Hold, secs(60)), Stand::Suspend),
        (FULL, absent(), On::Rung(Hold, secs(60)), Stand::Wait(Stop)),
    ];
    for (ladder, monitor, on, expected) in table {
        assert_eq!(few(ladder, &monitor, on), expected, "{on:?}, {monitor:?}");
    }
    for on in [On::Rung(Stop, secs(600)), On::AfterSuspend, On::Past] {
        assert!(matches!(few(FULL, &absent(), on), Stand::Nothing(_)), "{on:?}");
    }
}

#[test]
fn who_does_not_run_is_not_stopped() {
    for state in [RunState::Paused, RunState::IoError, RunState::Sent, RunState::Other] {
        let monitor = present(state, StopsOnError::Yes);
        assert_eq!(at(FULL, &monitor, Lack::NoPath, Gone::No, On::Rung(Hold, secs(60))), Stand::Moot);
    }
}

#[test]
fn after_the_suspend_its_errors_reach_a_guest_that_does_not_stop_on_them() {
    let monitor = present(RunState::Paused, StopsOnError::NeedNot);
    assert_eq!(at(FULL, &monitor, Lack::NoPath, Gone::No, On::AfterSuspend), Stand::Fail);
    let last = at("hold 60s, then suspend 10m", &monitor, Lack::NoPath, Gone::No, On::AfterSuspend);
    assert_eq!(last, Stand::Nothing("no further rung is configured".into()));
}

#[test]
fn what_is_passed_over_is_said() {
    let policy: OnNoPath = "migrate, then hold 60s, then suspend".parse().expect("a ladder");
    let plight = Plight { monitor: &absent(), lack: Lack::NoPath, gone: Gone::No, migrating: alone() };
    assert_eq!(stand(&policy, &plight, On::Start), (Stand::Wait(Hold), NO_OTHER_HOST.into()));
    assert_eq!(rungs_after(&policy, Hold), "suspend");
    assert_eq!(rungs_after(&policy, NoPathAction::Migrate), "hold 60s, then suspend");
}

#[test]
fn a_vm_moves_before_it_waits_if_a_host_may_have_it() {
    let monitor = present(RunState::Running, StopsOnError::NeedNot);
    let policy = "migrate, then hold 60s, then suspend".parse().expect("a ladder");
    let at = |migrating, on| {
        stand(&policy, &Plight { monitor: &monitor, lack: Lack::NoPath, gone: Gone::No, migrating }, on).0
    };
    let turn = || Migrating::Wait("it waits for its turn: 2 moves are under way".into());
    let table = [
        (Migrating::Possible, On::Start, Stand::Migrate),
        (turn(), On::Start, Stand::Wait(NoPathAction::Migrate)),
        (turn(), On::Rung(NoPathAction::Migrate, secs(9)), Stand::Wait(NoPathAction::Migrate)),
        (Migrating::Possible, On::Rung(NoPathAction::Migrate, secs(9)), Stand::Migrate),
        (alone(), On::Rung(NoPathAction::Migrate, secs(9)), Stand::Wait(Hold)),
        // What it has passed it does not go back to within one loss.
        (Migrating::Possible, On::Rung(Hold, secs(59)), Stand::Wait(Hold)),
        (Migrating::Possible, On::Rung(Hold, secs(60)), Stand::Suspend),
    ];
    for (migrating, on, expected) in table {
        assert_eq!(at(migrating.clone(), on), expected, "{migrating:?} {on:?}");
    }
}
