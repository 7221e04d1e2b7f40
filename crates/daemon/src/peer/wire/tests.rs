//! What another host may send: nothing of it may hurt, and what is taken is what was meant.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;
use vmpath_core::migration::{self as core, MoveId};
use vmpath_core::ownership::UnitEpoch;

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9/._é -]{1,12}"
}

fn id() -> impl Strategy<Value = MoveId> {
    ("[a-z0-9.-]{1,12}", any::<u64>(), any::<u64>()).prop_map(|(host, nonce, number)| MoveId {
        host,
        nonce,
        number,
    })
}

fn open() -> impl Strategy<Value = core::Open> {
    prop_oneof![Just(core::Open::Unsent), Just(core::Open::Unknown), any::<u8>().prop_map(core::Open::Done)]
}

fn queue() -> impl Strategy<Value = core::QueueHandOver> {
    let open = proptest::collection::btree_map(any::<u16>(), open(), 0..8);
    (any::<u16>(), any::<u16>(), open).prop_map(|(queue, base, open)| core::QueueHandOver {
        queue,
        base,
        open: open.into_iter().map(|(head, state)| core::OpenRequest { head, state }).collect(),
    })
}

fn range() -> impl Strategy<Value = core::QuarantineHandOver> {
    (0..u64::MAX / 2, 1..u64::MAX / 2, any::<u64>()).prop_map(|(offset, length, nanos)| {
        core::QuarantineHandOver { offset, length, remaining: Duration::from_nanos(nanos) }
    })
}

fn disks() -> impl Strategy<Value = Vec<core::DiskHandOver>> {
    let disk = (any::<u64>(), vec(queue(), 0..4), vec(range(), 0..3));
    vec(disk, 0..4).prop_map(|disks| {
        let named = |(index, (epoch, queues, quarantine)): (usize, (u64, Vec<core::QueueHandOver>, _))| {
            let numbered =
                queues.into_iter().zip(0u16..).map(|(q, queue)| core::QueueHandOver { queue, ..q });
            core::DiskHandOver {
                disk: format!("disk{index}"),
                unit: format!("san/{index}"),
                epoch,
                queues: numbered.collect(),
                quarantine,
            }
        };
        disks.into_iter().enumerate().map(named).collect()
    })
}

fn carry() -> impl Strategy<Value = core::VmCarry> {
    prop_oneof![
        Just(core::VmCarry::Running),
        text().prop_map(|why| core::VmCarry::Suspended { why }),
        Just(core::VmCarry::StoppedByOther),
    ]
}

fn hand_over() -> impl Strategy<Value = core::HandOver> {
    let names = (text(), text(), text(), proptest::option::of(text()));
    (id(), names, disks(), carry()).prop_map(|(move_id, (vm, from, to, incident), disks, vm_state)| {
        core::HandOver { move_id, vm, from, to, disks, incident, vm_state }
    })
}

fn order() -> impl Strategy<Value = core::Move> {
    let names = (text(), text(), text(), proptest::option::of(text()), text());
    let numbers = (any::<u64>(), proptest::option::of(any::<u64>()), 0..u64::MAX / 2000);
    let disks = vec(any::<u64>(), 0..4);
    let room = proptest::collection::btree_map(text(), any::<u64>(), 0..3);
    (id(), names, numbers, disks, room, carry()).prop_map(|(id, names, numbers, disks, room, vm_state)| {
        let (vm, from, to, incident, rule) = names;
        let disk = |(index, epoch)| core::DiskEpoch {
            disk: format!("disk{index}"),
            unit: UnitEpoch { unit: format!("san/{index}"), epoch },
        };
        core::Move {
            id,
            vm,
            home: from.clone(),
            fled: vec![from.clone(), to.clone()],
            from,
            to,
            disks: disks.into_iter().enumerate().map(disk).collect(),
            instance: numbers.0,
            memory: numbers.1,
            room: room.into_iter().map(|(target, rate)| core::RoomNeed { target, rate }).collect(),
            settle: Duration::from_millis(numbers.2),
            incident,
            vm_state,
            rule,
        }
    })
}

proptest! {
    #[test]
    fn a_hand_over_arrives_as_it_was_given(given in hand_over()) {
        let body = write(&HandOver::of(&given)).unwrap();
        prop_assert_eq!(read::<HandOver>(&body).and_then(HandOver::into_core), Ok(given));
    }

    #[test]
    fn a_move_arrives_as_it_was_ordered(given in order()) {
        let body = write(&Prepare::of(&given)).unwrap();
        prop_assert_eq!(read::<Prepare>(&body).and_then(Prepare::into_core), Ok(given));
    }

    /// Whatever bytes come: refused, or something that goes out again as it came in.
    #[test]
    fn broken_bytes_are_refused_or_mean_what_they_say(
        given in hand_over(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = write(&HandOver::of(&given)).unwrap();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(cut.index(body.len() * 4).max(1));
        if let Ok(taken) = read::<HandOver>(&body).and_then(HandOver::into_core) {
            let again = write(&HandOver::of(&taken)).unwrap();
            prop_assert_eq!(read::<HandOver>(&again).and_then(HandOver::into_core), Ok(taken));
        }
    }

    #[test]
    fn any_bytes_at_all_do_no_harm(body in vec(any::<u8>(), 0..200)) {
        let _ = read::<HandOver>(&body);
        let _ = read::<Prepare>(&body);
        let _ = read::<Probe>(&body);
        let _ = read::<Reason>(&body);
    }

    #[test]
    fn reasons_fit_whatever_is_said(why in "\\PC{0,3000}") {
        let body = write(&reason(&why)).unwrap();
        prop_assert!(why.starts_with(&read::<Reason>(&body).unwrap().reason));
    }
}

const GOOD: &str = r#"{"id":"kvm1.7f.1","vm":"db","from":"kvm1","to":"kvm2","vm_state":"running","disks":[{"disk":"root",
    "unit":"san/1","epoch":3,"queues":[{"queue":0,"base":9,"open":[{"head":1,"state":"unsent"},{"head":2,"state":{"done":0}}]}],
    "quarantine":[{"offset":4096,"length":512,"remaining_ns":5}]}]}"#;

/// Replaces one part of a hand-over that is good.
fn refused(part: &str, by: &str) -> String {
    assert!(GOOD.contains(part), "{part} is not there");
    let changed = GOOD.replacen(part, by, 1);
    read::<HandOver>(changed.as_bytes()).and_then(HandOver::into_core).expect_err(by)
}

#[test]
fn what_is_impossible_is_refused_with_the_reason() {
    assert!(read::<HandOver>(GOOD.as_bytes()).and_then(HandOver::into_core).is_ok());
    assert!(refused("kvm1.7f.1", "kvm1.7F.1").contains("names no move"));
    assert!(refused("\"vm\":\"db\"", "\"vm\":\"\"").contains("an empty name"));
    assert!(refused("\"db\"", "\"d\\nb\"").contains("control characters"));
    assert!(refused("\"db\"", &format!("\"{}\"", "x".repeat(600))).contains("512 bytes"));
    assert!(refused("{\"head\":2", "{\"head\":1").contains("descriptor 1 is there twice"));
    assert!(refused("\"length\":512", "\"length\":18446744073709551615").contains("cannot be"));
    assert!(refused("\"length\":512", "\"length\":0").contains("cannot be"));
    assert!(refused("\"epoch\":3", "\"epoch\":-3").contains("cannot be understood"));
    assert!(refused("\"epoch\":3", "\"epoch\":3,\"colour\":1").contains("unknown field `colour`"));
    assert!(refused("\"running\"", "\"flying\"").contains("unknown variant `flying`"));
    assert!(refused("\"base\":9", "\"base\":70000").contains("cannot be understood"));
}

#[test]
fn a_list_is_no_longer_than_it_may_be() {
    let queues = |count: usize| {
        let one = |queue| format!("{{\"queue\":{queue},\"base\":0,\"open\":[]}}");
        let all: Vec<String> = (0..count).map(one).collect();
        let from = GOOD.find("{\"queue\":0").unwrap();
        let to = GOOD.find("],\n    \"quarantine\"").unwrap();
        format!("{}{}{}", &GOOD[..from], all.join(","), &GOOD[to..])
    };
    let taken = |count| read::<HandOver>(queues(count).as_bytes());
    assert_eq!(taken(QUEUES_MAX).map(|given| given.disks[0].queues.len()), Ok(QUEUES_MAX));
    assert!(taken(QUEUES_MAX + 1).unwrap_err().contains("more than 64 in a list"));
}

#[test]
fn the_largest_hand_over_that_is_likely_fits_into_a_body() {
    let open = |head| core::OpenRequest { head, state: core::Open::Done(255) };
    let queue = |queue| core::QueueHandOver { queue, base: u16::MAX, open: (0..1024).map(open).collect() };
    let disk = |index| core::DiskHandOver {
        disk: format!("disk{index}"),
        unit: format!("array-of-the-cellar/volume-{index}"),
        epoch: u64::MAX,
        queues: (0..16).map(queue).collect(),
        quarantine: Vec::new(),
    };
    let given = core::HandOver {
        move_id: MoveId { host: "kvm1".into(), nonce: u64::MAX, number: u64::MAX },
        vm: "db".into(),
        from: "kvm1".into(),
        to: "kvm2".into(),
        disks: (0..24).map(disk).collect(),
        incident: None,
        vm_state: core::VmCarry::Running,
    };
    assert!(write(&HandOver::of(&given)).is_ok(), "24 disks of 16 queues of 1024 requests");
}
