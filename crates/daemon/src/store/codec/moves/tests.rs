use super::super::Corrupt;
use super::{decode_moves, encode_moves};
use crate::store::SCHEMA;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::{option, prop_assert_eq};
use std::time::Duration;
use vmpath_core::ids::IncidentId;
use vmpath_core::migration::source::{Reached, RoomNeed};
use vmpath_core::migration::{DiskEpoch, Move, MoveId, VmCarry, destination, source};
use vmpath_core::ownership::UnitEpoch;
use vmpath_core::policy::{Outstanding, Reason};
use vmpath_core::saved::{SavedDiscard, SavedLeaving, SavedMoves, SavedTravel};
use vmpath_core::time::Instant;

fn time() -> impl Strategy<Value = Instant> {
    any::<u64>().prop_map(Instant::from_nanos)
}

fn plan() -> impl Strategy<Value = Move> {
    let id = (".{0,9}", any::<u64>(), any::<u64>()).prop_map(|(host, nonce, number)| MoveId {
        host,
        nonce,
        number,
    });
    let disk = (".{0,9}", ".{0,9}", any::<u64>())
        .prop_map(|(disk, unit, epoch)| DiskEpoch { disk, unit: UnitEpoch { unit, epoch } });
    let room = (".{0,9}", any::<u64>()).prop_map(|(target, rate)| RoomNeed { target, rate });
    let carry = prop_oneof![
        Just(VmCarry::Running),
        ".{0,9}".prop_map(|why| VmCarry::Suspended { why }),
        Just(VmCarry::StoppedByOther),
    ];
    let lists = (prop::collection::vec(disk, 0..3), prop::collection::vec(room, 0..3));
    let numbers = (any::<u64>(), option::of(any::<u64>()), any::<u64>());
    let names = (".{0,9}", ".{0,9}", ".{0,9}", ".{0,9}", option::of(".{0,9}"));
    (id, names, lists, numbers, carry).prop_map(|(id, names, (disks, room), numbers, vm_state)| {
        let ((vm, from, to, rule, incident), (instance, memory, settle)) = (names, numbers);
        let settle = Duration::from_nanos(settle);
        let (home, fled) = (from.clone(), vec![to.clone(), from.clone()]);
        Move { id, vm, from, to, home, fled, disks, instance, memory, room, settle, incident, vm_state, rule }
    })
}

fn moves() -> impl Strategy<Value = SavedMoves> {
    let requests = prop_oneof![Just(Outstanding::Held), Just(Outstanding::FailOver)];
    let reason = (option::of(any::<u64>().prop_map(IncidentId)), ".{0,9}", requests)
        .prop_map(|(incident, rule, requests)| Reason { incident, rule, requests });
    let reached = prop_oneof![Just(Reached::Begun), Just(Reached::Committed)];
    let leaving = (reason, plan(), time(), reached).prop_map(|(reason, plan, began, reached)| SavedLeaving {
        reason,
        machine: source::Saved { plan, began, reached },
    });
    let arriving = (plan(), time()).prop_map(|(plan, began)| destination::Saved { plan, began });
    let fled = prop::collection::vec(".{0,9}", 0..3);
    let travel = (".{0,9}", option::of(".{0,9}"), option::of(time()), option::of(".{0,9}"), fled)
        .prop_map(|(vm, elsewhere, arrived, home, fled)| SavedTravel { vm, elsewhere, arrived, home, fled });
    let lists = (
        prop::collection::vec(leaving, 0..3),
        prop::collection::vec(arriving, 0..3),
        prop::collection::vec(travel, 0..3),
    );
    let discards = (plan(), time()).prop_map(|(plan, until)| {
        let Move { id: move_id, vm, to, rule: why, .. } = plan;
        SavedDiscard { vm, move_id, to, why, until }
    });
    (lists, prop::collection::vec(discards, 0..3)).prop_map(|((leaving, arriving, travels), discards)| {
        SavedMoves { leaving, arriving, travels, discards }
    })
}

proptest! {
    #[test]
    fn moves_are_read_back_as_they_were(moves in moves()) {
        prop_assert_eq!(decode_moves(&encode_moves(&moves), SCHEMA), Ok(moves));
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused(moves in moves(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode_moves(&moves);
        prop_assert_eq!(decode_moves(&bytes[..cut.index(bytes.len())], SCHEMA), Err(Corrupt));
        bytes.push(0);
        prop_assert_eq!(decode_moves(&bytes, SCHEMA), Err(Corrupt));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_moves(&bytes, SCHEMA);
    }
}

/// One of each.
pub(in super::super::super) fn known() -> SavedMoves {
    let plan = |number| Move {
        id: MoveId { host: "k".into(), nonce: 2, number },
        vm: "v".into(),
        from: "k".into(),
        to: "l".into(),
        home: "kvm9".into(),
        fled: vec!["k".into()],
        disks: vec![DiskEpoch { disk: "d".into(), unit: UnitEpoch { unit: "t/u".into(), epoch: 5 } }],
        instance: 6,
        memory: None,
        room: vec![RoomNeed { target: "t".into(), rate: 7 }],
        settle: Duration::from_nanos(8),
        incident: Some("INC-9".into()),
        vm_state: VmCarry::Suspended { why: "w".into() },
        rule: "r".into(),
    };
    let reason = Reason { incident: Some(IncidentId(9)), rule: "r".into(), requests: Outstanding::FailOver };
    let began = Instant::from_nanos(10);
    let machine = source::Saved { plan: plan(3), began, reached: Reached::Committed };
    let arrived = Some(Instant::from_nanos(11));
    SavedMoves {
        leaving: vec![SavedLeaving { reason, machine }],
        arriving: vec![destination::Saved { plan: plan(4), began }],
        travels: vec![SavedTravel {
            vm: "x".into(),
            elsewhere: None,
            arrived,
            home: Some("m".into()),
            fled: vec!["m".into(), "n".into()],
        }],
        discards: vec![SavedDiscard {
            vm: "v".into(),
            move_id: MoveId { host: "k".into(), nonce: 2, number: 5 },
            to: "l".into(),
            why: "w".into(),
            until: Instant::from_nanos(12),
        }],
    }
}

/// The bytes of known moves. If this fails, files of former versions are read wrongly: raise the schema, and keep what reads
/// the old one.
#[test]
fn the_format_changes_only_with_the_schema() {
    let number = |number: u8| format!("{number:02x}00000000000000");
    let plan = |of: u8| {
        [
            "010000006b",
            &number(2),
            &number(of),
            "0100000076 010000006b 010000006c 040000006b766d39 01000000 010000006b",
            "01000000 0100000064 03000000742f75",
            &number(5),
            &number(6),
            "00 01000000 0100000074",
            &number(7),
            &number(8),
            "01 05000000494e432d39",
            "01 0100000077 0100000072",
        ]
        .concat()
    };
    let leaving = ["01", &number(9), "0100000072 01", &plan(3), &number(10), "01"].concat();
    let arriving = [plan(4), number(10)].concat();
    let travel = ["0100000078 00 01", &number(11), "01 010000006d 02000000 010000006d 010000006e"].concat();
    let one = "01000000";
    let discard =
        ["0100000076 010000006b", &number(2), &number(5), "010000006c 0100000077", &number(12)].concat();
    let expected =
        super::super::bytes_of(&[one, &leaving, one, &arriving, one, &travel, one, &discard].concat());
    assert_eq!((SCHEMA, encode_moves(&known())), (4, expected));
}

/// What the third schema wrote for [`known`]: whoever had a home goes back to it.
#[test]
fn moves_of_the_third_schema_are_read() {
    let travel = |hosts: &str| format!("00000000 00000000 01000000 0100000078 00 00 01 010000006d {hosts}");
    let read = |text: &str, schema| decode_moves(&super::super::bytes_of(text), schema);
    let moves = read(&travel(""), 3).expect("as it was written");
    assert_eq!(moves.travels[0].fled, ["m"]);
    assert_eq!(read(&travel("00000000 00000000"), 4).expect("as it is written").travels[0].fled, [""; 0]);
}
