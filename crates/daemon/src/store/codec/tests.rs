use super::super::file::SCHEMA;
use super::{Corrupt, decode_line, decode_saved, encode_line, encode_saved};
use crate::control::journal::{Line, SubjectType};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::{option, prop_assert_eq};
use std::time::Duration;
use vmpath_core::effect::JournalKind;
use vmpath_core::event::Fault;
use vmpath_core::ids::{IncidentId, PathId, TargetId, UnitId};
use vmpath_core::path::{Damping, Drain, PathState};
use vmpath_core::policy::{
    Cause, Dwell, Lack, Ladder, LateStop, Loss, Outstanding, Retell, Run, StopOrder, Why,
};
use vmpath_core::saved::{Names, Saved, SavedIncident, SavedLink, SavedPath, SavedVm};
use vmpath_core::spec::{Access, NoPathAction};
use vmpath_core::time::Instant;

fn time() -> impl Strategy<Value = Instant> {
    any::<u64>().prop_map(Instant::from_nanos)
}

fn incident() -> impl Strategy<Value = IncidentId> {
    any::<u64>().prop_map(IncidentId)
}

fn damping() -> impl Strategy<Value = Damping> {
    (any::<u32>(), option::of(time())).prop_map(|(relapses, back)| Damping::from_parts(relapses, back))
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Optimized), Just(Access::NonOptimized)]
}

fn paths() -> impl Strategy<Value = Vec<PathId>> {
    prop::collection::vec(any::<u16>().prop_map(PathId), 0..3)
}

fn why() -> impl Strategy<Value = Why> {
    prop_oneof![
        paths().prop_map(|paths| Why::PathLoss { paths, requests: Outstanding::Held }),
        paths().prop_map(|paths| Why::PathLoss { paths, requests: Outstanding::FailOver }),
        any::<u16>().prop_map(|unit| Why::NoPath { unit: UnitId(unit) }),
        paths().prop_map(|paths| Why::Shed { paths }),
        Just(Why::Operator),
        Just(Why::GaveUp),
        Just(Why::Restart),
        any::<u16>().prop_map(|unit| Why::FewPaths { unit: UnitId(unit) }),
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    (option::of(incident()), why(), ".{0,9}").prop_map(|(incident, why, rule)| Cause { incident, why, rule })
}

fn late() -> impl Strategy<Value = LateStop> {
    (any::<u64>(), time()).prop_map(|(instance, until)| LateStop { instance, until })
}

fn run() -> impl Strategy<Value = Run> {
    let numbers = (time(), any::<u64>(), any::<u32>(), time());
    (0..8u8, cause(), numbers, option::of(late()), late()).prop_map(|(kind, cause, numbers, some, late)| {
        let (since, instance, attempt, at) = numbers;
        match kind {
            0 => Run::Free { since },
            1 => Run::Held { cause, since, late: some },
            2 => Run::Suspending { cause, since, instance, attempt, deadline: at },
            3 => Run::Withdrawing { cause, since, late },
            4 => Run::Suspended { cause, since, instance, stop: StopOrder::Confirmed },
            5 => Run::Suspended { cause, since, instance, stop: StopOrder::Sent { at } },
            6 => Run::Resuming { cause, since, instance, attempt, next_try: at },
            _ => Run::Proving { cause, since, instance, attempt },
        }
    })
}

fn loss() -> impl Strategy<Value = Loss> {
    let lack = prop_oneof![Just(Lack::NoPath), Just(Lack::FewPaths), Just(Lack::Short)];
    (time(), any::<u16>(), incident(), lack).prop_map(|(since, unit, incident, lack)| Loss {
        since,
        unit: UnitId(unit),
        incident,
        lack,
    })
}

fn ladder() -> impl Strategy<Value = Ladder> {
    let rung = prop::sample::select(vec![
        NoPathAction::Hold,
        NoPathAction::Suspend,
        NoPathAction::Migrate,
        NoPathAction::Fail,
    ]);
    let times = (time(), any::<u32>());
    (0..5u8, loss(), rung, times, ".{0,9}").prop_map(|(kind, loss, rung, (since, seconds), words)| match kind
    {
        0 => Ladder::Clear,
        1 => Ladder::Waiting { loss, rung, since },
        2 => {
            let retell = Retell { at: since, every: Duration::from_secs(seconds.into()) };
            Ladder::Stranded { loss, why: words, retell }
        }
        3 => Ladder::Suspended { loss, since },
        _ => Ladder::Failing { loss, rule: words },
    })
}

fn path_state() -> impl Strategy<Value = PathState> {
    (0..8u8, time(), ".{0,9}", any::<u64>()).prop_map(|(kind, since, words, nanos)| match kind {
        0 => PathState::Connecting { since },
        1 => PathState::Active { since },
        2 => PathState::Down { since, fault: Fault::Before(words) },
        3 => PathState::Probation { since, required: Duration::from_nanos(nanos) },
        4 => PathState::Repaired { since },
        5 => PathState::Draining { since, stage: Drain::Shedding },
        6 => PathState::Draining { since, stage: Drain::Finishing },
        _ => PathState::Disabled { since },
    })
}

fn saved() -> impl Strategy<Value = Saved> {
    let names = || prop::collection::vec(".{0,9}", 0..3);
    let names =
        (names(), names(), names()).prop_map(|(targets, paths, units)| Names { targets, paths, units });
    let failures = prop::collection::vec((option::of(any::<u16>().prop_map(PathId)), ".{0,9}"), 0..3);
    let incidents = (
        incident(),
        any::<u16>(),
        prop::collection::vec(any::<u16>().prop_map(TargetId), 0..3),
        time(),
        failures,
    )
        .prop_map(|(id, target, also, opened, failures)| SavedIncident {
            id,
            target: TargetId(target),
            also,
            opened,
            failures,
        });
    let paths = (any::<u16>(), path_state(), damping(), (access(), access()))
        .prop_map(|(path, state, damping, access)| SavedPath { path: PathId(path), state, damping, access });
    let links = (any::<u16>(), any::<u16>(), option::of((time(), ".{0,9}")), damping()).prop_map(
        |(path, unit, down, damping)| SavedLink { path: PathId(path), unit: UnitId(unit), down, damping },
    );
    let blocked = option::of((incident(), ".{0,9}"));
    let incidents_of = (option::of(incident()), blocked, option::of(incident()));
    let resumes = prop::collection::vec(time(), 0..3).prop_map(Dwell::from_parts);
    let vms = (".{0,9}", run(), ladder(), incidents_of, option::of(any::<u64>()), resumes).prop_map(
        |(name, run, ladder, (pardon, blocked, hold_spent), ran, dwell)| SavedVm {
            name,
            run,
            ladder,
            pardon,
            blocked,
            hold_spent,
            dwell,
            ran,
        },
    );
    let lists = (
        prop::collection::vec(incidents, 0..3),
        prop::collection::vec(paths, 0..3),
        prop::collection::vec(links, 0..3),
        prop::collection::vec(vms, 0..3),
    );
    (names, any::<u64>(), lists).prop_map(|(names, last_incident, (incidents, paths, links, vms))| Saved {
        names,
        last_incident,
        incidents,
        paths,
        links,
        vms,
    })
}

fn line() -> impl Strategy<Value = Line> {
    let kind = prop::sample::select(JournalKind::ALL.to_vec());
    let subject = prop::sample::select(vec![SubjectType::Host, SubjectType::Unit, SubjectType::Vm]);
    (any::<u64>(), option::of(incident()), kind, subject, ".{0,9}", ".{0,40}", option::of(".{0,9}")).prop_map(
        |(at_unix_us, incident, kind, subject, subject_name, reason, until)| Line {
            seq: 7,
            at_unix_us,
            incident,
            kind,
            subject,
            subject_name,
            reason,
            until,
        },
    )
}

proptest! {
    #[test]
    fn a_state_is_read_back_as_it_was(saved in saved()) {
        prop_assert_eq!(decode_saved(&encode_saved(&saved), SCHEMA), Ok(saved));
    }

    #[test]
    fn a_line_is_read_back_as_it_was(line in line()) {
        prop_assert_eq!(decode_line(7, &encode_line(&line)), Ok(line));
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused(saved in saved(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode_saved(&saved);
        prop_assert_eq!(decode_saved(&bytes[..cut.index(bytes.len())], SCHEMA), Err(Corrupt));
        bytes.push(0);
        prop_assert_eq!(decode_saved(&bytes, SCHEMA), Err(Corrupt));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_saved(&bytes, 1);
        let _ = decode_saved(&bytes, SCHEMA);
        let _ = decode_line(1, &bytes);
    }
}

/// A suspended VM, and one that was stranded.
fn known() -> Saved {
    let cause =
        Cause { incident: Some(IncidentId(3)), why: Why::Shed { paths: vec![PathId(1)] }, rule: "r".into() };
    let run =
        Run::Suspended { cause, since: Instant::from_nanos(5), instance: 9, stop: StopOrder::Confirmed };
    let vm = |name: &str, run, ladder, ran| SavedVm {
        name: name.into(),
        run,
        ladder,
        pardon: None,
        blocked: None,
        hold_spent: None,
        dwell: Dwell::default(),
        ran,
    };
    let since = Instant::from_nanos(7);
    let loss = Loss { since, unit: UnitId(2), incident: IncidentId(3), lack: Lack::NoPath };
    let held = Ladder::Waiting { loss, rung: NoPathAction::Hold, since };
    let vms =
        vec![vm("v", run, Ladder::Clear, Some(9)), vm("w", Run::Free { since: Instant::ZERO }, held, None)];
    Saved { last_incident: 3, vms, ..Saved::default() }
}

pub(super) fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|two| two[0] * 16 + two[1]).collect()
}

const HEAD: &str = "00000000000000000000000003000000000000000000000000000000000000000200000001000000760405000000000000\
                    00010300000000000000030100000001000100000072090000000000000000000000010900000000000000";

pub(in super::super) fn of_the_first_schema() -> (Vec<u8>, Saved) {
    let held = "0100000077 000000000000000000 01 0700000000000000 0200 0300000000000000 000000";
    (bytes_of(&format!("{HEAD}{held}")), known())
}

/// What the first schema wrote for [`known`]: a VM that it had suspended is still known as suspended by us.
#[test]
fn files_of_the_first_schema_are_read() {
    let (bytes, known) = of_the_first_schema();
    assert_eq!(decode_saved(&bytes, 1), Ok(known));
}

/// The bytes of a known state. If this fails, files of former versions are read wrongly: raise the schema, and keep what
/// reads the old one.
#[test]
fn the_format_changes_only_with_the_schema() {
    let more = "0000000000";
    let held = "0100000077 000000000000000000 01 0700000000000000 0200 0300000000000000 00 00 0700000000000000\
                000000 00 00000000";
    let expected = bytes_of(&format!("{HEAD}{more}{held}"));
    assert_eq!((SCHEMA, encode_saved(&known())), (4, expected.clone()));
    // The third schema added the moves beside it, the fourth something to those.
    assert_eq!(decode_saved(&expected, 2), Ok(known()));
}
