//! The store is silent while a VM is on its way.

use super::{id, plan};
use crate::migration::source::{Act, Input, STORE_AWAY_MAX, State};
use crate::migration::{Answer, DiskHandOver, MigrationState, MigrationStatus, Source};
use crate::time::{Duration, Instant};

const BEGAN: Instant = Instant::from_millis(1000);
const WHY: &str = "no leader";

struct Told {
    source: Source,
    acts: Vec<Act>,
}

impl Told {
    fn tell(&mut self, at: Instant, input: Input) {
        self.acts.extend(self.source.step(at, &id(1), input).acts);
    }

    fn asked(&self, wanted: impl Fn(&Act) -> bool) -> bool {
        self.acts.iter().any(wanted)
    }

    fn word(&self) -> &'static str {
        self.source.state().word()
    }
}

fn transferring() -> Told {
    let (source, step) = Source::begin(BEGAN, plan());
    let mut told = Told { source, acts: step.acts };
    told.tell(BEGAN, Input::Probed(Answer::Done(())));
    told.tell(BEGAN, Input::Claimed(Answer::Done(())));
    told.tell(BEGAN, Input::Prepared(Answer::Done("tcp:10.0.0.2:49152".into())));
    assert_eq!(told.word(), "transferring");
    told
}

fn status(state: MigrationState) -> Input {
    let (ram_total, ram_remaining, transferred) = (1 << 28, 1 << 27, 1 << 27);
    Input::Hypervisor(MigrationStatus { state, ram_total, ram_remaining, transferred, downtime: None })
}

fn cancels(act: &Act) -> bool {
    matches!(act, Act::Cancel { .. })
}

#[test]
fn a_silent_store_ends_a_transfer_before_the_guest_is_stopped() {
    let mut told = transferring();
    told.tell(BEGAN, Input::StoreAway(WHY.into()));
    let end = told.source.deadline().expect("it has a bound");
    assert_eq!(end, BEGAN + STORE_AWAY_MAX);
    // That it is told again does not make it longer.
    told.tell(BEGAN + Duration::from_millis(600), Input::StoreAway("timeout".into()));
    told.tell(end - Duration::from_millis(1), Input::Elapsed);
    assert_eq!(told.word(), "transferring");
    told.tell(end, Input::Elapsed);
    assert!(told.asked(cancels) && !told.asked(|act| matches!(act, Act::Settle { .. })));
    let State::Cancelling { why, .. } = told.source.state() else { panic!("it is {}", told.word()) };
    assert!(why.contains(WHY), "{why}");
}

#[test]
fn a_short_silence_ends_nothing() {
    let mut told = transferring();
    told.tell(BEGAN, Input::StoreAway(WHY.into()));
    told.tell(BEGAN + STORE_AWAY_MAX / 2, Input::StoreHeard);
    told.tell(BEGAN + STORE_AWAY_MAX, Input::Elapsed);
    told.tell(BEGAN + STORE_AWAY_MAX, status(MigrationState::PreSwitchover));
    assert_eq!(told.word(), "settling");
}

#[test]
fn a_guest_that_stands_still_in_the_silence_goes_on_at_once() {
    let mut told = transferring();
    told.tell(BEGAN, Input::StoreAway(WHY.into()));
    told.tell(BEGAN, status(MigrationState::PreSwitchover));
    assert_eq!(told.word(), "cancelling");
    assert!(told.asked(cancels) && !told.asked(|act| matches!(act, Act::Settle { .. })));
}

#[test]
fn a_store_that_falls_silent_while_the_guest_stands_still_does_not_hold_it() {
    let mut told = transferring();
    told.tell(BEGAN, status(MigrationState::PreSwitchover));
    told.tell(BEGAN, Input::StoreAway(WHY.into()));
    told.tell(BEGAN + STORE_AWAY_MAX, Input::Elapsed);
    assert_eq!(told.word(), "cancelling");
}

/// The owners may have changed already: that is found out, and not supposed.
#[test]
fn after_the_commit_silence_cancels_nothing() {
    let mut told = transferring();
    told.tell(BEGAN, status(MigrationState::PreSwitchover));
    let disks = plan().disks.into_iter().map(|disk| DiskHandOver {
        disk: disk.disk,
        unit: disk.unit.unit,
        epoch: 0,
        queues: vec![],
        quarantine: vec![],
    });
    told.tell(BEGAN, Input::Settled(Ok(disks.collect())));
    told.tell(BEGAN, Input::HandedOver(Answer::Done(())));
    told.tell(BEGAN, Input::StoreAway(WHY.into()));
    told.tell(BEGAN + STORE_AWAY_MAX, Input::Elapsed);
    assert_eq!(told.word(), "committing");
    assert!(!told.asked(cancels));
}
