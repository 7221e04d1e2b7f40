use super::super::file::SCHEMA;
use super::{Corrupt, decode_line, decode_saved, encode_line, encode_saved};
use crate::control::journal::{Line, SubjectType};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::{option, prop_assert_eq};
use std::time::Duration;
use vmpath_core::effect::JournalKind;
use vmpath_core::event::Fault;
use vmpath_core::ids::{IncidentId, PathId, TargetId, UnitId};
use vmpath_core::path::{Damping, PathState};
use vmpath_core::policy::{Cause, Ladder, LateStop, Outstanding, Run, StopOrder, Why};
use vmpath_core::saved::{Names, Saved, SavedIncident, SavedLink, SavedPath, SavedVm};
use vmpath_core::spec::Access;
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
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    (option::of(incident()), why(), ".{0,9}").prop_map(|(incident, why, rule)| Cause { incident, why, rule })
}

fn late() -> impl Strategy<Value = LateStop> {
    (any::<u64>(), time()).prop_map(|(instance, until)| LateStop { instance, until })
}

fn run() -> impl Strategy<Value = Run> {
    let numbers = (time(), any::<u64>(), any::<u32>(), time(), any::<bool>());
    (0..8u8, cause(), numbers, option::of(late()), late()).prop_map(|(kind, cause, numbers, some, late)| {
        let (since, instance, attempt, at, set) = numbers;
        match kind {
            0 => Run::Free { since },
            1 => Run::Held { cause, since, late: some },
            2 => Run::Suspending { cause, since, instance, attempt, deadline: set.then_some(at) },
            3 => Run::Withdrawing { cause, since, late },
            4 => Run::Suspended { cause, since, instance, stop: StopOrder::Confirmed },
            5 => Run::Suspended { cause, since, instance, stop: StopOrder::Sent { at } },
            6 => Run::Resuming { cause, since, instance, attempt, next_try: at },
            _ => Run::Proving { cause, since, instance, attempt },
        }
    })
}

fn ladder() -> impl Strategy<Value = Ladder> {
    (0..4u8, time(), any::<u16>(), incident(), ".{0,9}").prop_map(|(kind, since, unit, incident, words)| {
        let unit = UnitId(unit);
        match kind {
            0 => Ladder::Clear,
            1 => Ladder::Holding { since, unit, incident },
            2 => Ladder::Stranded { since, unit, incident, why: words },
            _ => Ladder::Failing { since, unit, incident, rule: words },
        }
    })
}

fn path_state() -> impl Strategy<Value = PathState> {
    (0..6u8, time(), ".{0,9}", any::<u64>()).prop_map(|(kind, since, words, nanos)| match kind {
        0 => PathState::Connecting { since },
        1 => PathState::Active { since },
        2 => PathState::Down { since, fault: Fault::Before(words) },
        3 => PathState::Probation { since, required: Duration::from_nanos(nanos) },
        4 => PathState::Repaired { since },
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
    let vms =
        (".{0,9}", run(), ladder(), option::of(incident()), blocked, option::of(any::<u64>())).prop_map(
            |(name, run, ladder, pardon, blocked, ran)| SavedVm { name, run, ladder, pardon, blocked, ran },
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
        prop_assert_eq!(decode_saved(&encode_saved(&saved)), Ok(saved));
    }

    #[test]
    fn a_line_is_read_back_as_it_was(line in line()) {
        prop_assert_eq!(decode_line(7, &encode_line(&line)), Ok(line));
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused(saved in saved(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode_saved(&saved);
        prop_assert_eq!(decode_saved(&bytes[..cut.index(bytes.len())]), Err(Corrupt));
        bytes.push(0);
        prop_assert_eq!(decode_saved(&bytes), Err(Corrupt));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_saved(&bytes);
        let _ = decode_line(1, &bytes);
    }
}

/// The bytes of a known state. If this fails, files of former versions are read wrongly: raise the schema, and keep what
/// reads the old one.
#[test]
fn the_format_changes_only_with_the_schema() {
    let cause =
        Cause { incident: Some(IncidentId(3)), why: Why::Shed { paths: vec![PathId(1)] }, rule: "r".into() };
    let run =
        Run::Suspended { cause, since: Instant::from_nanos(5), instance: 9, stop: StopOrder::Confirmed };
    let vm =
        SavedVm { name: "v".into(), run, ladder: Ladder::Clear, pardon: None, blocked: None, ran: Some(9) };
    let saved = Saved { last_incident: 3, vms: vec![vm], ..Saved::default() };
    let hex: String = encode_saved(&saved).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "000000000000000000000000030000000000000000000000000000000000000001000000010000007604050000000000000001\
                    0300000000000000030100000001000100000072090000000000000000000000010900000000000000";
    assert_eq!((SCHEMA, hex.as_str()), (1, expected));
}
