//! Both ends together, in a world that loses, delays and repeats everything.

mod both_ends;
mod machines;
mod restored;
mod silence;
mod world;

use super::{DiskEpoch, Move, MoveId, RoomNeed, VmCarry};
use crate::ownership::UnitEpoch;
use crate::time::Duration;

pub(super) fn id(number: u64) -> MoveId {
    MoveId { host: "kvm1".into(), nonce: 0x7f, number }
}

pub(super) fn unit(name: &str, epoch: u64) -> UnitEpoch {
    UnitEpoch { unit: name.into(), epoch }
}

/// A VM with two disks, from kvm1 to kvm2.
pub(super) fn plan() -> Move {
    let disk = |disk: &str, name: &str, epoch| DiskEpoch { disk: disk.into(), unit: unit(name, epoch) };
    Move {
        id: id(1),
        vm: "db1".into(),
        from: "kvm1".into(),
        to: "kvm2".into(),
        home: "kvm1".into(),
        fled: vec!["kvm1".into()],
        disks: vec![disk("vda", "san0/db1-root", 3), disk("vdb", "san0/db1-data", 8)],
        instance: 41,
        memory: Some(256 << 20),
        room: vec![RoomNeed { target: "san0".into(), rate: 80 << 20 }],
        settle: Duration::from_secs(1),
        incident: Some("INC-7".into()),
        vm_state: VmCarry::Running,
        rule: "san0/a is lost and on_path_loss = \"migrate\"".into(),
    }
}
